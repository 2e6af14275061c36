"""Solvers: orders of convergence where the truth is known, churn, evaluations counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from skiptune.errors import SpecError
from skiptune.sampling.grids import edm_grid, logsnr_grid
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.setting import Churn
from skiptune.sampling.solvers import SOLVERS, solve

_MEANS = torch.tensor([[-0.6, 0.1], [0.5, 0.4], [0.2, -0.7]], dtype=torch.float64)
_WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
_SPREAD = 0.25


def _mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of a mixture of Gaussians: E[clean | x]."""
    variance = _SPREAD**2 + sigma**2
    distances = (x[:, None] - _MEANS).square().sum(-1)
    posterior = torch.softmax(_WEIGHTS.log() - distances / (2 * variance), dim=1)
    means = (_MEANS * sigma**2 + x[:, None] * _SPREAD**2) / variance
    return (posterior[..., None] * means).sum(1)


def _gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of one Gaussian around 0.3."""
    return (0.3 * sigma**2 + x * _SPREAD**2) / (_SPREAD**2 + sigma**2)


def _start(images: int = 32) -> Tensor:
    return ImageStreams(range(images)).randn((2,)).double() * 80


def _order(solver: str, steps: list[int], denoise: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The slope of log error over log step count."""
    x = _start()
    truth = solve("heun", denoise, x, edm_grid(6000))
    errors = [
        float((solve(solver, denoise, x, edm_grid(n)) - truth).square().mean().sqrt())
        for n in steps
    ]
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(steps, errors, strict=True)])
    centred = logs - logs.mean(0)
    return -float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
@pytest.mark.parametrize("denoise", [_mixture, _gaussian])
def test_order_of_convergence(
    solver: str, order: int, denoise: Callable[[Tensor, Tensor], Tensor]
) -> None:
    assert _order(solver, [64, 96, 144, 216], denoise) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_converge_to_the_exact_solution(solver: str) -> None:
    # The probability-flow ODE of a Gaussian scales deviations with the total deviation.
    x = _start()
    low = 1e-5
    grid = edm_grid(3000, sigma_min=low)
    exact = 0.3 + (x - 0.3) * _SPREAD / math.sqrt(_SPREAD**2 + 80.0**2)
    made = solve(solver, _gaussian, x, grid)
    assert torch.allclose(made, exact, atol=2e-3 if solver == "euler" else 2e-6)


def test_dpmpp_2m_is_the_papers_algorithm_2() -> None:
    """Lu et al. 2022 (arXiv 2211.01095), algorithm 2, in plain floats: lambda, h and r."""

    def denoised(x: float, sigma: float) -> float:
        return (0.3 * sigma**2 + x * _SPREAD**2) / (_SPREAD**2 + sigma**2)

    grid = edm_grid(6)
    levels = grid.tolist()[:-1]
    lambdas = [-math.log(level) for level in levels]
    x, buffer = 40.0, []
    for i in range(1, len(levels)):
        buffer.append(denoised(x, levels[i - 1]))
        h = lambdas[i] - lambdas[i - 1]
        d = buffer[-1]
        if i > 1:
            r = (lambdas[i - 1] - lambdas[i - 2]) / h
            d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = levels[i] / levels[i - 1] * x - math.expm1(-h) * d
    exact = denoised(x, levels[-1])
    made = solve("dpmpp_2m", _gaussian, torch.tensor([[40.0]]), grid)
    assert float(made) == pytest.approx(exact, rel=1e-12)


def _linear_heun_step(x: float, t: float, t_next: float) -> float:
    """Karras et al. 2022, algorithm 2, lines 6 to 11, for the Gaussian, in plain floats."""

    def slope(y: float, s: float) -> float:
        return (y - (0.3 * s * s + y * _SPREAD**2) / (_SPREAD**2 + s * s)) / s

    d = slope(x, t)
    predicted = x + (t_next - t) * d
    if t_next == 0:
        return predicted
    return x + (t_next - t) * 0.5 * (d + slope(predicted, t_next))


def test_heun_with_churn_is_algorithm_2_on_the_images_own_stream() -> None:
    steps = 7
    churn = Churn(amount=3.0, low=0.05, high=50.0, noise=1.007)
    levels = edm_grid(steps).tolist()
    seeds = [11, 12, 13]
    streams = ImageStreams(seeds)
    x = streams.randn((1,)).double() * 80
    made = solve("heun", _gaussian, x, edm_grid(steps), churn=churn, randn_like=streams.randn_like)
    for place, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        state = float(torch.randn(1, generator=generator)) * 80
        for t, t_next in pairwise(levels):
            noise = float(torch.randn(1, dtype=torch.float64, generator=generator))
            gamma = min(3.0 / steps, math.sqrt(2) - 1) if 0.05 <= t <= 50.0 else 0.0
            t_hat = t + gamma * t
            state += math.sqrt(t_hat**2 - t**2) * 1.007 * noise
            state = _linear_heun_step(state, t_hat, t_next)
        assert float(made[place]) == pytest.approx(state, rel=1e-10)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_churn_keeps_the_distribution(solver: str) -> None:
    generator = torch.Generator().manual_seed(8)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    x = randn_like(torch.empty(4000, 1)).double() * 80
    churn = Churn(amount=20.0)
    grid = edm_grid(300)
    made = solve(solver, _gaussian, x, grid, churn=churn, randn_like=randn_like)
    assert float(made.mean()) == pytest.approx(0.3, abs=4 * _SPREAD / math.sqrt(4000))
    assert float(made.std()) == pytest.approx(_SPREAD, rel=0.06)
    still = solve(solver, _gaussian, x, grid)
    assert float((made - still).abs().mean()) > 0.1


@pytest.mark.parametrize(
    ("solver", "steps", "evaluations"),
    [("euler", 9, 9), ("heun", 9, 17), ("heun", 1, 1), ("dpmpp_2m", 9, 9), ("dpmpp_2m", 1, 1)],
)
def test_evaluations_and_their_noise_levels(solver: str, steps: int, evaluations: int) -> None:
    levels = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == torch.float64
        assert sigma.dtype == torch.float64
        assert sigma.dim() == 0
        levels.append(float(sigma))
        return _gaussian(x, sigma)

    grid = edm_grid(steps)
    solve(solver, denoise, _start(2), grid)
    assert len(levels) == evaluations
    # Exactly the grid's own numbers: windows begin and end at them.
    assert set(levels) == set(grid.tolist()[:-1])
    if solver == "heun" and steps > 1:
        assert levels[1] == levels[2] == grid[1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_flow_through_the_solver(solver: str) -> None:
    x = _start(2)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def make(offset: Tensor) -> Tensor:
        return solve(solver, lambda x, s: _mixture(x, s) + offset, x, edm_grid(5)).sum()

    assert torch.autograd.gradcheck(make, (shift,))


def test_bad_requests_are_refused() -> None:
    x, grid = _start(2), logsnr_grid(3, sigma_min=0.1, sigma_max=80)
    with pytest.raises(SpecError, match="one of euler"):
        solve("unknown", _gaussian, x, grid)
    with pytest.raises(SpecError, match="churn"):
        solve("dpmpp_2m", _gaussian, x, grid, churn=Churn(amount=1), randn_like=torch.randn_like)
    with pytest.raises(SpecError, match="churn"):
        solve("heun", _gaussian, x, grid, churn=Churn(amount=1))
