"""How a metric moves with each image's features: what is sent back through a network.

A slope of a metric in a scale s is, by the chain rule, the mean over the images of
`cotangent_i . d features_i / d log s`. The left factor is given here, exactly: it is N times the
derivative of the very number that `metrics.measure` reports, its correction for the bias in N
included. The right factor is a vector-Jacobian product through the sampler
(`sampling.slopes.image_slopes`).

What single images contribute tells nothing of the error: the left factor holds moments of all
images, and near an optimum, where it goes to zero, their noise is all there is (per-image errors
are then several times too small). So a slope is taken in blocks of images, each with moments of
its own, and its error from how the blocks differ (`over_blocks`).

Denoising losses are no function of sampled images: there the left factor is a number for each
noise level (`loss_cotangents`), and the right one how the losses of a pair move.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.catalogue import FEATURE_LOSS, PIXEL_LOSS
from skiptune.objectives.extrapolation import GROUPS, QUARTERS, Correction
from skiptune.objectives.frechet import LEAST_PER_FEATURE, check_features, expand
from skiptune.objectives.kid import KernelReference, check_rows, row_blocks
from skiptune.objectives.losses import level_weights
from skiptune.objectives.metrics import Sample, Standard
from skiptune.objectives.reference import Reference

__all__ = [
    "OF_IMAGES",
    "OF_PAIRS",
    "SLOPED",
    "block_images",
    "cotangents",
    "frechet_cotangents",
    "kid_cotangents",
    "loss_cotangents",
    "over_blocks",
    "teacher_cotangents",
]

Array = NDArray[np.float64]

OF_IMAGES: Final = ("fd", "kid", "teacher_loss")
"""Metrics of sampled images whose slopes are known."""

OF_PAIRS: Final = (FEATURE_LOSS, PIXEL_LOSS)
"""Denoising losses, whose slopes are those of pairs of a real image and noise."""

SLOPED: Final = (*OF_IMAGES, *OF_PAIRS)
"""Metrics whose slopes are known."""

# Counts come in whole chunks: 250 images serve d = 64, whose 4 d are 256.
_SLACK = 0.975


def block_images(key: str, dim: int, chunk: int) -> int:
    """Return the images of a block: whole chunks, as many as the metric needs to be taken alone.

    Arguments:
        key: One of `SLOPED`.
        dim: Features d.
        chunk: Images of a chunk.
    """
    if key != "fd":
        return chunk
    return chunk * max(1, math.ceil(_SLACK * LEAST_PER_FEATURE * dim / chunk))


def over_blocks(slopes: ArrayLike) -> tuple[Array, Array]:
    """Return the mean of slopes over independent blocks, and its standard error.

    Arguments:
        slopes: [R, ...] of R >= 2 blocks of equally many images.

    Returns:
        float64 [...] each; the error has R - 1 degrees of freedom.

    Raises:
        ObjectiveError: For fewer than two blocks.
    """
    found = np.asarray(slopes, dtype=np.float64)
    if len(found) < 2:
        raise ObjectiveError(
            "slopes",
            expected="at least 2 blocks of images",
            found=f"{len(found)}",
            hint="give more images: a block is 4 images per feature, in whole chunks",
        )
    return found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(len(found))


def cotangents(key: str, sample: Sample, standard: Standard) -> NDArray[np.float32]:
    """Return how much a metric moves with each image's features.

    Arguments:
        key: One of `OF_IMAGES`.
        sample: The images, as stored.
        standard: What they are held against.

    Returns:
        float32 [N, d]: N times the derivative of the metric in row i.

    Raises:
        ObjectiveError: For another metric, and as the metric itself.
    """
    rows = sample.whole("features")
    if key == "fd":
        found = frechet_cotangents(rows, standard.require_real().reference)
    elif key == "kid":
        found = kid_cotangents(rows, standard.require_real().kernel)
    elif key == "teacher_loss" and standard.teacher is not None:
        found = teacher_cotangents(rows, standard.teacher.whole("features"))
    else:
        raise ObjectiveError(
            f"slopes of {key}",
            expected=f"one of {', '.join(OF_IMAGES)}",
            found=key,
            hint="search without gradients: search.sampler: tpe",
        )
    return found.astype(np.float32)


def frechet_cotangents(
    features: ArrayLike, reference: Reference, *, correction: Correction = QUARTERS
) -> Array:
    """Return N times the derivative of the corrected Frechet distance in each row.

    A subset s of n images has moments (m, S) and contributes, with g = 2 (m - m_r) and C = I - T
    of `frechet.expand`,

        d FD_s / d x_i = g / n + 2 C (x_i - m) / (n - 1)

    which the correction sums over its subsets with its weights.

    Arguments:
        features: [N, d] in the order of their seeds (groups are row % 4).
        reference: Statistics of real features.
        correction: Weights over subsets, as `paired.scored` takes them.

    Returns:
        float64 [N, d].

    Raises:
        ObjectiveError: When the features do not fit the reference, are not finite, or are too few.
    """
    least = math.ceil(_SLACK * LEAST_PER_FEATURE * reference.dim)
    rows = check_features(features, reference, least=least)
    groups = np.arange(len(rows)) % GROUPS
    found = np.zeros_like(rows)
    for share in correction:
        for subset in share.subsets:
            inside = np.isin(groups, subset)
            some = rows[inside]
            count, mean = len(some), some.mean(axis=0)
            centred = some - mean
            slope = expand(mean, centred.T @ centred / (count - 1), reference)
            moved = slope.gradient / count + 2 * (centred @ slope.curvature) / (count - 1)
            found[inside] += share.weight / len(share.subsets) * len(rows) * moved
    return found


def kid_cotangents(features: ArrayLike, real: ArrayLike | KernelReference) -> Array:
    """Return N times the derivative of KID in each row.

    With k(x, y) = (x'y / d + 1)^3 and k' = 3 (x'y / d + 1)^2 y / d, it is twice the mean k' to the
    other generated images minus twice that to the real ones.

    Arguments:
        features: [N, d], N >= 2.
        real: [M, d], M >= 2, or what is kept of them.

    Returns:
        float64 [N, d].

    Raises:
        ObjectiveError: When the features are too few, of unequal dimension, or not finite.
    """
    reference = real if isinstance(real, KernelReference) else KernelReference(real)
    rows = check_rows(features, where="features", least=2, dim=reference.dim)
    found = np.zeros(rows.shape)
    for place, block in row_blocks(rows):
        for other, second in row_blocks(rows):
            found[place] += _kernel_slopes(block, second, itself=other == place) / (len(rows) - 1)
        for _, second in row_blocks(reference.rows):
            found[place] -= _kernel_slopes(block, second) / len(reference.rows)
    return 2 * found


def teacher_cotangents(features: ArrayLike, teacher_features: ArrayLike) -> Array:
    """Return N times the derivative of the mean teacher loss in each row: 2 (f - f_t) / d.

    Arguments:
        features: [N, d]; row i was made from the same seed as row i of `teacher_features`.
        teacher_features: [N, d].

    Returns:
        float64 [N, d].
    """
    rows = np.asarray(features, dtype=np.float64)
    found: Array = 2 * (rows - np.asarray(teacher_features)) / rows.shape[1]
    return found


def loss_cotangents(baseline: ArrayLike) -> Array:
    """Return N times the derivative of a denoising loss in the losses of each pair, by level.

    R = sum_s w_s mean_i(l_is) / mean_i(b_is) has N d R / d l_is = w_s / mean(b_s), the same for
    all pairs (`losses.loss_score`, all levels alike).

    Arguments:
        baseline: [N, S], losses of the untouched network on the same pairs.

    Returns:
        float64 [S].

    Raises:
        ObjectiveError: For losses that are not finite, negative, or 0 at some level.
    """
    return level_weights(baseline)


def _kernel_slopes(block: Array, second: Array, *, itself: bool = False) -> Array:
    """Return the sum over `second` of d k(x, y) / d x for each x of `block`."""
    dim = block.shape[1]
    weights = 3 * np.square(block @ second.T / dim + 1) / dim
    if itself:
        np.fill_diagonal(weights, 0)
    slopes: Array = weights @ second
    return slopes
