"""Statistics of losses on fixed pairs: relative to the baseline per noise level, with errors.

R = sum_s w_s mean_i(l_is) / mean_i(b_is) over levels s and pairs i; the baseline's is 1. Losses
are means, and both schedules meet the same pairs, so differences are plain paired means without a
bias in N. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.paired import Estimate

__all__ = ["Level", "LossScore", "level_weights", "loss_score"]

Array = NDArray[np.float64]

_LEAST_PAIRS = 2


class LossScore(NamedTuple):
    """A loss over all levels, relative to the baseline, and its parts.

    Arguments:
        value: R = sum over levels of w_s mean(l_s) / mean(b_s), the weights summing to 1; the
            baseline's is 1.
        difference: R - 1 with the same error; negative is better.
        levels: One per noise level.
        influence: float64 [K], independent values whose mean has the error of R: of each pair,
            or where pairs share images of each image.
    """

    value: Estimate
    difference: Estimate
    levels: tuple[Level, ...]
    influence: Array


@dataclass(frozen=True)
class Level:
    """A loss at one noise level.

    Arguments:
        mean: The mean over the pairs; unbiased.
        difference: The paired mean difference to the baseline; unbiased, negative is better.
        ratio: mean(l) / mean(b), with the error of the delta method.
    """

    mean: Estimate
    difference: Estimate
    ratio: Estimate


def loss_score(
    losses: ArrayLike,
    baseline: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    images: ArrayLike | None = None,
) -> LossScore:
    """Return a loss relative to the baseline's on the same pairs, with standard errors.

    R = sum_s w_s mean_i(l_is) / mean_i(b_is). Dividing per level keeps the noisiest levels from
    deciding alone. The error is that of the mean of the per-pair influence values
    sum_s w_s (l_is - r_s b_is) / mean(b_s), with r_s = mean(l_s) / mean(b_s) (delta method), and
    so heeds that the levels of a pair go together. R has a bias of order 1/N from its
    denominators, which vanishes with the difference itself; the per-level differences have none.

    Arguments:
        losses: [N, S], N >= 2; row i of the same pair as row i of `baseline`.
        baseline: [N, S], of the untouched network.
        weights: [S], at least 0, not all 0; scaled to sum 1. None weighs all levels alike.
        images: [N], which image each pair has (`image_indices`); needed where pairs share images,
            whose errors go together: the error then rests on sums over images. None says that
            no two pairs do.

    Raises:
        ObjectiveError: For arrays that are not finite, negative or do not fit together, and for
            a baseline whose loss is 0 at some level.
    """
    rows, base = _checked_losses(losses, "losses"), _checked_losses(baseline, "baseline losses")
    if rows.shape != base.shape:
        raise ObjectiveError(
            "paired losses",
            expected=f"{list(base.shape)}, as the baseline's",
            found=str(list(rows.shape)),
            hint="compare evaluations over the same seeds and noise levels",
        )
    shares = _checked_weights(weights, rows.shape[1])
    groups = _checked_groups(images, len(rows))
    count = len(rows)
    mean, base_mean = rows.mean(axis=0), _mean_above_zero(base)
    ratio = mean / base_mean
    influence = (rows - ratio * base) / base_mean
    difference = rows - base
    levels = tuple(
        Level(
            mean=Estimate(float(mean[s]), _error(rows[:, s], groups), count),
            difference=Estimate(
                float(difference[:, s].mean()), _error(difference[:, s], groups), count
            ),
            ratio=Estimate(float(ratio[s]), _error(influence[:, s], groups), count),
        )
        for s in range(rows.shape[1])
    )
    error = _error(influence @ shares, groups)
    # Summed as differences, so that the baseline's own is 0 exactly.
    gap = float(shares @ (ratio - 1))
    return LossScore(
        Estimate(1 + gap, error, count),
        Estimate(gap, error, count),
        levels,
        _independent(influence @ shares, groups),
    )


def level_weights(baseline: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Return by how much R of `loss_score` moves with the mean loss at each level, float64 [S].

    Arguments:
        baseline: [N, S], of the untouched network.
        weights: As for `loss_score`.

    Raises:
        ObjectiveError: As `loss_score`.
    """
    base = _checked_losses(baseline, "baseline losses")
    found: Array = _checked_weights(weights, base.shape[1]) / _mean_above_zero(base)
    return found


def _mean_above_zero(base: Array) -> Array:
    """Return the baseline's mean loss at each level, which others are divided by."""
    mean: Array = base.mean(axis=0)
    if not (mean > 0).all():
        raise ObjectiveError(
            "baseline losses",
            expected="a loss above 0 at every noise level",
            found=f"0 at level {int(np.argmin(mean))}",
            hint="leave that noise level out",
        )
    return mean


def _independent(values: Array, groups: NDArray[np.int64] | None) -> Array:
    """Return centred values of which no two share a group: sums over groups, mean-sized."""
    centred = np.asarray(values - values.mean(), dtype=np.float64)
    if groups is None:
        return centred
    sums = np.bincount(groups, weights=centred).astype(np.float64)
    return sums * (len(sums) / len(values))


def _error(values: Array, groups: NDArray[np.int64] | None) -> float:
    """Return the standard error of the mean of values whose sums over groups are independent."""
    parts = _independent(values, groups)
    return float(parts.std(ddof=1)) / math.sqrt(len(parts))


def _checked_losses(losses: ArrayLike, where: str) -> Array:
    rows = np.asarray(losses, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < _LEAST_PAIRS or rows.shape[1] < 1:
        raise ObjectiveError(
            where,
            expected=f"[N, S], at least {_LEAST_PAIRS} pairs and one noise level",
            found=str(list(rows.shape)),
            hint="compute more pairs",
        )
    good = np.isfinite(rows) & (rows >= 0)
    if not good.all():
        bad = np.flatnonzero(~good.all(axis=1))
        raise ObjectiveError(
            where,
            expected="finite numbers, at least 0",
            found=f"{len(bad)} of {len(rows)} pairs with others, the first in row {bad[0]}",
            hint="the network's estimates diverge there: leave this schedule out",
        )
    return rows


def _checked_weights(weights: ArrayLike | None, levels: int) -> Array:
    shares = np.ones(levels) if weights is None else np.asarray(weights, dtype=np.float64)
    good = shares.shape == (levels,) and bool((np.isfinite(shares) & (shares >= 0)).all())
    if not good or shares.sum() <= 0:
        raise ObjectiveError(
            "weights of noise levels",
            expected=f"{levels} finite numbers, at least 0 and not all 0",
            found=str(shares.tolist()),
            hint="leave the weights out to weigh all levels alike",
        )
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _checked_groups(images: ArrayLike | None, count: int) -> NDArray[np.int64] | None:
    if images is None:
        return None
    index = np.asarray(images)
    distinct, groups = np.unique(index, return_inverse=True)
    if index.shape != (count,) or len(distinct) < _LEAST_PAIRS:
        raise ObjectiveError(
            "images of the pairs",
            expected=f"one index for each of {count} pairs, not all of one image",
            found=f"{list(index.shape)}, {len(distinct)} distinct",
            hint="give skiptune.objectives.denoising.image_indices(seeds, images)",
        )
    return groups.astype(np.int64)
