"""Which databases a store belongs to: one small marker in the store for each of them.

A worker whose network share is not mounted sees an empty folder where the store should be. It
would take every stored file for lost, and fill the disk below the mount; without a marker of its
database it goes no further.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from skiptune.errors import StorageError
from skiptune.storage.arrays import NOTES, ArrayStore, plain_name

__all__ = ["mark", "marked", "require"]


def mark(store: ArrayStore, database_id: str) -> None:
    """Say in a store that it belongs to a database; said again, the first marker stays.

    Arguments:
        store: Where to say it; its folder is made if it is missing.
        database_id: Identifier of the database; letters, digits and ``._-``.

    Raises:
        StorageError: The store cannot be written.
        ValueError: The identifier cannot be part of a file's name.
    """
    name = _name(database_id)
    if store.shelf.find(name) is not None:
        return
    marker = {"database": database_id, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    store.shelf.put(name, (json.dumps(marker, indent=2) + "\n").encode())


def marked(store: ArrayStore) -> tuple[str, ...]:
    """Return the identifiers of all databases that a store belongs to, sorted.

    Raises:
        StorageError: The store cannot be read.
    """
    found = []
    for entry in store.shelf.entries(NOTES):
        name = entry.name.removeprefix(NOTES)
        # A slash: notes lie deeper. A dot first: a marker that is being written.
        if name.endswith(".json") and "/" not in name and not name.startswith("."):
            found.append(name.removesuffix(".json"))
    return tuple(sorted(found))


def require(store: ArrayStore, database_id: str, *, database_name: str) -> None:
    """Refuse a store that does not belong to a database; nothing is made or changed.

    Arguments:
        store: The store that is about to be used.
        database_id: Identifier of the database, as given to `mark`.
        database_name: What the database is called in a message; no password.

    Raises:
        UnavailableError: A bucket cannot be reached now.
        StorageError: The store has no marker of this database, or cannot be read.
        ValueError: The identifier cannot be part of a file's name.
    """
    if store.shelf.find(_name(database_id)) is not None:
        return
    kind = store.shelf.kind
    if not store.shelf.exists():
        found = f"no such {kind}"
    elif others := marked(store):
        found = f"the store of another database (marker {', '.join(others)})"
    else:
        found = f"a {kind} without markers"
    raise StorageError(
        store.location,
        expected=f"the store of database {database_name} (marker {database_id})",
        found=found,
        hint="check the mount, or name the store with --artifacts or SKIPTUNE_ARTIFACTS; to bind"
        " a new or moved store to the database: `skiptune db init`",
    )


def _name(database_id: str) -> str:
    return f"{NOTES}{plain_name(database_id)}.json"
