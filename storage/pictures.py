"""Pictures among the stored files: whose images they show, and which nobody needs any more.

A grid shows the first images of a series and a schedule, so it is shared as they are by all
evaluations, and by all studies, that need them. A pair shows one study's best schedule beside its
baseline. Each is an artifact whose name says whose it is; what made a picture is written into its
bytes, so that two that look alike are two files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from skiptune.storage.artifacts import put_artifact
from skiptune.storage.database import Database
from skiptune.storage.records import Artifact, Evaluation
from skiptune.storage.tables import ArtifactRow, EvaluationRow, StudyRow

__all__ = ["PNG", "drop_pictures", "grids", "put_grid", "put_pair"]

PNG: Final = ".png"
"""End of a picture's name in the store."""

_GRID: Final = "grid"
_PAIR: Final = "pair"
_TOGETHER: Final = 500  # names in one statement


def put_grid(
    database: Database, *, digest: str, bytes: int, series: str, schedule: str
) -> Artifact:
    """Note a stored grid; said again, the first note stays.

    Arguments:
        database: Where to note it.
        digest: SHA-256 of the file.
        bytes: Its size.
        series: Digest of the series of its images.
        schedule: Digest of their schedule.
    """
    name = _grid_name(series, schedule)
    return put_artifact(database, digest=digest, kind=_GRID, bytes=bytes, name=name)


def put_pair(database: Database, *, digest: str, bytes: int, study_id: str) -> tuple[str, ...]:
    """Note a study's pair, instead of the one before.

    Returns:
        Digests of the files that no row names any more.
    """
    name = f"{study_id}{PNG}"
    put_artifact(database, digest=digest, kind=_PAIR, bytes=bytes, name=name)
    former = select(ArtifactRow.digest).where(
        ArtifactRow.kind == _PAIR, ArtifactRow.name == name, ArtifactRow.digest != digest
    )
    with database.write() as session:
        gone = tuple(sorted(session.scalars(former)))
        session.execute(delete(ArtifactRow).where(ArtifactRow.digest.in_(gone)))
    return gone


def grids(database: Database, evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return the digests of evaluations' grids by evaluation; those without one are absent."""
    names = {one.id: _grid_name(one.series, one.schedule) for one in evaluations}
    wanted = sorted(set(names.values()))
    found: dict[str, str] = {}
    with database.read() as session:
        for first in range(0, len(wanted), _TOGETHER):
            query = (
                select(ArtifactRow.name, ArtifactRow.digest)
                .where(
                    ArtifactRow.kind == _GRID,
                    ArtifactRow.name.in_(wanted[first : first + _TOGETHER]),
                )
                # A device that rounds otherwise leaves another picture: the oldest one is shown.
                .order_by(ArtifactRow.created.desc(), ArtifactRow.digest.desc())
            )
            found.update((name, digest) for name, digest in session.execute(query))
    return {key: found[name] for key, name in names.items() if name in found}


def drop_pictures(database: Database, *, dry_run: bool = False) -> tuple[str, ...]:
    """Forget the grids that no evaluation and the pairs that no study needs any more.

    Arguments:
        database: Where they are noted.
        dry_run: Only look which they are.

    Returns:
        Digests of their files.
    """
    if dry_run:
        with database.read() as session:
            return _unneeded(session)
    with database.write() as session:
        gone = _unneeded(session)
        for first in range(0, len(gone), _TOGETHER):
            part = gone[first : first + _TOGETHER]
            session.execute(delete(ArtifactRow).where(ArtifactRow.digest.in_(part)))
    return gone


def _unneeded(session: Session) -> tuple[str, ...]:
    pictures = select(ArtifactRow.digest, ArtifactRow.name).where(
        ArtifactRow.kind.in_((_GRID, _PAIR))
    )
    needed = select(EvaluationRow.series, EvaluationRow.schedule).distinct()
    names = {_grid_name(series, schedule) for series, schedule in session.execute(needed)}
    names |= {f"{study}{PNG}" for study in session.scalars(select(StudyRow.id))}
    return tuple(sorted(key for key, name in session.execute(pictures) if name not in names))


def _grid_name(series: str, schedule: str) -> str:
    return f"{series}/{schedule}{PNG}"
