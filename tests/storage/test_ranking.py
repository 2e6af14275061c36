"""Who leads a rung: as sorting in Python says, ties, ends and other blocks included."""

from __future__ import annotations

import math
import random
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.storage import ledger
from skiptune.storage.database import Database, open_database
from skiptune.storage.rows import insert_missing
from skiptune.storage.tables import (
    EvaluationRow,
    MeasureRow,
    RungRow,
    ScheduleRow,
    ScoreRow,
    SeriesRow,
)
from tests.storage.conftest import BACKENDS, Add, Fresh

LEVELS = 3


@dataclass(frozen=True)
class Entry:
    """An evaluation: its difference at each level where it is scored, and how far it got."""

    differences: tuple[float | None, ...]
    entered: int
    state: str
    kind: str
    block: str


def draw_entry(draw: random.Random) -> Entry:
    entered = draw.randint(1, LEVELS)
    # Few values, so that many are equal; -0.0 and 0.0 are.
    values = [-2.5, -1.0, -0.0, 0.0, 1.0, None, draw.gauss(0.0, 1.0)]
    return Entry(
        differences=tuple(draw.choice(values) for _ in range(draw.choice([entered, entered - 1]))),
        entered=entered,
        state=draw.choice(["running", "complete", "complete", "diverged", "failed"]),
        kind=draw.choice(["proposal"] * 5 + ["baseline", "control", "confirm"]),
        block=draw.choice(["search"] * 5 + ["c/A"]),
    )


def store(database: Database, study_id: str, entries: list[Entry]) -> None:
    """Store evaluations as rows, numbered from 0."""
    names = {number: uuid.uuid4().hex for number in range(len(entries))}
    evaluations = [
        {
            "id": names[number],
            "study_id": study_id,
            "number": number,
            "kind": entry.kind,
            "label": "",
            "block": entry.block,
            "series": "0",
            "measure": "0",
            "schedule": str(number),
            "first_seed": 0,
            "params": "{}",
            "state": entry.state,
        }
        for number, entry in enumerate(entries)
    ]
    rungs = [
        {"evaluation_id": names[number], "level": level, "images": 250 << level}
        for number, entry in enumerate(entries)
        for level in range(entry.entered)
    ]
    scores = [
        {
            "evaluation_id": names[number],
            "level": level,
            "metric": "m",
            "reference": "r",
            "images": 250 << level,
            "value": 1.0,
            "standard_error": 0.1,
            "difference": difference,
            "difference_error": None if difference == 1.0 else 0.25,
        }
        for number, entry in enumerate(entries)
        for level, difference in enumerate(entry.differences)
    ]
    schedules = [{"digest": str(number), "description": "{}"} for number in names]
    with database.write() as session:
        one: list[dict[str, Any]] = [{"digest": "0", "description": "{}"}]
        insert_missing(session, SeriesRow, one)
        insert_missing(session, MeasureRow, one)
        insert_missing(session, ScheduleRow, schedules)
        insert_missing(session, EvaluationRow, evaluations)
        insert_missing(session, RungRow, rungs)
        insert_missing(session, ScoreRow, scores)


def scored(entries: list[Entry], level: int) -> dict[int, float]:
    """Return the differences of those that compete at a level, by number."""
    found = {}
    for number, entry in enumerate(entries):
        counts = entry.kind == "proposal" and entry.block == "search"
        if counts and entry.state in ("running", "complete") and level < len(entry.differences):
            difference = entry.differences[level]
            if difference is not None:
                found[number] = difference
    return found


def check(database: Database, study_id: str, entries: list[Entry], places: int) -> None:
    names = {made.number: made.id for made in ledger.evaluations(database, study_id)}
    for level in range(LEVELS):
        competing = scored(entries, level)
        best = sorted(competing, key=lambda number: (competing[number], number))[:places]
        due = [number for number in best if entries[number].entered <= level + 1]
        assert ledger.scored_count(database, study_id, level=level) == len(competing)
        found = ledger.promotable(database, study_id, level=level, places=places)
        assert [standing.number for standing in found] == due
        for standing in found:
            assert standing.evaluation_id == names[standing.number]
            assert standing.difference == competing[standing.number]
            assert standing.difference_error == (0.0 if standing.difference == 1.0 else 0.25)


@pytest.mark.parametrize("kind", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_against_sorting_in_python(fresh: Fresh, kind: str, seed: int, count: int) -> None:
    draw = random.Random(seed)
    entries = [draw_entry(draw) for _ in range(count)]
    with fresh(kind) as url, open_database(url) as database:
        # The rows of another study beside it change nothing.
        for name in ("cats", "dogs"):
            study = ledger.create_study(database, name=name, spec={}, meaning={})
            store(database, study.id, entries if name == "cats" else entries[::2])
        cats = ledger.require_study(database, "cats")
        for places in (0, 1, math.ceil(count / 3), count):
            check(database, cats.id, entries, places)


def test_whoever_is_promoted_is_due_no_more(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = [add(0.5 + n / 10) for n in range(3)]
    for item, difference in zip(made, (0.5, -0.5, -0.25), strict=True):
        ledger.put_score(
            database,
            item.id,
            level=0,
            metric="m",
            reference="r",
            images=500,
            value=1.0,
            standard_error=0.1,
            difference=difference,
            difference_error=0.125,
        )
    first = ledger.promotable(database, study.id, level=0, places=2)
    assert [standing.evaluation_id for standing in first] == [made[1].id, made[2].id]
    assert first[0].difference_error == 0.125
    ledger.promote(database, made[1].id, 1000)
    left = ledger.promotable(database, study.id, level=0, places=2)
    assert [standing.evaluation_id for standing in left] == [made[2].id]
    ledger.finish_evaluation(database, made[2].id, "diverged", "NaN")
    # Its place goes to the next one.
    left = ledger.promotable(database, study.id, level=0, places=2)
    assert [standing.evaluation_id for standing in left] == [made[0].id]
