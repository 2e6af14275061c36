"""What is stored here is what Optuna reads, all of it or nothing."""

from __future__ import annotations

import optuna
import pytest

from skiptune.storage.database import Database
from skiptune.storage.optuna_attributes import (
    change_attributes,
    optuna_studies,
    study_attributes,
)
from skiptune.storage.optuna_rows import optuna_storage
from tests.storage.conftest import in_threads

pytestmark = pytest.mark.usefixtures("quiet_optuna")


def made(database: Database, name: str) -> int:
    return optuna.create_study(study_name=name, storage=optuna_storage(database))._study_id


def test_optuna_reads_what_is_stored(database: Database) -> None:
    key, other = made(database, "cats"), made(database, "dogs")
    storage = optuna_storage(database)
    storage.set_study_system_attr(key, "theirs", {"a": [1, 2]})
    change_attributes(database, key, put={"one": "text", "two": {"b": 0.1}})
    assert storage.get_study_system_attrs(key) == {
        "theirs": {"a": [1, 2]}, "one": "text", "two": {"b": 0.1},
    }  # fmt: skip
    change_attributes(database, key, put={"one": "other"}, remove=["two", "never there"])
    assert storage.get_study_system_attrs(key) == {"theirs": {"a": [1, 2]}, "one": "other"}
    assert study_attributes(database, [key, other]) == {
        key: storage.get_study_system_attrs(key), other: {},
    }  # fmt: skip
    storage.set_study_system_attr(key, "one", "by Optuna")
    assert study_attributes(database, [key])[key]["one"] == "by Optuna"


def test_studies_are_found_by_name(database: Database) -> None:
    key = made(database, "cats")
    assert optuna_studies(database, ["cats", "mice"]) == {"cats": key}
    assert optuna_studies(database, []) == {}
    assert study_attributes(database, []) == {}


def test_a_study_that_is_gone_is_passed_over(database: Database) -> None:
    key = made(database, "cats")
    optuna.delete_study(study_name="cats", storage=optuna_storage(database))
    change_attributes(database, key, put={"one": 1})
    assert study_attributes(database, [key]) == {key: {}}


def test_two_that_write_the_same_at_once_both_succeed(database: Database, url: str) -> None:
    key = made(database, "cats")

    def write(own: Database, value: str) -> None:
        for _ in range(5):
            change_attributes(own, key, put={f"key {i}": value for i in range(10)})

    in_threads(url, [lambda own, v=v: write(own, v) for v in ("a", "b")])  # type: ignore[misc]
    found = study_attributes(database, [key])[key]
    # Of one of them, not some of each.
    assert len(found) == 10
    assert len(set(found.values())) == 1
