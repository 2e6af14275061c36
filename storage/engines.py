"""Engines of the two kinds of database, set up for short transactions of many processes.

SQLite: write-ahead log, `synchronous=NORMAL` (a killed process loses nothing, a power cut at most
the last transactions), and every writing transaction begins with BEGIN IMMEDIATE, so that it
never has to upgrade a read lock that another writer blocks.

PostgreSQL: at most one connection per process; nothing that outlives a transaction is set on it
(no prepared statements, no session settings, no advisory locks), so that a pool in between, such
as PgBouncer in transaction mode, changes nothing.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.util.queue import Empty

__all__ = ["BUSY_SECONDS", "WRITES", "OneConnection", "bounded", "make_engine", "sqlite_pragmas"]

BUSY_SECONDS: Final = 30.0
"""How long a transaction waits for another one's lock; ours hold theirs for milliseconds."""

STATEMENT_SECONDS: Final = 60.0
"""After so long a statement is given up: no query of ours takes a second."""

WRITES: Final = "skiptune_writes"
"""Execution option of the connections that write."""

_LIMITS: Final = (
    f"SET LOCAL lock_timeout = '{BUSY_SECONDS:g}s';"
    f" SET LOCAL statement_timeout = '{STATEMENT_SECONDS:g}s';"
    # A worker that is stopped (SIGSTOP, a hung node) inside a transaction holds up nobody.
    f" SET LOCAL idle_in_transaction_session_timeout = '{STATEMENT_SECONDS:g}s'"
)
_READ: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
_WRITE: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; "


class OneConnection(QueuePool):
    """A pool of one connection, which can be closed while nobody uses it."""

    def rest(self) -> None:
        """Close the connection; the next use makes a new one.

        Not `dispose`: called while another thread, a heartbeat, uses the connection, that would
        forget to count it, and the process would have two from then on.
        """
        try:
            entry = self._pool.get(block=False)
        except Empty:
            return  # not made yet, or in use
        try:
            entry.close()
        finally:
            self._do_return_conn(entry)


def make_engine(url: URL) -> Engine:
    """Return an engine whose transactions are bounded in time; nothing is connected yet.

    Arguments:
        url: From `location.parse_url`.
    """
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


def bounded(engine: Engine) -> Engine:
    """Let every PostgreSQL transaction of a foreign engine, Optuna's, wait no longer than ours."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(_LIMITS)

    return engine


def sqlite_pragmas(connection: sqlite3.Connection) -> None:
    """Set what a SQLite connection does not remember by itself (write-ahead log it does)."""
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
        # One connection stays open: closing the last one would checkpoint the log each time.
        pool_size=1,
        # isolation_level=None: the driver begins nothing by itself, `begin` below does.
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: Any) -> None:
        sqlite_pragmas(connection)
        # Ours only: the connections of Optuna's own engine never see this.
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    given = url.query
    defaults: dict[str, Any] = {
        "application_name": "skiptune",
        "connect_timeout": 10,
        # A server that vanished without a word is noticed within a minute, not within hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    engine = create_engine(
        url,
        poolclass=OneConnection,
        pool_size=1,
        max_overflow=0,
        pool_timeout=STATEMENT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=300,
        use_native_hstore=False,  # one query less per connection
        connect_args={
            # Never prepare on the server: behind a pool the next transaction has another one.
            "prepare_threshold": None,
            **{key: value for key, value in defaults.items() if key not in given},
        },
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql((_WRITE if writes else _READ) + _LIMITS)

    return engine
