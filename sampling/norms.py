"""Skip-Tuning's diagnostic: how strong each skip is beside the main path it joins.

For every decoder block that receives a skip, and every noise level, the Euclidean norm of the
skip's channels over that of the main path's channels, all pixels together, at the concatenation
(Ma et al. 2024, arXiv 2402.15170). Channel counts are not divided out: a skip of fewer channels
has a smaller norm. Where a block joins the two itself (U-ViT), they are two of its arguments.

Measured where it matters, on the states that sampling goes through: images are made as a setting
says, and each evaluation of the network counts at its own noise level. No real images are needed,
and the network sees the labels it sees in sampling.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.images import sample_float
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import SkipPlace, find_places

__all__ = ["NormRatios", "norm_ratios"]


@dataclass(frozen=True)
class NormRatios:
    """The norm of each skip over that of its main path, per noise level.

    Arguments:
        addresses: The skips, deepest first.
        sigmas: The noise levels at which the network was evaluated, falling.
        ratios: One row per skip, one number per noise level, the mean over all images evaluated
            there; infinite where the main path is 0, NaN where it is not finite.
        images: Images sampled.
    """

    addresses: tuple[str, ...]
    sigmas: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    images: int


def norm_ratios(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int],
    *,
    device: torch.device | str | None = None,
) -> NormRatios:
    """Sample images and measure the norms on the way; the images are as without measuring.

    A schedule installed on the network is in force, and its skips are measured as the blocks
    receive them: already scaled. Where a solver evaluates a noise level twice, both count. With
    guidance, only the evaluations that see the label count.

    Arguments:
        network: A denoiser of a known family in evaluation mode, not compiled.
        setting: How the images are made.
        seeds: One per image, at least one; all go through the network at once.
        device: Where to sample; by default where the network's parameters are.

    Raises:
        SpecError: For no seeds, or a label or guidance that the network cannot follow.
        NetworkError: For a network of no known family, compiled, or in training mode.
    """
    if not seeds:
        raise SpecError("seeds", expected="at least one", found="none", hint="16 are plenty")
    places = find_places(network)
    probe = _Probe(labelled_only=setting.guidance != 1)
    # After the hooks of an installed schedule, so that these have scaled the skip.
    hooks = [network.register_forward_pre_hook(probe.enter, with_kwargs=True)]
    try:
        for place in places:
            hook = _SkipHook(probe, place)
            module = place.site.module
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        with torch.inference_mode():
            sample_float(network, setting, seeds, device=device)
    finally:
        for hook_handle in hooks:
            hook_handle.remove()
    sigmas = tuple(sorted(probe.found, reverse=True))
    if not sigmas or any(len(probe.found[sigma]) != len(places) for sigma in sigmas):
        raise NetworkError(
            "network",
            expected="decoder blocks whose inputs can be watched",
            found="blocks that tell nothing, as those of a compiled network",
            hint="measure the norms before torch.compile",
        )
    columns = [probe.found[sigma] for sigma in sigmas]
    return NormRatios(
        addresses=tuple(place.skip.address for place in places),
        sigmas=sigmas,
        ratios=tuple(
            tuple(float(torch.cat(column[place.skip.address]).mean()) for column in columns)
            for place in places
        ),
        images=len(seeds),
    )


class _Probe:
    """What was measured: ratios [images] by noise level and address, one tensor per call."""

    def __init__(self, *, labelled_only: bool) -> None:
        self.labelled_only = labelled_only
        self.found: dict[float, dict[str, list[Tensor]]] = {}
        self._current: dict[str, list[Tensor]] | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # `sample_float` calls network(x, sigma, class_labels).
        _, sigma, labels = args
        skipped = self.labelled_only and labels is None
        self._current = None if skipped else self.found.setdefault(float(sigma), {})

    def add(self, address: str, ratios: Tensor) -> None:
        if self._current is not None:
            self._current.setdefault(address, []).append(ratios)


class _SkipHook:
    """Measures what one decoder block receives and leaves it as it is."""

    def __init__(self, probe: _Probe, place: SkipPlace) -> None:
        self.probe = probe
        self.address, self.site = place.skip.address, place.site
        self.names = list(inspect.signature(place.site.module.forward).parameters)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        site, given = self.site, dict(zip(self.names, args, strict=False)) | kwargs
        name = self.names[site.argument] if isinstance(site.argument, int) else site.argument
        assert name is not None  # a skip is something that a block receives
        x: Tensor = given[name]
        if site.length is None:
            main, skip = given[self.names[0]], x
        else:
            sizes = [site.start, site.length, x.shape[site.dim] - site.start - site.length]
            before, skip, after = x.split(sizes, dim=site.dim)
            main = torch.cat([before, after], dim=site.dim)
        self.probe.add(self.address, _norm(skip) / _norm(main))


def _norm(x: Tensor) -> Tensor:
    # float64: half-precision networks overflow in the sum of squares.
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float64)
    return norm
