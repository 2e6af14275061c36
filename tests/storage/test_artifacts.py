"""Notes of stored files."""

from __future__ import annotations

from skiptune.storage import ledger
from skiptune.storage.database import Database


def test_the_first_note_stays(database: Database) -> None:
    note = ledger.put_artifact(
        database, digest="a" * 64, kind="picture", bytes=5_000_000_000, name="before-after.png"
    )
    assert note.bytes == 5_000_000_000
    assert note == ledger.put_artifact(
        database, digest="a" * 64, kind="report", bytes=1, name="other.png"
    )
    other = ledger.put_artifact(database, digest="b" * 64, kind="report", bytes=1, name="r.html")
    assert set(ledger.artifacts(database)) == {note, other}
