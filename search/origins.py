"""From which schedule a descent goes on, and what it has to know there, decided from the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import BudgetSpentError, NetworkError, SpecError
from skiptune.search.descent import Origin, step_downhill
from skiptune.search.sloped import origin_level
from skiptune.search.slopes import enter_slopes, find_slopes, sloped_block, slopes_of
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.warm_start import begun, next_start
from skiptune.storage import ledger
from skiptune.storage.budgets import SLOPES_BLOCK
from skiptune.storage.records import Evaluation, Turn

__all__ = ["enter_missing", "expected_decrease", "logs_of", "named", "origin_of", "tried"]


@dataclass(frozen=True)
class _Place:
    """The best schedule so far.

    Arguments:
        evaluation: Of the search.
        images: All of which are stored.
    """

    evaluation: Evaluation
    images: int


def enter_missing(study: OpenStudy, *, turn: Turn | None = None) -> bool | None:
    """Enter the slopes that a descent needs next; where it starts warm, the best start's images.

    Returns:
        True where they were entered now, False where they are not all there yet (or the baseline
        is not), None where nothing is missing.

    Raises:
        TurnLostError: The turn went to another worker.
        NetworkError: No derivatives are finite anywhere.
    """
    place = _place(study)
    if place is None:
        return False
    if next_start(study) is not None:
        return None  # it is proposed before a step is
    raised = _raise_best_start(study)
    if raised is not None:
        return raised
    baseline = ledger.baseline_score(study.database, study.id)
    assert baseline is not None  # there is a place
    # A warm start is better than the baseline before that has any slopes.
    ended: list[Evaluation] = []
    for there in (place, _Place(baseline[0], baseline[1].images)):
        entered = find_slopes(study, there.evaluation)
        if entered is None:
            enter_slopes(study, there.evaluation, there.images, turn=turn)
            return True
        if entered.state == "running":
            return False
        if _complete(study):
            return None
        ended.append(entered)
    raise NetworkError(
        f"study {study.spec.study}: {ended[-1].label}",
        expected="finite derivatives of the untouched network's images",
        found=ended[-1].reason or ended[-1].state,
        hint="search without gradients, under a new name: -s search.sampler=tpe",
    )


def origin_of(study: OpenStudy) -> Origin:
    """Return where steps begin; `enter_missing` has said that nothing is missing.

    Where the best schedule's own derivatives are not finite, it is the newest before it that has
    some.

    Raises:
        NotSampledError, LostFileError: A file is being made again.
    """
    place = _place(study)
    assert place is not None
    complete = _complete(study)
    own = [one for one in complete if one.schedule == place.evaluation.schedule]
    entered = (own or complete)[-1]
    so_far = [one for one in complete if one.number <= entered.number]
    slopes = [slopes_of(study, one).along(study.space, _params(study, one)) for one in so_far]
    return Origin.after(slopes, logs=logs_of(study, entered))


def expected_decrease(study: OpenStudy) -> float | None:
    """Return by how much a whole step of a descent is expected to improve on its origin.

    The larger of what was expected at the last two origins; 0 where every step straight downhill
    from the last one has been tried.

    Returns:
        At least 0, in the metric's unit; None before that is known.

    Raises:
        NotSampledError, LostFileError: A file is being made again.
    """
    place, complete = _place(study), _complete(study)
    own = [one for one in complete if place and one.schedule == place.evaluation.schedule]
    if not own:
        return None
    complete = [one for one in complete if one.number <= own[-1].number]
    size = len(study.space.scale_names)
    low, high = (np.full(size, np.log(end)) for end in (study.space.low, study.space.high))
    slopes = [slopes_of(study, one).along(study.space, _params(study, one)) for one in complete]
    origins = [
        Origin.after(slopes[: k + 1], logs=logs_of(study, one)) for k, one in enumerate(complete)
    ]
    if step_downhill(origins[-1], tried(study), box=(low, high)) is None:
        return 0.0
    two = [origin.expected(low, high) for origin in origins[-2:]]
    return max(two) if len(two) == 2 else None


def named(study: OpenStudy, of: str) -> tuple[Evaluation, int]:
    """Return a schedule of the search by its name, and how many of its images are scored.

    Arguments:
        study: The open study, whose baseline has a score.
        of: ``baseline``; ``best``, the best at the highest rung that has any, or the baseline
            where none is better; or the number of an evaluation.

    Raises:
        SpecError: There is no such schedule, or it has no score yet.
    """
    found = ledger.baseline_score(study.database, study.id)
    assert found is not None
    baseline, full = found
    if of == "baseline":
        return baseline, full.images
    proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    by_id = {one.id: one for one in proposals}
    scores = [
        score for score in ledger.scores(study.database, study.id)
        if score.evaluation_id in by_id and score.place == 0 and score.difference is not None
    ]  # fmt: skip
    if of == "best":
        images = max((score.images for score in scores), default=0)
        here = [(score.difference or 0.0, score) for score in scores if score.images == images]
        better = min(here, key=lambda one: one[0], default=(0.0, full))
        return (
            (by_id[better[1].evaluation_id], images) if better[0] < 0 else (baseline, full.images)
        )
    own = [s for s in scores if str(by_id[s.evaluation_id].number) == of]
    if not own:
        raise SpecError(
            f"study {study.spec.study}",
            expected="`baseline`, `best`, or the number of a scored evaluation",
            found=of,
            hint=f"list them with `skiptune status {study.spec.study}`",
        )
    top = max(own, key=lambda score: score.images)
    return by_id[top.evaluation_id], top.images


def tried(study: OpenStudy) -> list[NDArray[np.float64]]:
    """Return the logarithms of everything that was proposed, float64 [P] each, by number."""
    proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    return [logs_of(study, one) for one in proposals]


def logs_of(study: OpenStudy, evaluation: Evaluation) -> NDArray[np.float64]:
    """Return the logarithms of an evaluation's parameters, float64 [P]."""
    params = _params(study, evaluation)
    return np.log([params[name] for name in study.space.scale_names])


