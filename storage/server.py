"""What a database server has to offer: version, connections, clock."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from skiptune.errors import StorageError
from skiptune.storage.database import Database
from skiptune.storage.location import sqlite_path
from skiptune.storage.rows import now

__all__ = [
    "OLDEST_POSTGRESQL",
    "SPARE_CONNECTIONS",
    "ServerFacts",
    "check_connections",
    "database_bytes",
    "server_facts",
]

OLDEST_POSTGRESQL: Final = 13

SPARE_CONNECTIONS: Final = 5
"""Left for `status`, the dashboard, and whoever looks after the server."""


@dataclass(frozen=True)
class ServerFacts:
    """What was asked of the server.

    Arguments:
        version: Words for a person.
        most: Connections that it accepts from users like this one; None is no limit.
        used: Connections that are open now, this one included.
        ahead: Seconds by which the database's clock is ahead of this host's.
    """

    version: str
    most: int | None
    used: int
    ahead: float


def server_facts(database: Database) -> ServerFacts:
    """Ask the server.

    Raises:
        StorageError: It is a PostgreSQL older than `OLDEST_POSTGRESQL`.
    """
    with database.read() as session:
        before = time.time()
        ahead = now(session) - (before + time.time()) / 2
        if database.is_sqlite:
            return ServerFacts(f"SQLite {sqlite3.sqlite_version}", None, 0, ahead)
        number, version, most, reserved, used = session.execute(
            text(
                "SELECT current_setting('server_version_num')::int,"
                " current_setting('server_version'),"
                " current_setting('max_connections')::int,"
                " current_setting('superuser_reserved_connections')::int,"
                " (SELECT count(*) FROM pg_stat_activity"
                " WHERE datid IS NOT NULL AND usesysid IS NOT NULL)"
            )
        ).one()
    if number < OLDEST_POSTGRESQL * 10_000:
        raise StorageError(
            database.name,
            expected=f"PostgreSQL {OLDEST_POSTGRESQL} or newer",
            found=f"PostgreSQL {version}",
            hint="use a newer server",
        )
    return ServerFacts(f"PostgreSQL {version}", most - reserved, used, ahead)


def database_bytes(database: Database) -> int:
    """Return what a database takes on its disk: with SQLite's log, or as the server counts it."""
    path = sqlite_path(database.url)
    if path is None:
        with database.read() as session:
            return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    parts = (path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
    return sum(part.stat().st_size for part in parts if part.is_file())


def check_connections(database: Database, facts: ServerFacts, *, workers: int) -> str:
    """Return how many connections planned workers find, in words.

    Raises:
        StorageError: They would need more than the server has left.
    """
    if facts.most is None:
        return f"no limit; SQLite serves the {workers} workers of one host"
    left = facts.most - facts.used
    needed = workers + SPARE_CONNECTIONS
    if needed > left:
        raise StorageError(
            f"{database.name}: max_connections",
            expected=f"{needed} free connections: one for each of {workers} workers, and"
            f" {SPARE_CONNECTIONS} to spare",
            found=f"{left} free of {facts.most}",
            hint="raise max_connections on the server and restart it, or put PgBouncer before it"
            " (pool_mode = transaction)",
        )
    return f"{left} free of {facts.most}, {needed} needed for {workers} workers"
