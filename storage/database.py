"""One database by its URL: opened, checked, made; one short transaction at a time.

Our schema has its own Alembic version table; Optuna's is left alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from skiptune.errors import StorageError
from skiptune.storage.engines import WRITES, OneConnection, make_engine
from skiptune.storage.failpoints import STEPS, fail_point
from skiptune.storage.faults import explained
from skiptune.storage.location import masked_url, parse_url, refuse_network_folder, sqlite_path

__all__ = [
    "OPTUNA",
    "REVISIONS",
    "VERSION_TABLE",
    "Database",
    "check_optuna",
    "init_database",
    "open_database",
    "upgrade_database",
]

VERSION_TABLE: Final = "skiptune_alembic_version"
"""Optuna refuses to start when it finds a foreign revision in the default version table."""

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
"""Our schema's revisions, oldest first; known here so that opening needs no Alembic."""

OPTUNA: Final = 5
"""Major version of the Optuna whose databases we share: 4 wrote local times, 5 writes UTC."""

_INIT_LOCK: Final = 0x736B6970  # "skip": a key of PostgreSQL's advisory locks


class Database:
    """A database with our tables. Use `open_database` to get one.

    Arguments:
        url: The URL of a SQLite file or a PostgreSQL database.

    Raises:
        StorageError: The URL names neither, or a file on a network file system.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        path = sqlite_path(url)
        if path is not None:
            refuse_network_folder(path)
        self._engine = make_engine(parse_url(url))
        self._writer = self._engine.execution_options(**{WRITES: True})

    @property
    def url(self) -> str:
        """The URL with its password: for opening, never for printing."""
        return self._url

    @property
    def name(self) -> str:
        """The URL as it may be printed."""
        return masked_url(self._url)

    @property
    def engine(self) -> Engine:
        """The engine below; its pool is the one connection of this process to PostgreSQL."""
        return self._engine

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file, for the processes of one host."""
        return self._engine.dialect.name == "sqlite"

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        self._engine.dispose()

    def rest(self) -> None:
        """Give the server's connection back for as long as nothing is asked: while sampling.

        One that another thread is using at this moment stays.
        """
        if isinstance(self._engine.pool, OneConnection):
            self._engine.pool.rest()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent snapshot; nothing is written.

        Raises:
            StorageError: The database cannot be reached or read.
        """
        with explained(self._url), Session(self._engine, expire_on_commit=False) as session:
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
        with explained(self._url), Session(self._writer, expire_on_commit=False) as session:
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
        with explained(self._url):
            with self._writer.begin() as connection:
                yield connection
                fail_point("upgrade.before")
            fail_point("upgrade.after")

    def revision(self) -> str | None:
        """The revision of our schema in this database, None where our tables are missing."""
        return self._single(VERSION_TABLE, "version_num")

    def optuna_version(self) -> str | None:
        """The version of the Optuna that made its tables here, None where there are none."""
        return self._single("version_info", "library_version")

    def require_current(self) -> None:
        """Refuse to go on where our tables are of another version by now.

        Raises:
            StorageError: They were upgraded, or are gone.
        """
        _check_revision(self, self.revision())

    def _single(self, table: str, column: str) -> str | None:
        with explained(self._url), self._engine.connect() as connection:
            if not self._engine.dialect.has_table(connection, table):
                return None
            row = connection.execute(text(f"SELECT {column} FROM {table}")).first()
        return None if row is None else str(row[0])


def open_database(url: str, *, create: bool = False) -> Database:
    """Open a database that has our tables.

    Arguments:
        url: SQLAlchemy URL, e.g. ``sqlite:///skiptune.db``, ``postgresql://me@host/studies``.
        create: Make the file and the tables if they are missing.

    Raises:
        UnavailableError: The server cannot be reached now.
        StorageError: The URL is wrong; the database is none, has no tables of ours, has an older
            or a newer schema, or cannot be written (with `create`).
    """
    if create:
        return init_database(url)
    path = sqlite_path(url)
    if path is not None and not path.exists():
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
        StorageError: As `open_database`; when the file or its folder cannot be written; when
            Optuna's tables are there and another major version made them.
    """
    # Imported here because opening an existing database needs neither Alembic nor Optuna.
    from skiptune.storage.migrations.upgrade import upgrade
    from skiptune.storage.optuna_rows import create_optuna_tables

    database = Database(url)
    try:
        with _one_at_a_time(database):
            revision = database.revision()
            if revision is None:
                check_optuna(database)
                if database.is_sqlite:
                    _write_ahead(database)
                create_optuna_tables(url)
                upgrade(database)
            else:
                _check_revision(database, revision)
    except BaseException:
        database.close()
        raise
    return database


def upgrade_database(url: str) -> tuple[str, str]:
    """Bring our tables to the schema of this version; rows are kept.

    Workers of an older version find no chunk to claim from then on.

    Returns:
        The schema before and after.

    Raises:
        StorageError: As `open_database`, but for an older schema.
    """
    from skiptune.storage.migrations.upgrade import upgrade

    path = sqlite_path(url)
    if path is not None and not path.exists():
        open_database(url)  # says what is missing
    with Database(url) as database, _one_at_a_time(database):
        before = database.revision()
        if before not in REVISIONS:
            _check_revision(database, before)
        check_optuna(database)
        upgrade(database)
        return str(before), REVISIONS[-1]


def check_optuna(database: Database) -> None:
    """Refuse Optuna's tables of another major version.

    Raises:
        StorageError: Another version made them; theirs are not touched.
    """
    found = database.optuna_version()
    if found is None or found.partition(".")[0] == str(OPTUNA):
        return
    raise StorageError(
        database.name,
        expected=f"a database of Optuna {OPTUNA}, whose times are in UTC",
        found=f"one that Optuna {found} made: its times are local",
        hint="name a new database with --storage; studies are copied with"
        " `optuna.copy_study`, this one was left as it is",
    )


def _check_revision(database: Database, revision: str | None) -> None:
    if revision == REVISIONS[-1]:
        return
    if revision is None:
        raise StorageError(
            database.name,
            expected="a database with skiptune's tables",
            found="a database without them",
            hint="make them with `skiptune db init`, which adds them beside what is there",
        )
    if revision in REVISIONS:
        raise StorageError(
            database.name,
            expected=f"skiptune's schema {REVISIONS[-1]}",
            found=f"the older schema {revision}",
            hint="bring it up to date, all rows are kept: `skiptune db upgrade`",
        )
    raise StorageError(
        database.name,
        expected=f"skiptune's schema {REVISIONS[-1]} or older",
        found=f"the newer schema {revision}",
        hint="update this installation: `pip install -U skiptune`",
    )


def _write_ahead(database: Database) -> None:
    """Switch the file to write-ahead logging; it stays so for every later connection."""
    with explained(database.url):
        connection = database.engine.raw_connection()
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
def _one_at_a_time(database: Database) -> Iterator[None]:
    """Let one process at a time make or change tables."""
    path = sqlite_path(database.url)
    if path is not None:
        with _folder_lock(path.absolute().parent):
            yield
        return
    # A lock of the transaction, on an engine of its own: ours has one connection.
    engine = make_engine(parse_url(database.url))
    try:
        with explained(database.url), engine.execution_options(**{WRITES: True}).begin() as held:
            held.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            held.execute(text(f"SELECT pg_advisory_xact_lock({_INIT_LOCK})"))
            yield
    finally:
        engine.dispose()


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder.

    Not on the file in it: closing any descriptor of the file would drop the locks that SQLite
    holds on it in this process.
    """
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
