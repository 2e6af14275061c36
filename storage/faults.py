"""What a driver says about a database, said again so that a person can mend it.

A fault is either here to stay (a wrong password) or one that may be gone in a moment (a server
that restarts): the latter is an `UnavailableError`, and whoever has time tries again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from skiptune.errors import StorageError, UnavailableError
from skiptune.storage.location import masked_url

__all__ = ["explained", "fault"]

_MAKE_TABLES: Final = "make them with `skiptune db init`, which adds them beside what is there"
_AGAIN: Final = "run the same command again: nothing committed is lost"
_SERVER: Final = "check that the server runs and can be reached: `skiptune db check`"


@dataclass(frozen=True)
class _Fault:
    """Arguments: part of the driver's message; what is expected; the hint; whether it passes."""

    part: str
    expected: str
    hint: str
    passes: bool = False


_SQLITE: Final = (
    _Fault(
        "unable to open",
        "a file that can be opened, in a folder that can be written",
        "check the path and its permissions, or name another file with --storage",
    ),
    _Fault(
        "not a database",
        "a SQLite database",
        "name another file with --storage; this one was left as it is",
    ),
    _Fault(
        "readonly",
        "a database that can be written, in a folder that can be written",
        "check the permissions of the file and its folder, or use --storage with a copy",
    ),
    _Fault("no such table", "a database with skiptune's tables", _MAKE_TABLES),
    _Fault("no such column", "skiptune's tables of this version", "skiptune db upgrade"),
    _Fault(
        "locked",
        "the write lock within the time that one transaction waits",
        "end the process that holds the database, then run the same command again",
        passes=True,
    ),
    _Fault("disk is full", "space for the database", f"free some space, then {_AGAIN}", True),
    _Fault(
        "malformed",
        "an undamaged database",
        "restore a copy, or save what can be read with `sqlite3 FILE .recover`",
    ),
)

# A connection that was never made has no SQLSTATE, so messages are read; libpq's are in English
# unless the client asks otherwise, the server's follow `lc_messages`.
_POSTGRESQL: Final = (
    _Fault(
        "authentication failed",
        "a user and a password that the server accepts",
        "correct the URL in --storage, SKIPTUNE_STORAGE or SKIPTUNE_STORAGE_FILE",
    ),
    _Fault(
        "no password supplied",
        "a password: the server asks for one",
        "put it into a file of mode 0600: SKIPTUNE_STORAGE_FILE",
    ),
    _Fault(
        "no pg_hba.conf entry",
        "a host, user and database that the server lets in",
        "let the server's pg_hba.conf accept this host, or use sslmode=require in the URL",
    ),
    _Fault(
        "permission denied",
        "a user that may make and write tables",
        "GRANT the user what it needs, or name another user in the URL",
    ),
    _Fault("too many clients", "a free connection", _SERVER, True),
    _Fault("connection slots", "a free connection", _SERVER, True),
    _Fault("too many connections", "a free connection", _SERVER, True),
    _Fault(
        "server does not support SSL",
        "a server that speaks TLS, because the URL asks for it",
        "let the server speak TLS, or leave sslmode out of the URL",
    ),
    _Fault(
        "during recovery",
        "a server that can be written, not a standby",
        "name the primary server in the URL, or wait until this one is promoted",
        True,
    ),
)
_BY_STATE: Final = {
    "28P01": _POSTGRESQL[0],
    "28000": _POSTGRESQL[2],
    "42501": _POSTGRESQL[3],
    "53300": _POSTGRESQL[4],
    "42P01": _Fault("", "a database with skiptune's tables", _MAKE_TABLES),
    "42703": _Fault("", "skiptune's tables of this version", "skiptune db upgrade"),
    "25006": _Fault(
        "",
        "a database that can be written",
        "name the primary server in the URL, not a standby",
    ),
    "40001": _Fault("", "a transaction that no other one crosses", _AGAIN, True),
    "40P01": _Fault("", "a transaction that no other one crosses", _AGAIN, True),
    "53100": _Fault("", "space on the server's disk", f"free some, then {_AGAIN}", True),
    "55P03": _Fault("", "a lock within 30 s", _AGAIN, True),
    "57014": _Fault("", "an answer within 60 s", _AGAIN, True),
}


def fault(url: str, error: BaseException) -> StorageError | None:
    """Return the StorageError for what a driver raised, None where it is a bug of ours.

    Arguments:
        url: Of the database; printed without its password.
        error: From SQLAlchemy or a driver.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, PoolTimeoutError):
        found: _Fault | None = _Fault(
            "", "the connection of this process within 60 s", _AGAIN, True
        )
    elif isinstance(cause, sqlite3.Error):
        found = _of_sqlite(cause)
    elif type(cause).__module__.startswith("psycopg"):
        found = _of_postgresql(cause)
    else:
        return None
    if found is None:
        return None
    raised = UnavailableError if found.passes else StorageError
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no answer")
    return raised(masked_url(url), expected=found.expected, found=first, hint=found.hint)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what drivers raise in the block into a StorageError.

    Raises:
        UnavailableError: The database cannot be reached now, and may be in a moment.
        StorageError: It cannot be used as it is.
    """
    try:
        yield
    except (DBAPIError, PoolTimeoutError, sqlite3.Error) as error:
        said = fault(url, error)
        if said is None:
            raise
        raise said from error


def _of_sqlite(cause: sqlite3.Error) -> _Fault | None:
    if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return None
    text = str(cause)
    for known in _SQLITE:
        if known.part in text:
            return known
    return _Fault("", "a working database", _AGAIN)


def _of_postgresql(cause: Any) -> _Fault | None:
    import psycopg

    state = getattr(cause, "sqlstate", None)
    if state in _BY_STATE:
        return _BY_STATE[state]
    text = str(cause)
    for known in _POSTGRESQL:
        if known.part in text:
            return known
    if isinstance(
        cause,
        psycopg.IntegrityError
        | psycopg.ProgrammingError
        | psycopg.DataError
        | psycopg.NotSupportedError
        | psycopg.errors.InFailedSqlTransaction,
    ):
        return None
    if "does not exist" in text and 'role "' in text:
        return _POSTGRESQL[0]
    if "does not exist" in text and 'database "' in text:
        return _Fault("", "a database of this name on the server", "createdb DATABASE")
    # Behind a pool such as PgBouncer, a protocol violation is a connection that was cut.
    return _Fault("", "a database server that answers", _SERVER, passes=True)
