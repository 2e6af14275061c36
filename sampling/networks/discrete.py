"""Denoisers around networks trained on the discrete steps of DDPM: noise, velocity or image.

Ho et al. 2020 (arXiv 2006.11239): step t = 0, 1, ... adds noise of variance beta_t to what is left
of the image, so that sqrt(abar_t) of it remains, abar_t = prod_{s <= t} (1 - beta_s). In units in
which all of the image remains, the noise level is sigma_t = sqrt((1 - abar_t) / abar_t), and the
network sees x / sqrt(1 + sigma_t^2) and t. Velocity: Salimans and Ho 2022 (arXiv 2202.00512).
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from skiptune.sampling.networks.precond import Coefficients, DiscreteLevels

if TYPE_CHECKING:
    from skiptune.sampling.networks.precond import UNet

__all__ = ["BETAS", "PREDICTIONS", "DiscretePrecond", "betas_of", "sigmas_of"]

BETAS: Final = ("linear", "scaled_linear", "cosine", "sigmoid")
PREDICTIONS: Final = ("epsilon", "v", "sample")

_COSINE_OFFSET = 0.008
_HIGHEST_BETA = 0.999
_SIGMOID_SPAN = 3.0
_SIGMOID_END = struct.unpack("f", struct.pack("f", 1 / (1 + math.exp(-_SIGMOID_SPAN))))[0]


def betas_of(kind: str, steps: int, *, start: float = 1e-4, end: float = 0.02) -> list[float]:
    """Return the variances of the noise that the steps add.

    Arguments:
        kind: ``linear`` (Ho et al. 2020); ``scaled_linear``, whose square root is linear (Rombach
            et al. 2022, arXiv 2112.10752; their code calls it linear); ``cosine`` (Nichol and
            Dhariwal 2021, arXiv 2102.09672, equation 17: abar_t as cos^2, betas up to 0.999);
            ``sigmoid`` (Jabri et al. 2022, arXiv 2212.11972, from -3 to 3, as lucidrains' code
            has it: betas up to 0.999).
        steps: How many, at least 1.
        start: The first one.
        end: The last one; neither is used by ``cosine`` and ``sigmoid``.

    Raises:
        ValueError: For another kind, fewer steps, or variances outside 0..1.
    """
    if kind not in BETAS:
        raise ValueError(f"betas must be one of {', '.join(BETAS)}, found {kind!r}")
    if steps < 1:
        raise ValueError(f"at least 1 step, found {steps}")
    if kind in ("cosine", "sigmoid"):
        left = _cosine_left if kind == "cosine" else _sigmoid_left
        ratios = [left((i + 1) / steps) / left(i / steps) for i in range(steps)]
        return [min(1 - ratio, _HIGHEST_BETA) for ratio in ratios]
    if not 0 < start <= end < 1:
        raise ValueError(f"betas from {start} to {end}, not rising inside 0..1")
    # Plain numbers, because a network may be built where tensors have none (the meta device).
    first, last = (start, end) if kind == "linear" else (math.sqrt(start), math.sqrt(end))
    rising = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    return rising if kind == "linear" else [root**2 for root in rising]


def _cosine_left(t: float) -> float:
    angle = (t + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2
    return math.cos(angle) ** 2


def _sigmoid_left(t: float) -> float:
    # What is left at the end counts in float32 there, which the last steps feel.
    return _SIGMOID_END - 1 / (1 + math.exp(-_SIGMOID_SPAN * (2 * t - 1)))


def sigmas_of(betas: Iterable[float]) -> list[float]:
    """Return the noise level of every step, rising: sqrt((1 - abar_t) / abar_t)."""
    lefts = accumulate((1 - beta for beta in betas), operator.mul)
    return [math.sqrt((1 - left) / left) for left in lefts]


class DiscretePrecond(DiscreteLevels):
    """A denoiser around a network that is told a step t of DDPM.

    Where a network also predicts a variance, in channels behind those of the image, these are not
    used.

    Arguments:
        model: The network.
        betas: One of `BETAS`.
        beta_start: See `betas_of`.
        beta_end: See `betas_of`.
        timesteps: Number of steps T.
        prediction: One of `PREDICTIONS`: the noise, the velocity sqrt(abar) noise -
            sqrt(1 - abar) image, or the image itself.
        told: What the network is told of a step is its number times this: 1, 1000 / T where steps
            are rescaled, 1 / T where time runs from 0 to 1.
        first: The number of the first step: 0, or 1 (U-ViT).
        learn_sigma: Whether the network also predicts a variance per channel.

    Raises:
        ValueError: For values outside these.
    """

    def __init__(
        self,
        model: UNet,
        *,
        betas: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        timesteps: int = 1000,
        prediction: str = "epsilon",
        told: float = 1.0,
        first: int = 0,
        learn_sigma: bool = False,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction must be one of {', '.join(PREDICTIONS)}, found {prediction!r}"
            )
        levels = sigmas_of(betas_of(betas, timesteps, start=beta_start, end=beta_end))
        super().__init__(
            model, levels, sigma_min=levels[0], sigma_max=levels[-1], persistent=False
        )
        self.prediction = prediction
        self.told = told
        self.first = first
        self.learn_sigma = learn_sigma

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        variance = sigma.square() + 1
        c_in = 1 / variance.sqrt()
        c_noise = (self._nearest(sigma).to(torch.float32) + self.first) * self.told
        if self.prediction == "epsilon":
            return 1.0, -sigma, c_in, c_noise
        if self.prediction == "v":
            return 1 / variance, -sigma * c_in, c_in, c_noise
        return 0.0, 1.0, c_in, c_noise
