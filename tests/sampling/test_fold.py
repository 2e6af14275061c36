"""Folded weights against the decoders written out by hand, and against hooks, family by family."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from skiptune.errors import NetworkError
from skiptune.sampling.fold import Fold, fold, replaced
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.networks.lucidrains import PACKAGE
from skiptune.sampling.options import config_of
from skiptune.sampling.schedule import PARTS, Schedule, Term
from skiptune.sampling.skips import decoder_blocks, find_places, find_skips
from tests.sampling.families import FAMILIES, OfFamily, edited, network_of, parted
from tests.sampling.lucidrains_like import package

FOLDED = [name for name, family in FAMILIES.items() if family.folds]
WITH_PARTS = [name for name in FOLDED if FAMILIES[name].shortcut]


def relative(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def baked(network: Any, folded: Fold) -> Any:
    """A copy of a network with the changed weights, and no hook on it."""
    twin = copy.deepcopy(network)
    state = twin.state_dict()
    twin.load_state_dict({**state, **folded.apply(state)})
    return twin


@pytest.mark.parametrize("name", FOLDED)
class TestFold(OfFamily):
    @pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
    def test_blocks_without_a_mixed_group_are_exact_but_for_eps(self, sigma: float) -> None:
        for module in self.network.modules():
            if isinstance(module, nn.GroupNorm):
                module.eps = 1e-12
        skips = [s for s in find_skips(self.network) if not s.mixed or s.groups == 0]
        assert len(skips) >= 2
        scales = {s.address: (0.6, 1.3, 0.8, 1.15)[s.index] for s in skips}
        folded = fold(self.network, Schedule.uniform(scales))
        assert folded.exact
        by_hand = edited(self.family, self.network, lambda address: scales.get(address, 1.0))
        expected = self.run(by_hand, sigma)
        found = self.run(baked(self.network, folded), sigma)
        assert relative(found, expected) < 1e-5
        assert relative(self.run(self.network, sigma), expected) > 1e-4 * min(sigma, 1)

    def test_mixed_blocks_are_named_and_near(self) -> None:
        folded = fold(self.network, self.schedule)
        mixed = [b.address for b in folded.blocks if b.mixed]
        assert mixed == [s.address for s in find_skips(self.network) if s.mixed and s.groups]
        assert folded.exact == (not mixed)
        with scaled(self.network, self.schedule):
            expected = self.run(self.network)
        found, plain = self.run(baked(self.network, folded)), self.run(self.network)
        off, change = relative(found, expected), relative(plain, expected)
        assert off < 1e-5 if not mixed else 1e-5 < off < 0.3 * change

    def test_mixed_blocks_may_be_left_or_refused(self) -> None:
        mixed = [s.address for s in find_skips(self.network) if s.mixed and s.groups]
        left = fold(self.network, self.schedule, mixed="leave")
        assert [b.address for b in left.blocks if b.left] == mixed
        rest = Schedule(t for t in self.schedule.terms if t.address not in mixed)
        with scaled(self.network, rest):
            expected = self.run(self.network)
        assert relative(self.run(baked(self.network, left)), expected) < 1e-5
        if not mixed:
            fold(self.network, self.schedule, mixed="refuse")
            return
        with pytest.raises(NetworkError) as caught:
            fold(self.network, self.schedule, mixed="refuse")
        assert [p.where for p in caught.value.problems] == [f"network: {a}" for a in mixed]
        assert "--mixed fold" in caught.value.hint

    def test_a_dropped_skip_is_dropped_exactly(self) -> None:
        skips = [s for s in find_skips(self.network) if not s.mixed or s.groups == 0]
        dropped = {skips[-1].address: 0.0}
        found = self.run(baked(self.network, fold(self.network, Schedule.uniform(dropped))))
        by_hand = edited(self.family, self.network, lambda address: dropped.get(address, 1.0))
        assert relative(found, self.run(by_hand)) < 1e-5

    def test_nothing_is_changed_and_the_rest_stays_bit_for_bit(self) -> None:
        before = {k: v.clone() for k, v in self.network.state_dict().items()}
        folded = fold(self.network, self.schedule)
        changed = folded.apply(before)
        assert set(changed) == set(folded.keys)
        assert all(torch.equal(v, before[k]) for k, v in self.network.state_dict().items())
        assert fold(self.network, Schedule.baseline()).keys == ()
        for skip, place in zip(find_skips(self.network), find_places(self.network), strict=True):
            layer: Any = place.joint or place.shortcut
            key = next(k for k, v in self.network.named_parameters() if v is layer.weight)
            main = skip.main_channels
            assert torch.equal(changed[key][:, :main], before[key][:, :main])
            factor = self.schedule.scale(skip.address, 1.0)
            assert torch.equal(changed[key][:, main:], before[key][:, main:] * factor)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_rounded_once(self, dtype: torch.dtype) -> None:
        tensors = {k: v.to(dtype) for k, v in self.network.state_dict().items()}
        terms = [Term(t.address, t.scale) for t in self.schedule.terms]
        if self.family.shortcut:
            terms += [Term(t.address, 0.9, part="shortcut") for t in self.schedule.terms]
        changed = fold(self.network, Schedule(terms)).apply(tensors)
        for place in find_places(self.network):
            layer: Any = place.joint or place.shortcut
            key = next(k for k, v in self.network.named_parameters() if v is layer.weight)
            assert changed[key].dtype == dtype
            exact = tensors[key].double()
            exact[:, place.skip.main_channels :] *= self.schedule.scale(
                place.skip.address, 1.0
            ) * (0.9 if self.family.shortcut else 1.0)
            # Off by half a step of the dtype at most: a second rounding would be off by more.
            step = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
            assert bool(((changed[key].double() - exact).abs() <= 0.5001 * step).all())


@pytest.mark.parametrize("name", WITH_PARTS)
class TestParts(OfFamily):
    @pytest.mark.parametrize("part", PARTS[1:])
    def test_parts_fold_exactly_whatever_the_groups(self, part: str) -> None:
        schedule = Schedule([Term(t.address, t.scale, part=part) for t in self.schedule.terms])
        folded = fold(self.network, schedule, mixed="refuse")
        scales = {t.address: t.scale for t in self.schedule.terms}
        expected = self.run(parted(self.family, self.network, part, scales.__getitem__))
        assert folded.exact
        assert relative(self.run(baked(self.network, folded)), expected) < 1e-5

    def test_parts_side_by_side_multiply(self) -> None:
        (first,) = [s.address for s in find_skips(self.network) if not s.mixed][:1]
        terms = [Term(first, 0.7 + 0.1 * place, part=part) for place, part in enumerate(PARTS)]
        with scaled(self.network, Schedule(terms)):
            expected = self.run(self.network)
        found = self.run(baked(self.network, fold(self.network, Schedule(terms))))
        assert relative(found, expected) < 1e-5


def test_lucidrains_is_exact_for_every_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, package())
    options = {"family": "lucidrains", "image_size": 8, "channels": 1, "dim": 4}
    torch.manual_seed(0)
    network: Any = build_denoiser(config_of({**options, "dim_mults": [1, 2]}, where="").config)
    network.eval().requires_grad_(False)
    scales = {s.address: 0.5 + 0.2 * s.index for s in find_skips(network)}
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.5)
    found = baked(network, fold(network, Schedule.uniform(scales), mixed="refuse"))(x, sigma)
    plain = network(x, sigma)
    network.model.factors = scales
    assert relative(found, network(x, sigma)) < 1e-5 < relative(plain, network(x, sigma))


def refusal(network: Any, schedule: Any) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        fold(network, schedule)
    assert "apply(network)" in caught.value.hint
    return caught.value


@pytest.fixture
def network() -> Any:
    return network_of(FAMILIES["ddpmpp-edm"])


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_normalised_on_every_call_are_refused(part: str) -> None:
    network = network_of(FAMILIES["edm2"])
    scales = {address: 0.8 for address in FAMILIES["edm2"].addresses}
    error = refusal(network, Schedule.uniform(scales, part=part))
    assert len(error.problems) == 4
    expected = "an activation that reads" if part == "both" else "normalises its weights"
    assert all(expected in p.found for p in error.problems)


def test_half_precision_is_told_from_computed_weights(network: Any) -> None:
    schedule = Schedule.uniform({FAMILIES["ddpmpp-edm"].addresses[0]: 0.8}, part="residual")
    assert fold(network.bfloat16(), schedule).exact
    computed = network_of(FAMILIES["edm2"]).bfloat16()
    schedule = Schedule.uniform({FAMILIES["edm2"].addresses[0]: 0.8}, part="residual")
    assert "normalises its weights" in refusal(computed, schedule).problems[0].found


def test_what_is_no_number_of_its_own_is_refused_all_at_once(network: Any) -> None:
    one, two, three, _ = FAMILIES["ddpmpp-edm"].addresses
    error = refusal(
        network, Schedule([Term(one, 0.8, low=1.0), Term(two, 0.9), Term(three, 0, high=2)])
    )
    [problem] = error.problems
    assert problem.found == (
        f"2 in windows of the noise level: {one} at sigma 1 to inf, {three} at sigma 0 to 2"
    )
    assert "tune scales that fold" in error.hint
    assert error.hint.endswith("-s space.window=null -s space.intervals=1")
    window = refusal(network, Schedule([Term(one, 0.8, low=1.0)]))
    assert window.problems[0].found.startswith("1 in a window of the noise level: ")
    many = Schedule([Term(one, 0.9 - level / 10, low=level, high=level + 1) for level in range(5)])
    assert refusal(network, many).problems[0].found.endswith("sigma 2 to 3, and 2 more")
    error = refusal(network, Schedule.uniform({one: 0.8}, branches="cond"))
    assert error.hint.endswith("-s space.branches=both")
    assert "evaluations cond of guidance" in error.problems[0].found
    error = refusal(network, {one: torch.tensor([0.8, 0.9])})
    assert "2 scales, one per image" in error.problems[0].found
    same = fold(network, {one: torch.tensor(0.75), two: torch.tensor([1.0])})
    assert [b.terms for b in same.blocks] == [{"both": 0.75}]


def test_unknown_addresses_and_parts_are_refused(network: Any) -> None:
    with pytest.raises(NetworkError, match="9x9_block0"):
        fold(network, Schedule.uniform({"9x9_block0": 0.8}))
    uvit = network_of(FAMILIES["uvit"])
    with pytest.raises(NetworkError, match="a shortcut convolution"):
        fold(uvit, Schedule.uniform({"out_blocks.0": 0.8}, part="shortcut"))


def test_shared_missing_and_computed_weights_are_refused(network: Any) -> None:
    blocks: dict[str, Any] = decoder_blocks(network)
    one, two, *_ = blocks
    schedule = Schedule.uniform({one: 0.8})
    shared = copy.deepcopy(network)
    inner: dict[str, Any] = decoder_blocks(shared)
    inner[two].skip.weight = inner[one].skip.weight
    assert "2 modules share" in refusal(shared, schedule).problems[0].found
    computed = copy.deepcopy(network)
    weight_norm(decoder_blocks(computed)[one].skip)  # type: ignore[arg-type]
    assert "that is computed" in refusal(computed, schedule).problems[0].found
    without = copy.deepcopy(network)
    decoder_blocks(without)[one].skip = nn.Identity()
    found = refusal(without, schedule).problems[0].found
    assert found.startswith("none: the block adds its input as it is")
    # Its branch folds all the same.
    assert fold(without, Schedule.uniform({one: 0.8}, part="residual")).exact


def test_weights_are_replaced_for_a_block_and_come_back(network: Any) -> None:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    folded = fold(network, Schedule.uniform({FAMILIES["ddpmpp-edm"].addresses[0]: 0.5}))
    changed = folded.apply(before)
    with pytest.raises(KeyError), replaced(network, changed):
        state = network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in changed.items())
        raise KeyError
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
