"""Stored files that nobody needs: which they are, and their removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from skiptune.errors import StorageError
from skiptune.search.pending import PENDING
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore, StoredFile
from skiptune.storage.database import Database
from skiptune.storage.markers import marked

__all__ = ["ORPHAN_SECONDS", "Collected", "collect", "is_shared", "kept_files"]

ORPHAN_SECONDS: Final = 24 * 3600.0
"""A file that no row names is garbage after so long: its worker may yet deliver the row."""


@dataclass(frozen=True)
class Collected:
    """What garbage collection has removed, or would remove.

    Arguments:
        files: Files that no row names.
        bytes: Their size, together with that of dropped arrays.
        chunks: Chunks whose arrays were dropped; hashes and scores stay.
        images: Their images.
    """

    files: int
    bytes: int
    chunks: int
    images: int


def collect(
    database: Database, store: ArrayStore, *, drop: bool = False, dry_run: bool = False
) -> Collected:
    """Remove files that no row names and that are older than a day.

    Arguments:
        database: Whose rows count.
        store: Its store.
        drop: Also give up the arrays of all but the baselines, the confirmed and the ten best
            schedules of each study; their hashes and scores are kept.
        dry_run: Only count.

    Raises:
        StorageError: The store belongs to other databases too, whose rows are not known here.
    """
    if is_shared(database, store):
        raise StorageError(
            store.location,
            expected="a store of this database alone",
            found=f"one that {len(marked(store))} databases share (markers in .skiptune/)",
            hint="give each database a store of its own with --artifacts; nothing was removed",
        )
    chunks, images = ledger.droppable_arrays(database) if drop else (0, 0)
    dropped = set(ledger.drop_arrays(database, dry_run=dry_run)) if drop else set()
    # Of studies whose deletion was cut short; their files go as all do that no row names.
    unneeded = ledger.drop_pictures(database, dry_run=dry_run)
    kept = kept_files(database, store).difference(unneeded)
    old = store.now() - ORPHAN_SECONDS
    files = size = 0
    for file in store.files():
        if file.digest in dropped:
            size += file.bytes
            if not dry_run:
                store.remove(file.digest, suffix=file.suffix)
        elif file.digest not in kept and _goes(store, file, old, dry_run=dry_run):
            files, size = files + 1, size + file.bytes
    for file in store.leftovers():
        if _goes(store, file, old, dry_run=dry_run):
            files, size = files + 1, size + file.bytes
    return Collected(files, size, chunks, images)


def kept_files(database: Database, store: ArrayStore) -> frozenset[str]:
    """Return the digests of what is no garbage: files that rows name, or undelivered notes."""
    # What a worker has stored and could not deliver yet.
    values = (note.get("values") for _, note in store.notes(PENDING))
    # A note that another version has written may hold anything.
    pending = {str(each.get("array")) for each in values if isinstance(each, dict)}
    return ledger.named_files(database) | pending


def _goes(store: ArrayStore, file: StoredFile, old: float, *, dry_run: bool) -> bool:
    if file.modified >= old:
        return False
    if dry_run:
        return True
    if file.digest:
        return store.remove(file.digest, suffix=file.suffix, written_before=old)
    return store.remove_leftover(file.name, written_before=old)


def is_shared(database: Database, store: ArrayStore) -> bool:
    """Whether the store holds files of other databases, too, whose rows are not known here."""
    return bool(set(marked(store)) - {ledger.database_id(database)})
