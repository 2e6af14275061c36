"""Made-up features with images beside them, so that whole studies have pictures in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from skiptune.sampling.schedule import Schedule
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.storage.optuna_rows import optuna_storage
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

__all__ = ["NAME", "finished", "quick", "theirs", "with_images"]

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


def theirs(study: OpenStudy, name: str = NAME) -> optuna.Study:
    """One of Optuna's studies."""
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database))
