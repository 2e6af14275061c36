"""Which schedules a confirm tests: those of the search that are most surely good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from skiptune.search.promotion import WORSE, best
from skiptune.search.result import HOPELESS
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation, Score

__all__ = ["HOPELESS", "Found", "begun_on", "candidates", "in_violation", "most_promising"]


@dataclass(frozen=True)
class Found:
    """What a search says of one schedule, from the most images that it has.

    Arguments:
        number: Of the evaluation.
        screened: Whether this is a screen's distance, in fewer features than the metric's.
        difference: Corrected paired difference to the baseline; lower is better.
        error: Its standard error.
    """

    number: int
    screened: bool
    difference: float
    error: float


def most_promising(found: Iterable[Found], count: int) -> tuple[int, ...]:
    """Return the numbers of the schedules with the lowest upper bounds, best first.

    The bound is the upper end of the 95 % interval of the difference to the baseline, at the most
    images that a schedule has. More images are no merit of their own: a schedule of 500 that is
    far ahead comes before one of 8000 that is not. But the lowest of many estimates with large
    errors is low by luck, and on common seeds the baseline's own error moves all estimates of a
    rung together, so that those of few images may all look good; the bound allows for both.
    `tests/search/test_candidates.py` compares it with the lowest estimate and with the highest
    rung first on searches whose truth is known.

    Whoever looks worse than the baseline by more than `HOPELESS` errors is left out, however few
    are left. What a screen says is no value of the metric, so it comes after all that have one.

    Arguments:
        found: Each schedule once.
        count: How many at most.
    """
    hopeful = [one for one in found if one.difference <= HOPELESS * one.error]
    chosen: tuple[int, ...] = ()
    for screened in (False, True):
        bounds = {
            one.number: one.difference + WORSE * one.error
            for one in hopeful
            if one.screened == screened
        }
        chosen += best(bounds, count - len(chosen))
    return chosen


def candidates(study: OpenStudy) -> tuple[Evaluation, ...]:
    """Return the schedules of a search that a confirm tests, the most promising first."""
    proposals, levels = _scored(study)
    violated = in_violation(study)
    screen = study.spec.screen is not None
    found = {
        number: Found(number, screen and level == 0, score.difference, score.difference_error or 0)
        for level, here in enumerate(levels)  # the highest one stays
        for number, score in here.items()
        if score.difference is not None
    }
    last = {number: level for level, here in enumerate(levels) for number in here}
    keep = [
        found[number]
        for number, level in last.items()
        if number in found and (proposals[number].id, level) not in violated
    ]
    chosen = most_promising(keep, study.spec.confirm.candidates)
    return tuple(proposals[number] for number in chosen)


def begun_on(study: OpenStudy, begun: Sequence[Evaluation]) -> bool:
    """Return whether a confirm that was begun on some schedules serves the search as it stands.

    It does where it has judged the candidates there are now, as far as the two go: more that are
    asked for since are less promising ones. Versions that took those of the highest rung first
    began it on these; their confirms stay what they are.

    Arguments:
        study: The open study.
        begun: The confirm's evaluations, in the order in which they were entered; at least one.
    """
    schedules = [e.schedule for e in begun]
    now = [e.schedule for e in candidates(study)]
    both = min(len(now), len(begun))
    if both and schedules[:both] == now[:both]:
        return True
    return schedules == [e.schedule for e in _highest_rung_first(study, len(begun))]


def in_violation(study: OpenStudy) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the constraints that are violated, by evaluation and level."""
    if not study.spec.objective.constraints:
        return {}
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    for score in ledger.scores(study.database, study.id, every_place=True):
        if score.is_violated:
            key = (score.evaluation_id, score.level)
            found[key] = (*found.get(key, ()), score.metric)
    return found


def _highest_rung_first(study: OpenStudy, count: int) -> tuple[Evaluation, ...]:
    proposals, levels = _scored(study)
    violated = in_violation(study)
    chosen: list[int] = []
    for level, here in reversed([*enumerate(levels)]):
        left = {
            number: score.difference
            for number, score in here.items()
            if score.difference is not None
            and number not in chosen
            and (proposals[number].id, level) not in violated
        }
        chosen += best(left, count - len(chosen))
    return tuple(proposals[number] for number in chosen)


def _scored(study: OpenStudy) -> tuple[Mapping[int, Evaluation], list[dict[int, Score]]]:
    """Return the proposals that have not ended badly, and their scores by level, by number."""
    proposals = {
        e.id: e
        for e in ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        if e.state not in ("diverged", "failed")
    }
    levels: list[dict[int, Score]] = [{} for _ in study.rungs]
    for score in ledger.scores(study.database, study.id):
        if score.evaluation_id in proposals:
            levels[score.level][proposals[score.evaluation_id].number] = score
    return {e.number: e for e in proposals.values()}, levels
