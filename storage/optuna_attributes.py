"""What Optuna's studies say beside their trials, read and changed in one transaction.

Optuna commits each system attribute by itself and cannot remove one. The dashboard puts a note or
a figure together from many of them, so whoever polls in between would see half of an old one and
half of a new one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.storages._rdb.models import StudyModel, StudySystemAttributeModel
from sqlalchemy import delete, insert, select, update

from skiptune.storage.database import Database

__all__ = ["change_attributes", "optuna_studies", "study_attributes"]


def optuna_studies(database: Database, names: Collection[str]) -> dict[str, int]:
    """Return Optuna's identities of those of its studies that are there, by name."""
    query = select(StudyModel.study_name, StudyModel.study_id).where(
        StudyModel.study_name.in_(tuple(names))
    )
    with database.read() as session:
        return {name: key for name, key in session.execute(query)}


def study_attributes(
    database: Database, optuna_studies: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Return the system attributes of some of Optuna's studies, by identity and key."""
    query = select(
        StudySystemAttributeModel.study_id,
        StudySystemAttributeModel.key,
        StudySystemAttributeModel.value_json,
    ).where(StudySystemAttributeModel.study_id.in_(tuple(optuna_studies)))
    found: dict[int, dict[str, Any]] = {key: {} for key in optuna_studies}
    with database.read() as session:
        for study, key, value in session.execute(query):
            found[study][key] = json.loads(value)
    return found


def change_attributes(
    database: Database,
    optuna_study: int,
    *,
    put: Mapping[str, Any],
    remove: Collection[str] = (),
) -> None:
    """Store system attributes of one of Optuna's studies and remove others, all or nothing.

    Arguments:
        database: Where the study lives.
        optuna_study: Optuna's identity of it; where it is gone, nothing happens.
        put: Plain data (JSON) by key.
        remove: Keys, which may be missing.
    """
    table = StudySystemAttributeModel
    with database.write() as session:
        # Locks the study where locks are by row: two writers would insert the same keys.
        study = select(StudyModel.study_id).where(StudyModel.study_id == optuna_study)
        if session.scalar(study.with_for_update()) is None:
            return
        mine = select(table.key).where(table.study_id == optuna_study)
        there = set(session.scalars(mine))
        if remove:
            gone = delete(table).where(
                table.study_id == optuna_study, table.key.in_(tuple(remove))
            )
            session.execute(gone.execution_options(synchronize_session=False))
        for key in sorted(put.keys() & there):
            changed = update(table).where(table.study_id == optuna_study, table.key == key)
            session.execute(
                changed.values(value_json=json.dumps(put[key])).execution_options(
                    synchronize_session=False
                )
            )
        fresh = [
            {"study_id": optuna_study, "key": key, "value_json": json.dumps(put[key])}
            for key in sorted(put.keys() - there)
        ]
        if fresh:
            session.execute(insert(table), fresh)
