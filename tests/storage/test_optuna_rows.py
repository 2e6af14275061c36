"""Optuna beside us in one database: neither notices the other."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import event, text

from bench.postgres import Server
from skiptune.errors import StorageError, UnavailableError
from skiptune.storage import ledger
from skiptune.storage.database import Database, open_database
from skiptune.storage.optuna_rows import optuna_explained, optuna_storage
from skiptune.storage.tables import Table
from tests.storage.conftest import Add, on_postgresql, on_sqlite

pytestmark = pytest.mark.usefixtures("quiet_optuna")


class TestConformance(StorageTestCase):
    """What Optuna asks of every storage."""

    @pytest.fixture
    def storage(self, database: Database) -> optuna.storages.BaseStorage:
        return optuna_storage(database)

    def test_pickle_storage(self, storage: optuna.storages.BaseStorage) -> None:
        """One that shares our connection stays in its process: a URL is sent, never a storage."""
        engine = storage._backend.engine  # type: ignore[attr-defined]
        if engine.dialect.name == "sqlite":
            super().test_pickle_storage(storage)
        else:
            refused = (TypeError, AttributeError, pickle.PicklingError)
            with pytest.raises(refused, match="pickle"):
                super().test_pickle_storage(storage)


def versions(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(text("SELECT version_num FROM alembic_version")))


def test_optuna_starts_and_its_version_table_is_untouched(database: Database, url: str) -> None:
    before = versions(database)
    assert len(before) == 1
    study = optuna.create_study(study_name="cats", storage=optuna_storage(database))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    # Also as Optuna opens it by itself.
    theirs = url.replace("postgresql://", "postgresql+psycopg://")
    storage = optuna.storages.RDBStorage(theirs)
    assert len(optuna.load_study(study_name="cats", storage=storage).trials) == 2
    storage.remove_session()
    storage.engine.dispose()
    assert versions(database) == before


def test_deleting_optunas_study_works_and_keeps_ours(
    database: Database, study: ledger.Study, add: Add
) -> None:
    storage = optuna_storage(database)
    theirs = optuna.create_study(study_name="cats", storage=storage)
    trial = theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    made = add(0.8)
    theirs.tell(trial, 1.0)
    optuna.delete_study(study_name="cats", storage=storage)
    assert optuna.get_all_study_names(storage=storage) == []
    assert ledger.evaluations(database, study.id) == (made,)


def test_dropping_our_tables_does_not_hurt_optuna(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8)
    optuna.create_study(study_name="cats", storage=optuna_storage(database)).ask()
    with database.write() as session:
        Table.metadata.drop_all(session.connection())
    theirs = optuna.load_study(study_name="cats", storage=optuna_storage(database))
    theirs.tell(0, 1.0)
    assert theirs.best_value == 1.0


def test_both_write_in_turn(database: Database, study: ledger.Study, add: Add) -> None:
    """Neither engine keeps the file locked, or the one connection, between its transactions."""
    theirs = optuna.create_study(study_name="cats", storage=optuna_storage(database))
    for scale in (0.7, 0.8, 0.9):
        trial = theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        add(scale)
        theirs.tell(trial, scale)
        database.rest()
    assert [told.value for told in theirs.trials] == [0.7, 0.8, 0.9]
    made = ledger.evaluations(database, study.id)
    assert [e.params["skip/a"] for e in made] == [0.7, 0.8, 0.9]


@on_sqlite
def test_the_storage_caches_and_uses_our_pragmas(database: Database) -> None:
    storage = optuna_storage(database)
    assert type(storage).__name__ == "_CachedStorage"
    engine = storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert connection.scalar(text("PRAGMA foreign_keys")) == 0


@on_postgresql
def test_the_storage_caches_and_shares_our_connection(
    database: Database, postgres_server: Server
) -> None:
    storage = optuna_storage(database)
    assert type(storage).__name__ == "_CachedStorage"
    engine = storage._backend.engine  # type: ignore[attr-defined]
    assert engine.pool is database.engine.pool
    with engine.connect() as connection:
        limits = [
            connection.scalar(text(f"SHOW {name}"))
            for name in (
                "lock_timeout",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
            )
        ]
        assert limits == ["30s", "1min", "1min"]
        assert postgres_server.connections(str(database.engine.url.database)) == 1


def test_missing_tables_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    sqlite3.connect(path).close()
    with Database(f"sqlite:///{path}") as database, pytest.raises(StorageError) as raised:
        optuna_storage(database)
    assert "skiptune db init" in raised.value.hint
    assert "no such table" in raised.value.problems[0].found


@on_postgresql
def test_missing_tables_are_not_made_on_a_server(database: Database) -> None:
    with database.write() as session:
        session.execute(text("DROP TABLE version_info"))
    with pytest.raises(StorageError) as raised:
        optuna_storage(database)
    assert "skiptune db init" in raised.value.hint
    assert "version_info" in raised.value.problems[0].found


def test_another_schema_of_optuna_is_refused(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'v99'"))
    with pytest.raises(StorageError) as raised:
        optuna_storage(database)
    [problem] = raised.value.problems
    assert "v99" in problem.found and "Optuna's tables" in problem.expected
    assert versions(database) == ["v99"]


def test_a_database_of_another_optuna_is_refused(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE version_info SET library_version = '4.9.0'"))
    with pytest.raises(StorageError, match=r"one that Optuna 4\.9\.0 made"):
        optuna_storage(database)


def test_what_optuna_says_of_a_failing_database_is_said_again(database: Database) -> None:
    """Optuna's own text blames a value that is too long."""
    storage = optuna_storage(database)
    with database.write() as session:
        session.execute(text("DROP TABLE study_user_attributes"))
    with pytest.raises(StorageError) as raised, optuna_explained(database.url):
        optuna.create_study(study_name="cats", storage=storage).user_attrs  # noqa: B018
    assert "study_user_attributes" in raised.value.problems[0].found
    assert not isinstance(raised.value, UnavailableError)


