"""How far a network with folded scales is from the same network with hooks, on real inputs.

Compared on the states that sampling with the hooks goes through, at the setting the scales were
tuned at: noisy images, noise levels and labels of every evaluation. A denoiser's output is mostly
its input at low noise, so its relative error flatters; the other number relates the error to what
the scales change at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.sampling.decoder import Decoder
from skiptune.sampling.fold import Fold, FoldedBlock, replaced
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting

__all__ = ["Deviation", "Deviations", "deviations"]

GREY_LEVELS = 127.5  # per unit of images in -1..1


@dataclass(frozen=True)
class Deviation:
    """The error of one kind of network against the hooked one.

    Arguments:
        output: The Euclidean norm of the error of D(x; sigma) over that of D, the largest of all
            evaluations.
        effect: The norm of the error over that of the change that the scales make, all
            evaluations together; 0 where they change nothing.
    """

    output: float
    effect: float


@dataclass(frozen=True)
class Deviations:
    """Errors of a network with folded scales.

    Arguments:
        whole: Of the network with all scales folded, its tensors as they were rounded.
        exact: Of the network in which the blocks that fold exactly are folded, and mixed ones are
            hooked: eps and rounding, where these blocks are what they seem.
        blocks: Of networks in which one mixed block is folded (or left at 1) and all else is
            hooked, by address.
        levels: Root mean square over pixels of the difference of the images that both sample from
            the same seeds, in grey levels of 0..255.
        moved: The same between the untouched network and the hooked one.
        images: Images compared.
        evaluations: Evaluations of the network compared, of all images at once.
        rounded: Types of half precision to which folded tensors were rounded.
    """

    whole: Deviation
    exact: Deviation
    blocks: Mapping[str, Deviation]
    levels: float
    moved: float
    images: int
    evaluations: int
    rounded: tuple[str, ...] = ()


@dataclass(frozen=True)
class _State:
    x: Tensor
    sigma: Tensor
    labels: Tensor | None


def deviations(
    network: nn.Module,
    schedule: Schedule,
    fold: Fold,
    setting: Setting,
    seeds: Sequence[int],
    *,
    tensors: Mapping[str, Tensor],
    device: torch.device | str | None = None,
    decoder: Decoder | None = None,
) -> Deviations:
    """Sample images both ways and compare.

    Arguments:
        network: A denoiser of a known family in evaluation mode, without a schedule installed; it
            is as it was afterwards.
        schedule: All scales.
        fold: What was made of them.
        setting: How images are made.
        seeds: One per image; all go through the network at once.
        tensors: What the network's state was before folding, in the dtypes of the file: the
            folded ones are compared as the file will hold them.
        device: Where to sample; by default where the network's parameters are.
        decoder: Makes the images of a network of latents.
    """

    def images() -> Tensor:
        return sample_float(network, setting, seeds, device=device, decoder=decoder)

    folded = fold.apply(tensors)
    with torch.inference_mode(), scaled(network, schedule.scales_alone):
        states: list[_State] = []

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            states.append(_State(*args))

        hook = network.register_forward_pre_hook(note)
        try:
            hooked_images = images()
        finally:
            hook.remove()
        hooked = _outputs(network, states)
    with torch.inference_mode():
        plain, plain_images = _outputs(network, states), images()

    def partly(blocks: tuple[FoldedBlock, ...]) -> Deviation:
        """Fold these blocks and hook all others."""
        own = {block.address for block in blocks}
        rest = Schedule(term for term in schedule.terms if term.address not in own)
        changed = Fold(blocks).apply(tensors)
        with replaced(network, changed), torch.inference_mode(), scaled(network, rest):
            return _deviation(_outputs(network, states), hooked, plain)

    blocks = {block.address: partly((block,)) for block in fold.blocks if block.mixed}
    exact = partly(tuple(block for block in fold.blocks if not block.mixed))
    with replaced(network, folded), torch.inference_mode():
        whole = _deviation(_outputs(network, states), hooked, plain)
        folded_images = images()
    return Deviations(
        whole=whole,
        exact=exact,
        blocks=blocks,
        levels=_levels(folded_images, hooked_images),
        moved=_levels(hooked_images, plain_images),
        images=len(seeds),
        evaluations=len(states),
        rounded=tuple(
            sorted({str(t.dtype)[6:] for t in folded.values() if torch.finfo(t.dtype).bits < 32})
        ),
    )


def _outputs(network: nn.Module, states: Sequence[_State]) -> list[Tensor]:
    return [network(state.x, state.sigma, state.labels) for state in states]


def _deviation(
    found: Sequence[Tensor], hooked: Sequence[Tensor], plain: Sequence[Tensor]
) -> Deviation:
    errors = [_norm(a - b) for a, b in zip(found, hooked, strict=True)]
    changes = [_norm(a - b) for a, b in zip(plain, hooked, strict=True)]
    output = max(error / _norm(made) for error, made in zip(errors, hooked, strict=True))
    changed = math.hypot(*changes)
    return Deviation(output, math.hypot(*errors) / changed if changed else 0.0)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.double()))


def _levels(one: Tensor, two: Tensor) -> float:
    """Return the root mean square of a difference of images in grey levels."""
    difference = one.clip(-1, 1) - two.clip(-1, 1)
    return GREY_LEVELS * float(difference.double().pow(2).mean().sqrt())
