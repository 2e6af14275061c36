"""One database by its URL: opened, checked, made; one short transaction at a time.

SQLite serves all processes of one host: write-ahead log, `synchronous=NORMAL` (a killed process
loses nothing, a power cut at most the last transactions), and every writing transaction begins
with BEGIN IMMEDIATE, so that it never has to upgrade a read lock that another writer blocks.
Our schema has its own Alembic version table; Optuna's is left alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from skiptune.errors import StorageError
from skiptune.storage.failpoints import STEPS, fail_point

__all__ = [
    "BUSY_SECONDS",
    "REVISIONS",
    "VERSION_TABLE",
    "Database",
    "init_database",
    "masked_url",
    "open_database",
    "sqlite_folder",
    "sqlite_pragmas",
]

VERSION_TABLE: Final = "skiptune_alembic_version"
"""Optuna refuses to start when it finds a foreign revision in the default version table."""

REVISIONS: Final = ("0001",)
"""Our schema's revisions, oldest first; known here so that opening needs no Alembic."""

BUSY_SECONDS: Final = 30.0
"""How long a transaction waits for another writer of a SQLite file; ours take milliseconds."""

_WRITES: Final = "skiptune_writes"


class Database:
    """A database with our tables. Use `open_database` to get one.

    Arguments:
        url: The URL of a SQLite file.

    Raises:
        StorageError: The URL names no SQLite file.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = _engine(_parse(url))
        self._writer = self._engine.execution_options(**{_WRITES: True})

    @property
    def url(self) -> str:
        """The URL with its password: for opening, never for printing."""
        return self._url

    @property
    def name(self) -> str:
        """The URL as it may be printed."""
        return masked_url(self._url)

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent snapshot; nothing is written.

        Raises:
            StorageError: The database cannot be reached or read.
        """
        with _explained(self._url), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self, step: str | None = None) -> Iterator[Session]:
        """One writing transaction: all of it is stored at the end of the block, or nothing.

        Arguments:
            step: Name of the commit among `failpoints.STEPS`; a test may kill the process
                before and after it.

        Raises:
            StorageError: The database cannot be reached or written.
        """
        if step is not None and step not in STEPS:
            raise ValueError(f"{step!r} is not a step with fail points")
        with _explained(self._url), Session(self._writer, expire_on_commit=False) as session:
            with session.begin():
                yield session
                session.flush()
                if step is not None:
                    fail_point(f"{step}.before")
            if step is not None:
                fail_point(f"{step}.after")

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """One writing transaction below the ORM, for Alembic."""
        with _explained(self._url):
            with self._writer.begin() as connection:
                yield connection
                fail_point("upgrade.before")
            fail_point("upgrade.after")

    def revision(self) -> str | None:
        """The revision of our schema in this database, None where our tables are missing."""
        with _explained(self._url), self._engine.connect() as connection:
            if not self._engine.dialect.has_table(connection, VERSION_TABLE):
                return None
            row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()
        return None if row is None else str(row[0])


def open_database(url: str, *, create: bool = False) -> Database:
    """Open a database that has our tables.

    Arguments:
        url: SQLAlchemy URL of a file, e.g. ``sqlite:///skiptune.db``.
        create: Make the file and the tables if they are missing.

    Raises:
        StorageError: The URL is wrong; the database is unreachable, is none, has no tables of
            ours, has a newer schema, or cannot be written (with `create`).
    """
    if create:
        return init_database(url)
    if not _path(_parse(url)).exists():
        raise StorageError(
            masked_url(url),
            expected="an existing database",
            found="no such file",
            hint="make it with `skiptune tune`, or name another one with --storage",
        )
    database = Database(url)
    try:
        _check_revision(database, database.revision())
    except BaseException:
        database.close()
        raise
    return database


def init_database(url: str) -> Database:
    """Make Optuna's tables and ours where they are missing, and return the open database.

    Does nothing to tables that exist. Processes that start at the same time make them once.

    Raises:
        StorageError: As `open_database`, and when the file or its folder cannot be written.
    """
    # Imported here because opening an existing database needs neither Alembic nor Optuna.
    from skiptune.storage.migrations.upgrade import upgrade
    from skiptune.storage.optuna_rows import create_optuna_tables

    database = Database(url)
    try:
        with _folder_lock(_parse(url)):
            revision = database.revision()
            if revision is None:
                _write_ahead(database)
                create_optuna_tables(url)
                upgrade(database)
            else:
                _check_revision(database, revision)
    except BaseException:
        database.close()
        raise
    return database