def _complete(study: OpenStudy) -> list[Evaluation]:
    """Return the slopes that are all there, by number."""
    known = ledger.evaluations(study.database, study.id, kind="slopes", block=SLOPES_BLOCK)
    return [one for one in known if one.state == "complete"]


def _params(study: OpenStudy, evaluation: Evaluation) -> dict[str, float]:
    return evaluation.params or study.space.baseline_params()


def _raise_best_start(study: OpenStudy) -> bool | None:
    """Let the best warm start go on to the rung that bears slopes, before any are taken.

    Returns:
        True where a rung was entered, False where one is open, None where nothing is missing.
    """
    starts = begun(study)
    if any(not scores and one.state == "running" for one, scores in starts):
        return False
    scored = [(one, scores) for one, scores in starts if scores]
    best = min(scored, key=lambda s: (s[1][0].difference or 0.0, s[0].number), default=None)
    if best is None or (best[1][0].difference or 0.0) >= 0:
        return None
    evaluation, scores = best
    level, reached = origin_level(study.spec, sloped_block(study)), scores[-1].level
    if reached >= level or evaluation.state == "running":
        return None if reached >= level else False
    try:
        ledger.promote(study.database, evaluation.id, study.rungs[reached + 1])
    except BudgetSpentError:
        return None
    return True


def _place(study: OpenStudy) -> _Place | None:
    """Return the best schedule at the first rung that bears slopes; None before the baseline."""
    found = ledger.baseline_score(study.database, study.id)
    if found is None:
        return None
    baseline, full = found
    level = origin_level(study.spec, sloped_block(study))
    standings = ledger.standings(study.database, study.id, level=level, objectives=1)
    leader = min(standings, key=lambda one: (one.difference, one.number), default=None)
    if leader is None or leader.difference >= 0:
        return _Place(baseline, full.images)
    return _Place(ledger.evaluation(study.database, leader.evaluation_id), study.rungs[level])
