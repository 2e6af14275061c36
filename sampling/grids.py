"""Noise-level grids: the sigmas at which a solver steps, from sigma_max down to 0.

With n steps there are n positive levels sigma_0 > ... > sigma_(n-1) and a final 0. One formula
makes the numbers, without torch, for everybody: windows are compared with these very floats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "edm_grid",
    "edm_sigmas",
    "logsnr_grid",
    "logsnr_sigmas",
    "time_uniform_grid",
    "time_uniform_sigmas",
]

# Song et al. 2021 (arXiv 2011.13456): beta(t) rises from 0.1 to 20 over the time 0..1.
BETA_MIN = 0.1
BETA_RANGE = 19.9


def edm_sigmas(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, exponent: float = 7.0
) -> tuple[float, ...]:
    """Return EDM's grid: equal steps in sigma^(1/exponent), then 0.

    Arguments:
        steps: Number of steps, at least 1; a single step goes from sigma_max to 0.
        sigma_min: Lowest positive noise level.
        sigma_max: Highest noise level.
        exponent: How much the steps shorten towards sigma_min; EDM writes rho.

    References:
        Karras et al. 2022 (arXiv 2206.00364), equation 5; the defaults are of table 1.
    """
    top, bottom = sigma_max ** (1 / exponent), sigma_min ** (1 / exponent)
    # The ends are the given numbers, not their powers' rounded roots.
    inner = [(top + i / (steps - 1) * (bottom - top)) ** exponent for i in range(1, steps - 1)]
    return _between(steps, sigma_min, inner, sigma_max)


def logsnr_sigmas(steps: int, *, sigma_min: float, sigma_max: float) -> tuple[float, ...]:
    """Return equal steps in log sigma (so in the log signal-to-noise ratio), then 0.

    References:
        Lu et al. 2022, DPM-Solver (arXiv 2206.00927): uniform in lambda, half the log-SNR.
    """
    top, bottom = math.log(sigma_max), math.log(sigma_min)
    inner = [math.exp(top + i / (steps - 1) * (bottom - top)) for i in range(1, steps - 1)]
    return _between(steps, sigma_min, inner, sigma_max)


def time_uniform_sigmas(steps: int, *, sigma_min: float, sigma_max: float) -> tuple[float, ...]:
    """Return equal steps in the time t of the variance-preserving (VP) diffusion, then 0.

    There log(1 + sigma^2) = 19.9 t^2 / 2 + 0.1 t, with t = 1 at sigma = 152; the steps lie
    between the times of sigma_max and sigma_min.

    References:
        Song et al. 2021 (arXiv 2011.13456), appendix B; Karras et al. 2022 (arXiv 2206.00364),
        table 1, column VP.
    """
    top, bottom = _vp_time(sigma_max), _vp_time(sigma_min)
    times = [top + i / (steps - 1) * (bottom - top) for i in range(1, steps - 1)]
    inner = [math.sqrt(math.expm1((BETA_RANGE / 2 * t + BETA_MIN) * t)) for t in times]
    return _between(steps, sigma_min, inner, sigma_max)


def edm_grid(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, exponent: float = 7.0
) -> Tensor:
    """Return `edm_sigmas` as a float64 tensor [steps + 1]."""
    return _tensor(edm_sigmas(steps, sigma_min=sigma_min, sigma_max=sigma_max, exponent=exponent))


def logsnr_grid(steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """Return `logsnr_sigmas` as a float64 tensor [steps + 1]."""
    return _tensor(logsnr_sigmas(steps, sigma_min=sigma_min, sigma_max=sigma_max))


def time_uniform_grid(steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """Return `time_uniform_sigmas` as a float64 tensor [steps + 1]."""
    return _tensor(time_uniform_sigmas(steps, sigma_min=sigma_min, sigma_max=sigma_max))


def _vp_time(sigma: float) -> float:
    """Return the positive root t of 19.9 t^2 / 2 + 0.1 t = log(1 + sigma^2)."""
    rise = math.log1p(sigma**2)
    # The usual formula for the root, without its difference of nearly equal numbers.
    return 2 * rise / (BETA_MIN + math.sqrt(BETA_MIN**2 + 2 * BETA_RANGE * rise))


def _between(
    steps: int, sigma_min: float, inner: list[float], sigma_max: float
) -> tuple[float, ...]:
    if steps == 1:
        return (float(sigma_max), 0.0)
    return (float(sigma_max), *inner, float(sigma_min), 0.0)


def _tensor(sigmas: tuple[float, ...]) -> Tensor:
    import torch  # here, so that the numbers above cost no torch

    return torch.tensor(sigmas, dtype=torch.float64)
