"""Searches whose confirm is the bench itself: begun or gone on with, and what they recommend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting, evaluations
from skiptune.search.events import Stage
from skiptune.search.origins import named
from skiptune.search.spec import StudySpec
from skiptune.search.stopping import Stop
from skiptune.search.study import SEARCH, open_study
from skiptune.search.tune import run
from skiptune.storage import ledger

__all__ = ["Found", "searched"]


@dataclass(frozen=True)
class Found:
    """What a search recommends.

    Arguments:
        schedule: The best one, without its knobs; the untouched network where nothing was better.
        setting: How its images are made, knobs included.
        proposals: Schedules that were tried.
        network_images: Images through the network, slopes included.
        images: The same in images of the study's setting.
    """

    schedule: Schedule
    setting: Setting
    proposals: int
    network_images: float
    images: float


def searched(spec: StudySpec, database: Path) -> Found:
    """Search to the end of a study's budget, without its confirm; a begun search goes on.

    Arguments:
        spec: The study.
        database: A SQLite file; arrays are kept beside it.
    """
    study = open_study(spec, storage=f"sqlite:///{database.absolute()}")
    stop = Stop()

    def until_confirm(event: object) -> None:
        # The fresh seeds of a bench are the confirm.
        if isinstance(event, Stage) and event.name != "search":
            stop.request()

    try:
        asked = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        # A search that has ended has entered its confirm, which would be sampled.
        if len(asked) < spec.search.evaluations or any(one.state == "running" for one in asked):
            run(study, on_event=until_confirm, stop=stop)
        best, _ = named(study, "best")
        schedule = Schedule.from_json(best.schedule_json)
        asked = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        spent = ledger.spending(study.database, study.id).network_images
    finally:
        study.database.close()
    return Found(
        schedule.scales_alone,
        study.setting.with_knobs(schedule.knobs),
        len(asked),
        spent,
        spent / evaluations(study.setting),
    )
