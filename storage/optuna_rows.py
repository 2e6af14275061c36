"""Optuna's own tables in our database, opened only by whoever asks or tells.

Workers that only sample never come here. Optuna's tables are made once, by `init_database`:
two processes that create them at the same time collide.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from skiptune.errors import StorageError
from skiptune.storage.database import Database, check_optuna
from skiptune.storage.engines import BUSY_SECONDS, bounded, sqlite_pragmas
from skiptune.storage.faults import fault
from skiptune.storage.location import masked_url, parse_url

__all__ = ["create_optuna_tables", "optuna_explained", "optuna_storage"]


def optuna_storage(database: Database) -> BaseStorage:
    """Open Optuna's storage in this database, with its cache of finished trials.

    On PostgreSQL it uses our pool, so that a process has one connection however it is used.

    Arguments:
        database: One that `init_database` has made.

    Raises:
        UnavailableError: The server cannot be reached now.
        StorageError: Optuna's tables are missing or of another version.
    """
    check_optuna(database)
    # Optuna's engine asks the server for its version at the first connection that it sees made.
    database.rest()
    options: dict[str, Any] = (
        _sqlite_options() if database.is_sqlite else {"pool": database.engine.pool}
    )
    with optuna_explained(database.url):
        storage = _storage(database.url, options, skip_table_creation=True)
        found, known = storage.get_current_version(), storage.get_head_version()
        if found != known:
            raise _of_another_version(database.url, f"{found}; this Optuna has {known}")
        # A bare RDBStorage would read all trials from the database at each proposal.
        return get_storage(storage)


def create_optuna_tables(url: str) -> None:
    """Make Optuna's tables where they are missing and check their version.

    Raises:
        StorageError: Optuna cannot use the database.
    """
    sqlite = parse_url(url).get_backend_name() == "sqlite"
    options = _sqlite_options() if sqlite else {"poolclass": NullPool}
    with optuna_explained(url):
        try:
            storage = _storage(url, options, skip_table_creation=False)
        except RuntimeError as error:
            raise _of_another_version(url, str(error)) from error
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def optuna_explained(url: str) -> Iterator[None]:
    """Turn what Optuna's storage raises in the block into a StorageError.

    Raises:
        UnavailableError: The database cannot be reached now.
        StorageError: It cannot be used as it is: Optuna's tables are missing for example.
    """
    try:
        yield
    except (StorageInternalError, DBAPIError, PoolTimeoutError, sqlite3.Error) as error:
        # Optuna's own text blames a value that is too long, whatever happened below.
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if isinstance(cause, PendingRollbackError):
            # It reads its trials once more over a connection that has just been lost, and names
            # the second failure; the first is its context.
            cause = cause.__context__
        said = None if cause is None else fault(url, cause)
        if said is None:
            raise
        raise said from error


class _Connection(sqlite3.Connection):
    """Sets our pragmas before Optuna's engine, which has no hook for it, sees the connection."""

    def __init__(self, *arguments: Any, **parameters: Any) -> None:
        super().__init__(*arguments, **parameters)
        sqlite_pragmas(self)


def _sqlite_options() -> dict[str, Any]:
    return {"connect_args": {"timeout": BUSY_SECONDS, "factory": _Connection}}


def _storage(url: str, options: dict[str, Any], *, skip_table_creation: bool) -> RDBStorage:
    parsed = parse_url(url).render_as_string(hide_password=False)
    storage = RDBStorage(
        # Optuna formats the URL as a template, so a brace in a path must be doubled.
        parsed.replace("{", "{{").replace("}", "}}"),
        engine_kwargs=options,
        # It takes a second connection while it holds one. Whoever opens tables that exist
        # compares the versions himself.
        skip_compatibility_check=skip_table_creation,
        skip_table_creation=skip_table_creation,
    )
    if storage.engine.dialect.name == "postgresql":
        bounded(storage.engine)
    return storage


def _of_another_version(url: str, found: str) -> StorageError:
    return StorageError(
        masked_url(url),
        expected="Optuna's tables in the version of this Optuna",
        found=found,
        hint="make missing tables with `skiptune db init`; for another version, use the Optuna"
        " that made them, or a new database with --storage",
    )
