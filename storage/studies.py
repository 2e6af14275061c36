"""Studies: a name, the spec as last given, and the part of it that may never change."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from skiptune.errors import StorageError
from skiptune.storage.database import Database
from skiptune.storage.records import Study, StudyState
from skiptune.storage.rows import lock_study, study_of, text_of
from skiptune.storage.tables import StudyRow

__all__ = [
    "create_study",
    "find_study",
    "list_studies",
    "require_study",
    "set_study_spec",
    "set_study_state",
]


def create_study(
    database: Database, *, name: str, spec: Mapping[str, Any], meaning: Mapping[str, Any]
) -> Study:
    """Store a study, or return the one that has this name.

    The caller compares `meaning` with the stored one: whoever resumes must mean the same.

    Arguments:
        database: Where the study lives.
        name: Its name, at most 255 characters.
        spec: The whole resolved spec, plain data.
        meaning: The part of the spec that may not change on resume.
    """
    with database.write("create_study") as session:
        row = session.scalar(select(StudyRow).where(StudyRow.name == name))
        if row is None:
            row = StudyRow(name=name, spec=text_of(spec), meaning=text_of(meaning))
            session.add(row)
            session.flush()
        return study_of(row)


def find_study(database: Database, name: str) -> Study | None:
    """Return the study of this name, or None."""
    with database.read() as session:
        row = session.scalar(select(StudyRow).where(StudyRow.name == name))
        return None if row is None else study_of(row)


def require_study(database: Database, name: str) -> Study:
    """Return the study of this name.

    Raises:
        StorageError: There is none; near names are listed.
    """
    study = find_study(database, name)
    if study is not None:
        return study
    with database.read() as session:
        names = list(session.scalars(select(StudyRow.name).order_by(StudyRow.name)))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    raise StorageError(
        database.name,
        expected=f"one of its {len(names)} studies" if names else "a study",
        found=f"no study {name!r}",
        hint=f"did you mean {' or '.join(f'`{item}`' for item in near)}?"
        if near
        else "list the studies with `skiptune status`, or start one with `skiptune tune`",
    )


def list_studies(database: Database) -> tuple[Study, ...]:
    """Return all studies, oldest first."""
    with database.read() as session:
        query = select(StudyRow).order_by(StudyRow.created, StudyRow.name)
        return tuple(study_of(row) for row in session.scalars(query))


def set_study_state(database: Database, study_id: str, state: StudyState) -> Study:
    """Set a study's state; chunks of a paused or stopped study are not handed out.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("set_study_state") as session:
        row = lock_study(session, study_id)
        row.state = state
        session.flush()
        return study_of(row)


def set_study_spec(database: Database, study_id: str, spec: Mapping[str, Any]) -> Study:
    """Store the spec with which a study is resumed; its meaning stays.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("set_study_spec") as session:
        row = lock_study(session, study_id)
        row.spec = text_of(spec)
        session.flush()
        return study_of(row)
