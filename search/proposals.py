"""Proposals: Optuna is asked, and the answer becomes one evaluation with its first chunks.

Each question gets a sampler seeded from (study seed, number of the proposal), so what is proposed
is a function of the finished rows alone: a study that was killed and resumed proposes what the
undisturbed one would have proposed (for the samplers that keep no state of their own: tpe,
random, gp).
"""

from __future__ import annotations

from skiptune.canonical import digest
from skiptune.search.history import STATELESS
from skiptune.search.projection import Board
from skiptune.search.samplers import make_sampler
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.failpoints import fail_point
from skiptune.storage.records import Evaluation, Turn

__all__ = ["propose"]

ATTEMPTS = 20  # proposals of known schedules in a row before the space counts as exhausted


def propose(study: OpenStudy, board: Board, turn: Turn) -> Evaluation | None:
    """Ask Optuna for one schedule that has not been evaluated, and enter it.

    Arguments:
        study: The open study.
        board: Optuna's side of it, looked at in this turn.
        turn: The turn to ask: nobody else asks at the same time.

    Returns:
        The new evaluation, or None where Optuna proposed only known schedules.

    Raises:
        BudgetSpentError: The budget holds no further proposal; Optuna's trial was told FAIL.
        TurnLostError: Another worker has taken the turn; the trial is an orphan, which the next
            one that asks tells FAIL.
    """
    entered = ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    number, name = entered + 1, study.spec.search.sampler
    for attempt in range(ATTEMPTS):
        seed = int(digest([study.spec.search.seed, number, attempt])[:8], 16)
        sampler = make_sampler(name, seed=seed)
        asked = board.ask(sampler, stateless=name in STATELESS)
        schedule = study.space.schedule(asked.params)
        key = digest(schedule.to_json())
        known = ledger.find_evaluation(study.database, study.id, block=SEARCH, schedule=key)
        if known is not None:
            board.drop(asked)
            continue
        board.enter(asked, key)
        fail_point("search.asked")
        return study.evaluate(
            schedule,
            kind="proposal",
            label=f"proposal {number}",
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=study.rungs[0],
            params=asked.params,
            turn=turn,
        )
    return None
