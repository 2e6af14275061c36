"""What studies take on disk: their stored arrays, the store they lie in, and the database."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from skiptune.search.garbage import ORPHAN_SECONDS, is_shared, kept_files
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.storage.inspection import arrays_of
from skiptune.storage.server import database_bytes
from skiptune.storage.shelves import FolderShelf

__all__ = ["Footprint", "Pile", "footprint", "free_bytes"]


@dataclass(frozen=True)
class Pile:
    """Files, and their bytes together."""

    files: int = 0
    bytes: int = 0

    def __add__(self, size: int) -> Pile:
        return Pile(self.files + 1, self.bytes + size)


@dataclass(frozen=True)
class Footprint:
    """What is on disk.

    Arguments:
        studies: Stored arrays of each study that was asked for, by its name; a file that two
            studies share counts for both.
        store: All files of the store.
        orphans: Those that no row has named for a day; None in a store that several databases
            share, where nobody can tell.
        location: Of the store.
        database: Bytes of the database.
        free: Bytes that may still be written where the store's folder lies; None of a bucket.
    """

    studies: dict[str, Pile]
    store: Pile
    orphans: Pile | None
    location: str
    database: int
    free: int | None


def footprint(database: Database, store: ArrayStore, studies: dict[str, str]) -> Footprint:
    """List the store once, and tell what is whose.

    Arguments:
        database: Where the studies live.
        store: Its store.
        studies: Identities of the studies that are asked for, by name.

    Raises:
        StorageError: The store cannot be listed.
    """
    kept = None if is_shared(database, store) else kept_files(database, store)
    arrays = {name: arrays_of(database, identity) for name, identity in studies.items()}
    piles = {name: Pile() for name in studies}
    everything, orphans = Pile(), Pile()
    # By this host's clock: to ask the store's own, a file would have to be written.
    old = time.time() - ORPHAN_SECONDS
    for file in store.files():
        everything += file.bytes
        for name, named in arrays.items():
            if file.digest in named:
                piles[name] += file.bytes
        if kept is not None and file.digest not in kept and file.modified < old:
            orphans += file.bytes
    for file in store.leftovers():
        everything += file.bytes
        if file.modified < old:
            orphans += file.bytes
    return Footprint(
        studies=piles,
        store=everything,
        orphans=None if kept is None else orphans,
        location=store.location,
        database=database_bytes(database),
        free=free_bytes(store.folder) if isinstance(store.shelf, FolderShelf) else None,
    )


def free_bytes(folder: Path) -> int:
    """Return the bytes that a user may still write on the disk of a folder."""
    return shutil.disk_usage(folder).free
