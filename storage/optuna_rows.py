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
from sqlalchemy.exc import DBAPIError

from skiptune.errors import StorageError
from skiptune.storage.database import BUSY_SECONDS, masked_url, sqlite_pragmas

__all__ = ["create_optuna_tables", "optuna_storage"]


def optuna_storage(url: str) -> BaseStorage:
    """Open Optuna's storage in this database, with its cache of finished trials.

    Arguments:
        url: URL of a database that `init_database` has made.

    Raises:
        StorageError: Optuna's tables are missing or of another version.
    """
    with _explained(url):
        # A bare RDBStorage would read all trials from the database at each proposal.
        return get_storage(_storage(url, skip_table_creation=True))


def create_optuna_tables(url: str) -> None:
    """Make Optuna's tables where they are missing and check their version.

    Raises:
        StorageError: Optuna cannot use the database.
    """
    with _explained(url):
        storage = _storage(url, skip_table_creation=False)
        storage.remove_session()
        storage.engine.dispose()


class _Connection(sqlite3.Connection):
    """Sets our pragmas before Optuna's engine, which has no hook for it, sees the connection."""

    def __init__(self, *arguments: Any, **parameters: Any) -> None:
        super().__init__(*arguments, **parameters)
        sqlite_pragmas(self)


def _storage(url: str, *, skip_table_creation: bool) -> RDBStorage:
    return RDBStorage(
        # Optuna formats the URL as a template, so a brace in a path must be doubled.
        url.replace("{", "{{").replace("}", "}}"),
        engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS, "factory": _Connection}},
        skip_table_creation=skip_table_creation,
    )


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (StorageInternalError, DBAPIError, sqlite3.Error, RuntimeError) as error:
        # Optuna's own text blames a value that is too long, whatever happened below.
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        cause = cause.orig if isinstance(cause, DBAPIError) else cause
        raise StorageError(
            masked_url(url),
            expected="Optuna's tables in the version of this Optuna",
            found=str(cause),
            hint="make missing tables with `skiptune tune`; for another version, use the Optuna"
            " that made them, or a new file with --storage",
        ) from error
