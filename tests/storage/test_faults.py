"""What drivers say, said again: what a person can mend, and what may pass by itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bench.postgres import Server
from skiptune.errors import StorageError, UnavailableError, render
from skiptune.storage import engines, ledger
from skiptune.storage.database import Database, init_database, open_database
from skiptune.storage.engines import OneConnection
from skiptune.storage.faults import explained, fault
from tests.storage.conftest import on_postgresql

URL = "postgresql://me:geheim@host/studies"


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def refused(url: str, kind: type[StorageError], *parts: str) -> None:
    """Opening says all these parts, and shows no password; it is of exactly this kind."""
    for opened in (open_database, init_database):
        with pytest.raises(StorageError) as raised:
            opened(url)
        assert type(raised.value) is kind
        [problem] = raised.value.problems
        assert problem.where and problem.expected and problem.found and raised.value.hint
        shown = render(raised.value)
        for part in parts:
            assert part in shown
        assert "geheim" not in shown + str(raised.value)


# A server that answers no.


def test_a_wrong_password(postgres_server: Server) -> None:
    refused(
        postgres_server.url(password="geheim"),
        StorageError,
        "a user and a password that the server accepts",
        "password authentication failed",
        "SKIPTUNE_STORAGE_FILE",
    )


def test_an_unknown_user(postgres_server: Server) -> None:
    """The server does not tell it from a wrong password."""
    url = postgres_server.url(user="nobody", password="geheim")
    refused(url, StorageError, "a user and a password")


def test_no_password(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    url = postgres_server.url(password="geheim").replace(":geheim", "")
    refused(url, StorageError, "a password: the server asks for one", "SKIPTUNE_STORAGE_FILE")


def test_an_unknown_database(postgres_server: Server) -> None:
    refused(
        postgres_server.url("no such database"),
        StorageError,
        "a database of this name",
        'database "no such database" does not exist',
        "createdb",
    )


def test_a_server_without_tls(postgres_server: Server) -> None:
    refused(f"{postgres_server.url()}?sslmode=require", StorageError, "TLS", "sslmode")


def test_nobody_listens(postgres_server: Server) -> None:
    refused(
        postgres_server.url(port=1, password="geheim"),
        UnavailableError,
        "a database server that answers",
        "refused",
        "skiptune db check",
    )


@pytest.fixture
def guest(url: str, postgres_server: Server) -> Iterator[str]:
    """The URL of a user who may have one connection and read nothing."""
    postgres_server.execute("CREATE ROLE guest LOGIN PASSWORD 'geheim' CONNECTION LIMIT 1")
    yield postgres_server.url(name_of(url), user="guest", password="geheim")
    postgres_server.execute("DROP ROLE guest")


@on_postgresql
def test_too_many_connections(guest: str) -> None:
    with psycopg.connect(guest):
        refused(guest, UnavailableError, "a free connection", "too many connections")


@on_postgresql
def test_a_user_without_rights(guest: str) -> None:
    with Database(guest) as database, pytest.raises(StorageError) as raised:
        ledger.list_studies(database)
    assert "permission denied" in raised.value.problems[0].found
    assert "GRANT" in raised.value.hint
    assert not isinstance(raised.value, UnavailableError)


# A server that lets one wait.


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = engines._LIMITS.replace("'30s'", "'80ms'").replace("'60s'", "'300ms'")
    assert limits.count("ms'") == 3
    monkeypatch.setattr(engines, "_LIMITS", limits)


@on_postgresql
def test_a_lock_that_is_held(url: str, database: Database, hurry: None) -> None:
    with (
        open_database(url) as other,
        database.write() as session,
        pytest.raises(UnavailableError) as raised,
    ):
        session.execute(text("LOCK TABLE skiptune_studies"))
        ledger.create_study(other, name="a", spec={}, meaning={})
    assert "lock timeout" in raised.value.problems[0].found
    assert raised.value.problems[0].expected == "a lock within 30 s"


@on_postgresql
def test_a_statement_that_takes_too_long(database: Database, hurry: None) -> None:
    with pytest.raises(UnavailableError) as raised, database.read() as session:
        session.execute(text("SELECT pg_sleep(60)"))
    assert "statement timeout" in raised.value.problems[0].found


@on_postgresql
def test_a_worker_that_is_stopped_within_a_transaction_holds_up_nobody(
    database: Database, postgres_server: Server, hurry: None
) -> None:
    with pytest.raises(UnavailableError), database.write() as session:
        session.execute(text("LOCK TABLE skiptune_studies"))
        while postgres_server.connections(str(database.engine.url.database)):
            time.sleep(0.01)
        session.execute(text("SELECT 1"))
    assert ledger.list_studies(database) == ()


@on_postgresql
def test_transactions_that_wait_for_each_other(url: str, database: Database) -> None:
    """The server ends one of them, which may be tried again."""
    with open_database(url) as other:
        with other.write() as theirs, database.write() as ours:
            theirs.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            ours.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            theirs.execute(text("LOCK TABLE skiptune_studies"))
            ours.execute(text("LOCK TABLE skiptune_turns"))
            # Sent without waiting for the answer: it waits for `theirs`.
            raw = ours.connection().connection.dbapi_connection
            assert isinstance(raw, psycopg.Connection)
            raw.pgconn.send_query(b"LOCK TABLE skiptune_studies")
            raw.pgconn.flush()
            with pytest.raises(DBAPIError) as raised:
                theirs.execute(text("LOCK TABLE skiptune_turns"))
            said = fault(url, raised.value)
            assert isinstance(said, UnavailableError)
            assert "deadlock" in said.problems[0].found
            theirs.rollback()
            raw.pgconn.get_result()
            raw.pgconn.get_result()


@on_postgresql
def test_a_connection_that_is_cut(database: Database, postgres_server: Server) -> None:
    name = str(database.engine.url.database)
    with pytest.raises(UnavailableError) as raised, database.read() as session:
        session.execute(text("SELECT 1"))
        postgres_server.kill_connections(name)
        session.execute(text("SELECT 1"))
    assert "skiptune db check" in raised.value.hint
    # One that was cut between two transactions is made anew, and nobody notices.
    assert ledger.list_studies(database) == ()
    postgres_server.kill_connections(name)
    assert ledger.list_studies(database) == ()


@on_postgresql
def test_the_one_connection_is_in_use(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(database.engine.pool, OneConnection)
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    with database.read() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(UnavailableError) as raised:
            ledger.list_studies(database)
    assert "the connection of this process" in raised.value.problems[0].expected


@on_postgresql
def test_a_standby(database: Database, url: str) -> None:
    """Optuna's transactions say nothing of writing: they learn it from the server."""
    with pytest.raises(StorageError) as raised, explained(url):
        with database.engine.connect() as connection:
            connection.execute(text("INSERT INTO skiptune_measures VALUES ('d', '{}')"))
    assert "read-only transaction" in raised.value.problems[0].found
    assert "standby" in raised.value.hint
    recovering = psycopg.errors.FeatureNotSupported(
        "cannot set transaction read-write mode during recovery"
    )
    said = fault(URL, recovering)
    assert isinstance(said, UnavailableError) and "standby" in said.problems[0].expected


