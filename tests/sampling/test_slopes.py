"""Slopes: against finite differences of sampled features, skip by skip and level by level."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling import slopes as module
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Churn, Setting, sigmas
from skiptune.sampling.skips import find_skips
from skiptune.sampling.slopes import PASSES, call_slopes, image_slopes
from tests.sampling.families import FAMILIES, random_network

SEEDS = range(1000, 1004)
STEP = 0.06
LEVELS = (0.5, 4.0)
SETTINGS = [
    Setting(solver="dpmpp_2m", steps=3),
    Setting(solver="heun", steps=2, churn=Churn(amount=1.0)),
    Setting(solver="euler", steps=2, guidance=1.5),
    Setting(solver="dpmpp_2m_sde", steps=2, noise="counter"),
    Setting(solver="unipc", steps=3, epsilon_scale=1.01),
]


def features(images: Tensor) -> Tensor:
    """Something smooth that no image is alike in."""
    means = images.mean(dim=(2, 3))
    return torch.stack([means, images.square().mean(dim=(2, 3)), (2 * means).sin()], -1).flatten(1)


def weights(network: EDMPrecond) -> Tensor:
    size = 3 * network.img_channels
    return torch.randn(len(SEEDS), size, generator=torch.Generator().manual_seed(7))


def products(network: EDMPrecond, setting: Setting, schedule: Schedule) -> Tensor:
    with scaled(network, schedule), torch.no_grad():
        return (features(sample_float(network, setting, SEEDS)) * weights(network)).sum(1)


def moved(schedule: Schedule, address: str, factor: float, part: str = "both") -> Schedule:
    """The schedule with one skip's scales in one part times a factor."""
    here = (address, part)
    terms = [
        replace(t, scale=t.scale * (factor if (t.address, t.part) == here else 1))
        for t in schedule.terms
    ]
    if here not in [(t.address, t.part) for t in schedule.terms]:
        terms.append(Term(address, factor, part=part))
    return Schedule(terms)


def check(found: Tensor, expected: Tensor) -> None:
    """To what float32 and the step leave of a central difference."""
    assert torch.allclose(
        found, expected.double(), rtol=1e-2, atol=3e-4 + 5e-3 * float(expected.abs().max())
    )


def found_of(network: EDMPrecond, setting: Setting, schedule: Schedule) -> tuple[Tensor, object]:
    slopes = image_slopes(
        network, setting, schedule, SEEDS, features=features, cotangents=weights(network)
    )
    return slopes.values, slopes


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.solver)
def test_summed_over_levels_they_are_finite_differences_of_each_image(
    tiny_network: EDMPrecond, setting: Setting
) -> None:
    skips = find_skips(tiny_network)
    schedule = Schedule.uniform({skips[0].address: 0.8, skips[-1].address: 1.3})
    values, _ = found_of(tiny_network, setting, schedule)
    for skip in skips:
        ends = [
            products(tiny_network, setting, moved(schedule, skip.address, math.exp(sign * STEP)))
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * STEP)
        check(values[:, skip.index].sum(1), expected)


def test_each_part_has_its_own(tiny_network: EDMPrecond) -> None:
    setting = Setting(solver="dpmpp_2m", steps=2)
    skips = find_skips(tiny_network)
    parts = ("residual", "shortcut", "whole-shortcut")
    schedule = Schedule(
        [
            Term(skips[1].address, 0.8, part="shortcut"),
            Term(skips[1].address, 1.3, part="residual"),
        ]
    )
    slopes = image_slopes(
        tiny_network, setting, schedule, SEEDS,
        features=features, cotangents=weights(tiny_network), parts=parts,
    )  # fmt: skip
    assert slopes.values.shape == (len(SEEDS), 3 * len(skips), 2)
    for place, part in enumerate(parts):
        ends = [
            products(
                tiny_network,
                setting,
                moved(schedule, skips[1].address, math.exp(sign * STEP), part),
            )
            for sign in (1, -1)
        ]
        row = place * len(skips) + 1
        check(slopes.values[:, row].sum(1), (ends[0] - ends[1]) / (2 * STEP))
    with pytest.raises(NetworkError, match="scales shortcut, residual"):
        found_of(tiny_network, setting, schedule)


def test_each_level_has_its_own(tiny_network: EDMPrecond) -> None:
    setting = Setting(solver="heun", steps=3)
    levels = [level for level in sigmas(setting) if level > 0]
    skip = find_skips(tiny_network)[1]
    values, slopes = found_of(tiny_network, setting, Schedule.baseline())
    # Heun evaluates at the next level as well: twice at inner levels, summed.
    assert slopes.levels == pytest.approx(levels)  # type: ignore[attr-defined]
    for place, level in enumerate(levels):
        ends = []
        for sign in (1, -1):
            window = Term(skip.address, math.exp(sign * STEP), 0.9 * level, 1.1 * level)
            ends.append(products(tiny_network, setting, Schedule([window])))
        expected = (ends[0] - ends[1]) / (2 * STEP)
        check(values[:, skip.index, place], expected)


