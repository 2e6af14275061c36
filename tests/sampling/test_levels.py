"""Noise levels on a network: what solver, windows, guidance and diagnostics meet alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skiptune.errors import SpecError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import problems_of, sample, sample_float
from skiptune.sampling.levels import grid_points, levels, rounded, usual_setting
from skiptune.sampling.networks import Preconditioned, build_denoiser
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.norms import norm_ratios
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import GRIDS, SOLVERS, Churn, Setting, evaluations, sigmas
from skiptune.sampling.skips import Skip, find_skips
from skiptune.search.space import Space

CONFIG: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
FEW: dict[str, Any] = {"M": 200}


def network_of(precond: str, **keys: Any) -> Preconditioned:
    """Build a network whose output is not its start, near zero."""
    network = build_denoiser({**CONFIG, "precond": precond, **keys})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return network.eval().requires_grad_(False)


@pytest.fixture
def discrete() -> Preconditioned:
    """A network of 200 noise levels above 0: near 50 they lie 13 apart."""
    return network_of("iddpm", **FEW)


def known(network: Preconditioned) -> list[float]:
    """The levels of a discrete network above 0, from its buffer."""
    buffer: Any = network.u
    return [level for level in buffer.tolist() if level > 0]


def nearest(network: Preconditioned, sigma: float) -> float:
    return min(known(network), key=lambda level: abs(level - sigma))


def watched(network: nn.Module) -> list[tuple[float, bool]]:
    """Note the noise level of every call from now on, and whether it has labels."""
    seen: list[tuple[float, bool]] = []
    network.register_forward_pre_hook(
        lambda module, args: seen.append((float(args[1]), args[2] is not None))
    )
    return seen


SETTINGS = [
    Setting(solver="dpmpp_2m", steps=6, sigma_min=0.2),
    Setting(solver="unipc", steps=5, grid="logsnr", sigma_min=0.2, final_zero=False),
    Setting(solver="heun", steps=4, sigma_min=0.2, final_zero=False),
    Setting(solver="euler", steps=3, sigmas=(70.0, 5.0, 0.5)),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_networks_that_know_every_level_are_given_the_grid_itself(setting: Setting) -> None:
    # Equal floats: their images, windows and series stay as they are.
    for precond in ("edm", "vp", "ve"):
        keys = {"sigma_data": 0.5} if precond == "edm" else {}
        assert levels(network_of(precond, **keys), setting) == sigmas(setting)
    assert levels(nn.Identity(), setting) == sigmas(setting)
    assert rounded(nn.Identity(), [0.3]) == (0.3,)


@pytest.mark.parametrize("setting", SETTINGS)
def test_discrete_networks_are_given_their_own_levels(
    discrete: Preconditioned, setting: Setting
) -> None:
    found = levels(discrete, setting)
    assert found != sigmas(setting)
    expected = [nearest(discrete, sigma) for sigma in sigmas(setting) if sigma > 0]
    assert found == (*expected, *([0.0] if setting.final_zero else []))
    assert problems_of(discrete, setting) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_sampling_windows_and_diagnostics_meet_the_same_levels(
    discrete: Preconditioned, setting: Setting
) -> None:
    points = grid_points(discrete, setting)
    ratios = norm_ratios(discrete, setting, [1, 2])
    assert ratios.sigmas == points
    seen = watched(discrete)
    list(sample(discrete, setting, [1, 2], microbatch=2))
    assert sorted({sigma for sigma, _ in seen}, reverse=True) == list(points)
    skips = find_skips(discrete)
    for first in range(len(points)):
        for last in range(first, len(points)):
            space = Space("uniform", 0.5, 2.0, skips, points, (first, last))
            schedule = space.schedule({"all": 0.7})
            acting = [p for p in points if schedule.scale(skips[0].address, p) != 1]
            assert acting == list(points[first : last + 1])
            # The norm of a scaled skip says where it was scaled.
            if first != 1:
                continue
            with scaled(discrete, schedule):
                changed = norm_ratios(discrete, setting, [1, 2])
            assert changed.sigmas == points
            before, after = ratios.ratios[0], changed.ratios[0]
            for place in range(first):
                assert after[place] == pytest.approx(before[place], rel=1e-5)
            assert after[first] < 0.8 * before[first]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_churned_levels_are_rounded_as_edm_does(discrete: Preconditioned, solver: str) -> None:
    churn = Churn(amount=2.0, low=0.3, high=30.0, noise=1.01)
    setting = Setting(solver=solver, steps=5, sigma_min=0.2, churn=churn, labels=None)
    seen = watched(discrete)
    made = sample_float(discrete, setting, [4, 5])
    assert {sigma for sigma, _ in seen} <= set(known(discrete))
    called = [sigma for sigma, _ in seen]

    # Karras et al. 2022, algorithm 2, with the rounding that EDM's generate.py puts into it.
    streams = ImageStreams([4, 5])
    grid = [nearest(discrete, sigma) for sigma in sigmas(setting)[:-1]]
    x = streams.randn((1, 8, 8)).double() * grid[0]
    streams.randint(3)
    by_hand: list[float] = []

    def slope(x: Tensor, sigma: float) -> Tensor:
        by_hand.append(sigma)
        estimate: Tensor = discrete(x, torch.tensor(sigma), None)
        return (x - estimate.double()) / sigma

    for t, t_next in pairwise([*grid, 0.0]):
        noise = streams.randn_like(x)
        t_hat = t
        if 0.3 <= t <= 30.0:
            t_hat = nearest(discrete, t * (1 + min(2.0 / 5, math.sqrt(2) - 1)))
        x = x + math.sqrt(t_hat**2 - t**2) * 1.01 * noise
        d = slope(x, t_hat)
        moved = x + (t_next - t_hat) * d
        if solver == "heun" and t_next > 0:
            moved = x + (t_next - t_hat) * (d + slope(moved, t_next)) / 2
        x = moved
    assert by_hand == called
    assert set(called) - set(grid)
    assert torch.allclose(made, x, rtol=1e-9, atol=1e-9)


def test_guidance_intervals_are_judged_at_rounded_levels(discrete: Preconditioned) -> None:
    grid = levels(discrete, Setting(steps=5, sigma_min=0.2))
    # From the second to the fourth level, bounds halfway to the next.
    low, high = ((grid[i] + grid[i + 1]) / 2 for i in (3, 0))
    setting = Setting(
        steps=5, sigma_min=0.2, guidance=2.0, guidance_low=low, guidance_high=high, labels=1
    )
    seen = watched(discrete)
    (batch,) = sample(discrete, setting, [1], microbatch=1)
    assert [sigma for sigma, labelled in seen if not labelled] == list(grid[1:4])
    assert batch.nfe == evaluations(setting) == 8


def test_a_bound_that_rounding_crosses_is_refused(discrete: Preconditioned) -> None:
    plain = Setting(steps=5, sigma_min=0.2, guidance=2.0, labels=1)
    for place in (1, 2, 3):
        asked, given = sigmas(plain)[place], levels(discrete, plain)[place]
        between = (asked + given) / 2
        for name in ("guidance_low", "guidance_high"):
            setting = Setting.from_json({**plain.to_json(), name: between})
            (problem,) = problems_of(discrete, setting)
            assert (problem.where, problem.found) == (f"setting.{name}", str(between))
            with pytest.raises(SpecError, match="no bound between"):
                sample(discrete, setting, [1])


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str, str, str]] = [
    ("ve", {}, {}, "setting.sigma_min", "0.02 or more", "0.002"),
    ("ve", {}, {"sigma_max": 200, "sigma_min": 1}, "setting.sigma_max", "100.0 or less", "200"),
    ("ve", {}, {"sigmas": [100.5, 1]}, "setting.sigmas", "100.0 or less", "100.5"),
    ("ve", {}, {"sigmas": [50, 0.01]}, "setting.sigmas", "0.02 or more", "0.01"),
    (
        "ve",
        {},
        {"solver": "heun", "sigmas": [90, 1], "churn": {"amount": 1}},
        "setting.churn.high",
        "below 90, which churn raises above the network's highest, 100.0",
        "inf",
    ),
    ("vp", {}, {"sigma_max": 160}, "setting.sigma_max", "152.1", "160"),
    ("edm", {"sigma_data": 0.5, "sigma_max": 60.0}, {}, "setting.sigma_max", "60.0", "80.0"),
    ("iddpm", FEW, {}, "setting.sigma_min", "0.0159", "0.002"),
    ("iddpm", FEW, {"steps": 50, "sigma_min": 0.2}, "setting.steps", "stay apart", "both"),
    (
        "iddpm",
        FEW,
        {"sigmas": [5.01, 5.0]},
        "setting.sigmas",
        "stay apart",
        "5.01 and 5, both",
    ),
]


@pytest.mark.parametrize(("precond", "keys", "changes", "where", "expected", "found"), CASES)
def test_levels_that_a_network_does_not_know_are_refused(
    precond: str,
    keys: dict[str, Any],
    changes: dict[str, Any],
    where: str,
    expected: str,
    found: str,
) -> None:
    network, setting = network_of(precond, **keys), Setting.from_json(changes)
    seen = watched(network)
    (problem,) = problems_of(network, setting)
    assert problem.where == where
    assert expected in problem.expected
    assert found in problem.found
    for make in (sample, sample_float):
        with pytest.raises(SpecError) as caught:
            make(network, setting, [1])
        assert caught.value.problems == (problem,)
        assert caught.value.hint
    assert seen == []


def test_the_ends_of_the_range_belong_to_it() -> None:
    for precond, keys in (("ve", {}), ("vp", {}), ("iddpm", FEW)):
        network = network_of(precond, **keys)
        low, high = network.sigma_min, network.sigma_max
        assert problems_of(network, Setting(sigma_min=low, sigma_max=high, steps=4)) == []
        assert problems_of(network, usual_setting(network)) == []
    assert usual_setting(network_of("ve")) == Setting(sigma_min=0.02)
    assert usual_setting(network_of("edm", sigma_data=0.5)) == Setting()


def test_all_that_a_network_refuses_is_told_at_once() -> None:
    setting = Setting(sigma_max=200.0, labels=7, guidance=2.0)
    wheres = [problem.where for problem in problems_of(network_of("ve"), setting)]
    assert wheres == ["setting.labels", "setting.sigma_min", "setting.sigma_max"]


@cache
def _skips() -> tuple[Skip, ...]:
    return find_skips(network_of("edm", sigma_data=0.5))


@settings(max_examples=40, deadline=None)
@given(
    solver=st.sampled_from(SOLVERS),
    steps=st.integers(1, 6),
    grid=st.sampled_from(GRIDS),
    final_zero=st.booleans(),
)
def test_grid_points_are_where_the_network_is_evaluated(
    solver: str, steps: int, grid: str, final_zero: bool
) -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.img_channels, self.img_resolution, self.label_dim = 1, 1, 0
            self.seen: list[float] = []
            self.eval()

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            self.seen.append(float(sigma))
            return 0.5 * x

    network = Line()
    setting = Setting(solver=solver, steps=steps, grid=grid, final_zero=final_zero)
    sample_float(network, setting, [1])
    found: Sequence[float] = grid_points(network, setting)
    assert sorted(set(network.seen), reverse=True) == list(found)
    assert len(found) == steps + (solver == "heun" and not final_zero)
    # A window over all of them is no window; one over the last point alone acts somewhere.
    skips = _skips()
    space = Space("uniform", 0.5, 2.0, skips, tuple(found), "search")
    last = {"all": 0.7, "window/first": len(found) - 1, "window/length": 1}
    acting = [s for s in network.seen if space.schedule(last).scale(skips[0].address, s) != 1]
    assert acting and set(acting) == {found[-1]}
    everywhere = {"all": 0.7, "window/first": 0, "window/length": len(found)}
    uniform = Schedule.uniform({skip.address: 0.7 for skip in skips})
    assert space.schedule(everywhere) == uniform
