"""Skip-Tuning's score-matching losses: how well a network denoises real images it never saw.

For pairs i of a held-out image x_i and noise n_i, and noise levels s,

    D_is          D(x_i + sigma_s n_i; sigma_s), with the image's label where the network has any
    pixel loss    mean over pixels of (D_is - x_i)^2
    feature loss  mean over features of (phi(clamp(D_is, -1, 1)) - phi(x_i))^2

(Ma et al. 2024, arXiv 2402.15170, who report that skip-tuning raises the pixel loss and lowers
the feature loss, most at intermediate noise levels; their feature networks are not published, so
their numbers are not these). Features are taken of float images: rounding to bytes would hide
small effects. Guidance, epsilon scaling and the solver take no part.

The pair of a seed is a function of the seed alone, so all schedules meet the same pairs, chunks
of seeds can be computed anywhere, and differences are plain paired means without a bias in N.
Their statistics are in `losses`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import NetworkError, ObjectiveError, SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from skiptune.objectives.extractors import Extractor

__all__ = [
    "FEATURE_LOSS",
    "LEVELS",
    "PIXEL_LOSS",
    "denoising_losses",
    "describe_losses",
    "image_indices",
]

Array = NDArray[np.float64]

PIXEL_LOSS = "pixel_loss"
FEATURE_LOSS = "feature_loss"

LEVELS: tuple[float, ...] = tuple(0.05 * 400 ** (step / 8) for step in range(9))
"""Nine noise levels from 0.05 to 20 in equal steps of log sigma (a factor of 2.11).

EDM trains with ln sigma normal, mean -1.2, deviation 1.2 (Karras et al. 2022, arXiv 2206.00364,
table 1): the grid spans -1.5 to +3.5 deviations, where 93 % of the training lies. Below it D is
its input but for c_out < 0.05 times the network's output; above it the network hardly trained.
"""

STREAM_OFFSET = 2**31
"""Added to a pair's seed for its generator: no image is sampled from that stream."""

_LEAST_PAIRS = 2
_MOST_SHOWN = 5


def denoising_losses(
    network: nn.Module,
    extractor: Extractor,
    images: Tensor,
    labels: Tensor | None,
    seeds: Sequence[int],
    sigmas: Sequence[float] = LEVELS,
    *,
    microbatch: int = 50,
) -> dict[str, Tensor]:
    """Return both losses of every pair at every noise level.

    Seed s stands for the image `image_indices` names and for standard normal float32 noise from
    the CPU generator seeded with s + 2^31 (mod 2^32), one noise for all levels. The network
    always sees `microbatch` images: the last seed is repeated where seeds run out, and the
    surplus dropped, so on one device type with one thread count a pair's losses are the same bit
    for bit, whatever other seeds are asked for.

    A schedule installed on the network (`skiptune.sampling.hooks.scaled`) is in force; with
    gradients enabled the losses are differentiable in its scales. Without, call this under
    `torch.inference_mode()`, where the hooks need no copies.

    Arguments:
        network: A denoiser in evaluation mode, network(x, sigma, class_labels), with attributes
            `img_channels`, `img_resolution`, `label_dim`.
        extractor: phi; its `of_floats` is used.
        images: Held-out images, floating [M, C, H, W] in -1..1 (bytes x / 127.5 - 1), M >= 1.
        labels: Their class numbers, integer [M], 0..classes - 1. Needed where the network has
            classes, not read where it has none.
        seeds: One per pair, N >= 1 of them, 0..2^31 - 1.
        sigmas: Noise levels, S >= 1 of them, above 0; a network of discrete levels is evaluated
            at those nearest to them.
        microbatch: Images per evaluation of the network; part of the numbers.

    Returns:
        Under `PIXEL_LOSS` and `FEATURE_LOSS` float32 [N, S] on the network's device. Both are NaN
        where the network's estimate is not finite.

    Raises:
        ObjectiveError: For images or labels that are not as above, or not the network's.
        SpecError: For seeds, noise levels or a microbatch out of range.
        NetworkError: For a network in training mode, or without the attributes above.
    """
    import torch
    from torch.nn import functional as F

    from skiptune.sampling.levels import rounded
    from skiptune.sampling.noise import ImageStreams

    chosen = _checked_seeds(seeds)
    levels = rounded(network, _checked_levels(sigmas))
    classes = _check_images(network, images, labels)
    if microbatch < 1:
        raise SpecError(
            "microbatch", expected="at least 1", found=str(microbatch), hint="50 is the default"
        )
    parameter = next(network.parameters(), None)
    device = images.device if parameter is None else parameter.device

    parts: dict[str, list[Tensor]] = {PIXEL_LOSS: [], FEATURE_LOSS: []}
    for wanted, padded in _microbatches(chosen, microbatch):
        rows = torch.from_numpy(image_indices(padded, len(images))).to(images.device)
        x = images[rows].to(device, torch.float32)
        streams = ImageStreams([seed + STREAM_OFFSET for seed in padded], device)
        noise = streams.randn(x.shape[1:]).to(torch.float64)
        one_hot = None
        if classes and labels is not None:
            chosen_labels = labels.to(images.device)[rows].to(device, torch.int64)
            one_hot = F.one_hot(chosen_labels, classes).to(torch.float32)
        with torch.no_grad():
            target = extractor.of_floats(x).to(device)
        found: dict[str, list[Tensor]] = {PIXEL_LOSS: [], FEATURE_LOSS: []}
        for level in levels:
            # As the solvers call it: windows are compared with a float64 level.
            sigma = torch.tensor(level, dtype=torch.float64, device=device)
            estimate = network(x.to(torch.float64) + sigma * noise, sigma, one_hot)
            estimate = estimate.to(torch.promote_types(estimate.dtype, torch.float32))
            features = extractor.of_floats(estimate.clamp(-1, 1)).to(device)
            finite = estimate.isfinite().flatten(1).all(1)
            for name, distance in (
                (PIXEL_LOSS, (estimate - x).flatten(1)),
                (FEATURE_LOSS, features - target),
            ):
                loss = distance.square().mean(1)
                # A clamped infinity would pass for an image.
                found[name].append(torch.where(finite, loss, torch.nan)[: len(wanted)])
        for name, columns in found.items():
            parts[name].append(torch.stack(columns, dim=1))
    return {name: torch.cat(blocks) for name, blocks in parts.items()}


