"""How each image's features move with every skip's scale, or that of a part of its block.

One backward pass through the sampler gives, for every image, the derivative of
`cotangent . features` in the logarithm of each scale at each noise level at which the network is
evaluated; `call_slopes` gives the same of any number that is made with a denoiser. Every call of
the network is checkpointed (Chen et al. 2016, arXiv 1604.06174): memory is that of one call with
gradients, however many steps there are, at the price of computing each call twice. Gradients are
taken in the scales alone, never in weights. Through a network in half precision they are those of
float32 but for its rounding (`gradient_range`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skiptune.errors import NetworkError
from skiptune.sampling.decoder import Decoder
from skiptune.sampling.gradient_range import SIZE, in_range, needs_range
from skiptune.sampling.hooks import Handle, apply
from skiptune.sampling.images import sample_float
from skiptune.sampling.schedule import Schedule, place_name, place_of
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips

__all__ = ["PASSES", "ImageSlopes", "call_slopes", "image_slopes"]

PASSES: Final = 4
"""What a call costs here in calls without gradient: itself, once more when it is differentiated,
and twice its arithmetic for the derivative itself (in the inputs and in the products)."""

# What is sent into a network in float16: where sums over large feature maps are beyond its largest
# number, all is done once more with less.
_SIZES = (SIZE, SIZE * 2.0**-12)


@dataclass(frozen=True, eq=False)
class ImageSlopes:
    """Derivatives of `cotangent . features` in the log scales.

    Arguments:
        values: float64 [B, parts x skips, levels], part by part, skips deepest first.
        levels: The noise levels at which the network was evaluated, in order; two evaluations at
            one level (guidance) are summed.
        nfe: What it cost per image, in evaluations of the network: `PASSES` for each.
    """

    values: Tensor
    levels: tuple[float, ...]
    nfe: float


def image_slopes(
    network: nn.Module,
    setting: Setting,
    schedule: Schedule,
    seeds: Sequence[int],
    *,
    features: Callable[[Tensor], Tensor],
    cotangents: Tensor,
    parts: Sequence[str] = ("both",),
    device: torch.device | str | None = None,
    decoder: Decoder | None = None,
) -> ImageSlopes:
    """Sample images and differentiate their features in every scale at every noise level.

    Arguments:
        network: A denoiser in evaluation mode, without a schedule installed.
        setting: How the images are made; what it draws at random is drawn from the seeds, so
            stochastic solvers are differentiable too.
        schedule: Where the derivatives are taken; all scales above 0.
        seeds: One per image.
        features: Float images [B, C, H, W], about -1..1, to features [B, d], with gradient.
        cotangents: [B, d]: the left factor of each image (`objectives.cotangents`).
        parts: Of `schedule.PARTS`, each once: whose scales the derivatives are taken in. The
            schedule scales no others.
        device: Where to sample; by default where the network's parameters are.
        decoder: Makes the images of what the network makes.

    Raises:
        NetworkError: As `sample_float` and `apply`; for a schedule that drops a skip, acts in one
            branch of guidance alone or in other parts, and for one with windows where the solver
            begins anew at their edges.
    """
    _refuse_jumps(schedule, setting)

    def total(denoiser: nn.Module) -> Tensor:
        images = sample_float(denoiser, setting, seeds, device=device, decoder=decoder)
        found = features(images)
        return (found * cotangents.to(found.device, found.dtype)).sum()

    return call_slopes(network, schedule, len(seeds), total, parts=parts)


def call_slopes(
    network: nn.Module,
    schedule: Schedule,
    count: int,
    total: Callable[[nn.Module], Tensor],
    *,
    parts: Sequence[str] = ("both",),
) -> ImageSlopes:
    """Differentiate a sum over images in every scale at every noise level of their denoiser.

    Arguments:
        network: As for `image_slopes`.
        schedule: As for `image_slopes`.
        count: Images B, all of which go through each call of the network, in one order.
        total: The denoiser to a sum over the B images, of which each depends on its own row of
            every call alone; with gradient. The denoiser is called like `network`.
        parts: As for `image_slopes`.

    Returns:
        The derivatives of each image's summand.

    Raises:
        NetworkError: As `apply`; for a schedule that drops a skip, or acts in one branch of
            guidance alone or in other parts.
    """
    _refuse(schedule, parts)
    skips = find_skips(network)
    places = [place_name(skip.address, part) for part in parts for skip in skips]
    sizes = _SIZES if needs_range(network) else (None,)
    handle = apply(network, {place: torch.ones(()) for place in places})
    evaluations = 0
    try:
        for size in sizes:
            sloped = _Sloped(network, handle, schedule, places, size=size).eval()
            with torch.enable_grad():
                found = total(sloped)
            grads = torch.autograd.grad(found, [shift for _, shift in sloped.calls])
            evaluations += len(sloped.calls)
            if all(bool(grad.isfinite().all()) for grad in grads):
                break
    finally:
        handle.remove()
    levels = tuple(dict.fromkeys(level for level, _ in sloped.calls))
    values = torch.zeros(count, len(places), len(levels), dtype=torch.float64)
    for (level, _), grad in zip(sloped.calls, grads, strict=True):
        values[:, :, levels.index(level)] += grad.to("cpu", torch.float64)
    return ImageSlopes(values, levels, float(PASSES * evaluations))


class _Sloped(nn.Module):
    """The network with fresh scales for each call, each call checkpointed.

    Arguments:
        network: The denoiser.
        handle: Of the scales installed on it.
        schedule: The scales' values.
        places: What they multiply (`schedule.place_name`).
        size: Of what is sent back into the network, where that computes in float16.
    """

    def __init__(
        self,
        network: nn.Module,
        handle: Handle,
        schedule: Schedule,
        places: Sequence[str],
        *,
        size: float | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[float, Tensor]] = []
        self._handle = handle
        self._schedule = schedule
        self._places = places
        self._size = size

    def __getattr__(self, name: str) -> Any:
        # What sampling asks of a denoiser besides calling it: its shape, its range of levels.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        level = float(sigma.flatten()[0])
        named = [place_of(place) for place in self._places]
        logs = [math.log(self._schedule.scale(at, level, part=part)) for at, part in named]
        base = torch.tensor(logs, dtype=torch.float64, device=x.device)
        shift = x.new_zeros(len(x), len(logs), dtype=torch.float64, requires_grad=True)
        self.calls.append((level, shift))

        def evaluated(x: Tensor, shift: Tensor) -> Tensor:
            estimate: Tensor = checkpoint(
                self._call, x, sigma, class_labels, base, shift, use_reentrant=False
            )
            return estimate

        if self._size is None:
            return evaluated(x, shift)
        return in_range(evaluated, x, shift, size=self._size)

    def _call(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None, base: Tensor, shift: Tensor
    ) -> Tensor:
        scales = (base + shift).exp()
        # Again when it is recomputed: the network's last call may have been another one.
        self._handle.update(dict(zip(self._places, scales.unbind(1), strict=True)))
        estimate: Tensor = self.network(x, sigma, labels)
        return estimate


def _refuse(schedule: Schedule, parts: Sequence[str]) -> None:
    if not set(schedule.parts) <= set(parts):
        raise NetworkError(
            "slopes",
            expected=f"a schedule of the parts that are differentiated: {', '.join(parts)}",
            found=f"one that scales {', '.join(schedule.parts)}",
            hint="name all of its parts",
        )
    if schedule.branches != "both":
        raise NetworkError(
            "slopes",
            expected="a schedule that acts in both branches of guidance",
            found=f"branches {schedule.branches}",
            hint="search without gradients: search.sampler: tpe",
        )
    dropped = [term.address for term in schedule.terms if term.scale == 0]
    if dropped:
        raise NetworkError(
            "slopes",
            expected="scales above 0, which have a logarithm",
            found=f"scale 0 of {', '.join(dropped)}",
            hint="search without gradients: search.sampler: tpe",
        )


def _refuse_jumps(schedule: Schedule, setting: Setting) -> None:
    windows = any(term.low > 0 or term.high < math.inf for term in schedule.terms)
    if windows and setting.history == "restart":
        raise NetworkError(
            "slopes",
            expected="history keep, because the schedule has windows",
            found="history restart: the solver's path jumps where a window's edge is",
            hint="set setting.history to keep, or search without gradients: search.sampler: tpe",
        )
