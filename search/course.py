"""What happens next in a study: decided from its rows by whoever holds the study's turn.

A worker comes here when it finds no chunk to sample. It takes the turn, looks at what is scored,
and enters what is missing: the baseline, promotions, one proposal, then the two halves of a
confirm. Everything is a function of the rows, and entering the same again changes nothing; so a
worker that dies here costs its turn's lease and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from skiptune.errors import BudgetSpentError
from skiptune.search.confirm import (
    confirm_number,
    later_images,
    next_half,
    project_result,
    result_of,
)
from skiptune.search.events import Listener, Notice, Stage, silent
from skiptune.search.origins import enter_missing, named
from skiptune.search.plan import search_images
from skiptune.search.projection import Board
from skiptune.search.promotion import promote
from skiptune.search.proposals import propose
from skiptune.search.samplers import DESCENT
from skiptune.search.scoring import NotSampledError, refuse_lost_baseline, score_ready
from skiptune.search.slopes import enter_slopes, find_slopes
from skiptune.search.stopping_rule import reason_to_end
from skiptune.search.strategy import resolved
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.records import Evaluation, Turn
from skiptune.storage.turns import renew_turn

__all__ = ["TURN_SECONDS", "Course", "Step", "confirming", "sloping", "whole_study"]

TURN_SECONDS: Final = 60.0
"""Longest time a proposal may take before another worker makes one."""

Step = Literal["entered", "waiting", "complete"]
"""Chunks were entered; others still sample what is needed; or nothing is left to do."""

Course = Callable[[Board, Turn], Step]
"""What a worker follows: called under the study's turn when no chunk is open."""


def whole_study(study: OpenStudy, *, on_event: Listener = silent) -> Course:
    """Return the course of a whole study: search, one confirm, complete.

    Arguments:
        study: The open study.
        on_event: Told when a stage begins.
    """
    stages = _Stages(study, on_event)
    stages.enter(SEARCH)
    if study.space.leaves_out_baseline:
        ends = f"{study.space.low:g} to {study.space.high:g}"
        on_event(Notice(f"no schedule of this space leaves the network untouched: scales {ends}"))
    exhausted = False

    def step(board: Board, turn: Turn) -> Step:
        nonlocal exhausted
        searching, exhausted = _search(study, board, turn, exhausted=exhausted, on_event=on_event)
        if searching is not None:
            return searching
        found = _confirm(study, board, confirm_number(study), stages, on_event)
        if found == "complete":
            ledger.set_study_state(study.database, study.id, "complete")
        return found

    return step


def confirming(study: OpenStudy, number: int, *, on_event: Listener = silent) -> Course:
    """Return the course of one confirm, whatever its search is doing.

    Arguments:
        study: The open study.
        number: Which confirm, from 1 on.
        on_event: Told when a stage begins.
    """
    stages = _Stages(study, on_event)

    def step(board: Board, turn: Turn) -> Step:
        return _confirm(study, board, number, stages, on_event)

    return step


def sloping(
    study: OpenStudy,
    of: str,
    found: Callable[[Evaluation, Evaluation], None],
    *,
    on_event: Listener = silent,
) -> Course:
    """Return the course of the slopes of one schedule of a search, whatever the search is doing.

    Arguments:
        study: The open study.
        of: As for `origins.named`; `best` is the best when the baseline has its score, even if
            another becomes it meanwhile.
        found: Told at the end which schedule it was, and its slopes.
        on_event: Told when scores are computed.
    """
    chosen: tuple[Evaluation, int] | None = None

    def step(board: Board, turn: Turn) -> Step:
        nonlocal chosen
        entered = _baseline(study)
        score_ready(study, on_event=on_event)
        if entered:
            return "entered"
        if ledger.baseline_score(study.database, study.id) is None:
            return "waiting"
        chosen = chosen or named(study, of)
        slopes = find_slopes(study, chosen[0])
        if slopes is None:
            enter_slopes(study, *chosen, turn=turn)
            return "entered"
        if slopes.state == "running":
            return "waiting"
        found(chosen[0], slopes)
        return "complete"

    return step


