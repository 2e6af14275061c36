"""Made-up features with images beside them, so that whole studies have pictures in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import optuna
import pytest

from skiptune.sampling.schedule import Schedule
from skiptune.search.projection import Board
from skiptune.search.proposals import propose
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.turns import end_turn, take_turn
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

__all__ = ["NAME", "end_proposals", "finished", "quick", "theirs", "with_images"]

NAME = "tiny"


def with_images(study: OpenStudy, schedule: Schedule, *rest: Any, **named: Any) -> Any:
    """Made-up features, and images whose grey is that of the schedule."""
    made = made_up.sampled(study, schedule, *rest, **named)
    if rest[1][0] != SEARCH_SEED:
        return made
    grey = int(schedule.digest[:2], 16)
    return replace(made, images=np.full((16, 3, 8, 8), grey, dtype=np.uint8))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the fixture of this name in conftest, with images."""
    made_up.replace(monkeypatch.setattr, with_images)
    monkeypatch.setattr("skiptune.search.worker.POLL_SECONDS", (0.01, 0.05))


def finished(tiny: Tiny, **changes: Any) -> OpenStudy:
    """The tiny study when all is done."""
    study = tiny.open(**changes)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    return study


def end_proposals(study: OpenStudy, *states: Literal["diverged", "failed"]) -> None:
    """Propose a schedule for each state, and end it in that without an image."""
    board = Board(study.database, study.row)
    board.refresh()
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    for state in states:
        made = propose(study, board, turn)
        assert made is not None
        ledger.finish_evaluation(study.database, made.id, state, f"it {state}")
    end_turn(study.database, turn)


def theirs(study: OpenStudy, name: str = NAME) -> optuna.Study:
    """One of Optuna's studies."""
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database))
