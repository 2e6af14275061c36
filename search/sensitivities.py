"""How much the objective moves with each scale, from whatever a study has: slopes or scores.

Slopes are derivatives, measured at one schedule. Without any, the differences of the evaluated
schedules are regressed on the logarithms of their parameters, where they are enough, else ranked
against them: both are averages over what the search has tried, and say so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.ranks import rank_correlation
from skiptune.search.slope_map import Slopes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = [
    "LEAST_IMPORTANT",
    "PART",
    "ByLevel",
    "Sensitivities",
    "Sensitivity",
    "from_scores",
    "from_slopes",
    "importances",
]

Array = NDArray[np.float64]

PART: Final = 0.1
"""Changes are those that this part more of a scale makes."""

SPARE: Final = 4
"""Schedules beyond one for each coefficient that a regression needs: errors of 4 degrees."""

LEAST_RANKED: Final = 5
"""Schedules from which on ranks are worth telling."""

LEAST_IMPORTANT: Final = 10
"""Schedules from which on importances are worth telling: their best tenth is one of them."""

_SINGULAR = 1e-6  # part of the largest singular value at which directions were not tried

How = Literal["slopes", "regression", "ranks", "nothing"]


@dataclass(frozen=True)
class Sensitivity:
    """What one scale does.

    Arguments:
        name: A skip's address, or a parameter.
        change: Change of the objective, as a part of the baseline's value, that `PART` more of
            the scale makes: below zero it is better. Of ranks the rank correlation with the
            objective, -1 to 1.
        error: Its standard error; of ranks half of the 95 % interval's width over 1.96.
    """

    name: str
    change: float
    error: float


@dataclass(frozen=True)
class ByLevel:
    """What each skip's scale does at each noise level alone, as `Sensitivity` counts it.

    Arguments:
        levels: The noise levels at which the network is evaluated, decreasing.
        changes: By skip, deepest first, and level.
        errors: Their standard errors.
    """

    levels: tuple[float, ...]
    changes: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Sensitivities:
    """What all scales do, in their order.

    Arguments:
        how: ``slopes``, ``regression``, ``ranks``, or ``nothing``: too little is known.
        of: What it was learnt from, in words.
        rows: One per skip or parameter, deepest first.
        by_level: Of slopes, for the first rows, which are the skips: level by level.
    """

    how: How
    of: str
    rows: tuple[Sensitivity, ...] = ()
    by_level: ByLevel | None = None


def from_slopes(
    slopes: Slopes,
    names: Sequence[str],
    *,
    baseline: float,
    of: str,
    bounds: Sequence[tuple[float, float]] = (),
) -> Sensitivities:
    """Return what measured slopes say of each skip, all noise levels together.

    Where noise intervals have scales of their own, each interval's follow, as `NAME@PLACE`.

    Arguments:
        slopes: Of one schedule.
        names: Of the skips, deepest first.
        baseline: The baseline's value, above 0.
        of: Which schedule.
        bounds: Noise levels [low, high) of each interval, noisiest first.
    """
    times = math.log1p(PART) / baseline
    values, errors = slopes.skips
    rows = tuple(
        Sensitivity(name, float(value * times), float(error * times))
        for name, value, error in zip(names, values, errors, strict=True)
    )
    if bounds:
        values, errors = slopes.within(bounds)
        rows += tuple(
            Sensitivity(f"{name}@{place}", float(value * times), float(error * times))
            for place in range(len(bounds))
            for name, value, error in zip(names, values[:, place], errors[:, place], strict=True)
        )
    changes, deviations = (part * times for part in slopes.map)
    by_level = ByLevel(
        slopes.levels,
        tuple(tuple(row) for row in changes.tolist()),
        tuple(tuple(row) for row in deviations.tolist()),
    )
    counted = "" if slopes.units is None else f", errors of {slopes.units.count} prompts"
    said = f"slopes of {of}, {len(slopes.blocks)} blocks of seeds{counted}"
    return Sensitivities("slopes", said, rows, by_level)


def from_scores(logs: Array, gains: Array, names: Sequence[str]) -> Sensitivities:
    """Return what the scores of a search say of each parameter.

    A least-squares plane where the schedules are enough and have gone in every direction, with
    errors from what it leaves; else Spearman's rank correlations.

    Arguments:
        logs: float64 [n, p], logarithms of the parameters, of schedules on equally many images.
        gains: float64 [n], as parts of the baseline's value, positive is better.
        names: Of the parameters, p.
    """
    count, size = logs.shape
    centred = logs - logs.mean(axis=0) if count else logs
    spread = np.linalg.svd(centred, compute_uv=False) if count > size else np.zeros(1)
    if count >= size + 1 + SPARE and spread[-1] > _SINGULAR * spread[0]:
        design = np.column_stack([np.ones(count), centred])
        found, *_ = np.linalg.lstsq(design, -gains, rcond=None)
        left = -gains - design @ found
        variance = float(left @ left) / (count - size - 1)
        errors = np.sqrt(variance * np.diagonal(np.linalg.inv(design.T @ design)))
        times = math.log1p(PART)
        rows = tuple(
            Sensitivity(name, float(value * times), float(error * times))
            for name, value, error in zip(names, found[1:], errors[1:], strict=True)
        )
        return Sensitivities("regression", f"a plane through {count} schedules", rows)
    if count >= LEAST_RANKED and len(set(gains.tolist())) > 1:
        rows = tuple(_ranked(name, logs[:, place], gains) for place, name in enumerate(names))
        return Sensitivities("ranks", f"rank correlations over {count} schedules", rows)
    what = "1 schedule is" if count == 1 else f"{count} schedules are"
    return Sensitivities("nothing", f"{what} too few")


def _ranked(name: str, logs: Array, gains: Array) -> Sensitivity:
    if len(set(logs.tolist())) == 1:
        return Sensitivity(name, 0.0, 1.0)
    found = rank_correlation(logs.tolist(), (-gains).tolist())
    return Sensitivity(name, found.value, (found.high - found.low) / 2 / 1.96)


def importances(
    params: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    distributions: Mapping[str, BaseDistribution],
) -> dict[str, float]:
    """Return how much each parameter decides whether a schedule is among the best, summing to 1.

    Optuna's PED-ANOVA: how far the best tenth's distribution of a parameter is from that of all
    (Watanabe, Bansal and Hutter 2023, arXiv 2304.10255).

    Arguments:
        params: Of each schedule.
        values: Lower is better.
        distributions: By parameter.

    Returns:
        Empty with fewer than `LEAST_IMPORTANT` schedules or where all are equal.
    """
    if len(values) < LEAST_IMPORTANT or len(set(values)) == 1:
        return {}
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.InMemoryStorage()
        # Optuna's own `create_study` would tell the user of it.
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], study_name="asked")
        study = optuna.Study("asked", storage)
        for given, value in zip(params, values, strict=True):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(given), distributions=dict(distributions), value=value
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