def _search(
    study: OpenStudy, board: Board, turn: Turn, *, exhausted: bool, on_event: Listener
) -> tuple[Step | None, bool]:
    """Take a step of the search; None once it is over. Also whether the space is exhausted."""
    entered = _baseline(study)
    # What a worker that died had completed and not scored.
    score_ready(study, on_event=on_event)
    board.refresh()
    board.fail_orphans()
    keep = partial(renew_turn, study.database, turn, seconds=TURN_SECONDS)
    board.project(keep=keep)
    if entered or promote(study):
        return "entered", exhausted
    left = ledger.budget_left(study.database, study.id)
    spent = left.seconds is not None and left.seconds <= 0
    try:
        why = None if exhausted or spent or left.evaluations == 0 else reason_to_end(study)
    except (LostFileError, NotSampledError):
        return "waiting", exhausted
    if why is None and not exhausted and not spent and left.evaluations != 0:
        if study.sampler == DESCENT:
            missing = enter_missing(study, turn=turn)
            if missing is not None:
                return ("entered" if missing else "waiting"), exhausted
        try:
            if propose(study, board, turn, on_event=on_event) is not None:
                return "entered", exhausted
        except (LostFileError, NotSampledError):
            return "waiting", exhausted  # what the proposal rests on is made again first
        except BudgetSpentError:
            board.fail_orphans()
        exhausted = True
    open_rungs = ledger.open_rungs(study.database, study.id, block=SEARCH)
    if why is not None and not open_rungs:
        exhausted = True  # no rung is open whose score might be a reason to go on
        on_event(Notice(why))
    held = any(lease.remaining > 0 for lease in leases.leases(study.database, study.id))
    if spent and open_rungs and not held:
        # Nobody may go on with them; a larger budget will.
        board.fail_running()
        return None, exhausted
    return ("waiting" if open_rungs else None), exhausted


def _baseline(study: OpenStudy) -> bool:
    """Enter the baseline, at the size of the highest rung; return whether anything was entered."""
    before = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
    baseline = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=study.rungs[-1])
    refuse_lost_baseline(study, baseline)
    teachers: tuple[Evaluation, ...] = ()
    if study.objective.needs_teacher:
        teachers = ledger.evaluations(study.database, study.id, kind="teacher", block=SEARCH)
    behind = [e for e in (baseline, *teachers) if study.images_of(e) < study.rungs[-1]]
    # A rung was added on resume. These go on first: everything is compared with them.
    for evaluation in behind:
        ledger.promote(study.database, evaluation.id, study.rungs[-1])
    return bool(behind) or not before


def _confirm(
    study: OpenStudy, board: Board, number: int, stages: _Stages, on_event: Listener
) -> Step:
    score_ready(study, on_event=on_event)
    before = {rung.id for rung in ledger.open_rungs(study.database, study.id)}
    half = next_half(study, number)
    if half is None:
        project_result(study, board, result_of(study, number))
        return "complete"
    stages.enter(half.name)
    now = ledger.open_rungs(study.database, study.id, block=half.name)
    return "waiting" if {rung.id for rung in now} <= before else "entered"


class _Stages:
    """Tells whoever watches which part of the job begins, once each."""

    def __init__(self, study: OpenStudy, on_event: Listener) -> None:
        self._study = study
        self._on_event = on_event
        self._current = ""

    def enter(self, block: str) -> None:
        """Tell that work on a block of seeds begins."""
        if block == self._current:
            return
        self._current = block
        study = self._study
        wanted, stored = ledger.images_wanted(study.database, study.id, block=block)
        if block == SEARCH:
            most = search_images(resolved(study.spec, study.objective, study.space))
            self._on_event(Stage(block, most, stored))
        else:
            wanted += later_images(study, block)
            self._on_event(Stage(f"confirm {block[-1]}", wanted, stored))
