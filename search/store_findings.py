"""What is wrong with stored files: missing, not delivered, or named by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from skiptune.errors import StorageError
from skiptune.search.finding import Finding, counted, refused
from skiptune.search.footprint import footprint
from skiptune.search.pending import pending_notes
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.storage.inspection import sampled_arrays
from skiptune.storage.records import Study

__all__ = ["missing_files", "orphaned", "undelivered"]


def missing_files(
    database: Database, store: ArrayStore, row: Study, *, most: int, sizes: list[int]
) -> Iterator[Finding]:
    """Look for stored files; the sizes of those that are there are added to `sizes`."""
    arrays = sampled_arrays(database, row.id, most=most)
    missing = []
    try:
        for array in arrays:
            size = store.size(array.digest)
            if size is None:
                missing.append(array)
            else:
                sizes.append(size)
    except StorageError as error:
        yield replace(refused("files", error, "stored arrays are read again"), study=row.name)
        return
    if missing:
        yield Finding(
            "files",
            row.name,
            f"{len(missing)} of {counted(len(arrays), 'stored file')} looked for are missing",
            "scores are kept, but what reads the arrays again (a confirm, a new metric, the"
            " canary) has to wait until they are sampled again",
            f"put them back from a copy into {store.location}; without one, who needs them"
            f" samples them again: skiptune worker {row.name}",
            tuple(
                f"chunk from seed {array.first_seed}: {store.place(array.digest)}"
                for array in missing
            ),
        )


def undelivered(store: ArrayStore, row: Study) -> Iterator[Finding]:
    """Look for chunks that are stored and not in the database."""
    try:
        notes = pending_notes(store, row.id)
    except StorageError as error:
        yield replace(refused("pending", error, "notes are read again"), study=row.name)
        return
    if not notes:
        return
    unread = any(note.claim is None for note in notes)
    yield Finding(
        "pending",
        row.name,
        f"{counted(len(notes), 'chunk')} stored and not in the database"
        + (", some by notes that this version cannot read" if unread else ""),
        "their worker could not reach the database; what is not delivered is sampled again",
        f"skiptune doctor {row.name} --fix"
        + (
            f"; what then is left another version has written (pip install -U skiptune), or it"
            f" is damaged: remove it from {store.location}/.skiptune/pending"
            if unread
            else ""
        ),
        tuple(
            f"note {note.name}: "
            + ("cannot be read" if note.claim is None else f"from seed {note.claim.first_seed}")
            for note in notes
        ),
        fixable=True,
    )


def orphaned(database: Database, store: ArrayStore) -> Iterator[Finding]:
    """Look for files that no row has named for a day."""
    try:
        orphans = footprint(database, store, {}).orphans
    except StorageError as error:
        yield refused("orphans", error, "a store that cannot be listed cannot be tidied up")
        return
    if orphans is not None and orphans.files:
        yield Finding(
            "orphans",
            None,
            f"{counted(orphans.files, 'file')} that no row has named for a day,"
            f" {orphans.bytes / 1e6:.1f} MB",
            "workers that were killed, or studies that were deleted, have left them; they only"
            " take space",
            "skiptune db gc, or skiptune doctor --fix",
            fixable=True,
        )
