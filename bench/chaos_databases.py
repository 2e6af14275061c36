"""The two kinds of database that a chaos run disturbs, behind one face.

Both keep a history that skiptune knows nothing of: a trigger writes down every change of a chunk's
state, fence or doubled images, in the transaction that makes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import psycopg

from bench.postgres import CuttingProxy, Mode, Server

__all__ = ["BACKENDS", "Backend", "Change", "Database", "PostgreSQL", "SQLite", "history"]

Backend = Literal["postgresql", "sqlite"]
BACKENDS: Final[tuple[Backend, ...]] = ("postgresql", "sqlite")

_COLUMNS: Final = (
    "chunk text, fence integer, before text, after text, doubled integer, doubled_fence integer"
)
_INSERT: Final = """
    INSERT INTO chaos_history (chunk, fence, before, after, doubled, doubled_fence) VALUES (
        NEW.id, NEW.fence, OLD.state, NEW.state,
        NEW.doubled_images - OLD.doubled_images, NEW.doubled_fence
    );
"""
_CHANGED: Final = (
    "(OLD.state <> NEW.state OR OLD.fence <> NEW.fence"
    " OR OLD.doubled_images <> NEW.doubled_images)"
)


@dataclass(frozen=True)
class Change:
    """One committed change of a chunk.

    Arguments:
        chunk: Its identifier.
        fence: After the change.
        before: Its state.
        after: Its state.
        doubled: Images that were counted as doubled with this change.
        doubled_fence: The last fence whose commit was refused and counted.
    """

    chunk: str
    fence: int
    before: str
    after: str
    doubled: int
    doubled_fence: int


class Database(Protocol):
    """A database that can go away. It is asked only while it is there."""

    @property
    def url(self) -> str:
        """Its URL."""

    @property
    def busy(self) -> float:
        """Seconds for which workers wait for a lock of SQLite."""

    @property
    def downtime(self) -> float:
        """Seconds for which it goes away."""

    @property
    def proxy(self) -> CuttingProxy | None:
        """The proxy through which the first worker connects, None where there is none."""

    def urls(self, workers: int) -> tuple[str, ...]:
        """Return the URL for each of so many workers."""

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what a query with a `?` per parameter finds."""

    def expire(self, chunk: str, fence: int) -> bool:
        """Let a lease run out; False where it has gone, or somebody holds the chunk's row."""

    def away(self, mode: Mode) -> AbstractContextManager[None]:
        """Take the database away for the length of a `with` block."""

    def remember(self) -> None:
        """Begin the history; the tables are there."""


class PostgreSQL:
    """A server of one's own; the first worker connects through a proxy that cuts commits.

    Arguments:
        folder: Where the cluster is made.
    """

    busy = 30.0
    downtime = 1.0

    def __init__(self, folder: Path) -> None:
        self._server = Server(folder, fast=True)
        self.proxy: CuttingProxy | None = None

    def __enter__(self) -> Self:
        self._server.start()
        try:
            self._server.create_database("chaos")
            self.proxy = CuttingProxy(self._server)
        except BaseException:
            self._server.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.proxy is not None:
                self.proxy.close()
        finally:
            self._server.close()

    @property
    def url(self) -> str:
        """The server's own URL."""
        return self._server.url("chaos")

    def urls(self, workers: int) -> tuple[str, ...]:
        """Return the proxy's URL, and for all others that of the server."""
        assert self.proxy is not None
        return (self.proxy.url("chaos"), *[self.url] * (workers - 1))

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        return self._server.execute(query.replace("?", "%s"), *parameters, database="chaos")

    def expire(self, chunk: str, fence: int) -> bool:
        """Let a lease run out, unless it has gone or a transaction holds the chunk's row."""
        update = (
            "UPDATE skiptune_chunks SET lease_until = 0"
            " WHERE id = %s AND fence = %s AND state = 'leased' RETURNING id"
        )
        with psycopg.connect(self._server.socket_url("chaos")) as connection:
            connection.execute("SET LOCAL lock_timeout = '500ms'")
            try:
                return connection.execute(update, (chunk, fence)).fetchone() is not None
            except psycopg.errors.LockNotAvailable:
                return False

    @contextmanager
    def away(self, mode: Mode) -> Iterator[None]:
        """Stop the server and start it at the end."""
        self._server.stop(mode)
        try:
            yield
        finally:
            self._server.start()

    def remember(self) -> None:
        """Begin the history."""
        self._server.execute(
            f"CREATE TABLE chaos_history (number bigserial PRIMARY KEY, {_COLUMNS});"
            " CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" BEGIN {_INSERT} RETURN NULL; END $$;"
            " CREATE TRIGGER chaos_chunks AFTER UPDATE ON skiptune_chunks"
            f" FOR EACH ROW WHEN {_CHANGED} EXECUTE FUNCTION chaos_note()",
            database="chaos",
        )


class SQLite:
    """A file; it is away while somebody holds its write lock.

    Arguments:
        folder: Where the file is made.
    """

    # The lock is held for longer than a worker waits for it within one transaction.
    busy = 0.5
    downtime = 2.0
    proxy = None

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "chaos.db"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def url(self) -> str:
        """The file's URL."""
        return f"sqlite:///{self._path}"

    def urls(self, workers: int) -> tuple[str, ...]:
        """Return the same URL for all."""
        return (self.url,) * workers

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with closing(self._connection(30.0)) as connection:
            return connection.execute(query, parameters).fetchall()

    def expire(self, chunk: str, fence: int) -> bool:
        """Let a lease run out, unless it has gone or a transaction holds the write lock."""
        update = (
            "UPDATE skiptune_chunks SET lease_until = 0"
            " WHERE id = ? AND fence = ? AND state = 'leased'"
        )
        with closing(self._connection(0.5)) as connection:
            try:
                return connection.execute(update, (chunk, fence)).rowcount == 1
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False

    @contextmanager
    def away(self, mode: Mode) -> Iterator[None]:
        """Hold the write lock; readers go on, as they do beside any writer."""
        with closing(self._connection(30.0)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def remember(self) -> None:
        """Begin the history."""
        with closing(self._connection(30.0)) as connection:
            connection.executescript(
                f"CREATE TABLE chaos_history (number integer PRIMARY KEY, {_COLUMNS});"
                " CREATE TRIGGER chaos_chunks AFTER UPDATE ON skiptune_chunks"
                f" WHEN {_CHANGED} BEGIN {_INSERT} END"
            )

    def _connection(self, timeout: float) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=timeout, isolation_level=None)


def history(database: Database) -> tuple[Change, ...]:
    """Return all changes in the order in which each chunk has seen them."""
    query = (
        "SELECT chunk, fence, before, after, doubled, doubled_fence FROM chaos_history"
        " ORDER BY number"
    )
    return tuple(Change(*row) for row in database.rows(query))
