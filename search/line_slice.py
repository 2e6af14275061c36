"""A slice of the landscape: the line from the untouched network to the best schedule and beyond.

Schedules are points of log scales x; the line is t x_best, with the baseline at t = 0 and the best
schedule at t = 1. Each evaluated schedule has a place on it, the foot of its perpendicular, and a
distance from it. Along the line the moment model (`objectives.moment_model`) predicts the distance
where it can serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skiptune.search.study import OpenStudy

__all__ = ["NEAR", "Point", "Prediction", "place_on", "predicted"]

Array = NDArray[np.float64]

ENDS: Final = (-0.5, 1.5)
"""Places between which the line is predicted."""

PLACES: Final = 41

NEAR: Final = 0.35
"""A schedule whose distance from the line is at most this part of the line's length is near it."""

FOLDS: Final = 5  # as the sampler takes them


@dataclass(frozen=True)
class Point:
    """An evaluated schedule beside the line.

    Arguments:
        number: Of the evaluation; 0 is the baseline.
        place: Its foot on the line: 0 is the baseline, 1 the best schedule.
        away: Its distance from the line, in lengths of the line.
        gain: A part of the baseline's value, positive is better.
        error: Its standard error.
    """

    number: int
    place: float
    away: float
    gain: float
    error: float


@dataclass(frozen=True)
class Prediction:
    """What the model says along the line.

    Arguments:
        places: Where.
        gains: Predicted gains there, parts of the baseline's value.
        errors: Their predicted standard errors.
        schedules: Evaluations that it was made of, the baseline included.
        left_out: Root mean square error of gains of schedules that it was made without.
    """

    places: tuple[float, ...]
    gains: tuple[float, ...]
    errors: tuple[float, ...]
    schedules: int
    left_out: float


def place_on(best: Array, logs: Array) -> tuple[float, float]:
    """Return the place of a schedule on the line, and its distance from it in line lengths.

    Arguments:
        best: float64 [p], the logarithms of the best schedule's parameters, not all 0.
        logs: float64 [p], of the schedule.
    """
    squared = float(best @ best)
    place = float(best @ logs) / squared
    rest = logs - place * best
    return place, math.sqrt(float(rest @ rest) / squared)


def predicted(study: OpenStudy, params: Mapping[str, float]) -> Prediction | None:
    """Return what the moment model of a study's stored features says along the line.

    Arguments:
        study: The open study, whose one metric is the Frechet distance.
        params: Of the best schedule: where the line goes.

    Returns:
        None where fewer than three evaluations can be read.
    """
    from skiptune.objectives.moment_model import MomentModel, left_out
    from skiptune.search.surrogate import best as best_of
    from skiptune.search.surrogate import nearest

    moments = study.moments
    known = moments.known()
    if not known or study.space.knobs:  # the model knows scales alone
        return None
    seen = nearest(known, best_of(known))
    if len(seen) < 3:
        return None
    reference, unit = moments.reference, known[0].value
    model = MomentModel(seen, reference)
    errors = left_out(seen, reference, folds=FOLDS)
    places = np.linspace(*ENDS, PLACES)
    end = np.log([params[name] for name in study.space.scale_names])
    gains, deviations = [], []
    for place in places:
        logs = place * end
        found = model.predict(logs)
        variance = found.variance + model.rest_at(logs)
        gains.append((unit - found.value) / unit)
        deviations.append(errors.scale * math.sqrt(variance) / unit)
    return Prediction(
        places=tuple(places.tolist()),
        gains=tuple(gains),
        errors=tuple(deviations),
        schedules=len(seen),
        left_out=errors.error / unit,
    )
