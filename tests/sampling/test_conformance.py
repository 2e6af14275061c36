"""What must hold for the networks of every family, present and later.

A family enters with a row of the table in `families`. `test_hooks` tests what does not depend on
the family: where windows begin, what is refused.
"""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skiptune.errors import NetworkError, SpecError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import apply, check_effect, scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.levels import rounded
from skiptune.sampling.schedule import BRANCHES, PARTS, Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import decoder_blocks, find_skips
from skiptune.sampling.solvers import solve
from tests.sampling.families import (
    FAMILIES,
    Branched,
    OfFamily,
    edited,
    hooks_of,
    network_of,
)
from tests.sampling.hand_decoders import Run, call
from tests.sampling.test_skips import _seen, _traced


@pytest.mark.parametrize("name", FAMILIES)
class TestFamily(OfFamily):
    def same(self, one: Tensor, other: Tensor, *, exact: bool = False) -> None:
        if exact or self.family.exact:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    def full_name(self, address: str) -> str:
        inside = f"dec.{address}" if "_block" in address and "." not in address else address
        return f"{self.network.holder}.{inside}"

    def test_the_skips_are_the_concatenations_deepest_first(self) -> None:
        skips = find_skips(self.network)
        names = dict(self.network.named_modules())
        blocks = decoder_blocks(self.network)
        assert [block is names[self.full_name(a)] for a, block in blocks.items()] == [True] * 4
        # The encoder of EDM2 concatenates too.
        traced = [
            (address, *row[1:])
            for row in _traced(self.network, self.x, whole_names=True)
            for address in self.family.addresses
            if row[0] in (self.full_name(address), f"{self.full_name(address)}.skip_linear")
        ]
        assert _seen(skips) == traced
        assert tuple(skip.address for skip in skips) == self.family.addresses
        assert [skip.index for skip in skips] == [0, 1, 2, 3]
        assert find_skips(getattr(self.network, self.network.holder)) == skips

    def test_a_group_of_both_is_found(self) -> None:
        for skip, block in zip(
            find_skips(self.network), decoder_blocks(self.network).values(), strict=True
        ):
            if not self.family.norm:
                assert (skip.groups, skip.mixed) == (0, True)
                continue
            norm: Any = block.get_submodule(self.family.norm)
            assert skip.groups == norm.num_groups
            x = torch.randn(2, skip.main_channels + skip.skip_channels, 8, 8).to(self.device)
            scaled_skip = x.clone()
            scaled_skip[:, skip.main_channels :] *= 0.7
            assert (float((norm(scaled_skip) - norm(x)).abs().max()) > 0.01) == skip.mixed
        if self.family.mixed:
            assert {skip.mixed for skip in find_skips(self.network)} == {True, False}

    def test_the_baseline_is_bit_identical_and_removal_restores(self) -> None:
        before = self.run(self.network)
        keys = list(self.network.state_dict())
        handle = apply(self.network, Schedule.baseline())
        assert torch.equal(self.run(self.network), before)
        away = Schedule(
            [Term(self.names[0], 0.5, low=2.0), Term(self.names[1], 0.5, high=0.5)],
            branches="cond",
        )
        ones = {name: torch.ones(3, device=self.device) for name in self.names}
        for scales in (away, ones):
            handle.update(scales)
            assert torch.equal(self.run(self.network), before)
        handle.update(self.schedule)
        assert not torch.equal(self.run(self.network), before)
        assert list(self.network.state_dict()) == keys
        handle.remove()
        assert hooks_of(self.network) == []
        assert torch.equal(self.run(self.network), before)

    @pytest.mark.parametrize("sigma", [0.01, 1.0, 60.0])
    def test_hooks_equal_a_hand_edited_forward(self, sigma: float) -> None:
        by_hand = edited(self.family, self.network, lambda name: self.schedule.scale(name, sigma))
        with scaled(self.network, self.schedule):
            self.same(self.run(self.network, sigma), self.run(by_hand, sigma))

    def test_each_skip_matters_alone(self) -> None:
        before = self.run(self.network)
        made = []
        for name in self.names:
            with scaled(self.network, Schedule.uniform({name: 0.5})):
                made.append(self.run(self.network))
        for place, one in enumerate(made):
            assert float((one - before).abs().max()) > 1e-4
            assert not any(torch.equal(one, other) for other in made[:place])

    def test_a_second_schedule_is_refused_and_a_repeated_one_does_the_same(self) -> None:
        with scaled(self.network, self.schedule):
            once = self.run(self.network)
            with pytest.raises(NetworkError, match="already"):
                apply(self.network, self.schedule)
            assert torch.equal(self.run(self.network), once)
        with scaled(self.network, self.schedule):
            assert torch.equal(self.run(self.network), once)

    def test_scales_per_image_equal_separate_runs(self) -> None:
        values = {self.names[0]: [0.5, 1.0, 1.5], self.names[3]: [1.2, 0.3, 0.9]}
        tensors = {name: torch.tensor(row, device=self.device) for name, row in values.items()}
        with scaled(self.network, tensors):
            together = self.run(self.network)
        by_hand = edited(self.family, self.network, lambda name: tensors.get(name, 1.0))
        self.same(together, self.run(by_hand))
        level = torch.tensor(1.0, device=self.device)
        for i in range(3):
            schedule = Schedule.uniform({name: row[i] for name, row in values.items()})
            with scaled(self.network, schedule):
                alone = self.network(self.x[i : i + 1], level, self.labels[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=1e-4)

    def test_windows_follow_the_noise_level_of_each_evaluation_within_heun(self) -> None:
        # The step from 4 to 1 evaluates at 4, outside, and at 1, inside.
        low, high = 0.5, 2.0
        scales = {name: 0.6 for name in self.names}
        by_hand = edited(self.family, self.network, lambda name: 0.6)
        seen: list[float] = []

        def through(outside: nn.Module, inside: nn.Module) -> Tensor:
            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                seen.append(float(sigma))
                acting = low <= float(sigma) < high
                made: Tensor = (inside if acting else outside)(x, sigma, self.labels)
                return made.to(x.dtype)

            grid = torch.tensor([4.0, 1.0, 0.25, 0.0], dtype=torch.float64, device=self.device)
            return solve("heun", denoise, self.x.double(), grid)

        expected = through(self.network, by_hand)
        untouched = through(self.network, self.network)
        with scaled(self.network, Schedule.uniform(scales, low=low, high=high)):
            found = through(self.network, self.network)
        assert {level for level in seen if low <= level < high} == {1.0}
        assert seen.count(1.0) == 6
        self.same(found, expected)
        assert not torch.allclose(found, untouched, atol=1e-3)

    @pytest.mark.parametrize("branches", BRANCHES)
    def test_guidance_is_scaled_in_the_branches_asked_for(self, branches: str) -> None:
        # The window holds one of the two levels that are evaluated.
        schedule = Schedule.uniform(dict.fromkeys(self.names, 0.6), high=2.0, branches=branches)
        # Levels that the network knows: `Branched` does not round them.
        given = rounded(self.network, (4.0, 1.0))
        setting = Setting(solver="heun", steps=2, sigmas=given, guidance=2.0)
        halves = {"both": (True, True), "cond": (True, False), "uncond": (False, True)}[branches]
        level = [0.0]

        def factor(name: str) -> float:
            return schedule.scale(name, level[0])

        by_hand = edited(self.family, self.network, factor)
        if self.family.unguided:
            # Nothing to scale: both branches are refused before an image is made.
            with pytest.raises(SpecError, match=self.family.unguided):
                sample_float(self.network, setting, range(3), device=self.device)
            return
        guided = Branched(*(by_hand if acts else self.network for acts in halves)).eval()
        guided.register_forward_pre_hook(lambda module, args: level.__setitem__(0, float(args[1])))
        expected = sample_float(guided, setting, range(3), device=self.device)
        untouched = sample_float(self.network, setting, range(3), device=self.device)
        with scaled(self.network, schedule):
            found = sample_float(self.network, setting, range(3), device=self.device)
        self.same(found, expected)
        assert not torch.allclose(found, untouched, atol=1e-3)

    @pytest.mark.parametrize("branches", BRANCHES)
    def test_both_branches_of_guidance_may_be_one_batch(self, branches: str) -> None:
        schedule = Schedule(self.schedule.terms, branches=branches)
        level = torch.tensor(1.0, dtype=torch.float64, device=self.device)
        x = torch.cat([self.x, self.x])
        labels = torch.cat([self.labels, 0 * self.labels])
        acts = torch.tensor([branches != "uncond"] * 3 + [branches != "cond"] * 3)

        def factors(name: str) -> Tensor:
            return torch.where(acts, schedule.scale(name, 1.0), 1.0).to(self.device)

        by_hand = edited(self.family, self.network, factors)
        with scaled(self.network, schedule) as handle:
            self.same(self.network(x, level, labels), by_hand(x, level, labels))
            # Told, it does not ask the labels: here every image is in the other branch.
            with handle.evaluating((labels == 0).all(dim=1)):
                other = self.network(x, level, labels)
            self.same(self.network(x, level, labels), by_hand(x, level, labels))
        acts = acts.flip(0)
        self.same(other, by_hand(x, level, labels))

    def test_gradients_are_right_and_checkpointing_changes_nothing(self) -> None:
        # Two evaluations, at two noise levels and in two branches: when the backward pass runs the
        # blocks of the first again, the network's last call was the second.
        low, high = self.names[0], self.names[3]
        schedule = Schedule(
            [Term(low, 0.5, 1.0), Term(high, 0.6, 0.0, 1.0), Term(self.names[2], 0.7)],
            branches="cond",
        )

        def leaves() -> dict[str, Tensor]:
            return {
                low: torch.tensor([0.5, 0.8, 1.2], device=self.device, requires_grad=True),
                high: torch.tensor(0.9, device=self.device, requires_grad=True),
            }

        def twice(network: nn.Module, call: Run) -> list[Tensor | None]:
            start = made = self.x.clone().requires_grad_()
            for sigma, labels in ((2.0, self.labels), (0.5, None)):
                level = torch.tensor(sigma, device=self.device)
                made = call(network, made, level, labels)
            made.square().sum().backward()
            return [made.detach(), start.grad]

        def both(network: nn.Module, call: Run) -> list[Tensor | None]:
            with scaled(network, schedule):
                found = twice(network, call)
            tensors = leaves()
            with scaled(network, tensors):
                found += twice(network, call)
            return [*found, *(tensor.grad for tensor in tensors.values())]

        with torch.inference_mode(False), torch.enable_grad():
            plain = edited(self.family, self.network, lambda name: 1.0)
            expected = both(plain, call)
            tensors = leaves()
            by_hand = edited(self.family, self.network, lambda name: tensors.get(name, 1.0))
            found = [[*expected[:2], *twice(by_hand, call)]]
            found[0] += [tensor.grad for tensor in tensors.values()]
            for reentrant in (False, True):
                again: Run = functools.partial(checkpoint, use_reentrant=reentrant)
                inner = edited(self.family, self.network, lambda name: 1.0, again)
                found += [both(plain, again), both(inner, call)]
        for row in found:
            for one, other in zip(row, expected, strict=True):
                assert one is not None
                assert other is not None
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
                assert float(other.abs().max()) > 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays(self, dtype: torch.dtype) -> None:
        unet: Any = getattr(self.network, self.network.holder)
        before = self.run(self.network)

        def cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(arg if arg is None else arg.to(dtype) for arg in args)

        # EDM2 computes in the dtype of its input, the others in that of their weights.
        seen: list[Tensor] = []
        unet.register_forward_pre_hook(cast)
        unet.to(dtype)
        with scaled(self.network, self.schedule):
            for block in decoder_blocks(self.network).values():
                block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
            made = self.run(self.network)
        assert len(seen) == 4
        assert {tensor.dtype for tensor in seen} == {dtype}
        assert made.dtype == torch.float32
        assert bool(made.isfinite().all())
        assert not torch.equal(made, before)

    def test_labels_act_and_others_are_refused(self) -> None:
        level = torch.tensor(1.0, device=self.device)
        none = self.network(self.x, level, None)
        assert torch.equal(none, self.network(self.x, level, 0 * self.labels))
        assert not torch.equal(none, self.run(self.network))
        with pytest.raises(NetworkError, match="one-hot rows of 3"):
            self.network(self.x, level, torch.eye(4, device=self.device)[:3])
        unlabelled = network_of(self.family, self.device, **self.family.unlabelled)
        assert unlabelled(self.x, level).shape == self.x.shape
        with pytest.raises(NetworkError, match="expected None"):
            unlabelled(self.x, level, self.labels)

    def test_compiling_before_is_refused(self) -> None:
        with torch.inference_mode(False):
            compiled: Any = torch.compile(self.network, backend="eager")
            with pytest.raises(NetworkError, match="compiled") as caught:
                apply(compiled, self.schedule)
        assert "apply the schedule first" in caught.value.hint
        assert hooks_of(self.network) == []

    def test_a_compiled_network_gives_the_scaled_output(self, name: str) -> None:
        torch.compiler.reset()
        graphs = []

        def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
            graphs.append(graph)
            return graph.forward

        level = torch.tensor(1.0, dtype=torch.float64, device=self.device)
        schedules = [
            Schedule.baseline(),
            self.schedule,
            Schedule.uniform({self.names[0]: 0.5}, low=0.5, high=2.0),
            Schedule.uniform({self.names[0]: 0.5}, low=2.0, branches="cond"),
            Schedule.uniform({self.names[0]: 0.5}, low=0.5, branches="cond"),
            Schedule.uniform({self.names[0]: 0.5}, branches="uncond"),
        ]
        # Compiling takes seconds: parts in one network of each kind of block.
        parts = PARTS[1:] if name in ("ddpmpp-edm", "edm2", "ldm") else ()
        schedules += [Schedule.uniform({self.names[1]: 0.5}, low=0.5, part=p) for p in parts]
        expected = []
        for schedule in schedules:
            with scaled(self.network, schedule):
                expected.append(self.run(self.network))
        assert torch.equal(expected[5], expected[0])
        assert torch.equal(expected[4], expected[2])
        with torch.inference_mode(False), torch.no_grad():
            handle = apply(self.network, schedules[0], parts=parts)
            compiled: Any = torch.compile(self.network, backend=backend, fullgraph=True)
            counts = []
            for schedule, plain in zip(schedules, expected, strict=True):
                handle.update(schedule)
                made = compiled(self.x.clone(), level.clone(), self.labels.clone())
                torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-4)
                counts.append(len(graphs))
        assert counts[0] > 0
        assert counts == [counts[0]] * len(schedules)
        torch.compiler.reset()

    def test_copies_and_pickles_after_removal_are_whole(self) -> None:
        before = self.run(self.network)
        apply(self.network, self.schedule).remove()
        assert torch.equal(self.run(copy.deepcopy(self.network)), before)
        with torch.inference_mode(False):
            # Bytes that this test has made itself.
            again = pickle.loads(pickle.dumps(self.network))
        assert torch.equal(self.run(again), before)

    def test_a_schedule_that_does_nothing_is_found_out(self) -> None:
        arguments: dict[str, Any] = {"x": self.x, "sigma": 1.0, "class_labels": self.labels}
        assert check_effect(self.network, self.schedule, **arguments) > 0
        twin = copy.deepcopy(self.network)
        vars(self.network)["forward"] = lambda x, sigma, class_labels=None: twin(
            x, sigma, class_labels
        )
        with pytest.raises(NetworkError, match="same output"):
            check_effect(self.network, self.schedule, **arguments)

    def test_files_load_and_others_are_refused_in_a_few_lines(self, tmp_path: Path) -> None:
        family = self.family
        loaded = family.load(family.write(self.network, tmp_path, {}), self.network)
        assert type(loaded.network) is type(self.network)
        assert loaded.config == family.read_as(self.network)
        assert loaded.skips == find_skips(self.network)
        torch.testing.assert_close(
            self.run(loaded.network), self.run(self.network), atol=2e-5, rtol=1e-4
        )
        for change in family.others:
            with pytest.raises(NetworkError) as caught:
                load_checkpoint(family.write(self.network, tmp_path, change))
            text = render(caught.value)
            assert len(text.splitlines()) <= 6
            assert len(text) < 1200
            assert "hint: " in text
