"""Chunks that are stored and that the database has not heard of: the notes beside the arrays.

A worker that could not reach the database leaves such a note; whoever comes next delivers it. No
network is needed for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from skiptune.errors import LeaseLostError
from skiptune.storage import leases
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.storage.leases import Claim

__all__ = ["PENDING", "Pending", "deliver_notes", "pending_notes"]

PENDING: Final = "pending"
"""Kind of the notes beside the arrays."""

_NEEDED: Final = {"array", "seconds", "nfe"}


@dataclass(frozen=True)
class Pending:
    """A note.

    Arguments:
        name: Its name among the notes of this kind.
        claim: The claim under which the chunk was sampled; None where the note cannot be read,
            because it is damaged or of another version.
        values: What `leases.commit_chunk` is to be told.
    """

    name: str
    claim: Claim | None
    values: dict[str, Any]


def pending_notes(store: ArrayStore, study_id: str) -> tuple[Pending, ...]:
    """Return the notes of a study's chunks, by name.

    Raises:
        StorageError: The store cannot be read.
    """
    return tuple(
        _pending(name, note)
        for name, note in store.notes(PENDING)
        if note.get("study") == study_id
    )


def deliver_notes(database: Database, store: ArrayStore, study_id: str) -> int:
    """Commit what earlier workers have stored and could not deliver; return how many chunks.

    Chunks that others have sampled since are dropped and counted as doubled. Notes that cannot be
    read stay.

    Raises:
        StorageError: The database or the store cannot be reached.
    """
    delivered = 0
    for note in pending_notes(store, study_id):
        if note.claim is None:
            continue
        try:
            leases.commit_chunk(database, note.claim, **note.values)
            delivered += 1
        except LeaseLostError:
            pass
        store.remove_note(PENDING, note.name)
    return delivered


def _pending(name: str, note: dict[str, Any]) -> Pending:
    try:
        values = dict(note["values"])
        readable = _NEEDED <= set(values) <= _NEEDED | {"provenance"}
        return Pending(name, Claim(**note["claim"]) if readable else None, values)
    except (KeyError, TypeError, ValueError):
        return Pending(name, None, {})
