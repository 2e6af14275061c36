"""Studies: a name, the spec as last given, and the part of it that may never change."""

from __future__ import annotations

import difflib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from skiptune.errors import StorageError
from skiptune.storage.database import Database
from skiptune.storage.records import Budget, Study, StudyState
from skiptune.storage.rows import insert_missing, now, study_of, study_row, text_of
from skiptune.storage.tables import DatabaseRow, StudyRow

__all__ = [
    "create_study",
    "database_id",
    "find_study",
    "list_studies",
    "require_study",
    "set_study_spec",
    "set_study_state",
]

NO_BUDGET = Budget()


def database_id(database: Database) -> str:
    """Return the database's own identity, 32 hexadecimal digits: the name of its marker."""
    with database.read() as session:
        return session.scalars(select(DatabaseRow.id)).one()


def create_study(
    database: Database,
    *,
    name: str,
    spec: Mapping[str, Any],
    meaning: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]] = (),
    board: Mapping[str, Any] | None = None,
    budget: Budget = NO_BUDGET,
) -> Study:
    """Store a study, or return the one that has this name.

    The caller compares `meaning` with the stored one: whoever resumes must mean the same.

    Arguments:
        database: Where the study lives.
        name: Its name, at most 255 characters.
        spec: The whole resolved spec, plain data.
        meaning: The part of the spec that may not change on resume.
        files: The files that the spec names, by content, plain data.
        board: What Optuna is asked for, plain data.
        budget: What the search may spend.
    """
    with database.write("create_study") as session:
        values = {
            "id": uuid.uuid4().hex,
            "name": name,
            "spec": text_of(spec),
            "meaning": text_of(meaning),
            "state": "running",
            "created": now(session),
            **_changeable(files, board, budget),
        }
        # Two machines may create it in the same moment: the first one's rows stay.
        insert_missing(session, StudyRow, [values])
        return study_of(session.scalars(select(StudyRow).where(StudyRow.name == name)).one())


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
    there = f"one of its {len(names)} studies" if names else "a study"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    other = "list the studies with `skiptune status`, or start one with `skiptune tune`"
    if name.endswith((".yaml", ".yml")):
        other = "give the study's name, which its file has under `study`, not the file"
    raise StorageError(
        database.name,
        expected=f"its only study, {names[0]}" if len(names) == 1 else there,
        found=f"no study {name!r}",
        hint=f"did you mean {' or '.join(f'`{item}`' for item in near)}?" if near else other,
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
        row = study_row(session, study_id)
        row.state = state
        session.flush()
        return study_of(row)


def set_study_spec(
    database: Database,
    study_id: str,
    spec: Mapping[str, Any],
    *,
    files: Sequence[Mapping[str, Any]] = (),
    board: Mapping[str, Any] | None = None,
    budget: Budget = NO_BUDGET,
) -> Study:
    """Store the spec with which a study is resumed; its meaning stays.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("set_study_spec") as session:
        row = study_row(session, study_id)
        row.spec = text_of(spec)
        for key, value in _changeable(files, board, budget).items():
            setattr(row, key, value)
        session.flush()
        return study_of(row)


def _changeable(
    files: Sequence[Mapping[str, Any]], board: Mapping[str, Any] | None, budget: Budget
) -> dict[str, Any]:
    return {
        "files": json.dumps([dict(file) for file in files], sort_keys=True),
        "board": text_of(board or {}),
        "most_evaluations": budget.evaluations,
        "most_images": budget.images,
        "most_seconds": budget.seconds,
    }
