"""Notes of stored files that are not arrays of a chunk: pictures, exports, reports."""

from __future__ import annotations

from sqlalchemy import select

from skiptune.storage.database import Database
from skiptune.storage.records import Artifact
from skiptune.storage.rows import artifact_of, insert_missing
from skiptune.storage.tables import ArtifactRow, ChunkRow

__all__ = [
    "artifacts",
    "newest_array",
    "put_artifact",
]


def put_artifact(database: Database, *, digest: str, kind: str, bytes: int, name: str) -> Artifact:
    """Note a stored file; said again, the first note stays.

    Arguments:
        database: Where to note it.
        digest: SHA-256 of its bytes.
        kind: What it is, e.g. ``"picture"``.
        bytes: Its size.
        name: Shown to people.
    """
    with database.write("put_artifact") as session:
        values = {"digest": digest, "kind": kind, "bytes": bytes, "name": name}
        insert_missing(session, ArtifactRow, [values])
        return artifact_of(session.get_one(ArtifactRow, digest))


def artifacts(database: Database) -> tuple[Artifact, ...]:
    """Return the notes of all stored files, oldest first."""
    query = select(ArtifactRow).order_by(ArtifactRow.created, ArtifactRow.digest)
    with database.read() as session:
        return tuple(artifact_of(row) for row in session.scalars(query))


def newest_array(database: Database) -> str | None:
    """Return the digest of the arrays that were stored last and not dropped, None before any."""
    query = (
        select(ChunkRow.array)
        .where(ChunkRow.state == "done", ChunkRow.array.is_not(None))
        .order_by(ChunkRow.committed.desc(), ChunkRow.id)
        .limit(1)
    )
    with database.read() as session:
        return session.scalar(query)
