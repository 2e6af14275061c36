"""Solvers: orders of convergence where the truth is known, churn, evaluations counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
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

DETERMINISTIC = tuple(solver for solver in SOLVERS if solver != "dpmpp_2m_sde")


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


@cache
def _truth(denoise: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The classical Runge-Kutta method in log sigma, down to 0.002, and the step to 0."""
    x, steps = _start(), 2000
    top, bottom = math.log(80), math.log(0.002)
    h = (bottom - top) / steps

    def slope(y: Tensor, log_sigma: float) -> Tensor:
        return y - denoise(y, torch.tensor(math.exp(log_sigma), dtype=torch.float64))

    for i in range(steps):
        level = top + i * h
        one = slope(x, level)
        two = slope(x + h / 2 * one, level + h / 2)
        three = slope(x + h / 2 * two, level + h / 2)
        four = slope(x + h * three, level + h)
        x = x + h / 6 * (one + 2 * two + 2 * three + four)
    return denoise(x, torch.tensor(0.002, dtype=torch.float64))


def _slope(steps: list[int], errors: list[float]) -> float:
    """The slope of log error over log step count."""
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(steps, errors, strict=True)])
    centred = logs - logs.mean(0)
    return -float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())


def _order(
    solver: str,
    steps: list[int],
    denoise: Callable[[Tensor, Tensor], Tensor],
    **options: int,
) -> float:
    x = _start()
    errors = [
        solve(solver, denoise, x, edm_grid(n), **options) - _truth(denoise)  # type: ignore[arg-type]
        for n in steps
    ]
    return _slope(steps, [float(error.square().mean().sqrt()) for error in errors])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
@pytest.mark.parametrize("denoise", [_mixture, _gaussian])
def test_order_of_convergence(
    solver: str, order: int, denoise: Callable[[Tensor, Tensor], Tensor]
) -> None:
    assert _order(solver, [64, 96, 144, 216], denoise) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("denoise", [_mixture, _gaussian])
def test_order_of_convergence_of_unipc(
    order: int, denoise: Callable[[Tensor, Tensor], Tensor]
) -> None:
    # The corrector raises the predictor's order by one.
    measured = _order("unipc", [64, 96, 144, 216], denoise, order=order)
    assert measured == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize("solver", DETERMINISTIC)
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


@pytest.mark.parametrize("steps", [4, 6, 10, 19])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_solvers_agree_with_diffusers(solver: str, steps: int) -> None:
    from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

    kinds: dict[str, Any] = {
        "euler": EDMEulerScheduler,
        "dpmpp_2m": EDMDPMSolverMultistepScheduler,
    }
    scheduler = kinds[solver]()
    scheduler.set_timesteps(steps)
    start = _start()
    # Its schedulers are given the raw network and precondition it themselves.
    spread = scheduler.config.sigma_data
    x = start[..., None, None]
    for sigma, timestep in zip(scheduler.sigmas.double(), scheduler.timesteps, strict=False):
        scheduler.scale_model_input(x, timestep)
        total = sigma**2 + spread**2
        estimate = _mixture(x[..., 0, 0], sigma)[..., None, None]
        raw = (estimate - x * spread**2 / total) / (sigma * spread / total.sqrt())
        x = scheduler.step(raw, timestep, x).prev_sample.double()
    made = solve(solver, _mixture, start, edm_grid(steps))
    assert torch.allclose(x[..., 0, 0], made, atol=1e-4)


def _integrated(x: float, h: float, places: list[float], values: list[float]) -> float:
    """The exact step of dx/dlambda = D - x over h, where D is the polynomial through values.

    Through two values, UniPC takes D as constant, with the line's value in the middle.
    """
    if len(places) <= 2:
        value = values[0]
        if len(places) == 2:
            value += 0.5 * (values[1] - values[0]) * h / places[1]
        return x * math.exp(-h) + value * -math.expm1(-h)
    polynomial = np.polynomial.Polynomial.fit(places, values, len(places) - 1)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    at = (nodes + 1) * h / 2
    integral = (weights * np.exp(at - h) * polynomial(at)).sum() * h / 2
    return float(x * math.exp(-h) + integral)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("to_zero", [True, False])
