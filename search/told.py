"""What Optuna is told of an evaluation: values, constraints, and attributes for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skiptune.search.history import DIVERGED
from skiptune.storage.records import (
    CONSTRAINT_ERRORS,
    FIRST_BESIDE,
    FIRST_CONSTRAINT,
    Evaluation,
    Score,
)

__all__ = ["Scores", "attributes_of", "constraints_of"]


class Scores:
    """The scores of one rung by place: objectives, constraints, what is measured beside."""

    def __init__(self, every: Sequence[Score]) -> None:
        self.first = every[0]
        self._objectives = [score for score in every if score.place < FIRST_CONSTRAINT]
        self.limits = [s for s in every if FIRST_CONSTRAINT <= s.place < FIRST_BESIDE]
        self.others = [s for s in every if s.place > 0]

    @property
    def values(self) -> list[float]:
        """The values of the objectives."""
        return [score.value for score in self._objectives]

    @property
    def differences(self) -> list[float | None]:
        """Their differences to the baseline, None of the baseline itself."""
        return [score.difference for score in self._objectives]


def constraints_of(evaluation: Evaluation, scores: Scores | None) -> dict[str, float]:
    """Return what Optuna is told of constraints: above 0 is violated."""
    found = {DIVERGED: 1.0} if evaluation.state == "diverged" else {}
    for score in scores.limits if scores is not None else ():
        found[score.metric] = score.value - CONSTRAINT_ERRORS * score.standard_error
    return found


def attributes_of(evaluation: Evaluation, scores: Scores | None) -> dict[str, Any]:
    """Return what a person reads at a trial: images, errors, differences, other metrics."""
    score = None if scores is None else scores.first
    attributes: dict[str, Any] = {"kind": evaluation.kind}
    if evaluation.reason:
        attributes["reason"] = evaluation.reason
    if score is not None:
        attributes |= {
            "images": score.images,
            "raw": score.raw,
            "corrected": score.value,
            "standard error": score.standard_error,
        }
    if score is not None and score.difference is not None:
        attributes |= {
            "difference to baseline": score.difference,
            "its standard error": score.difference_error,
        }
    for other in scores.others if scores is not None else ():
        attributes[other.metric] = [other.value, other.standard_error]
    return attributes
