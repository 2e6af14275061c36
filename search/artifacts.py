"""The artifact store of a database: where it is, that it is the right one, and small shared files.

Arrays are written by many workers and read by all, so the store is shared: a folder that every
worker's host mounts, or a bucket. It carries the database's marker; a worker that does not see
it would take every stored array for lost, and is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from skiptune.errors import StorageError
from skiptune.search.files import SourceFile
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore, open_store
from skiptune.storage.database import Database
from skiptune.storage.location import sqlite_path
from skiptune.storage.markers import mark, marked, require

__all__ = [
    "GROUP_VARIABLE",
    "SHARED_BYTES",
    "VARIABLE",
    "artifacts_location",
    "bind_store",
    "bound_store",
    "required_store",
    "share_files",
    "shared_file",
]

VARIABLE: Final = "SKIPTUNE_ARTIFACTS"
GROUP_VARIABLE: Final = "SKIPTUNE_GROUP_WRITABLE"

SHARED_BYTES: Final = 64 * 2**20
"""Files up to this size (reference statistics, small networks) are kept in the store too."""


def artifacts_location(storage: str, given: str | Path | None = None) -> str:
    """Return where the per-image arrays of a database are.

    Arguments:
        storage: Database URL.
        given: Folder or ``s3://BUCKET/PREFIX``; else `SKIPTUNE_ARTIFACTS`, else
            ``skiptune-artifacts`` beside a SQLite database.

    Raises:
        StorageError: The database is on a server and nothing names a store that all share.
    """
    named = str(given or os.environ.get(VARIABLE) or "")
    if named:
        return named if "://" in named else str(Path(named).expanduser().absolute())
    path = sqlite_path(storage)
    if path is None:
        raise StorageError(
            "--artifacts",
            expected="a store that all workers share: a folder on a network file system, or"
            " s3://BUCKET/PREFIX",
            found="nothing, and the database is on a server",
            hint="name it with --artifacts or SKIPTUNE_ARTIFACTS, the same on every host",
        )
    return str(path.absolute().parent / "skiptune-artifacts")


def bound_store(
    database: Database, given: str | Path | None, *, group_writable: bool = False
) -> ArrayStore:
    """Return the store of a database, and mark it where that can mistake nothing.

    A store without the marker is taken as long as no array is stored anywhere, or where it holds
    the newest one.

    Raises:
        StorageError: Arrays are stored, and not here.
    """
    store = _store(database, given, group_writable=group_writable)
    identity = ledger.database_id(database)
    if identity not in marked(store):
        newest = ledger.newest_array(database)
        if newest is not None and not store.exists(newest):
            require(store, identity, database_name=database.name)
        mark(store, identity)
    return store


def bind_store(
    database: Database, given: str | Path | None, *, group_writable: bool = False
) -> ArrayStore:
    """Return the store of a database, marked because the user says that this is it."""
    store = _store(database, given, group_writable=group_writable)
    mark(store, ledger.database_id(database))
    return store


def required_store(
    database: Database, given: str | Path | None, *, group_writable: bool = False
) -> ArrayStore:
    """Return the store of a database.

    Raises:
        StorageError: It does not carry the database's marker.
    """
    store = _store(database, given, group_writable=group_writable)
    require(store, ledger.database_id(database), database_name=database.name)
    return store


def share_files(database: Database, store: ArrayStore, files: Iterable[SourceFile]) -> None:
    """Keep the small ones among a study's files in the store, for hosts that lack them.

    Folders are not kept.

    Raises:
        StorageError: The store cannot be written.
    """
    for file in files:
        if file.bytes > SHARED_BYTES or Path(file.path).is_dir():
            continue
        if store.exists(file.sha256, suffix=file.suffix):
            continue
        digest = store.write_bytes(Path(file.path).read_bytes(), file.suffix)
        ledger.put_artifact(
            database, digest=digest, kind="input", bytes=file.bytes, name=file.name
        )


def shared_file(store: ArrayStore, source: SourceFile) -> bytes | None:
    """Return the bytes of a file that the store keeps, None where it does not."""
    if not store.exists(source.sha256, suffix=source.suffix):
        return None
    return store.read_bytes(source.sha256, source.suffix)


def _store(database: Database, given: str | Path | None, *, group_writable: bool) -> ArrayStore:
    wanted = group_writable or os.environ.get(GROUP_VARIABLE, "") not in ("", "0")
    return open_store(artifacts_location(database.url, given), group_writable=wanted)
