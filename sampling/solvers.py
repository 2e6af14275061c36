"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma, and of its SDE.

Notation as in Karras et al. 2022 (arXiv 2206.00364) with sigma(t) = t and s(t) = 1: t is the noise
level, D the denoiser, d the slope. A solver steps along a grid of noise levels that ends in 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from skiptune.errors import SpecError
from skiptune.sampling.setting import SOLVERS, STOCHASTIC_SOLVERS, Churn

__all__ = ["SOLVERS", "Denoise", "solve"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x float64 [N, ...], sigma float64 0-dim on the same device) -> estimate of the clean x."""


def solve(
    solver: str,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: Churn | None = None,
    randn_like: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Take images from pure noise to clean.

    Differentiable in everything `denoise` depends on.

    Arguments:
        solver: One of `SOLVERS`. ``euler`` and ``heun`` are EDM's algorithm 2 without and with the
            second-order correction; ``dpmpp_2m`` is DPM-Solver++(2M) (Lu et al. 2022, arXiv
            2211.01095, algorithm 2).
        denoise: The denoiser; see `Denoise`.
        x: Noise of standard deviation sigmas[0], [N, ...]; the state is float64.
        sigmas: Falling noise levels [steps + 1] on any device, the last one 0.
        churn: Fresh noise on the way, euler and heun only.
        randn_like: Draws that noise; needed where churn.amount is above 0.

    Returns:
        Clean images, float64 [N, ...].

    Raises:
        SpecError: For an unknown solver, or churn with a solver that has none.
    """
    if solver not in SOLVERS:
        raise SpecError(
            "setting.solver",
            expected=f"one of {', '.join(SOLVERS)}",
            found=repr(solver),
            hint="choose one of the solvers listed",
        )
    churn = churn or Churn()
    if churn.amount > 0 and (solver not in STOCHASTIC_SOLVERS or randn_like is None):
        raise SpecError(
            "setting.churn",
            expected=f"solver {' or '.join(STOCHASTIC_SOLVERS)} and a source of noise",
            found=f"solver {solver}, randn_like {'given' if randn_like else 'not given'}",
            hint="set churn.amount to 0",
        )
    levels = [float(level) for level in sigmas.tolist()]
    grid = sigmas.to(x.device, torch.float64)
    x = x.to(torch.float64)
    if solver == "dpmpp_2m":
        return _dpmpp_2m(denoise, x, levels, grid)
    order = 2 if solver == "heun" else 1
    return _algorithm_2(denoise, x, levels, grid, order, churn, randn_like)


def _algorithm_2(
    denoise: Denoise,
    x: Tensor,
    levels: list[float],
    grid: Tensor,
    order: int,
    churn: Churn,
    randn_like: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """EDM's stochastic sampler: Karras et al. 2022, algorithm 2."""
    steps = len(levels) - 1
    for i in range(steps):
        t, t_next, sigma = levels[i], levels[i + 1], grid[i]
        if churn.amount > 0 and randn_like is not None:
            # Drawn at every step, used or not, so that the streams advance as EDM's do.
            noise = randn_like(x)
            if churn.low <= t <= churn.high:
                gamma = min(churn.amount / steps, math.sqrt(2) - 1)
                t_hat = t + gamma * t
                x = x + math.sqrt(t_hat**2 - t**2) * churn.noise * noise
                t, sigma = t_hat, torch.full_like(sigma, t_hat)
        d = (x - denoise(x, sigma)) / t
        x_next = x + (t_next - t) * d
        if order == 2 and t_next > 0:
            d_next = (x_next - denoise(x_next, grid[i + 1])) / t_next
            x_next = x + (t_next - t) * (d + d_next) / 2
        x = x_next
    return x


def _dpmpp_2m(denoise: Denoise, x: Tensor, levels: list[float], grid: Tensor) -> Tensor:
    """DPM-Solver++(2M) for alpha = 1, so lambda = -log sigma and h = log(t / t_next).

    Lu et al. 2022 (arXiv 2211.01095), algorithm 2: over a step the denoiser is taken as constant,
    with the value that the line through its last two values (in lambda) has in the middle of the
    step. The first step and the step to 0 (h infinite) use its last value alone.
    """
    previous: Tensor | None = None
    h_previous = 0.0
    for i, (t, t_next) in enumerate(pairwise(levels)):
        estimate = denoise(x, grid[i])
        if t_next == 0:
            x = estimate
            continue
        h = math.log(t / t_next)
        target = estimate
        if previous is not None:
            target = estimate + (estimate - previous) * (h / (2 * h_previous))
        x = x * (t_next / t) + target * (1 - t_next / t)
        previous, h_previous = estimate, h
    return x