def test_unipc_predicts_and_corrects_by_exact_integration(order: int, to_zero: bool) -> None:
    """Zhao et al. 2023 (arXiv 2302.04867), algorithms 1 and 2, in plain floats.

    With B(h) = e^h - 1 a step integrates the polynomial through the estimates exactly.
    """

    def denoised(x: float, sigma: float) -> float:
        return (0.3 * sigma**2 + x * _SPREAD**2) / (_SPREAD**2 + sigma**2)

    grid = edm_grid(8) if to_zero else edm_grid(9)[:-1]
    levels = grid.tolist()
    lambdas = [-math.log(level) for level in levels if level > 0]
    x = 40.0
    estimates = [denoised(x, levels[0])]
    for i in range(1, len(lambdas)):
        h = lambdas[i] - lambdas[i - 1]
        used = min(order, i, 9 - i)
        back = range(i - 1, i - 1 - used, -1)
        places = [lambdas[j] - lambdas[i - 1] for j in back]
        values = [estimates[j] for j in back]
        predicted = _integrated(x, h, places, values)
        if i < 8:
            estimates.append(denoised(predicted, levels[i]))
            x = _integrated(x, h, [*places, h], [*values, estimates[i]])
        else:
            x = predicted
    made = solve("unipc", _gaussian, torch.tensor([[40.0]]), grid, order=order)
    assert float(made) == pytest.approx(estimates[-1] if to_zero else x, rel=1e-9)


def test_the_sde_is_its_papers_on_the_images_own_stream() -> None:
    """Lu et al. 2022 (arXiv 2211.01095), SDE-DPM-Solver++(2M), in plain floats."""

    def denoised(x: float, sigma: float) -> float:
        return (0.3 * sigma**2 + x * _SPREAD**2) / (_SPREAD**2 + sigma**2)

    grid, seeds = edm_grid(6), [11, 12, 13]
    levels = grid.tolist()
    streams = ImageStreams(seeds)
    x = streams.randn((1,)).double() * 80
    made = solve("dpmpp_2m_sde", _gaussian, x, grid, randn_like=streams.randn_like)
    for place, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        state = float(torch.randn(1, generator=generator)) * 80
        estimates: list[float] = []
        for i in range(5):
            h = math.log(levels[i] / levels[i + 1])
            estimates.append(denoised(state, levels[i]))
            noise = float(torch.randn(1, dtype=torch.float64, generator=generator))
            kept = 1 - math.exp(-2 * h)
            state = levels[i + 1] / levels[i] * math.exp(-h) * state + kept * estimates[i]
            if i > 0:
                r = math.log(levels[i - 1] / levels[i]) / h
                state += kept / 2 * (estimates[i] - estimates[i - 1]) / r
            state += levels[i + 1] * math.sqrt(kept) * noise
        assert float(made[place]) == pytest.approx(denoised(state, levels[5]), rel=1e-10)


def test_the_sde_without_noise_is_dpmpp_2m() -> None:
    x, grid = _start(), edm_grid(7)
    made = solve("dpmpp_2m_sde", _mixture, x, grid, eta=0.0)
    assert torch.equal(made, solve("dpmpp_2m", _mixture, x, grid))


