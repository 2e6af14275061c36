"""From arrays in memory to a committed chunk, whatever the disk and the database do meanwhile.

The file comes first, then the row that names it. While the disk is full the worker waits with the
arrays in hand. While the database is away it leaves a note beside the file; whoever works on the
study next delivers what such notes say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from skiptune.errors import DiskFullError, LeaseLostError, UnavailableError
from skiptune.search.chunks import Sampled, versions_of
from skiptune.search.events import Listener, Notice
from skiptune.search.pending import PENDING, deliver_notes
from skiptune.search.study import OpenStudy
from skiptune.storage import leases
from skiptune.storage.leases import Claim
from skiptune.storage.patience import Patience

__all__ = ["DISK_WAIT", "PENDING", "deliver", "deliver_pending", "stored"]

DISK_WAIT: Final = 30.0
"""Seconds between two looks at a full disk."""


def stored(
    study: OpenStudy, sampled: Sampled, *, wait: Callable[[float], None], on_event: Listener
) -> str:
    """Store a chunk's arrays, waiting for as long as the disk is full, and return their digest.

    Arguments:
        study: Its store.
        sampled: What to store.
        wait: Waits so many seconds; raises to give up.
        on_event: Told once that the disk is full, and once that there is space again.

    Raises:
        StorageError: The store cannot be written, and not for want of space.
    """
    full = False
    while True:
        try:
            digest = study.arrays.write(sampled.arrays)
        except DiskFullError as error:
            if not full:
                problem = error.problems[0]
                on_event(Notice(f"{problem.where}: {problem.found}; waiting for space"))
            full = True
            wait(DISK_WAIT)
        else:
            if full:
                on_event(Notice("there is space again"))
            return digest


def deliver(
    study: OpenStudy,
    claim: Claim,
    *,
    array: str,
    seconds: float,
    nfe: float,
    patience: Patience,
) -> None:
    """Commit a chunk whose arrays are stored; wait for a database that is away.

    Raises:
        LeaseLostError: The chunk went to another worker; the images are counted as doubled.
        UnavailableError: The database stayed away. A note keeps what is to be delivered.
    """
    values: dict[str, Any] = {
        "array": array,
        "seconds": seconds,
        "nfe": nfe,
        "provenance": versions_of(study),
    }
    name = f"{claim.chunk_id}-{claim.fence}"
    noted = False

    def commit() -> None:
        nonlocal noted
        try:
            leases.commit_chunk(study.database, claim, **values)
        except UnavailableError:
            if not noted:
                study.arrays.put_note(PENDING, name, _note(study, claim, values))
                noted = True
            raise

    try:
        patience(commit)
    except LeaseLostError:
        _forget(study, name, noted=noted)
        raise
    # Whatever else ends the waiting, a signal too, leaves the note.
    _forget(study, name, noted=noted)


def deliver_pending(study: OpenStudy) -> int:
    """Commit what earlier workers have stored and could not deliver, see `deliver_notes`."""
    return deliver_notes(study.database, study.arrays, study.id)


def _note(study: OpenStudy, claim: Claim, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"study": study.id, "claim": asdict(claim), "values": dict(values)}


def _forget(study: OpenStudy, name: str, *, noted: bool) -> None:
    if noted:
        study.arrays.remove_note(PENDING, name)
