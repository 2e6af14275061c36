"""Noise-level grids against the published formulas, evaluated with 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch

from skiptune.sampling.grids import (
    edm_grid,
    edm_sigmas,
    logsnr_grid,
    logsnr_sigmas,
    time_uniform_grid,
    time_uniform_sigmas,
)


def _edm(steps: int, low: str, high: str, exponent: str) -> list[float]:
    """Karras et al. 2022, equation 5."""
    with localcontext() as context:
        context.prec = 60
        rho = Decimal(exponent)
        top, bottom = Decimal(high) ** (1 / rho), Decimal(low) ** (1 / rho)
        levels = [(top + Decimal(i) / (steps - 1) * (bottom - top)) ** rho for i in range(steps)]
        return [float(level) for level in levels] + [0.0]


@pytest.mark.parametrize("steps", [2, 3, 6, 18, 40, 256])
@pytest.mark.parametrize(
    ("low", "high", "exponent"),
    [("0.002", "80", "7"), ("0.002", "80", "5"), ("0.02", "100", "1"), ("0.01", "40", "2.5")],
)
def test_edm_time_steps(steps: int, low: str, high: str, exponent: str) -> None:
    exact = torch.tensor(_edm(steps, low, high, exponent), dtype=torch.float64)
    grid = edm_grid(steps, sigma_min=float(low), sigma_max=float(high), exponent=float(exponent))
    assert grid.dtype == torch.float64
    assert grid.shape == (steps + 1,)
    assert torch.allclose(grid, exact, rtol=1e-12, atol=0)


def test_edm_defaults_are_the_papers() -> None:
    assert edm_sigmas(18) == edm_sigmas(18, sigma_min=0.002, sigma_max=80.0, exponent=7.0)
    # Ends are exact, so that a window may begin at them.
    assert edm_sigmas(18)[0] == 80.0
    assert edm_sigmas(18)[-2:] == (0.002, 0.0)


@pytest.mark.parametrize("steps", [2, 5, 30])
def test_logsnr_is_a_geometric_sequence(steps: int) -> None:
    with localcontext() as context:
        context.prec = 60
        ratio = Decimal("0.002") / 80
        exact = [float(80 * ratio ** (Decimal(i) / (steps - 1))) for i in range(steps)]
    grid = logsnr_grid(steps, sigma_min=0.002, sigma_max=80.0)
    expected = torch.tensor([*exact, 0.0], dtype=torch.float64)
    assert torch.allclose(grid, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [2, 5, 30])
@pytest.mark.parametrize(("low", "high"), [("0.002", "80"), ("0.0001", "152"), ("0.3", "2")])
def test_time_uniform_has_equal_steps_in_vp_time(steps: int, low: str, high: str) -> None:
    """Song et al. 2021: 1 + sigma^2 = exp(9.95 t^2 + 0.1 t)."""
    with localcontext() as context:
        context.prec = 60
        a, b = Decimal("9.95"), Decimal("0.1")

        def time(sigma: str) -> Decimal:
            rise = (1 + Decimal(sigma) ** 2).ln()
            return (-b + (b * b + 4 * a * rise).sqrt()) / (2 * a)

        top, bottom = time(high), time(low)
        times = [top + Decimal(i) / (steps - 1) * (bottom - top) for i in range(steps)]
        exact = [float(((a * t * t + b * t).exp() - 1).sqrt()) for t in times]
    grid = time_uniform_grid(steps, sigma_min=float(low), sigma_max=float(high))
    expected = torch.tensor([*exact, 0.0], dtype=torch.float64)
    assert torch.allclose(grid, expected, rtol=1e-9, atol=0)
    assert grid[0] == float(high)
    assert grid[-2] == float(low)


def test_one_step_goes_from_the_highest_level_to_zero() -> None:
    assert edm_sigmas(1) == (80.0, 0.0)
    assert logsnr_sigmas(1, sigma_min=0.1, sigma_max=3) == (3.0, 0.0)
    assert time_uniform_sigmas(1, sigma_min=0.1, sigma_max=3) == (3.0, 0.0)


@pytest.mark.parametrize("steps", [2, 3, 10, 100])
def test_levels_fall(steps: int) -> None:
    ends = {"sigma_min": 0.002, "sigma_max": 80.0}
    for levels in (
        edm_sigmas(steps),
        logsnr_sigmas(steps, **ends),
        time_uniform_sigmas(steps, **ends),
    ):
        assert sorted(levels, reverse=True) == list(levels)
        assert len(set(levels)) == steps + 1
