from __future__ import annotations

from typing import Any

import pytest
import torch

from skiptune.sampling.deviation import Deviation, deviations
from skiptune.sampling.fold import fold, replaced
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float, to_uint8
from skiptune.sampling.norm_fit import fit_norms
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from tests.sampling.families import FAMILIES, hooks_of, network_of

# Within the levels of every family.
SETTING = Setting(solver="heun", steps=3, sigma_min=0.1, sigma_max=10.0)
SEEDS, OTHERS = [1, 2], [1_000_000, 1_000_001]
FOLDED = [name for name, family in FAMILIES.items() if family.folds]


def schedule_of(network: Any, *, mixed: bool) -> Schedule:
    skips = [s for s in find_skips(network) if mixed or not s.mixed or s.groups == 0]
    return Schedule.uniform({s.address: (0.6, 1.3, 0.8, 1.15)[s.index] for s in skips})


@pytest.mark.parametrize("name", FOLDED)
def test_in_every_family_hooked_and_baked_agree_to_1e_5_on_a_sampler_s_way(name: str) -> None:
    network = network_of(FAMILIES[name])
    schedule = schedule_of(network, mixed=False)
    fits = fit_norms(network, schedule, SETTING, OTHERS)
    found = deviations(
        network,
        schedule,
        fold(network, schedule, fitted=fits),
        SETTING,
        SEEDS,
        tensors=network.state_dict(),
    )
    assert found.whole.output < 1e-5
    assert found.whole.effect < 1e-2
    assert found.blocks == {}
    assert found.exact == found.whole
    assert (found.images, found.evaluations) == (2, 5)


def test_numbers_are_what_two_ways_of_sampling_show() -> None:
    network = network_of(FAMILIES["adm-edm"])
    schedule = schedule_of(network, mixed=True)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    folded = fold(network, schedule)
    found = deviations(network, schedule, folded, SETTING, SEEDS, tensors=state)
    assert hooks_of(network) == []
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    seen: list[Any] = []
    hook = network.register_forward_pre_hook(lambda module, args: seen.append(args))
    with scaled(network, schedule), torch.no_grad():
        images = sample_float(network, SETTING, SEEDS)
        hook.remove()
        expected = [network(*args) for args in seen]
    plain = [network(*args) for args in seen]
    untouched = sample_float(network, SETTING, SEEDS)
    with replaced(network, folded.apply(state)):
        made = [network(*args) for args in seen]
        baked = sample_float(network, SETTING, SEEDS)
    off = [float((a - b).norm() / b.norm()) for a, b in zip(made, expected, strict=True)]
    assert found.whole.output == pytest.approx(max(off), rel=1e-2)
    error, change = (
        torch.cat([(a - b).flatten() for a, b in zip(them, expected, strict=True)]).norm()
        for them in (made, plain)
    )
    assert found.whole.effect == pytest.approx(float(error / change), rel=1e-2)
    mean = (to_uint8(untouched).double() - to_uint8(images).double()).pow(2).mean().sqrt()
    assert found.moved == pytest.approx(float(mean), rel=0.05)
    clipped = baked.clip(-1, 1) - images.clip(-1, 1)
    assert found.levels == pytest.approx(127.5 * float(clipped.pow(2).mean().sqrt()), rel=1e-2)
    assert found.exact.output < 1e-4 < found.whole.output
    # One block alone is nearer than all of them.
    mixed = [s.address for s in find_skips(network) if s.mixed]
    assert list(found.blocks) == mixed
    assert all(0 < one.effect < 2 * found.whole.effect for one in found.blocks.values())


def test_scales_that_change_nothing_lose_nothing() -> None:
    network = network_of(FAMILIES["adm-edm"])
    torch.nn.init.zeros_(network.model.out_conv.weight)
    torch.nn.init.zeros_(network.model.out_conv.bias)
    schedule = schedule_of(network, mixed=True)
    folded = fold(network, schedule)
    found = deviations(network, schedule, folded, SETTING, SEEDS, tensors=network.state_dict())
    assert found.whole == found.exact == Deviation(output=0.0, effect=0.0)
    assert (found.levels, found.moved) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["adm-edm", "guided-diffusion", "diffusers-classes"])
def test_fitting_brings_mixed_blocks_nearer_on_other_seeds_and_leaving_them_is_worse(
    name: str,
) -> None:
    network = network_of(FAMILIES[name])
    schedule = schedule_of(network, mixed=True)
    fits = fit_norms(network, schedule, SETTING, OTHERS)
    kinds = {
        "plain": fold(network, schedule),
        "fitted": fold(network, schedule, fitted=fits),
        "left": fold(network, schedule, mixed="leave"),
    }
    state = network.state_dict()
    found = {
        kind: deviations(network, schedule, each, SETTING, SEEDS, tensors=state)
        for kind, each in kinds.items()
    }
    effects = {kind: one.whole.effect for kind, one in found.items()}
    assert effects["fitted"] < effects["plain"] < effects["left"]
    for address, one in found["left"].blocks.items():
        assert one.effect > found["fitted"].blocks[address].effect


def test_rounding_to_half_precision_is_part_of_what_is_measured() -> None:
    network = network_of(FAMILIES["ddpmpp-edm"])
    halves = {k: v.half() for k, v in network.state_dict().items()}
    network.load_state_dict({k: v.float() for k, v in halves.items()})
    schedule = schedule_of(network, mixed=False)
    folded = fold(network, schedule)
    whole, half = (
        deviations(network, schedule, folded, SETTING, SEEDS, tensors=tensors)
        for tensors in (network.state_dict(), halves)
    )
    assert whole.whole.output < 1e-5 < half.whole.output < 1e-3
    assert (whole.rounded, half.rounded) == ((), ("float16",))
