"""Which trials one of Optuna's studies holds, without all that they hold.

Optuna reads a trial with every parameter and attribute, a row each: a study of ten thousand trials
takes it ten seconds. To know what was told already, four columns are enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
from optuna.trial import TrialState
from sqlalchemy import and_, or_, select

from skiptune.storage.database import Database

__all__ = ["Mark", "marks"]


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
