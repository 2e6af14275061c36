"""What stored studies tell of how noisy a comparison is, from rows that are made up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from skiptune.search.paired_errors import stored_error
from skiptune.storage import ledger
from skiptune.storage.database import Database, init_database

MEANING = {
    "setting.steps": 6,
    "space.kind": "linear",
    "objective.metric": "fd",
    "search.rungs": [250, 500],
    "confirm.alpha": 0.05,
}


@pytest.fixture
def sqlite(database_url: str) -> Iterator[Database]:
    """An empty database."""
    with init_database(database_url) as database:
        yield database


class Rows:
    """A study whose rows are made up."""

    def __init__(self, database: Database, name: str, **changed: Any) -> None:
        self.database = database
        meaning = {**MEANING, **{key.replace("__", "."): value for key, value in changed.items()}}
        self.id = ledger.create_study(database, name=name, spec={}, meaning=meaning).id
        self._count = 0

    def add(
        self, kind: Any, *errors: float, difference: float = -1.0, value: float = 10.0
    ) -> None:
        """Enter an evaluation; each further error is of the next rung."""
        self._count += 1
        entered = ledger.add_evaluation(
            self.database,
            self.id,
            kind=kind,
            label=kind,
            block="search",
            series={},
            measure={},
            schedule={"n": self._count},
            first_seed=1_000_000,
            images=250,
            params={},
        )
        for level, error in enumerate(errors or (0.0,)):
            if level:
                ledger.promote(self.database, entered.id, 250 * (level + 1))
            ledger.put_score(
                self.database,
                entered.id,
                level=level,
                metric="m",
                reference="r",
                images=250 * (level + 1),
                value=value,
                standard_error=0.3,
                difference=None if kind == "baseline" else difference,
                difference_error=None if kind == "baseline" else error,
            )


def test_errors_are_scaled_to_one_image_and_the_highest_rung_counts(sqlite: Database) -> None:
    rows = Rows(sqlite, "a")
    assert stored_error(sqlite, MEANING, name="a") is None
    rows.add("baseline")
    assert stored_error(sqlite, MEANING, name="a") is None
    rows.add("proposal", 0.1)
    rows.add("proposal", 0.3, 0.2)
    rows.add("proposal", 0.4)
    found = stored_error(sqlite, MEANING, name="a")
    assert found is not None
    one, two, three = (
        0.1 * math.sqrt(250), 0.2 * math.sqrt(500), 0.4 * math.sqrt(250),
    )  # fmt: skip
    assert found.schedules == 3
    assert (found.low, found.deviation, found.high) == pytest.approx((one, two, three))
    # 2,000 images, as a part of the baseline's 10.
    assert found.at(2000) == pytest.approx(0.2 * math.sqrt(500 / 2000) / 10)


def test_schedules_worse_than_the_baseline_count_only_where_none_is_better(
    sqlite: Database,
) -> None:
    rows = Rows(sqlite, "a")
    rows.add("baseline")
    rows.add("proposal", 0.5, difference=2.0)
    far = stored_error(sqlite, MEANING, name="a")
    rows.add("confirm", 0.1)
    near = stored_error(sqlite, MEANING, name="a")
    assert far is not None and near is not None
    assert far.deviation == pytest.approx(5 * near.deviation)
    assert near.schedules == 1


def test_the_study_itself_goes_first_then_one_of_the_same_images(sqlite: Database) -> None:
    for name, error, changed in (
        ("same", 0.2, {"space__kind": "per-skip", "search__rungs": [500]}),
        ("several", 0.3, {"objective__metric": ["fd", "kid"], "objective__beside": ["recall"]}),
        ("other", 0.9, {"setting__steps": 8}),
        ("another metric", 0.9, {"objective__metric": "kid"}),
    ):
        rows = Rows(sqlite, name, **changed)
        rows.add("baseline")
        rows.add("proposal", error)
    newest = stored_error(sqlite, MEANING, name="mine")
    assert newest is not None and newest.source == "study several"
    own = stored_error(sqlite, MEANING, name="same")
    assert own is not None and own.source == "study same"
    unlike = stored_error(sqlite, {**MEANING, "network.sha256": "0"}, name="mine")
    assert unlike is None


def test_a_screen_is_measured_in_other_features(sqlite: Database) -> None:
    meaning = {**MEANING, "objective.projection": 16}
    rows = Rows(sqlite, "a", objective__projection=16)
    rows.add("baseline")
    rows.add("proposal", 0.9)
    assert stored_error(sqlite, meaning, name="a") is None
    rows.add("proposal", 0.9, 0.2)
    found = stored_error(sqlite, meaning, name="a")
    assert found is not None and found.schedules == 1
    assert found.deviation == pytest.approx(0.2 * math.sqrt(500))


def test_a_baseline_that_is_no_unit_tells_nothing(sqlite: Database) -> None:
    rows = Rows(sqlite, "a")
    rows.add("baseline", value=-0.1)
    rows.add("proposal", 0.1)
    assert stored_error(sqlite, MEANING, name="a") is None


def test_a_rung_alone_is_no_screen(sqlite: Database) -> None:
    meaning = {**MEANING, "objective.projection": 16, "search.rungs": [500]}
    rows = Rows(sqlite, "a", objective__projection=16, search__rungs=[500])
    rows.add("baseline")
    rows.add("proposal", 0.2)
    assert stored_error(sqlite, meaning, name="a") is not None
