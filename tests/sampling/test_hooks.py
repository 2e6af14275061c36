"""Hooks against a decoder written out by hand, and everything that switches them off silently.

What holds for every family is in `test_conformance`: compiled networks, checkpointing, guidance.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import apply, check_effect, effect, scaled
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.skips import find_skips
from tests.sampling.families import hooks_of
from tests.sampling.hand_decoders import ScaleAt, call, decode_song


def _with_decoder(network: EDMPrecond, scale: ScaleAt) -> EDMPrecond:
    """A copy of the network whose decoder is written out by hand."""
    edited = copy.deepcopy(network)
    unet = edited.model

    def decode(x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        return decode_song(unet, x, skips, emb, scale, call)

    vars(unet)["_decode"] = decode
    return edited


def _inputs(device: str, images: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(images, 1, 8, 8, generator=generator) * 2
    labels = torch.eye(3)[torch.arange(images) % 3]
    return x.to(device), labels.to(device)


def _schedule(network: nn.Module, scales: tuple[float, ...] = (0.7, 1.3, 0.0, 1.0)) -> Schedule:
    names = [skip.address for skip in find_skips(network)]
    return Schedule.uniform(dict(zip(names, scales, strict=True)))


def _either(values: Mapping[str, Tensor], address: str) -> float | Tensor:
    return values.get(address, 1.0)


@pytest.fixture(params=["tiny_network", "mixed_network"])
def network(request: pytest.FixtureRequest) -> EDMPrecond:
    chosen: EDMPrecond = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=[torch.no_grad, torch.enable_grad, torch.inference_mode])
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.param():
        yield


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("sigma", [0.01, 1.0, 60.0])
def test_hooks_equal_a_hand_edited_forward(network: EDMPrecond, device: str, sigma: float) -> None:
    x, labels = _inputs(device)
    schedule = _schedule(network)
    level = torch.tensor(sigma, dtype=torch.float64, device=device)
    edited = _with_decoder(network, lambda address: schedule.scale(address, sigma))
    with scaled(network, schedule):
        assert torch.equal(network(x, level, labels), edited(x, level, labels))
        assert torch.equal(network(x, sigma=level), edited(x, level))


@pytest.mark.usefixtures("mode")
def test_the_baseline_is_bit_identical_and_removal_leaves_nothing(
    network: EDMPrecond, device: str
) -> None:
    x, labels = _inputs(device)
    level = torch.tensor(1.5, device=device)
    before = network(x, level, labels)
    keys = sorted(network.state_dict()), [name for name, _ in network.named_buffers()]
    modules = list(network.modules())
    handle = apply(network, Schedule.baseline())
    assert torch.equal(network(x, level, labels), before)
    handle.update(_schedule(network))
    assert not torch.equal(network(x, level, labels), before)
    assert sorted(network.state_dict()) == keys[0]
    handle.remove()
    handle.remove()
    assert hooks_of(network) == []
    assert list(network.modules()) == modules
    assert (sorted(network.state_dict()), [name for name, _ in network.named_buffers()]) == keys
    assert torch.equal(network(x, level, labels), before)


def test_hooks_go_when_the_block_fails(tiny_network: EDMPrecond) -> None:
    with pytest.raises(ZeroDivisionError), scaled(tiny_network, _schedule(tiny_network)):
        raise ZeroDivisionError
    assert hooks_of(tiny_network) == []


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.75, 2.0, 2.5])
def test_windows_begin_at_low_and_end_before_high(
    network: EDMPrecond, device: str, sigma: float
) -> None:
    x, labels = _inputs(device)
    names = [skip.address for skip in find_skips(network)]
    schedule = Schedule(
        [Term(names[0], 0.6, 0.5, 2.0), Term(names[0], 1.4, 2.0), Term(names[2], 0.8, 0.0, 0.75)]
    )
    level = torch.tensor(sigma, dtype=torch.float64, device=device)
    edited = _with_decoder(network, lambda address: schedule.scale(address, sigma))
    with scaled(network, schedule):
        assert torch.equal(network(x, level, labels), edited(x, level, labels))


def test_a_float32_level_lies_in_the_window_of_the_number_it_was_rounded_from(
    tiny_network: EDMPrecond, device: str
) -> None:
    x, _ = _inputs(device)
    low = 0.1  # float32(0.1) > 0.1, and float32(0.7) < 0.7
    address = find_skips(tiny_network)[0].address
    for level in (0.1, 0.7):
        schedule = Schedule([Term(address, 0.5, level, level * 1.01)])
        everywhere = Schedule([Term(address, 0.5)])
        sigma = torch.tensor(level, dtype=torch.float32, device=device)
        with scaled(tiny_network, schedule):
            inside = tiny_network(x, sigma)
        with scaled(tiny_network, everywhere):
            assert torch.equal(tiny_network(x, sigma), inside)
    assert low < float(torch.tensor(low))


def test_each_image_has_its_own_noise_level(tiny_network: EDMPrecond, device: str) -> None:
    x, labels = _inputs(device)
    schedule = Schedule.uniform({"4x4_block0": 0.5, "8x8_block1": 1.4}, low=0.4, high=3.0)
    levels = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64, device=device)
    with scaled(tiny_network, schedule):
        together = tiny_network(x, levels, labels)
        for i in range(3):
            alone = tiny_network(x[i : i + 1], levels[i], labels[i : i + 1])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-5)
    assert not torch.allclose(together[1], tiny_network(x, levels, labels)[1], atol=1e-2)


@pytest.mark.usefixtures("mode")
def test_scales_per_image_equal_separate_runs(network: EDMPrecond, device: str) -> None:
    x, labels = _inputs(device)
    names = [skip.address for skip in find_skips(network)]
    values = {names[0]: [0.5, 1.0, 1.5], names[3]: [1.2, 0.0, 0.9]}
    tensors = {name: torch.tensor(row, device=device) for name, row in values.items()}
    level = torch.tensor(1.0, device=device)
    with scaled(network, tensors):
        together = network(x, level, labels)
    edited = _with_decoder(network, lambda address: tensors.get(address, 1.0))
    assert torch.equal(together, edited(x, level, labels))
    for i in range(3):
        schedule = Schedule.uniform({name: row[i] for name, row in values.items()})
        with scaled(network, schedule):
            alone = network(x[i : i + 1], level, labels[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_gradients_reach_the_scales(tiny_network: EDMPrecond, device: str) -> None:
    double = tiny_network.double()
    vars(double)["forward"] = lambda x, sigma: double.model(x, sigma.expand(len(x)).log())
    # The network's attention computes in float32, so the finite differences are coarse.
    x = _inputs(device)[0].double()
    names = [skip.address for skip in find_skips(double)]

    def output(one: Tensor, two: Tensor) -> Tensor:
        with scaled(double, {names[1]: one, names[3]: two}):
            made: Tensor = double(x, torch.tensor(2.0, dtype=torch.float64, device=device))
        return made[:, :, ::4, ::4]

    one = torch.tensor(0.8, dtype=torch.float64, device=device, requires_grad=True)
    two = torch.tensor([0.9, 1.0, 1.2], dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(output, (one, two), eps=1e-3, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["schedule", "tensor", "per image", "window"])
def test_half_precision_stays(
    tiny_network: EDMPrecond, device: str, dtype: torch.dtype, kind: str
) -> None:
    schedule: Schedule | Mapping[str, Tensor] = Schedule.uniform({"8x8_block0": 0.7})
    if kind == "window":
        schedule = Schedule.uniform({"8x8_block0": 0.7}, low=0.0017, high=0.0021)
    elif kind != "schedule":
        size = () if kind == "tensor" else (3,)
        schedule = {"8x8_block0": torch.full(size, 0.7, device=device)}
    x = _inputs(device)[0]
    seen: list[Tensor] = []
    block: Any = tiny_network.model.dec["8x8_block0"]

    def cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arg if arg is None else arg.to(dtype) for arg in args)

    tiny_network.model.register_forward_pre_hook(cast)
    with scaled(tiny_network, schedule) as handle:
        tiny_network.model.to(dtype)  # after the hooks: their windows must not be rounded
        reader = block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        tiny_network(x, torch.tensor(0.002, dtype=torch.float64, device=device))
        handle.update(Schedule.baseline())
        tiny_network(x, torch.tensor(0.002, dtype=torch.float64, device=device))
        reader.remove()
    acting, plain = seen
    cut = find_skips(tiny_network)[2].main_channels
    assert acting.dtype == dtype
    assert torch.equal(acting[:, :cut], plain[:, :cut])
    rounded = torch.finfo(dtype).eps
    assert torch.allclose(acting[:, cut:].float(), plain[:, cut:].float() * 0.7, rtol=rounded)


def _without_hooks(network: EDMPrecond) -> EDMPrecond:
    plain = copy.deepcopy(network)
    for module in plain.modules():
        module._forward_pre_hooks.clear()
        module._forward_pre_hooks_with_kwargs.clear()
    return plain


@pytest.mark.parametrize("how", ["wrapper", "in place", "inner", "block"])
def test_applying_to_a_compiled_network_is_refused(tiny_network: EDMPrecond, how: str) -> None:
    network: nn.Module = tiny_network
    if how == "wrapper":
        wrapper: Any = torch.compile(network, backend="eager")
        network = wrapper
    elif how == "in place":
        network.compile(backend="eager")
    elif how == "inner":
        inner: Any = torch.compile(tiny_network.model, backend="eager")
        tiny_network.model = inner
    else:
        tiny_network.model.dec["8x8_block0"].compile(backend="eager")
    with pytest.raises(NetworkError, match="compiled") as caught:
        apply(network, Schedule.uniform({"8x8_block0": 0.5}))
    assert "apply the schedule first" in caught.value.hint
    assert hooks_of(tiny_network) == []


def test_a_copy_has_hooks_of_its_own(tiny_network: EDMPrecond, device: str) -> None:
    x, _ = _inputs(device)
    level = torch.tensor(1.0, device=device)
    with scaled(tiny_network, Schedule.uniform({"8x8_block0": 0.5})) as handle:
        twin = copy.deepcopy(tiny_network)
        before = twin(x, level)
        handle.update(Schedule.uniform({"8x8_block0": 1.5}))
        assert torch.equal(twin(x, level), before)
        assert not torch.equal(tiny_network(x, level), before)


def test_a_second_schedule_is_refused_until_the_first_is_removed(
    tiny_network: EDMPrecond,
) -> None:
    handle = apply(tiny_network, Schedule.baseline())
    with pytest.raises(NetworkError, match="already"):
        apply(tiny_network, Schedule.baseline())
    handle.remove()
    with pytest.raises(NetworkError, match="removed"):
        handle.update(Schedule.baseline())
    apply(tiny_network, Schedule.baseline()).remove()


@pytest.mark.parametrize("part", ["both", "whole-shortcut"])
def test_a_denoiser_and_its_unet_cannot_both_have_a_schedule(
    tiny_network: EDMPrecond, part: str
) -> None:
    schedule = Schedule.uniform({"8x8_block0": 0.5}, part=part)
    unet = tiny_network.model
    for first, second in ((tiny_network, unet), (unet, tiny_network)):
        with scaled(first, schedule), pytest.raises(NetworkError, match="already") as caught:
            apply(second, schedule)
        assert "copy networks before" in caught.value.hint
        apply(second, schedule).remove()
    assert hooks_of(tiny_network) == []


def test_a_with_block_on_a_removed_handle_does_not_run_unscaled(tiny_network: EDMPrecond) -> None:
    with apply(tiny_network, _schedule(tiny_network)) as handle:
        assert len(hooks_of(tiny_network)) > 1
    with pytest.raises(NetworkError, match="removed"), handle:
        raise AssertionError("entered")
    assert hooks_of(tiny_network) == []


def test_unknown_addresses_are_refused_and_the_real_ones_listed(
    tiny_network: EDMPrecond,
) -> None:
    with pytest.raises(NetworkError) as caught:
        apply(tiny_network, Schedule.uniform({"8x8_block0": 0.9, "64x64_block0": 0.5}))
    problem = caught.value.problems[0]
    assert "64x64_block0" in problem.found
    assert all(skip.address in problem.expected for skip in find_skips(tiny_network))
    assert hooks_of(tiny_network) == []


@pytest.mark.parametrize("scale", [torch.ones(2, 2), 0.5, torch.ones(2)])
def test_scales_of_a_wrong_shape_are_refused(
    tiny_network: EDMPrecond, device: str, scale: Any
) -> None:
    with pytest.raises(NetworkError, match="expected"):
        with scaled(tiny_network, {"8x8_block0": scale}):
            tiny_network(_inputs(device)[0], torch.tensor(1.0))
    assert hooks_of(tiny_network) == []


def test_the_bare_unet_takes_scales_but_no_windows(tiny_network: EDMPrecond, device: str) -> None:
    unet = tiny_network.model
    x, _ = _inputs(device)
    noise = torch.zeros(3, device=device)
    with scaled(unet, Schedule.uniform({"8x8_block0": 0.5})):
        assert not torch.equal(unet(x, noise), _without_hooks(tiny_network).model(x, noise))
    with pytest.raises(NetworkError, match="sigma"):
        apply(unet, Schedule.uniform({"8x8_block0": 0.5}, low=1.0))


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("branches", ["cond", "uncond"])
def test_an_image_is_in_the_branch_that_its_labels_say(
    network: EDMPrecond, device: str, branches: str
) -> None:
    x, labels = _inputs(device)
    labels[1] = 0
    schedule = Schedule(_schedule(network).terms, branches=branches)
    level = torch.tensor(1.0, dtype=torch.float64, device=device)
    for rows in (labels, labels[:1], labels[1:2], None):
        given = torch.zeros(1, 3, device=device) if rows is None else rows
        acts = [bool(row.any()) == (branches == "cond") for row in given]
        values = {
            term.address: torch.tensor([term.scale if here else 1.0 for here in acts])
            for term in schedule.terms
        }
        edited = _with_decoder(network, functools.partial(_either, values))
        with scaled(network, schedule):
            found = network(x, level, class_labels=rows)
        assert torch.equal(found, edited(x, level, rows))
        with scaled(network.model, schedule):  # the bare U-Net is called with labels too
            assert torch.equal(network(x, level, rows), found)


def test_one_branch_needs_a_network_with_labels_and_calls_that_tell(
    tiny_network: EDMPrecond, device: str
) -> None:
    x, labels = _inputs(device)
    level = torch.tensor(1.0, device=device)
    one = Schedule.uniform({"8x8_block0": 0.5}, branches="cond")
    both = Schedule.uniform({"8x8_block0": 0.5})
    without = _without_hooks(tiny_network)
    without.label_dim = 0
    with pytest.raises(NetworkError, match="no classes"):
        apply(without, one)
    with scaled(without, both) as handle, pytest.raises(NetworkError, match="no classes"):
        handle.update(one)

    class Unaware(nn.Module):
        """A network that is not told the labels in its call."""

        def __init__(self, network: EDMPrecond) -> None:
            super().__init__()
            self.model = network.model
            vars(self)["inner"] = network

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return self.inner(x, sigma, labels)  # type: ignore[operator, no-any-return]

    unaware = Unaware(tiny_network)
    plain = unaware(x, level)
    with scaled(unaware, both) as handle:
        everywhere = unaware(x, level)
        handle.update(one)
        with pytest.raises(NetworkError, match="evaluating"):
            unaware(x, level)
        with handle.evaluating(True):
            assert torch.equal(unaware(x, level), everywhere)
        with handle.evaluating(False):
            assert torch.equal(unaware(x, level), plain)
        with pytest.raises(NetworkError, match="evaluating"):
            unaware(x, level)


def test_effect_is_the_change_of_the_output(tiny_network: EDMPrecond, device: str) -> None:
    x, labels = _inputs(device)
    schedule = Schedule.uniform({"8x8_block0": 0.5}, high=2.0)
    change = effect(tiny_network, schedule, x=x, sigma=1.0, class_labels=labels)
    level = torch.tensor(1.0, device=device)
    edited = _with_decoder(tiny_network, lambda address: schedule.scale(address, 1.0))
    difference = edited(x, level, labels) - tiny_network(x, level, labels)
    assert change == pytest.approx(float(difference.abs().max()), abs=1e-6)
    assert change > 0
    assert check_effect(tiny_network, schedule, x=x, sigma=1.0, class_labels=labels) == change
    assert effect(tiny_network, Schedule.baseline(), x=x, sigma=1.0) == 0
    assert check_effect(tiny_network, Schedule.baseline(), x=x, sigma=1.0) == 0
    with pytest.raises(NetworkError, match="noise level at which"):
        check_effect(tiny_network, schedule, x=x, sigma=3.0)
    uncond = Schedule(schedule.terms, branches="uncond")
    there = check_effect(tiny_network, uncond, x=x, sigma=1.0, class_labels=labels)
    assert there == effect(tiny_network, schedule, x=x, sigma=1.0) > 0
    cond = Schedule(schedule.terms, branches="cond")
    assert check_effect(tiny_network, cond, x=x, sigma=1.0, class_labels=labels) == change
    with pytest.raises(NetworkError, match="where there are labels"):
        check_effect(tiny_network, cond, x=x, sigma=1.0)
    assert math.isfinite(change)


def test_a_network_that_ignores_the_schedule_is_found_out(
    tiny_network: EDMPrecond, device: str
) -> None:
    # What a compiled or monkeypatched forward does: the hooked blocks are never called.
    twin = _without_hooks(tiny_network)
    vars(tiny_network)["forward"] = lambda x, sigma, class_labels=None: twin(
        x, sigma, class_labels
    )
    schedule = Schedule.uniform({"8x8_block0": 0.5})
    with pytest.raises(NetworkError, match="same output"):
        check_effect(tiny_network, schedule, x=_inputs(device)[0], sigma=1.0)
