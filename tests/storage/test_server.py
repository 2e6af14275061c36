"""What a server has to offer: as the server itself says, and enough of it or not."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import psycopg
import pytest

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.storage import server as module
from skiptune.storage.database import Database
from skiptune.storage.server import SPARE_CONNECTIONS, check_connections, server_facts
from tests.storage.conftest import on_postgresql, on_sqlite


def test_the_clocks_of_one_machine_agree(database: Database) -> None:
    assert abs(server_facts(database).ahead) < 30.0


@on_sqlite
def test_sqlite(database: Database) -> None:
    facts = server_facts(database)
    assert facts.version == f"SQLite {sqlite3.sqlite_version}"
    assert (facts.most, facts.used) == (None, 0)
    assert "no limit" in check_connections(database, facts, workers=1000)


@on_postgresql
def test_postgresql(database: Database, postgres_server: Server) -> None:
    facts = server_facts(database)
    [(version,)] = postgres_server.execute("SHOW server_version")
    assert facts.version == f"PostgreSQL {version}"
    # As the fixture starts it, less what is reserved to superusers by default.
    assert facts.most == 200 - 3
    name = str(database.engine.url.database)
    with psycopg.connect(postgres_server.url(name)), psycopg.connect(postgres_server.url(name)):
        assert server_facts(database).used == facts.used + 2


@on_postgresql
def test_more_workers_than_connections(database: Database) -> None:
    facts = replace(server_facts(database), most=97, used=2)
    most = 95 - SPARE_CONNECTIONS
    assert check_connections(database, facts, workers=most).startswith("95 free of 97")
    with pytest.raises(StorageError) as raised:
        check_connections(database, facts, workers=most + 1)
    [problem] = raised.value.problems
    assert "96 free connections" in problem.expected and problem.found == "95 free of 97"
    assert "PgBouncer" in raised.value.hint
    assert "***" in problem.where


@on_postgresql
def test_an_old_server_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDEST_POSTGRESQL", 99)
    with pytest.raises(StorageError) as raised:
        server_facts(database)
    assert "PostgreSQL 99 or newer" in raised.value.problems[0].expected