# Texts of drivers, and what is a bug of ours.


@pytest.mark.parametrize(
    "message, passes, expected",
    [
        ("FATAL:  sorry, too many clients already", True, "a free connection"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER"
            " attribute",
            True,
            "a free connection",
        ),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', False, "lets in"),
        ('FATAL:  Peer authentication failed for user "me"', False, "a user and a password"),
        ('FATAL:  role "me" does not exist', False, "a user and a password"),
        ("FATAL:  the database system is starting up", True, "a database server that answers"),
        ("server closed the connection unexpectedly\n\tThis probably", True, "that answers"),
        ("could not translate host name", True, "that answers"),
    ],
)
def test_messages_without_a_code(message: str, passes: bool, expected: str) -> None:
    error = psycopg.OperationalError(message)
    said = fault(URL, DBAPIError.instance("SELECT 1", {}, error, psycopg.Error))
    assert said is not None
    assert isinstance(said, UnavailableError) is passes
    [problem] = said.problems
    assert expected in problem.expected
    assert problem.found == message.splitlines()[0]
    assert problem.where == "postgresql://me:***@host/studies"


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.errors.SyntaxError("syntax error"),
        psycopg.errors.NumericValueOutOfRange("out of range"),
        psycopg.errors.InFailedSqlTransaction("current transaction is aborted"),
        psycopg.errors.FeatureNotSupported("not supported"),
        sqlite3.IntegrityError("UNIQUE constraint failed"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        ValueError("no error of a driver"),
    ],
)
def test_bugs_of_ours_stay_what_they_are(error: Exception) -> None:
    assert fault(URL, error) is None


def test_a_broken_constraint_is_raised_as_it_is(database: Database) -> None:
    insert = text("INSERT INTO skiptune_measures VALUES ('d', '{}')")
    with pytest.raises(DBAPIError), database.write() as session:
        session.execute(insert)
        session.execute(insert)
