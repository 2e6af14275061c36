"""Noted launches: over where their executor says so, or where the study is done."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.search.launch_notes import (
    described,
    forget_over,
    of_this_host,
    standing_of,
)
from skiptune.search.liveness import worker_name
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Study
from tests.search.conftest import Tiny


def note(study: OpenStudy, job: str, executor: str = "slurm") -> ledger.Launch:
    return ledger.add_launch(
        study.database, study.id, executor=executor, place="here", job=job, workers=1
    )


def asked(launch: ledger.Launch) -> bool | None:
    return {"over": False, "at work": True}.get(launch.job)


def jobs(study: OpenStudy) -> list[str]:
    return [launch.job for launch in ledger.launches(study.database, study.id)]


def in_state(study: OpenStudy, state: Any) -> Study:
    ledger.set_study_state(study.database, study.id, state)
    return ledger.require_study(study.database, study.row.name)


def test_who_is_over_is_forgotten(tiny: Tiny) -> None:
    study = tiny.open()
    for job in ("over", "at work", "unknown"):
        note(study, job)
    standing = standing_of(study.database, study.row, asked)
    assert [launch.job for launch in standing.over] == ["over"]
    assert [launch.job for launch in standing.unknown] == ["unknown"]
    assert forget_over(study.database, study.row, asked) == 1
    assert jobs(study) == ["at work", "unknown"]


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ("running", ["at work", "unknown"]),
        ("paused", ["at work", "unknown"]),
        ("stopped", ["at work"]),
        ("complete", ["at work"]),
    ],
)
def test_nothing_is_left_of_a_launch_whose_study_is_done(
    tiny: Tiny, state: str, left: list[str]
) -> None:
    study = tiny.open()
    for job in ("at work", "unknown"):
        note(study, job)
    forget_over(study.database, in_state(study, state), asked)
    assert jobs(study) == left


def test_a_study_that_is_being_confirmed_is_not_done(tiny: Tiny) -> None:
    study = tiny.open()
    note(study, "unknown")
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)  # a rung that is open
    assert forget_over(study.database, in_state(study, "complete"), asked) == 0


def test_of_this_host_its_processes_are_known(tiny: Tiny) -> None:
    study = tiny.open()
    gone = f"{worker_name().rpartition(':')[0]}:1"
    answers = [of_this_host(note(study, *each)) for each in ((gone, "local"), (gone, "slurm"))]
    assert answers == [False, None]
    assert of_this_host(note(study, worker_name(), "local")) is None


def test_a_launch_in_words(tiny: Tiny) -> None:
    launch = note(tiny.open(), "41")
    assert described(launch) == f"slurm 41 on here: 1 worker, {launch.created:%Y-%m-%d %H:%M} UTC"
