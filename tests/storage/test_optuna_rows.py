"""Optuna beside us in one database: neither notices the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import text

from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.tables import Table
from tests.storage.conftest import Add


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class TestConformance(StorageTestCase):
    """What Optuna asks of every storage."""

    @pytest.fixture
    def storage(self, url: str) -> optuna.storages.BaseStorage:
        return optuna_storage(url)


def test_optuna_starts_and_its_version_table_is_untouched(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    before = connection.execute("SELECT * FROM alembic_version").fetchall()
    connection.close()
    assert len(before) == 1
    study = optuna.create_study(study_name="cats", storage=optuna_storage(url))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    optuna.load_study(study_name="cats", storage=url)
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    assert connection.execute("SELECT * FROM alembic_version").fetchall() == before
    connection.close()


def test_deleting_optunas_study_works_and_keeps_ours(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    storage = optuna_storage(url)
    theirs = optuna.create_study(study_name="cats", storage=storage)
    trial = theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    made = add(0.8)
    theirs.tell(trial, 1.0)
    optuna.delete_study(study_name="cats", storage=storage)
    assert optuna.get_all_study_names(storage=url) == []
    assert ledger.evaluations(database, study.id) == (made,)


def test_dropping_our_tables_does_not_hurt_optuna(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    add(0.8)
    optuna.create_study(study_name="cats", storage=optuna_storage(url)).ask()
    with database.write() as session:
        Table.metadata.drop_all(session.connection())
    theirs = optuna.load_study(study_name="cats", storage=optuna_storage(url))
    theirs.tell(0, 1.0)
    assert theirs.best_value == 1.0


def test_both_write_in_turn(database: Database, url: str, study: ledger.Study, add: Add) -> None:
    """Neither engine keeps the file locked between its transactions."""
    theirs = optuna.create_study(study_name="cats", storage=optuna_storage(url))
    for scale in (0.7, 0.8, 0.9):
        trial = theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        add(scale)
        theirs.tell(trial, scale)
    assert [told.value for told in theirs.trials] == [0.7, 0.8, 0.9]
    made = ledger.evaluations(database, study.id)
    assert [e.params["skip/a"] for e in made] == [0.7, 0.8, 0.9]


def test_the_storage_caches_and_uses_our_pragmas(url: str) -> None:
    storage = optuna_storage(url)
    assert type(storage).__name__ == "_CachedStorage"
    engine = storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert connection.scalar(text("PRAGMA foreign_keys")) == 0


def test_missing_tables_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    sqlite3.connect(path).close()
    with pytest.raises(StorageError) as raised:
        optuna_storage(f"sqlite:///{path}")
    assert "skiptune tune" in raised.value.hint
    assert "no such table" in raised.value.problems[0].found


def test_another_version_of_optuna_is_refused(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    connection.execute("UPDATE alembic_version SET version_num = 'v99'")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match="no longer compatible"):
        optuna_storage(url)


def test_braces_in_a_path_are_no_template(empty_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "{SCHEMA_VERSION}.db"
    path.write_bytes(empty_file.read_bytes())
    optuna.create_study(study_name="cats", storage=optuna_storage(f"sqlite:///{path}"))
    assert {item.name for item in tmp_path.glob("*.db")} == {path.name}