def masked_url(url: str) -> str:
    """Return the URL with its password replaced by ``***``, also where it does not parse."""
    # By pattern and not by parsing, which would leave the rest of a password after its own `@`.
    masked = re.sub(r"^([\w+]+://[^:/@]*|[^:/]*):(?!//).*@", r"\1:***@", url)
    return re.sub(r"(?i)(?<=password=)[^&#\s]*", "***", masked)


def sqlite_pragmas(connection: sqlite3.Connection) -> None:
    """Set what a SQLite connection does not remember by itself (write-ahead log it does)."""
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    connection.execute("PRAGMA synchronous=NORMAL")


def sqlite_folder(url: str) -> Path:
    """Return the folder of a SQLite database.

    Raises:
        StorageError: The URL names no SQLite file.
    """
    return _path(_parse(url)).parent


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StorageError(
            masked_url(url),
            expected="a database URL such as sqlite:///skiptune.db",
            found="a text that is no database URL" if "://" not in url else "an unknown driver",
            hint="use --storage sqlite:///PATH",
        ) from error
    if backend != "sqlite":
        raise StorageError(
            masked_url(url),
            expected="a SQLite file (sqlite:///PATH)",
            found=f"a {backend} URL",
            hint="use --storage sqlite:///PATH",
        )
    if parsed.database in (None, "", ":memory:") or "mode=memory" in url:
        raise StorageError(
            masked_url(url),
            expected="a SQLite file (sqlite:///PATH)",
            found="a database in memory, which no other process can see",
            hint="use --storage sqlite:///skiptune.db",
        )
    return parsed


def _path(url: URL) -> Path:
    return Path(str(url.database))


def _engine(url: URL) -> Engine:
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
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _check_revision(database: Database, revision: str | None) -> None:
    if revision == REVISIONS[-1]:
        return
    if revision is None:
        raise StorageError(
            database.name,
            expected="a database with skiptune's tables",
            found="a database without them",
            hint="make them with `skiptune tune`, which adds them beside what is there",
        )
    if revision in REVISIONS:
        raise StorageError(
            database.name,
            expected=f"skiptune's schema {REVISIONS[-1]}",
            found=f"the older schema {revision}",
            hint="go on with the installation that made it, or name a new file with --storage",
        )
    raise StorageError(
        database.name,
        expected=f"skiptune's schema {REVISIONS[-1]} or older",
        found=f"the newer schema {revision}",
        hint="update this installation: `pip install -U skiptune`",
    )


def _write_ahead(database: Database) -> None:
    """Switch the file to write-ahead logging; it stays so for every later connection."""
    with _explained(database._url):
        connection = database._engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            mode = str(cursor.fetchone())
            cursor.close()
        finally:
            connection.close()
    if "wal" not in mode:
        raise StorageError(
            database.name,
            expected="a file system on which SQLite can keep a write-ahead log",
            found=f"journal mode {mode}",
            hint="put the file on a local disk: --storage sqlite:///PATH",
        )


@contextmanager
def _folder_lock(url: URL) -> Iterator[None]:
    """Let one process at a time make tables in this folder.

    The folder is locked and not the file: closing any descriptor of the file would drop the
    locks that SQLite holds on it in this process.
    """
    folder = _path(url).absolute().parent
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(
            str(folder),
            expected="an existing folder for the database",
            found=error.strerror or str(error),
            hint="make the folder, or name another one with --storage",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


_FAULTS: Final = (
    # (part of SQLite's message, expected, hint)
    (
        "unable to open",
        "a file that can be opened, in a folder that can be written",
        "check the path and its permissions, or name another file with --storage",
    ),
    (
        "not a database",
        "a SQLite database",
        "name another file with --storage; this one was left as it is",
    ),
    (
        "readonly",
        "a database that can be written, in a folder that can be written",
        "check the permissions of the file and its folder, or use --storage with a copy",
    ),
    (
        "no such table",
        "a database with skiptune's tables",
        "make them with `skiptune tune`, which adds them beside what is there",
    ),
    (
        "locked",
        f"the write lock within {BUSY_SECONDS:g} s",
        "end the process that holds the database, then run the same command again",
    ),
    (
        "disk is full",
        "space for the database",
        "free some space, then run the same command again: nothing committed is lost",
    ),
    (
        "malformed",
        "an undamaged database",
        "restore a copy, or save what can be read with `sqlite3 FILE .recover`",
    ),
)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what the driver says about the database into a StorageError."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        found = str(cause)
        expected, hint = next(
            ((expected, hint) for part, expected, hint in _FAULTS if part in found),
            ("a working database", "run the same command again"),
        )
        raise StorageError(masked_url(url), expected=expected, found=found, hint=hint) from error
