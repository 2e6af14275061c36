"""Optuna's storage as the dashboard sees it: read-only unless allowed, infeasible what is.

The dashboard of this version knows constraints only in the form of Optuna 4, one list for each
trial, and calls the smallest value best whatever constraint it violates.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NoReturn

from bottle import HTTPError
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

__all__ = ["ShownStorage"]

CONSTRAINTS = "constraints"
"""System attribute of Optuna 4; Optuna 5 has one for each constraint, `constraints:NAME`."""


class _GoneError(HTTPError, KeyError):  # type: ignore[misc]  # Bottle has no types
    """Optuna's word for a study or trial that is gone, as an answer: some views have none."""


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise _GoneError(404, "It is not there any more") from error
    except (StorageInternalError, SQLAlchemyError) as error:
        # The dashboard would log Optuna's text, which blames a value that is too long.
        raise HTTPError(503, "The database cannot be read now") from error


class ShownStorage(BaseStorage):
    """Another storage, read-only; see Optuna's `BaseStorage` for what the methods do.

    A second line behind `Guard`: should a request that looks as if it read try to write, it is
    refused here.

    Arguments:
        inner: The storage.
        edit: Let writing through as well.
    """

    def __init__(self, inner: BaseStorage, *, edit: bool = False) -> None:
        self._inner = inner
        self._edit = edit

    @_answered()
    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies in the order in which they were made."""
        return sorted(self._inner.get_all_studies(), key=lambda study: study._study_id)

    @_answered()
    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best of the feasible trials, of all where none is feasible."""
        best = self._inner.get_best_trial(study_id)
        if _is_feasible(best):
            return best
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in complete if _is_feasible(trial)]
        [direction] = self.get_study_directions(study_id)
        sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        return min(feasible or [best], key=lambda trial: sign * (trial.value or 0.0))

    @_answered()
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial with its constraints in both forms."""
        return _in_both_forms(self._inner.get_trial(trial_id))

    @_answered()
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return trials with their constraints in both forms."""
        found = self._inner.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [_in_both_forms(trial) for trial in found]

    @_answered()
    def get_study_id_from_name(self, study_name: str) -> int:
        """Return it as the storage below."""
        return self._inner.get_study_id_from_name(study_name)

    @_answered()
    def get_study_name_from_id(self, study_id: int) -> str:
        """Return it as the storage below."""
        return self._inner.get_study_name_from_id(study_id)

    @_answered()
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return them as the storage below."""
        return self._inner.get_study_directions(study_id)

    @_answered()
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return them as the storage below."""
        return self._inner.get_study_user_attrs(study_id)

    @_answered()
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return them as the storage below."""
        return self._inner.get_study_system_attrs(study_id)

    def remove_session(self) -> None:
        """Give back the connection of this thread."""
        self._inner.remove_session()

    # What writes

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Write, where that is allowed."""
        return self._writable.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Write, where that is allowed."""
        self._writable.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write, where that is allowed."""
        self._writable.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write, where that is allowed."""
        self._writable.set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Write, where that is allowed."""
        return self._writable.create_new_trial(study_id, template_trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Write, where that is allowed."""
        self._writable.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write, where that is allowed."""
        return self._writable.set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Write, where that is allowed."""
        self._writable.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write, where that is allowed."""
        self._writable.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write, where that is allowed."""
        self._writable.set_trial_system_attr(trial_id, key, value)

    @property
    def _writable(self) -> BaseStorage:
        if not self._edit:
            _refuse()
        return self._inner


def _refuse() -> NoReturn:
    # The dashboard's views turn this one into an answer.
    raise HTTPError(403, "This dashboard is read-only")


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0.0 for value in trial.constraints.values())


def _in_both_forms(trial: FrozenTrial) -> FrozenTrial:
    attributes: dict[str, Any] = trial._system_attrs
    prefix = f"{CONSTRAINTS}:"
    if CONSTRAINTS in attributes:
        return trial
    values = [value for key, value in attributes.items() if key.startswith(prefix)]
    if not values:
        return trial
    # The storage below hands out trials that other threads are reading: they stay as they are.
    both = copy(trial)
    both._system_attrs = {**attributes, CONSTRAINTS: values}
    return both
