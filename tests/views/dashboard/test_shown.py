from __future__ import annotations

import inspect
import re
from typing import Any, Literal

import optuna
import pytest
from bottle import HTTPError
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState, create_trial
from optuna_dashboard._serializer import serialize_frozen_trial

from skiptune.views.dashboard.shown import ShownStorage

Direction = Literal["minimize", "maximize"]
SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}


def study_of(
    direction: Direction, *trials: tuple[float, dict[str, float]]
) -> tuple[optuna.Study, ShownStorage]:
    storage = InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage, direction=direction)
    for value, constraints in trials:
        study.add_trial(
            create_trial(
                params={"x": 0.5}, distributions=SPACE, value=value, constraints=constraints
            )
        )
    return study, ShownStorage(storage)


def test_every_method_that_writes_is_refused_unless_allowed() -> None:
    """The methods of Optuna's own interface, told apart by their names."""
    methods = {
        name: method
        for name, method in inspect.getmembers(BaseStorage, inspect.isfunction)
        if not name.startswith("_")
    }
    writing = {name for name in methods if re.match("create_|delete_|set_", name)}
    reading = {name for name in methods if re.match("get_|check_", name)} | {"remove_session"}
    assert writing | reading == set(methods)  # a new one has to be looked at
    study, shown = study_of("minimize", (1.0, {}))
    for name in writing:
        needed = [
            parameter
            for parameter in list(inspect.signature(methods[name]).parameters.values())[1:]
            if parameter.default is inspect.Parameter.empty
        ]
        with pytest.raises(HTTPError) as raised:
            getattr(shown, name)(*(None for _ in needed))
        assert raised.value.status_code == 403
    assert len(study.trials) == 1


def test_what_is_gone_is_answered_and_still_a_key_error() -> None:
    """Optuna's word for it is KeyError, which some of the dashboard's views look for."""
    _, shown = study_of("minimize", (1.0, {}))
    for name in (
        "get_all_trials get_best_trial get_study_directions get_study_name_from_id"
        " get_study_system_attrs get_study_user_attrs get_trial get_trial_system_attrs"
    ).split():
        for caught in (HTTPError, KeyError):
            with pytest.raises(caught) as raised:
                getattr(shown, name)(77)
            assert raised.value.status_code == 404, name
    with pytest.raises(KeyError):
        shown.get_study_id_from_name("gone")


def test_what_is_allowed_is_written() -> None:
    study, _ = study_of("minimize")
    shown = ShownStorage(study._storage, edit=True)
    shown.set_study_user_attr(study._study_id, "a", 1)
    shown.set_study_system_attr(study._study_id, "b", 2)
    trial = shown.create_new_trial(study._study_id)
    shown.set_trial_param(trial, "x", 0.5, SPACE["x"])
    shown.set_trial_intermediate_value(trial, 0, 1.0)
    shown.set_trial_user_attr(trial, "c", 3)
    shown.set_trial_system_attr(trial, "d", 4)
    shown.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    [found] = study.trials
    assert (study.user_attrs, found.user_attrs) == ({"a": 1}, {"c": 3})
    assert (found.params, found.values, found.intermediate_values) == ({"x": 0.5}, [1.0], {0: 1.0})
    other = shown.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "t")
    assert [each.study_name for each in shown.get_all_studies()] == ["s", "t"]
    shown.delete_study(other)
    assert [each.study_name for each in shown.get_all_studies()] == ["s"]


def test_what_is_read_is_what_the_storage_has() -> None:
    study, shown = study_of("minimize", (1.0, {}), (2.0, {}))
    inner: Any = study._storage
    key = study._study_id
    assert shown.get_study_id_from_name("s") == key
    assert shown.get_study_name_from_id(key) == "s"
    assert shown.get_study_directions(key) == study.directions
    assert shown.get_study_user_attrs(key) == inner.get_study_user_attrs(key)
    assert shown.get_study_system_attrs(key) == inner.get_study_system_attrs(key)
    assert shown.get_all_trials(key) == inner.get_all_trials(key)
    assert shown.get_trial(0) == inner.get_trial(0)


def test_infeasible_trials_look_infeasible_to_the_dashboard() -> None:
    study, shown = study_of(
        "minimize", (1.0, {"a": 0.5, "b": -1.0}), (2.0, {"a": -0.5, "b": 0.0}), (3.0, {})
    )
    found = shown.get_all_trials(study._study_id, deepcopy=False)
    told = [serialize_frozen_trial(study._study_id, trial, {})["constraints"] for trial in found]
    assert told == [[0.5, -1.0], [-0.5, 0.0], []]
    again = shown.get_all_trials(study._study_id, deepcopy=False)
    assert [trial._system_attrs["constraints"] for trial in again[:2]] == told[:2]
    # Other threads read them meanwhile: a dictionary that grows ends whoever goes through it.
    below = study._storage.get_all_trials(study._study_id, deepcopy=False)
    assert not any("constraints" in trial._system_attrs for trial in below)


@pytest.mark.parametrize(
    ("direction", "trials", "best"),
    [
        ("minimize", [(1.0, {"a": 0.5}), (3.0, {"a": 0.0}), (2.0, {"a": -1.0})], 2),
        ("minimize", [(1.0, {}), (0.5, {"a": 1.0})], 0),
        ("maximize", [(1.0, {"a": -0.5}), (3.0, {"a": 1.0}), (2.0, {"a": 0.0})], 2),
        ("maximize", [(1.0, {}), (3.0, {})], 1),
        ("minimize", [(1.0, {"a": 0.5}), (0.5, {"a": 0.1})], 1),  # none is feasible
    ],
)
def test_the_best_trial_is_feasible(
    direction: Direction, trials: list[tuple[float, dict[str, float]]], best: int
) -> None:
    study, shown = study_of(direction, *trials)
    assert shown.get_best_trial(study._study_id).number == best
