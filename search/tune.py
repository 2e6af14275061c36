"""The whole job on one machine: search, confirm on fresh seeds, and the result.

Everything here may be killed at any moment and called again: what is stored decides what is left
to do, and the numbers come out the same.
"""

from __future__ import annotations

from pathlib import Path

from skiptune.search.confirm import confirm, confirm_number, images_of
from skiptune.search.events import Listener, Stage, silent
from skiptune.search.plan import search_images
from skiptune.search.projection import Board
from skiptune.search.promotion import promotable
from skiptune.search.proposals import propose
from skiptune.search.result import Result
from skiptune.search.spec import StudySpec
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy, open_study
from skiptune.search.worker import work_off
from skiptune.storage import ledger

__all__ = ["planned_images", "run", "search", "tune"]

# An evaluation that is worse than the baseline by so many standard errors earns no more images,
# however early it came and however few there are to compare it with.
WORSE = 1.96


def tune(
    spec: StudySpec,
    *,
    storage: str = "sqlite:///skiptune.db",
    artifacts: Path | None = None,
    device: str = "cpu",
    on_event: Listener = silent,
) -> Result:
    """Search, confirm once, and return the result; a finished study returns what it found.

    Arguments:
        spec: The study, from `load_spec`.
        storage: Database URL.
        artifacts: Folder of the per-image arrays; beside a SQLite database by default.
        device: Torch device.
        on_event: Called with each `Event`.

    Raises:
        SkiptuneError: Whatever is wrong with the spec, its files or the database.
    """
    study = open_study(spec, storage=storage, artifacts=artifacts, device=device)
    return run(study, on_event=on_event)


def run(study: OpenStudy, *, on_event: Listener = silent) -> Result:
    """Bring an open study to its end: search, then the confirm that its candidates need."""
    search(study, on_event=on_event)
    result = confirm(study, number=confirm_number(study), on_event=on_event)
    ledger.set_study_state(study.database, study.id, "complete")
    return result


def planned_images(study: OpenStudy) -> int:
    """Return how many images the search uses when its whole budget is spent."""
    return search_images(study.spec)


def search(study: OpenStudy, *, on_event: Listener = silent) -> None:
    """Spend the search's budget: baseline first, then proposals, the best third going on."""
    if study.row.state != "running":
        # A finished study goes on when its budget has grown.
        ledger.set_study_state(study.database, study.id, "running")
    board = Board(study)
    board.fail_orphans()
    baseline = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=study.rungs[-1])
    if study.images_of(baseline) < study.rungs[-1]:
        # A rung was added on resume. The baseline goes on first: everything is paired with it.
        ledger.promote(study.database, baseline.id, study.rungs[-1])
    on_event(Stage(SEARCH, planned_images(study), images_of(study, SEARCH)[1]))
    while True:
        work_off(study, on_event=on_event, decide=lambda: _decide(study, board))
        entered = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        if len(entered) >= study.spec.search.evaluations or propose(study, board) is None:
            return


def _decide(study: OpenStudy, board: Board) -> int:
    """Tell Optuna what was scored, promote who has earned it, and return how many that are."""
    board.project()
    return _promote(study)


def _promote(study: OpenStudy) -> int:
    """Enter the next rung of every evaluation that has earned it; return how many."""
    levels = len(study.rungs)
    running = {
        e.id: e
        for e in ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        if e.state not in ("diverged", "failed")
    }
    scored: list[dict[int, float]] = [{} for _ in range(levels)]
    worse: set[int] = set()
    for score in ledger.scores(study.database, study.id):
        if score.evaluation_id in running and score.difference is not None:
            number = running[score.evaluation_id].number
            scored[score.level][number] = score.difference
            if score.difference > WORSE * (score.difference_error or 0.0):
                worse.add(number)
    entered: list[set[int]] = [set() for _ in range(levels)]
    for rung in ledger.rungs(study.database, study.id):
        if rung.evaluation_id in running:
            entered[rung.level].add(running[rung.evaluation_id].number)
    best_third = promotable(scored, fraction=study.spec.search.promote, left=entered[1:])
    due = [(number, level) for number, level in best_third if number not in worse]
    by_number = {e.number: e for e in running.values()}
    for number, level in due:
        ledger.promote(study.database, by_number[number].id, study.rungs[level])
    return len(due)