def image_indices(seeds: Sequence[int], images: int) -> NDArray[np.int64]:
    """Return which of the held-out images each seed stands for: the seed modulo their number.

    Consecutive seeds take the images in turn. More pairs than images use images again under other
    noise: give these indices to `losses.loss_score` then.

    Arguments:
        seeds: One per pair.
        images: Number of held-out images, at least 1.
    """
    return np.asarray([int(seed) % images for seed in seeds], dtype=np.int64)


def describe_losses(
    extractor: Extractor,
    images: Tensor,
    labels: Tensor | None,
    sigmas: Sequence[float] = LEVELS,
    *,
    microbatch: int = 50,
) -> dict[str, Any]:
    """Return what determines the losses of given seeds, apart from network and schedule.

    Plain data; its digest identifies stored losses. Arguments as for `denoising_losses`.
    """
    import torch

    digest = hashlib.sha256(images.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    if labels is not None:
        digest.update(labels.detach().cpu().to(torch.int64).contiguous().numpy().tobytes())
    return {
        "arrays": [PIXEL_LOSS, FEATURE_LOSS],
        **extractor.describe(),
        "images": {"count": len(images), "shape": list(images.shape[1:])},
        "images_sha256": digest.hexdigest(),
        "pairs": "image seed mod count; noise float32 of one torch CPU generator, seed + 2^31",
        "sigmas": list(_checked_levels(sigmas)),
        "microbatch": microbatch,
    }


def _microbatches(
    seeds: tuple[int, ...], size: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for begin in range(0, len(seeds), size):
        wanted = seeds[begin : begin + size]
        yield wanted, wanted + wanted[-1:] * (size - len(wanted))


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(int(seed) for seed in seeds)
    wrong = [seed for seed in chosen if not 0 <= seed < STREAM_OFFSET]
    if wrong or not chosen:
        raise SpecError(
            "seeds of pairs",
            expected=f"at least one, each from 0 to {STREAM_OFFSET - 1}",
            found=", ".join(map(str, wrong[:_MOST_SHOWN])) or "none",
            hint="take the seeds of a chunk",
        )
    return chosen


def _checked_levels(sigmas: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(sigma) for sigma in sigmas)
    if not levels or not all(0 < level < math.inf for level in levels):
        raise SpecError(
            "noise levels of the losses",
            expected="at least one, finite and above 0",
            found=repr(levels),
            hint="the default is skiptune.objectives.denoising.LEVELS",
        )
    return levels


def _check_images(network: nn.Module, images: Tensor, labels: Tensor | None) -> int:
    """Refuse what the network cannot denoise, and return its number of classes."""
    names = ("img_channels", "img_resolution", "label_dim")
    values = [getattr(network, name, None) for name in names]
    if not all(isinstance(value, int) for value in values):
        raise NetworkError(
            "network",
            expected=f"a denoiser with whole numbers {', '.join(names)}",
            found=f"{type(network).__name__} with {values}",
            hint="give the preconditioned network, not the U-Net inside",
        )
    if network.training:
        raise NetworkError(
            "network",
            expected="evaluation mode",
            found="training mode, in which dropout makes losses random",
            hint="call network.eval() first",
        )
    channels, size, classes = (int(value or 0) for value in values)
    kind = str(images.dtype).removeprefix("torch.")
    if not images.is_floating_point() or images.shape[1:] != (channels, size, size):
        raise ObjectiveError(
            "held-out images",
            expected=f"floating [M, {channels}, {size}, {size}], as the network makes them",
            found=f"{kind} {list(images.shape)}",
            hint="give images of the network's size; bytes become floats by x / 127.5 - 1",
        )
    if len(images) == 0:
        raise ObjectiveError(
            "held-out images",
            expected="at least one",
            found="none",
            hint="give real images that the network was not trained on",
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):
        raise ObjectiveError(
            "held-out images",
            expected="pixels from -1 to 1",
            found=f"{low:g} to {high:g}",
            hint="scale bytes by x / 127.5 - 1",
        )
    if classes:
        _check_labels(labels, len(images), classes)
    return classes


def _check_labels(labels: Tensor | None, images: int, classes: int) -> None:
    expected = f"a class number from 0 to {classes - 1} for each of {images} images"
    if labels is None:
        found = "no labels"
    elif labels.is_floating_point() or labels.is_complex() or labels.shape != (images,):
        found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    elif int(labels.min()) < 0 or int(labels.max()) >= classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
    else:
        return
    raise ObjectiveError(
        "labels of held-out images",
        expected=expected,
        found=found,
        hint="the network was trained with labels: give those of the same data set",
    )
