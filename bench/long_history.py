"""Studies with thousands of finished evaluations, written at once: no network, no arrays.

The rows are those that workers leave: a baseline, proposals that are scored at the lowest rung,
the best third of them promoted and scored at the next one, and Optuna's studies, which know all
of it. Scores are made up, as a function of the schedule alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import numpy as np
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from skiptune.canonical import digest
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import Skip
from skiptune.search.objective import Objective
from skiptune.search.projection import SCHEDULE, Board
from skiptune.search.promotion import WORSE, places
from skiptune.search.space import Space
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import CHUNK
from skiptune.storage.rows import describe, text_of
from skiptune.storage.tables import (
    ChunkRow,
    EvaluationRow,
    MeasureRow,
    RungRow,
    ScheduleRow,
    ScoreRow,
    SeriesRow,
)

__all__ = ["NAME", "RUNGS", "attributes", "made_up", "simulated_study", "write_history"]

NAME = "scale"
RUNGS = (4 * CHUNK, 8 * CHUNK)  # four chunks for a proposal, four more for one that is promoted
BASELINE = 10.0  # the baseline's value; those of the others are BASELINE + difference
EVALUATIONS = 6.0  # of the network for an image
ERROR = 0.5  # standard error of every difference
BATCH = 1000  # evaluations that are written together
LONG_AGO = datetime(2026, 1, 1)
FINITE = models.TrialValueModel.TrialValueType.FINITE


def simulated_study(database: Database, *, parameters: int) -> OpenStudy:
    """Create or open a study whose database side is whole: there is no network behind it.

    Arguments:
        database: Where.
        parameters: Scales that are searched, one per skip.
    """
    rungs = list(RUNGS)
    spec = load_spec(
        "fashion",
        overrides=[
            f"study={NAME}",
            f"search.rungs={rungs}",
            "search.sampler=tpe",
            "space.intervals=1",
        ],
    )
    # Nobody runs out of budget here.
    search = spec.search.model_copy(update={"evaluations": 10**9})
    spec = spec.model_copy(update={"search": search})
    skips = [Skip(f"8x8_block{i}", i, 8, 64, 64, 32, False) for i in range(parameters)]
    space = Space.of(spec.space, skips, [80.0, 10.0, 1.0])
    board = {
        "metric": "FD(made-up)",
        "distributions": {k: distribution_to_json(d) for k, d in space.distributions().items()},
        "baseline": space.baseline_params(),
    }
    row = ledger.create_study(
        database, name=NAME, spec=spec.to_json(), meaning=spec.meaning(), board=board
    )
    return _study(database, spec, row, space)


def _study(database: Database, spec: StudySpec, row: ledger.Study, space: Space) -> OpenStudy:
    missing = cast(Any, None)  # whoever asks for the network, the features or the arrays fails
    objective = Objective(spec.objective, missing, None, None, spec.microbatch)
    study = OpenStudy(spec, row, database, missing, missing, objective, space, "cpu")
    # Cached properties, which would be derived from the network.
    vars(study).update(series={"network": "made up"}, measure={"extractor": "made up"})
    return study


def made_up(schedule: str, level: int) -> dict[str, Any]:
    """Return the numbers of a score, as `put_score` takes them.

    Arguments:
        schedule: Digest of the schedule.
        level: Of the rung.
    """
    baseline = schedule == Schedule.baseline().digest
    # The same at all rungs, about normal, half of them better than the baseline.
    words = [int(schedule[i : i + 4], 16) / 0xFFFF for i in range(0, 48, 4)]
    difference = 0.0 if baseline else 0.2 * (sum(words) - 6.0)
    images = RUNGS[-1] if baseline else RUNGS[level]
    return {
        "metric": f"FD(made-up)-{images}-corrected",
        "reference": "0" * 64,
        "images": images,
        "value": BASELINE + difference,
        "standard_error": ERROR,
        "raw": BASELINE + difference + 1.0,
        "difference": None if baseline else difference,
        "difference_error": None if baseline else ERROR,
    }


def write_history(study: OpenStudy, *, evaluations: int, seed: int = 0) -> None:
    """Write the baseline and so many finished proposals, in our tables and in Optuna's.

    Arguments:
        study: From `simulated_study`, without evaluations.
        evaluations: Proposals.
        seed: Of their parameters.
    """
    generator = np.random.default_rng(seed)
    distributions = cast(Mapping[str, FloatDistribution], study.space.distributions())
    proposals = []
    for _ in range(evaluations):
        params = {
            name: float(np.exp(generator.uniform(np.log(item.low), np.log(item.high))))
            for name, item in distributions.items()
        }
        proposals.append((params, study.space.schedule(params)))
    differences = {
        number: made_up(schedule.digest, 0)["difference"]
        for number, (_, schedule) in enumerate(proposals, start=1)
    }
    best = sorted(differences, key=lambda number: (differences[number], number))
    best = best[: places(evaluations, study.spec.search.promote)]
    promoted = {number for number in best if differences[number] <= WORSE * ERROR}
    entries = [_entry(study, 0, {}, Schedule.baseline(), levels=1)]
    entries += [
        _entry(study, number, params, schedule, levels=1 + (number in promoted))
        for number, (params, schedule) in enumerate(proposals, start=1)
    ]
    # Makes Optuna's studies: before there are rows, which would all count as not told.
    Board(study.database, study.row).refresh()
    with study.database.write() as session:
        for table, description in ((SeriesRow, study.series), (MeasureRow, study.measure)):
            describe(session, table, description)
    for first in range(0, len(entries), BATCH):
        with study.database.write() as session:
            _write_ours(session, entries[first : first + BATCH])
    for level, images in enumerate(RUNGS):
        name = NAME if level == 0 else f"{NAME}/{images}"
        # The baseline has one rung, at full size, and stands in all of Optuna's studies.
        told = [
            (e, e["scores"][level if e["number"] else 0])
            for e in entries
            if e["number"] == 0 or len(e["scores"]) > level
        ]
        for first in range(0, len(told), BATCH):
            with study.database.write() as session:
                _write_optuna(session, name, told[first : first + BATCH], study, first=first)


def _entry(
    study: OpenStudy,
    number: int,
    params: Mapping[str, float],
    schedule: Schedule,
    *,
    levels: int,
) -> dict[str, Any]:
    """Everything that is written of one evaluation."""
    key = schedule.digest
    images = RUNGS[levels - 1] if number else RUNGS[-1]
    return {
        "id": uuid.uuid4().hex,
        "study_id": study.id,
        "number": number,
        "kind": "proposal" if number else "baseline",
        "params": dict(params),
        "schedule": key,
        "series": digest(study.series),
        "measure": digest(study.measure),
        "description": text_of(schedule.to_json()),
        "images": images,
        "scores": [made_up(key, level) for level in range(levels)],
    }


def _write_ours(session: Session, entries: Sequence[dict[str, Any]]) -> None:
    def keys(entry: dict[str, Any]) -> dict[str, Any]:
        return {name: entry[name] for name in ("series", "measure", "schedule")}

    session.execute(
        insert(ScheduleRow),
        [{"digest": e["schedule"], "description": e["description"]} for e in entries],
    )
    session.execute(
        insert(EvaluationRow),
        [
            {
                **keys(entry),
                **{name: entry[name] for name in ("id", "study_id", "number", "kind")},
                "label": f"proposal {entry['number']}" if entry["number"] else "baseline",
                "block": SEARCH,
                "first_seed": SEARCH_SEED,
                "params": text_of(entry["params"]),
                "state": "complete",
                "finished": 0.0,
                "projected": 1,
            }
            for entry in entries
        ],
    )
    session.execute(
        insert(RungRow),
        [
            {
                "evaluation_id": entry["id"],
                "level": level,
                "images": score["images"],
                "state": "complete",
                "completed": 0.0,
            }
            for entry in entries
            for level, score in enumerate(entry["scores"])
        ],
    )
    session.execute(
        insert(ScoreRow),
        [
            {"evaluation_id": entry["id"], "level": level, "projected": 1, **score}
            for entry in entries
            for level, score in enumerate(entry["scores"])
        ],
    )
    session.execute(
        insert(ChunkRow),
        [
            {
                **keys(entry),
                "first_seed": seed,
                "images": CHUNK,
                "state": "done",
                "study_id": entry["study_id"],
                "worker": "history",
                "fence": 1,
                "attempts": 1,
                "seconds": 15.0,
                "nfe": EVALUATIONS,
                "array": digest([entry["schedule"], seed]),
                "committed": 0.0,
            }
            for entry in entries
            for seed in range(SEARCH_SEED, SEARCH_SEED + entry["images"], CHUNK)
        ],
    )


def _write_optuna(
    session: Session,
    name: str,
    told: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    study: OpenStudy,
    *,
    first: int,
) -> None:
    """Write finished trials into one of Optuna's studies, the first with the number `first`."""
    trials = models.TrialModel.__table__
    key = session.execute(
        select(models.StudyModel.study_id).where(models.StudyModel.study_name == name)
    ).scalar_one()
    session.execute(
        insert(trials),
        [
            {
                "number": number,
                "study_id": key,
                "state": TrialState.COMPLETE,
                "datetime_start": LONG_AGO,
                "datetime_complete": LONG_AGO,
            }
            for number in range(first, first + len(told))
        ],
    )
    found = select(trials.c.number, trials.c.trial_id).where(
        trials.c.study_id == key, trials.c.number >= first
    )
    ids = {number: key for number, key in session.execute(found)}
    rows = [(ids[number], *item) for number, item in enumerate(told, start=first)]
    session.execute(
        insert(models.TrialValueModel.__table__),
        [
            {"trial_id": id_, "objective": 0, "value": score["value"], "value_type": FINITE}
            for id_, _, score in rows
        ],
    )
    distributions = study.space.distributions()
    session.execute(
        insert(models.TrialParamModel.__table__),
        [
            {
                "trial_id": id_,
                "param_name": name,
                "param_value": value,
                "distribution_json": distribution_to_json(distributions[name]),
            }
            for id_, entry, _ in rows
            for name, value in (entry["params"] or study.space.baseline_params()).items()
        ],
    )
    session.execute(
        insert(models.TrialUserAttributeModel.__table__),
        [
            {"trial_id": id_, "key": key, "value_json": json.dumps(value)}
            for id_, entry, score in rows
            for key, value in attributes(entry["kind"], entry["schedule"], score).items()
        ],
    )


def attributes(kind: str, schedule: str, score: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attributes that `Board` gives a finished trial.

    Arguments:
        kind: Of the evaluation.
        schedule: Digest of its schedule.
        score: From `made_up`.
    """
    given = {
        SCHEDULE: schedule,
        "kind": kind,
        "images": score["images"],
        "rung": 1 if kind == "baseline" else RUNGS.index(score["images"]) + 1,
        "raw": score["raw"],
        "corrected": score["value"],
        "standard error": score["standard_error"],
        "NFE": EVALUATIONS,
        "feasible": "yes",
        "verdict": "baseline",
    }
    difference = score["difference"]
    if difference is not None:
        given["difference to baseline"] = difference
        given["its standard error"] = score["difference_error"]
        given["gain %"] = -100 * difference / BASELINE
        words = "better in the search, not confirmed" if difference < 0 else "worse"
        clear = abs(difference) > 1.96 * score["difference_error"]
        given["verdict"] = words if clear else "not told apart from the baseline"
    return given