def test_windows_of_the_schedule_are_kept(tiny_network: EDMPrecond) -> None:
    setting = Setting(solver="dpmpp_2m", steps=3)
    skip = find_skips(tiny_network)[0]
    middle = [level for level in sigmas(setting) if level > 0][1]
    window = Schedule([Term(skip.address, 0.7, 0.9 * middle, 1.1 * middle)])
    values, _ = found_of(tiny_network, setting, window)
    ends = [
        products(tiny_network, setting, moved(window, skip.address, math.exp(sign * STEP)))
        for sign in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / (2 * STEP)
    check(values[:, 0, 1], expected)


def test_numbers_of_single_calls_have_them_too(tiny_network: EDMPrecond) -> None:
    """A sum of denoised images at two levels, which no solver has anything to do with."""
    generator = torch.Generator().manual_seed(5)
    shape = (4, tiny_network.img_channels, 8, 8)
    noisy = torch.randn(shape, generator=generator).double()
    labels = torch.eye(4, tiny_network.label_dim)

    def each(denoiser: nn.Module) -> Tensor:
        """[B, levels]."""
        calls = [denoiser(noisy * s, torch.tensor(s, dtype=torch.float64), labels) for s in LEVELS]
        return torch.stack([call.square().flatten(1).mean(1).double() for call in calls], dim=1)

    skip = find_skips(tiny_network)[1]
    schedule = Schedule([Term(skip.address, 0.8, 1.0)])
    found = call_slopes(tiny_network, schedule, 4, lambda denoiser: each(denoiser).sum())
    assert found.levels == LEVELS and found.nfe == PASSES * len(LEVELS)
    ends = []
    for sign in (1, -1):
        factor = math.exp(sign * STEP)
        here = [Term(skip.address, 0.8 * factor, 1.0), Term(skip.address, factor, high=1.0)]
        with scaled(tiny_network, Schedule(here)), torch.no_grad():
            ends.append(each(tiny_network))
    check(found.values[:, skip.index], (ends[0] - ends[1]) / (2 * STEP))


def test_the_network_is_left_as_it_was(tiny_network: EDMPrecond) -> None:
    setting = Setting(solver="euler", steps=2)
    before = products(tiny_network, setting, Schedule.baseline())
    found_of(tiny_network, setting, Schedule.baseline())
    assert not tiny_network._forward_pre_hooks
    assert torch.equal(products(tiny_network, setting, Schedule.baseline()), before)
    assert all(parameter.grad is None for parameter in tiny_network.parameters())


def test_what_it_cost_is_counted(tiny_network: EDMPrecond) -> None:
    setting = Setting(solver="euler", steps=2, guidance=1.5)
    slopes = image_slopes(
        tiny_network, setting, Schedule.baseline(), SEEDS,
        features=features, cotangents=weights(tiny_network),
    )  # fmt: skip
    assert slopes.nfe == PASSES * 4
    assert slopes.values.shape == (len(SEEDS), len(find_skips(tiny_network)), 2)


def test_what_has_no_derivative_is_refused(tiny_network: EDMPrecond) -> None:
    address = find_skips(tiny_network)[0].address
    window = Schedule([Term(address, 0.7, 1.0, 2.0)])
    restart = Setting(solver="dpmpp_2m", steps=3, history="restart")
    with pytest.raises(NetworkError, match="history keep"):
        found_of(tiny_network, restart, window)
    with pytest.raises(NetworkError, match="scales above 0"):
        found_of(tiny_network, Setting(steps=2), Schedule.uniform({address: 0.0}))
    one = Schedule.uniform({address: 0.9}, branches="cond")
    with pytest.raises(NetworkError, match="both branches"):
        found_of(tiny_network, Setting(steps=2, guidance=2.0), one)


def of_size(network: Any, setting: Setting, size: float) -> Tensor:
    """Slopes for cotangents of a size, divided by it: the same for every size."""
    skips = find_skips(network)
    schedule = Schedule.uniform({skips[0].address: 0.8, skips[-1].address: 1.3})
    slopes = image_slopes(
        network, setting, schedule, SEEDS,
        features=features, cotangents=weights(network) * size,
    )  # fmt: skip
    return slopes.values / size


def inside(network: Any) -> Setting:
    """Three steps of noise levels that the network knows."""
    low, high = max(1.05 * network.sigma_min, 0.002), min(0.95 * network.sigma_max, 80.0)
    return Setting(solver="dpmpp_2m", steps=3, sigma_min=low, sigma_max=high)


@pytest.mark.parametrize(
    "family", [name for name, one in FAMILIES.items() if "precond" in one.config]
)
def test_half_precision_has_those_of_float32(family: str) -> None:
    """float16 has 11 bits, bfloat16 8; what is sent back may be of any size."""
    network: Any = random_network(FAMILIES[family].config)
    setting = inside(network)
    expected = of_size(network, setting, 1.0)
    for dtype, error in ((torch.float16, 0.02), (torch.bfloat16, 0.1)):
        half: Any = random_network(FAMILIES[family].config)
        half.compute_in(dtype)
        for size in (1e-8, 1.0, 1e8):
            found = of_size(half, setting, size)
            assert float((found - expected).norm() / expected.norm()) < error
            # Summed over levels and images, as a study takes them, they point the same way.
            one, other = (values.sum(2).mean(0) for values in (found, expected))
            assert float(torch.cosine_similarity(one, other, dim=0)) > 0.99


def test_what_overflows_is_done_again_with_less(
    tiny_network: EDMPrecond, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(solver="euler", steps=2)
    expected = of_size(tiny_network, setting, 1.0)
    tiny_network.compute_in(torch.float16)
    monkeypatch.setattr(module, "_SIZES", (2.0**22, 2.0**-4))
    slopes = image_slopes(
        tiny_network, setting, Schedule.baseline(), SEEDS,
        features=features, cotangents=weights(tiny_network),
    )  # fmt: skip
    assert slopes.nfe == 2 * PASSES * 2  # both times are counted
    found = of_size(tiny_network, setting, 1.0)
    assert float((found - expected).norm() / expected.norm()) < 0.02
