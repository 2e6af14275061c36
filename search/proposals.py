"""Proposals: Optuna is asked, and the answer becomes one evaluation with its first chunks.

Each question gets a sampler seeded from (study seed, number of the proposal), so what is proposed
is a function of the finished rows alone: a study that was killed and resumed proposes what the
undisturbed one would have proposed (for the samplers that keep no state of their own: tpe,
random, gp, moments, descent). Before any of them come the schedules that a warm start has found.
"""

from __future__ import annotations

from collections.abc import Iterator

from skiptune.canonical import digest
from skiptune.search.events import Listener, Notice, silent
from skiptune.search.history import STATELESS
from skiptune.search.projection import Asked, Board
from skiptune.search.samplers import sampler_for
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.warm_start import Start, next_start
from skiptune.storage import ledger
from skiptune.storage.failpoints import fail_point
from skiptune.storage.records import Evaluation, Turn

__all__ = ["propose"]

ATTEMPTS = 20  # proposals of known schedules in a row before the space counts as exhausted


def propose(
    study: OpenStudy, board: Board, turn: Turn, *, on_event: Listener = silent
) -> Evaluation | None:
    """Ask Optuna for one schedule that has not been evaluated, and enter it.

    Arguments:
        study: The open study.
        board: Optuna's side of it, looked at in this turn.
        turn: The turn to ask: nobody else asks at the same time.
        on_event: Told where a warm start is proposed.

    Returns:
        The new evaluation, or None where Optuna proposed only known schedules.

    Raises:
        BudgetSpentError: The budget holds no further proposal; Optuna's trial was told FAIL.
        TurnLostError: Another worker has taken the turn; the trial is an orphan, which the next
            one that asks tells FAIL.
    """
    entered = ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    number, start = entered + 1, next_start(study)
    for asked in _answers(study, board, number, start):
        schedule = study.space.schedule(asked.params)
        key = digest(schedule.to_json())
        known = ledger.find_evaluation(study.database, study.id, block=SEARCH, schedule=key)
        if known is not None:
            board.drop(asked)
            continue
        board.enter(asked, key)
        fail_point("search.asked")
        evaluation = study.evaluate(
            schedule,
            kind="proposal",
            label=f"proposal {number}",
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=study.rungs[0],
            params=asked.params,
            turn=turn,
        )
        if start is not None:
            on_event(Notice(f"proposal {number} is a warm start: {start}"))
        return evaluation
    return None


def _answers(study: OpenStudy, board: Board, number: int, start: Start | None) -> Iterator[Asked]:
    """Yield a start, which nobody is asked for, or what a sampler answers time and again."""
    if start is not None:
        yield Asked(dict(start.params))
        return
    stateless = study.sampler in STATELESS
    for attempt in range(ATTEMPTS):
        sampler = sampler_for(study, number=number, attempt=attempt)
        yield board.ask(sampler, stateless=stateless)
