"""What holds where a scale acts in one part of a decoder block, for every family of networks."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import apply, scaled
from skiptune.sampling.schedule import PARTS, Schedule, Term, place_name
from skiptune.sampling.skips import decoder_blocks, find_skips
from tests.sampling.families import (
    WITH_PARTS,
    OfFamily,
    edited,
    hooks_of,
    parted,
)
from tests.sampling.hand_decoders import Run


@pytest.mark.parametrize("name", WITH_PARTS)
class TestParts(OfFamily):
    @pytest.mark.parametrize("part", PARTS[1:])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_a_part_alone_is_scaled_as_its_convolution_edited(self, part: str, mode: Any) -> None:
        scales = {name: (0.7, 1.3, 0.4, 1.1)[place] for place, name in enumerate(self.names)}
        images = {name: torch.tensor([s, 1.0, 2 - s]) for name, s in scales.items()}
        schedule = Schedule.uniform(scales, low=0.5, part=part)
        with torch.inference_mode(False), mode():
            before = self.run(self.network)
            with scaled(self.network, schedule):
                found = self.run(self.network)
                assert torch.equal(self.run(self.network, 0.4), self.run_untouched(0.4))
            expected = self.run(parted(self.family, self.network, part, scales.__getitem__))
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
            assert float((found - before).abs().max()) > 1e-3
            named = {place_name(name, part): row.to(self.device) for name, row in images.items()}
            with scaled(self.network, named):
                found = self.run(self.network)
            each = {name: row.to(self.device) for name, row in images.items()}
            expected = self.run(parted(self.family, self.network, part, each.__getitem__))
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert hooks_of(self.network) == []

    def run_untouched(self, sigma: float) -> Tensor:
        return self.run(copy.deepcopy(self.network), sigma)

    @pytest.mark.parametrize("part", ["shortcut", "residual"])
    def test_a_part_folds_into_columns_of_a_weight_that_nothing_normalises(
        self, part: str
    ) -> None:
        twin = copy.deepcopy(self.network)
        blocks = decoder_blocks(twin).values()
        for skip, block in zip(find_skips(twin), blocks, strict=True):
            path = self.family.shortcut if part == "shortcut" else self.family.residual
            weight: Any = block.get_submodule(path).weight
            weight[:, skip.main_channels :] *= self.schedule.scale(skip.address, 1.0)
        terms = [Term(t.address, t.scale, part=part) for t in self.schedule.terms]
        with scaled(self.network, Schedule(terms)):
            found = self.run(self.network)
        off = float((found - self.run(twin)).abs().max())
        assert (off < 1e-4) == self.family.folds  # EDM2 normalises its weights on every call

    def test_the_shortcut_alone_is_the_whole_skip_where_groups_undo_its_scale(self) -> None:
        before = self.run(self.network)
        for skip in find_skips(self.network):
            found = []
            for part in ("both", "shortcut"):
                schedule = Schedule.uniform({skip.address: 0.7}, part=part)
                with scaled(self.network, schedule):
                    found.append(self.run(self.network))
            off = float((found[0] - found[1]).abs().max())
            change = float((found[0] - before).abs().max())
            assert (off < 1e-3 * change) == (not skip.mixed)

    def test_parts_of_one_block_act_side_by_side(self) -> None:
        terms = [Term(self.names[0], 0.5, part="shortcut"), Term(self.names[0], 1.7, 0.5, 2.0)]
        terms += [Term(self.names[0], 0.8, low=0.7, part="residual"), Term(self.names[1], 0.6)]
        schedule = Schedule(terms, branches="cond")
        twin = self.network
        for part in ("shortcut", "residual"):
            twin = parted(
                self.family, twin, part, functools.partial(schedule.scale, sigma=1.0, part=part)
            )
        by_hand = edited(self.family, twin, lambda name: schedule.scale(name, 1.0))
        with scaled(self.network, schedule):
            found = self.run(self.network)
        torch.testing.assert_close(found, self.run(by_hand), atol=2e-5, rtol=1e-4)

    def test_parts_without_scales_change_nothing_and_others_are_refused(self) -> None:
        before = self.run(self.network)
        ones = {
            place_name(n, p): torch.ones(3, device=self.device) for n in self.names for p in PARTS
        }
        with scaled(self.network, Schedule.baseline(), parts=PARTS) as handle:
            assert torch.equal(self.run(self.network), before)
            handle.update(ones)
            torch.testing.assert_close(self.run(self.network), before, atol=0, rtol=0)
            handle.update(Schedule.uniform({self.names[0]: 0.5}, part="residual"))
            assert not torch.equal(self.run(self.network), before)
        assert hooks_of(self.network) == []
        assert torch.equal(self.run(self.network), before)
        with scaled(self.network, self.schedule) as handle:
            with pytest.raises(NetworkError, match="parts that have hooks: both") as caught:
                handle.update(Schedule.uniform({self.names[0]: 0.5}, part="residual"))
            assert "parts=" in caught.value.hint
        block = decoder_blocks(self.network)[self.names[1]]
        *above, last = self.family.shortcut.split(".")
        left = nn.Identity() if above else None
        setattr(block.get_submodule(".".join(above)), last, left)
        with pytest.raises(NetworkError, match=f"{self.names[1]}.*\n?.*without one"):
            apply(self.network, Schedule.uniform({self.names[0]: 0.5}, part="shortcut"))
        assert hooks_of(self.network) == []

    def test_gradients_of_parts_are_right_and_checkpointing_changes_nothing(self) -> None:
        terms = [
            Term(self.names[0], 0.5, 1.0, part="shortcut"),
            Term(self.names[3], 0.6, high=1.0),
        ]
        terms += [Term(self.names[1], 0.7, high=1.0, part="residual")]
        terms += [Term(self.names[2], 0.8, low=1.0, part="whole-shortcut")]

        def run(network: nn.Module) -> list[Tensor | None]:
            start = made = self.x.clone().requires_grad_()
            for sigma in (2.0, 0.5):
                made = network(made, torch.tensor(sigma, device=self.device), self.labels)
            made.square().sum().backward()
            return [made.detach(), start.grad]

        def leaf() -> Tensor:
            return torch.tensor([0.5, 0.8, 1.2], device=self.device, requires_grad=True)

        with torch.inference_mode(False), torch.enable_grad():
            found = []
            with scaled(self.network, Schedule(terms)):
                expected = run(self.network)
                for reentrant in (False, True):
                    again: Run = functools.partial(checkpoint, use_reentrant=reentrant)
                    found.append(run(edited(self.family, self.network, lambda name: 1.0, again)))
            ours, by_hand = leaf(), leaf()
            twin = self.network
            for part in PARTS[1:]:
                twin = parted(
                    self.family, twin, part, lambda n: by_hand if n == self.names[0] else 1.0
                )
            expected += [*run(twin), by_hand.grad]
            with scaled(
                self.network, {place_name(self.names[0], part): ours for part in PARTS[1:]}
            ):
                last = [*run(self.network), ours.grad]
        for row in ([*one, *last] for one in found):
            for one, other in zip(row, expected, strict=True):
                assert one is not None
                assert other is not None
                torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)
                assert float(other.abs().max()) > 0
