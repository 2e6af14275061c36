"""Teacher loss: how far a few-step image is from what many steps make of the same noise.

    l_i = mean over features of (phi(few-step image of seed i) - phi(teacher image of seed i))^2

The teacher is the untouched network under a setting of many steps (Heun with 50 steps, 99
evaluations, unless a study says otherwise); both images begin with the noise and the label of the
same seed. That a solver is judged by its distance to a finer one in a feature space is common
practice (LD3, arXiv 2405.15506, with LPIPS). Both feature arrays are stored per-image arrays, so
the score is a pure function of them; it is a mean, so it has no bias in N.

A schedule that follows the teacher better inherits its faults: the loss never falls below what
the teacher itself is worth. The statistics need no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.paired import Estimate

if TYPE_CHECKING:
    from torch import Tensor

    from skiptune.objectives.extractors import Extractor

__all__ = ["TeacherScore", "teacher_loss_of_images", "teacher_losses", "teacher_score"]

Array = NDArray[np.float64]

_LEAST_IMAGES = 2


class TeacherScore(NamedTuple):
    """The teacher loss of a schedule.

    Arguments:
        value: The mean over the images; unbiased.
        difference: The paired mean difference to the baseline; unbiased, negative is better.
    """

    value: Estimate
    difference: Estimate


def teacher_losses(features: ArrayLike, teacher_features: ArrayLike) -> Array:
    """Return each image's mean squared feature distance to the teacher's image.

    Arguments:
        features: [N, d]; row i was made from the same seed as row i of `teacher_features`.
        teacher_features: [N, d] of the same extractor.

    Returns:
        float64 [N], at least 0.

    Raises:
        ObjectiveError: When the two differ in shape or are not finite.
    """
    rows = _checked(features, "features")
    teacher = _checked(teacher_features, "the teacher's features")
    _check_same(rows, teacher, "features", "the teacher's")
    return np.asarray(np.square(rows - teacher).mean(axis=1), dtype=np.float64)


def teacher_score(
    features: ArrayLike, baseline_features: ArrayLike, teacher_features: ArrayLike
) -> TeacherScore:
    """Return the mean loss and its paired difference to the baseline, with standard errors.

    Arguments:
        features: [N, d], N >= 2; row i of all three arrays was made from one seed.
        baseline_features: [N, d], few steps of the untouched network.
        teacher_features: [N, d], many steps of the untouched network.

    Raises:
        ObjectiveError: When the arrays differ in shape, are not finite, or have under 2 rows.
    """
    base = teacher_losses(baseline_features, teacher_features)
    losses = teacher_losses(features, teacher_features)
    if len(losses) < _LEAST_IMAGES:
        raise ObjectiveError(
            "paired features",
            expected=f"at least {_LEAST_IMAGES} images",
            found=str(len(losses)),
            hint="sample more images",
        )
    return TeacherScore(_mean(losses), _mean(losses - base))


def teacher_loss_of_images(
    extractor: Extractor, images: Tensor, teacher_features: Tensor | ArrayLike
) -> Tensor:
    """Return each image's loss, differentiable in the images.

    Images are clamped to -1..1 and not rounded to bytes, as rounding has no gradient; stored
    features are of rounded images, so the two differ by that much.

    Arguments:
        extractor: phi; its `of_floats` is used.
        images: Few-step images, floating [N, C, H, W], about -1..1, as `sample_float` makes them.
        teacher_features: [N, d], row i of the same seed as image i.

    Returns:
        float32 [N] on the extractor's device.

    Raises:
        ObjectiveError: When the features are not finite or do not fit the images'.
    """
    import torch

    found = extractor.of_floats(images.to(torch.float32).clamp(-1, 1))
    teacher = torch.as_tensor(teacher_features, device=found.device).detach().to(found.dtype)
    if teacher.shape != found.shape or not bool(teacher.isfinite().all()):
        raise ObjectiveError(
            "the teacher's features",
            expected=f"finite numbers {list(found.shape)}, one row per image",
            found=f"{list(teacher.shape)}, {int((~teacher.isfinite()).sum())} not finite",
            hint="sample the teacher on the same seeds with the same extractor",
        )
    return (found - teacher).square().mean(dim=1)


def _mean(values: Array) -> Estimate:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), error, len(values))


def _checked(features: ArrayLike, where: str) -> Array:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ObjectiveError(
            where,
            expected="[N, d]",
            found=str(list(rows.shape)),
            hint="give features as an extractor returns them",
        )
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        bad = np.flatnonzero(~good)
        raise ObjectiveError(
            where,
            expected="finite numbers",
            found=f"{len(bad)} of {len(rows)} rows with others, the first is row {bad[0]}",
            hint="leave out images that diverged",
        )
    return rows


def _check_same(rows: Array, other: Array, where: str, whose: str) -> None:
    if rows.shape != other.shape:
        raise ObjectiveError(
            where,
            expected=f"{list(other.shape)}, as {whose}",
            found=str(list(rows.shape)),
            hint="compare features of one extractor over the same seeds",
        )
