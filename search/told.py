"""What Optuna is told of an evaluation: values, constraints, and attributes for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX

from skiptune.search.history import DIVERGED
from skiptune.storage.records import (
    CONSTRAINT_ERRORS,
    FIRST_BESIDE,
    FIRST_CONSTRAINT,
    Evaluation,
    Score,
)

__all__ = ["Scores", "attached", "attributes_of", "constraints_of"]

_INTERVAL: Final = 1.96  # standard errors of a 95 % interval


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


def attributes_of(
    evaluation: Evaluation,
    scores: Scores | None,
    full: Scores | None = None,
    *,
    nfe: float | None = None,
    screened: bool = False,
) -> dict[str, Any]:
    """Return what a person reads at a trial: images, errors, differences, other metrics.

    Arguments:
        evaluation: Whose trial it is.
        scores: Of the trial's rung, None where the evaluation has ended without.
        full: Of the baseline, of whose value gains are parts.
        nfe: Images through the network per image made, where known.
        screened: Whether the lowest rung is measured in other features than the baseline's value.
    """
    score = None if scores is None else scores.first
    attributes: dict[str, Any] = {"kind": evaluation.kind}
    if evaluation.reason:
        attributes["reason"] = evaluation.reason
    if score is not None:
        attributes |= {
            "images": score.images,
            "rung": score.level + 1,
            "raw": score.raw,
            "corrected": score.value,
            "standard error": score.standard_error,
        }
    if nfe is not None:
        attributes["NFE"] = nfe
    if score is not None and score.difference is not None:
        attributes |= {
            "difference to baseline": score.difference,
            "its standard error": score.difference_error,
        }
        other_unit = screened and evaluation.kind == "proposal" and score.level == 0
        if full is not None and full.first.value > 0 and not other_unit:
            attributes["gain %"] = -100 * score.difference / full.first.value
    for other in scores.others if scores is not None else ():
        attributes[other.metric] = [other.value, other.standard_error]
    # The dashboard does not know Optuna 5's constraints: an infeasible trial has to say so.
    violated = [name for name, gap in constraints_of(evaluation, scores).items() if gap > 0]
    attributes["feasible"] = "no" if violated else "yes"
    if violated:
        attributes["violated"] = violated
    return {**attributes, "verdict": _verdict(evaluation, score, violated)}


def _verdict(evaluation: Evaluation, score: Score | None, violated: Sequence[str]) -> str:
    """Return in words what is known; a search alone proves nothing."""
    if score is None:
        return evaluation.state
    if evaluation.kind == "baseline":
        return "baseline"
    if evaluation.kind == "confirm":
        return "win on fresh seeds"
    if violated:
        return "infeasible"
    if score.difference is None:
        return "no paired difference"
    half = _INTERVAL * (score.difference_error or 0.0)
    if abs(score.difference) <= half:
        return "not told apart from the baseline"
    return "better in the search, not confirmed" if score.difference < 0 else "worse"


def attached(digest: str | None, name: str = "images.png") -> dict[str, str]:
    """Return Optuna's note of a PNG that belongs to a trial: its artifact id is its digest.

    Arguments:
        digest: SHA-256 of the file in our store; None has no note.
        name: Shown to people.
    """
    if digest is None:
        return {}
    meta = {
        "artifact_id": digest,
        "filename": name,
        "mimetype": "image/png",
        "encoding": None,
    }
    return {f"{ARTIFACTS_ATTR_PREFIX}{digest}": json.dumps(meta)}