def test_what_is_not_the_databases_fault_stays_what_it_is(database: Database) -> None:
    theirs = optuna.create_study(storage=optuna_storage(database))
    trial = theirs.ask()
    theirs.tell(trial, 1.0)
    with optuna_explained(database.url), pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("late", True)
    with pytest.raises(RuntimeError, match="a sampler's"), optuna_explained(database.url):
        raise RuntimeError("a sampler's")


@on_postgresql
def test_a_server_that_is_away_is_asked_again_later(
    database: Database, postgres_server: Server
) -> None:
    storage = optuna_storage(database)
    theirs = optuna.create_study(study_name="cats", storage=storage)
    trial = theirs.ask()
    # Within a transaction the connection is not tried first.
    with storage._backend.engine.connect() as held:  # type: ignore[attr-defined]
        held.execute(text("SELECT 1"))
        postgres_server.kill_connections(str(database.engine.url.database))
        with pytest.raises(UnavailableError), optuna_explained(database.url):
            held.execute(text("SELECT 1"))
    theirs.tell(trial, 1.0)
    assert theirs.best_value == 1.0


@on_postgresql
def test_a_connection_lost_among_the_reads_of_trials_is_a_server_that_is_away(
    database: Database, postgres_server: Server
) -> None:
    """Optuna reads once more within the lost transaction, and names what that says."""
    storage = optuna_storage(database)
    theirs = optuna.create_study(study_name="cats", storage=storage)
    theirs.ask()
    lost: list[str] = []

    @event.listens_for(storage._backend.engine, "before_cursor_execute")  # type: ignore[attr-defined]
    def lose(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trials" in statement and not lost:
            lost.append(statement)
            postgres_server.kill_connections(str(database.engine.url.database))

    with pytest.raises(UnavailableError), optuna_explained(database.url):
        theirs.get_trials()
    assert len(theirs.get_trials()) == 1


def test_braces_in_a_path_are_no_template(empty_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "{SCHEMA_VERSION}.db"
    path.write_bytes(empty_file.read_bytes())
    with open_database(f"sqlite:///{path}") as database:
        optuna.create_study(study_name="cats", storage=optuna_storage(database))
    assert {item.name for item in tmp_path.glob("*.db")} == {path.name}