def _moments(levels: list[float], eta: float) -> tuple[float, float]:
    """Mean and variance of what the SDE solver makes of a Gaussian, without drawing."""
    mean, covariance = np.zeros(2), np.diag([levels[0] ** 2, 0.0])  # of (x, estimate before)
    before = 0.0
    for i, (t, t_next) in enumerate(pairwise(levels)):
        a = _SPREAD**2 / (_SPREAD**2 + t**2)
        b = 0.3 * t**2 / (_SPREAD**2 + t**2)
        estimate = np.array([a, 0.0])
        if t_next == 0:
            return float(estimate @ mean + b), float(estimate @ covariance @ estimate)
        h = math.log(t / t_next)
        ahead = h / (2 * before) if i > 0 else 0.0
        keep = math.exp(-(1 + eta) * h)
        state = np.array([keep, 0.0]) + (1 - keep) * (
            (1 + ahead) * estimate - ahead * np.array([0.0, 1.0])
        )
        matrix = np.stack([state, estimate])
        mean = matrix @ mean + np.array([(1 - keep) * (1 + ahead) * b, b])
        covariance = matrix @ covariance @ matrix.T
        covariance[0, 0] += t_next**2 * -math.expm1(-2 * eta * h)
        before = h
    raise AssertionError("a grid that ends in 0")


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("steps", [6, 100])
def test_the_sde_has_the_moments_that_arithmetic_gives(eta: float, steps: int) -> None:
    images, grid = 4000, edm_grid(steps)
    streams = ImageStreams(range(images))
    x = streams.randn((1,)).double() * 80
    made = solve("dpmpp_2m_sde", _gaussian, x, grid, eta=eta, randn_like=streams.randn_like)
    mean, variance = _moments(grid.tolist(), eta)
    assert float(made.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / images))
    assert float(made.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / images))


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_the_sde_converges_in_distribution(eta: float) -> None:
    mean, variance = _moments(edm_grid(2000).tolist(), eta)
    assert mean == pytest.approx(0.3, abs=1e-3)
    assert math.sqrt(variance) == pytest.approx(_SPREAD, rel=1e-3)
    steps = [50, 100, 200, 400]
    spreads = [math.sqrt(_moments(edm_grid(n).tolist(), eta)[1]) for n in steps]
    errors = [abs(spread - _SPREAD) for spread in spreads]
    assert _slope(steps, errors) == pytest.approx(2, abs=0.25)


def test_restarts_forget_what_came_before() -> None:
    # From a restart on, a solver does what it does when it begins there.
    x, grid = _start(4), edm_grid(9)
    for solver, order in (("dpmpp_2m", 2), ("unipc", 2), ("unipc", 3)):
        states: list[Tensor] = []

        def denoise(y: Tensor, sigma: Tensor, states: list[Tensor] = states) -> Tensor:
            states.append(y)
            return _mixture(y, sigma)

        made = solve(solver, denoise, x, grid, order=order, restarts={4})
        again = solve(solver, _mixture, states[4], grid[4:], order=order)
        assert torch.equal(made, again)
        assert not torch.equal(made, solve(solver, _mixture, x, grid, order=order))
        assert torch.equal(
            solve(solver, _mixture, x, grid, order=order, restarts={0, 9}),
            solve(solver, _mixture, x, grid, order=order),
        )


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_grid_may_end_above_zero(solver: str) -> None:
    grid = edm_grid(400, sigma_min=0.1)[:-1]
    x = _start()
    exact = 0.3 + (x - 0.3) * math.sqrt((_SPREAD**2 + 0.1**2) / (_SPREAD**2 + 80.0**2))
    made = solve(solver, _gaussian, x, grid)
    assert torch.allclose(made, exact, atol=5e-3 if solver == "euler" else 1e-4)


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
    [
        ("euler", 9, 9),
        ("heun", 9, 17),
        ("heun", 1, 1),
        ("dpmpp_2m", 9, 9),
        ("dpmpp_2m", 1, 1),
        ("unipc", 9, 9),
        ("unipc", 1, 1),
    ],
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


@pytest.mark.parametrize("solver", DETERMINISTIC)
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
    with pytest.raises(SpecError, match="a source of noise"):
        solve("dpmpp_2m_sde", _gaussian, x, grid)
    with pytest.raises(SpecError, match="one of 2, 3"):
        solve("unipc", _gaussian, x, grid, order=4)
