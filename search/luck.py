"""What a confirm says of the search before it: how much was luck, and which rungs tell.

The best of many estimates looks better than it is. Block B shares no seed with the search, so the
difference between what the search showed of the winner and what block B shows of it is the luck of
having been chosen, with an error from both. And where the order of schedules at a rung is that of
their final values, the rung's images were enough to choose by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skiptune.objectives.ranks import rank_correlation
from skiptune.search.result import Luck, Ranking
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import Evaluation, Score

__all__ = ["FEWEST", "luck_of", "rankings"]

FEWEST: Final = 4
"""Schedules from which on an order says something: Fisher's interval needs as many."""


def luck_of(
    database: Database, study_id: str, winner: Evaluation, fresh: Score, *, screened: bool
) -> Luck | None:
    """Return how much of the winner's gain in the search was luck.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        winner: The chosen schedule on block B.
        fresh: Its score there.
        screened: Whether the search's first rung is a screen, in fewer features than the metric.

    Returns:
        None where the search holds no difference of the schedule in the same metric: a screen's
        is none.
    """
    found = ledger.find_evaluation(
        database, study_id, block=SEARCH_BLOCK, schedule=winner.schedule
    )
    if found is None or fresh.difference is None:
        return None
    seen = [
        score
        for score in ledger.scores(database, study_id, evaluation_id=found.id)
        if score.difference is not None and not (screened and score.level == 0)
    ]
    return Luck.between(seen[-1], fresh) if seen else None


def rankings(
    database: Database, study_id: str, block: str, *, rungs: Sequence[int]
) -> tuple[Ranking, ...]:
    """Return how the rungs of a search order schedules, and the search those of a fresh block.

    A rung is compared with the last rung of whatever went on from it, which holds the rung's own
    images too. The search's last word on each candidate is compared with what the first round of
    block A says, at equal images for all.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Name of the block on which candidates were compared.
        rungs: Images of the search's rungs.

    Returns:
        Those with at least `FEWEST` schedules whose values differ, the lowest rung first.
    """
    scores: dict[str, dict[int, Score]] = {}
    for score in ledger.scores(database, study_id):
        if score.difference is not None:
            scores.setdefault(score.evaluation_id, {})[score.level] = score
    searched = {
        one.schedule: scores[one.id]
        for one in ledger.evaluations(database, study_id, kind="proposal", block=SEARCH_BLOCK)
        if one.id in scores
    }
    found = []
    for level in range(len(rungs) - 1):
        went_on = [
            (here[level], here[max(here)])
            for here in searched.values()
            if level in here and max(here) > level
        ]
        found.append(_ranking(went_on, "the search's last rung"))
    fresh = ledger.evaluations(database, study_id, kind="confirm", block=block)
    candidates = [
        (searched[one.schedule][max(searched[one.schedule])], scores[one.id][0])
        for one in fresh
        if one.schedule in searched and 0 in scores.get(one.id, {})
    ]
    found.append(_ranking(candidates, "fresh seeds"))
    return tuple(one for one in found if one is not None)


def _ranking(pairs: Sequence[tuple[Score, Score]], last: str) -> Ranking | None:
    first = [score.difference or 0.0 for score, _ in pairs]
    second = [score.difference or 0.0 for _, score in pairs]
    if len(pairs) < FEWEST or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    sizes = sorted({score.images for score, _ in pairs})
    images = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    found = rank_correlation(first, second)
    name = f"{images} images of the search"
    return Ranking(name, last, found.value, found.low, found.high, found.pairs)
