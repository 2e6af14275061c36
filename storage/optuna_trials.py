"""Which trials one of Optuna's studies holds, without all that they hold.

Optuna reads a trial with every parameter and attribute, a row each: a study of ten thousand trials
takes it ten seconds. To know what was told already, four columns are enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from optuna.storages._rdb.models import (
    TrialModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
)
from optuna.trial import TrialState
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from skiptune.storage.database import Database

__all__ = ["Ended", "Mark", "ended", "is_as_it_was", "marks"]

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Mark:
    """A trial, and what one of its user attributes says.

    Arguments:
        trial_id: Optuna's own identity of it.
        number: Within its study.
        state: Its state.
        value: Of the attribute, None where the trial has none.
    """

    trial_id: int
    number: int
    state: TrialState
    value: str | None


def marks(
    database: Database, optuna_study: int, *, attribute: str, after: int, again: Iterable[int] = ()
) -> tuple[Mark, ...]:
    """Return trials of one of Optuna's studies, in the order in which they were made.

    Those that have not ended are always among them.

    Arguments:
        database: Where the study lives.
        optuna_study: Optuna's identity of the study.
        attribute: Name of a user attribute whose values are texts.
        after: Those with a larger identity.
        again: And those with these identities.
    """
    query = (
        select(
            TrialModel.trial_id,
            TrialModel.number,
            TrialModel.state,
            TrialUserAttributeModel.value_json,
        )
        .outerjoin(
            TrialUserAttributeModel,
            and_(
                TrialUserAttributeModel.trial_id == TrialModel.trial_id,
                TrialUserAttributeModel.key == attribute,
            ),
        )
        .where(
            TrialModel.study_id == optuna_study,
            or_(
                TrialModel.trial_id > after,
                TrialModel.trial_id.in_(tuple(again)),
                TrialModel.state.in_((TrialState.RUNNING, TrialState.WAITING)),
            ),
        )
        .order_by(TrialModel.trial_id)
    )
    with database.read() as session:
        return tuple(
            Mark(key, number, state, None if value is None else str(json.loads(value)))
            for key, number, state, value in session.execute(query)
        )


@dataclass(frozen=True)
class Ended:
    """The trials of a database that have ended, and how much is noted of them.

    Arguments:
        last: The largest identity of a trial.
        unended: Identities up to it whose trials have not ended.
        noted: Of user and of system attributes: rows, the newest row, characters.
    """

    last: int
    unended: tuple[int, ...]
    noted: tuple[tuple[int, int, int], ...]


def ended(database: Database) -> Ended:
    """Return what is now known of the trials that have ended, of all of Optuna's studies.

    Optuna's cache takes them for unchangeable; whoever notes something of one later changes them
    behind its back.
    """
    running = select(TrialModel.trial_id).where(TrialModel.state.not_in(_ENDED))
    with database.read() as session:
        last = session.scalar(select(func.max(TrialModel.trial_id))) or 0
        unended = tuple(session.scalars(running.order_by(TrialModel.trial_id)))
        return Ended(last, unended, _noted(session, last, unended))


def is_as_it_was(database: Database, before: Ended) -> bool:
    """Whether nothing was noted of the trials that had ended then, and none of them deleted.

    A text that was replaced by another one of equal length is not seen.
    """
    with database.read() as session:
        return _noted(session, before.last, before.unended) == before.noted


def _noted(
    session: Session, last: int, unended: Iterable[int]
) -> tuple[tuple[int, int, int], ...]:
    left_out = tuple(unended)
    found = []
    for model, key in (
        (TrialUserAttributeModel, TrialUserAttributeModel.trial_user_attribute_id),
        (TrialSystemAttributeModel, TrialSystemAttributeModel.trial_system_attribute_id),
    ):
        rows, newest, characters = session.execute(
            select(func.count(key), func.max(key), func.sum(func.length(model.value_json))).where(
                model.trial_id <= last, model.trial_id.not_in(left_out)
            )
        ).one()
        found.append((rows, newest or 0, int(characters or 0)))
    return tuple(found)
