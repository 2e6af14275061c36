"""What the scale of a skip leaves behind a group normalisation, fitted to what a sampler meets.

With z the block's input, k the skip in it and N the normalisation without gain and bias, the
branch would see N([x, s k]) and a folded network shows it N([x, k]). Channel by channel the first
is about

    N([x, s k])_c = a_c N([x, k])_c + b_c

with a_c and b_c by least squares over the pixels of all states that a sampler goes through; they
go into the normalisation's own gain and bias. In a group of the skip's channels alone b is 0, and
a is 1 but for the eps in the square root: sqrt((v + eps) / (v + eps / s^2)) for a variance v. In
one that also holds channels of the main path both depend on the image, so the fit is near, not
exact. Groups of the main path alone are as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from skiptune.sampling.fold import Affine
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import SkipPlace, find_places

__all__ = ["fit_norms"]


def fit_norms(
    network: nn.Module,
    schedule: Schedule,
    setting: Setting,
    seeds: Sequence[int],
    *,
    device: torch.device | str | None = None,
) -> dict[str, Affine]:
    """Sample images with a schedule's hooks and fit the normalisation of every scaled skip.

    Arguments:
        network: A denoiser of a known family without a schedule installed.
        schedule: The scales, one per skip for all noise levels.
        setting: How the images are made.
        seeds: One per image; all go through the network at once.
        device: Where to sample; by default where the network's parameters are.

    Returns:
        By address, for blocks whose skip itself is scaled and goes through a group normalisation
        with a gain and a bias of its own.
    """
    scales = {term.address: term.scale for term in schedule.terms if term.part == "both"}
    fits = {
        place.skip.address: _Fit(place, scales[place.skip.address])
        for place in find_places(network)
        if place.skip.address in scales and place.skip.groups > 0 and _has_gain(place.norm)
    }
    if not fits:
        return {}
    # Before the schedule's hooks, so that these have not yet scaled the skip, in place perhaps.
    hooks: list[RemovableHandle] = []
    try:
        for fit in fits.values():
            module = fit.place.site.module
            hooks.append(module.register_forward_pre_hook(fit))
        with scaled(network, schedule.scales_alone), torch.inference_mode():
            sample_float(network, setting, seeds, device=device)
    finally:
        for hook in hooks:
            hook.remove()
    return {address: fit.result() for address, fit in fits.items()}


def _has_gain(norm: nn.Module | None) -> bool:
    own = {} if norm is None else norm._parameters
    return own.get("weight") is not None and own.get("bias") is not None


class _Fit:
    """Sums over what one block has received, for a line through each channel of such groups."""

    def __init__(self, place: SkipPlace, scale: float) -> None:
        skip = place.skip
        channels = skip.main_channels + skip.skip_channels
        width = channels // skip.groups
        self.place, self.scale = place, scale
        self.start = skip.main_channels // width * width
        self.channels = channels - self.start
        self.groups = self.channels // width
        # Of 1, u, v, u u and u v, u being the folded network's channel and v the hooked one's.
        self.sums = torch.zeros(5, self.channels, dtype=torch.float64)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        z: Tensor = args[0].detach().double().narrow(1, self.start, self.channels)
        eps = float(getattr(self.place.norm, "eps", 1e-5))
        factor = torch.ones(self.channels, dtype=torch.float64, device=z.device)
        factor[self.place.skip.main_channels - self.start :] = self.scale
        u = F.group_norm(z, self.groups, eps=eps)
        v = F.group_norm(z * factor.reshape(1, -1, 1, 1), self.groups, eps=eps)
        sums = [torch.ones_like(u), u, v, u * u, u * v]
        self.sums += torch.stack([each.sum((0, 2, 3)) for each in sums]).cpu()

    def result(self) -> Affine:
        """Return the fit; a channel without variance keeps its factor."""
        count, u, v, uu, uv = self.sums
        spread = uu - u * u / count
        flat = spread <= 1e-12 * uu
        factor = torch.where(flat, 1.0, (uv - u * v / count) / torch.where(flat, 1.0, spread))
        return Affine(self.start, factor, (v - factor * u) / count)
