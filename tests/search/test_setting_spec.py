"""The section `setting` of a study: what sampling accepts, stored as sampling does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.sampling.setting import (
    GRIDS,
    HISTORIES,
    LATER_FIELDS,
    NOISES,
    SOLVERS,
    STOCHASTIC_SOLVERS,
    Setting,
)
from skiptune.search.sections import SettingSpec
from skiptune.search.spec import StudySpec, load_spec

SMALLEST: dict[str, Any] = {
    "study": "s",
    "network": {"checkpoint": "fashion"},
    "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
}


def test_the_setting_of_a_spec_has_the_fields_and_defaults_of_sampling() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Setting)}
    assert list(SettingSpec.model_fields) == list(fields)
    assert SettingSpec().to_setting() == Setting()
    assert SettingSpec().model_dump(mode="json") == Setting().to_json()


def check_alike(values: dict[str, Any]) -> None:
    """Let a spec accept exactly what sampling accepts, mean the same, and read back."""
    try:
        setting = Setting.from_json(values)
    except SpecError:
        with pytest.raises(SpecError):
            StudySpec.from_json({**SMALLEST, "setting": values})
        return
    spec = StudySpec.from_json({**SMALLEST, "setting": values})
    assert spec.setting.to_setting() == setting
    assert spec.setting.model_dump(mode="json") == setting.to_json()
    assert StudySpec.from_json(spec.to_json()) == spec


positive = st.floats(1e-6, 1e6)


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "solver": st.sampled_from(SOLVERS),
            "steps": st.integers(1, 1000),
            "grid": st.sampled_from(GRIDS),
            "sigma_min": positive,
            "sigma_max": positive,
            "exponent": positive,
            "guidance": st.floats(0, 100),
            "churn": st.fixed_dictionaries(
                {},
                optional={
                    "amount": st.floats(0, 100),
                    "low": st.floats(0, 100),
                    "high": st.none() | st.floats(0, 100),
                    "noise": positive,
                },
            ),
            "epsilon_scale": positive,
            "labels": st.none() | st.just("random") | st.integers(0, 999),
            "order": st.integers(1, 4),
            "eta": st.floats(-1, 4),
            "final_zero": st.booleans(),
            "sigmas": st.none() | st.lists(st.floats(-1, 100), max_size=3),
            "guidance_low": st.floats(0, 10),
            "guidance_high": st.none() | st.floats(0, 10),
            "history": st.sampled_from(HISTORIES),
            "noise": st.sampled_from([*NOISES, "philox"]),
        },
    )
)
def test_a_spec_accepts_exactly_the_settings_that_sampling_accepts(values: dict[str, Any]) -> None:
    check_alike(values)


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "solver": st.sampled_from(SOLVERS),
            "guidance": st.sampled_from([1.0, 2.0]),
            "final_zero": st.booleans(),
            "sigmas": st.none() | st.just([70.0, 3.0]),
            "guidance_low": st.sampled_from([0.0, 0.5]),
            "guidance_high": st.sampled_from([None, 5.0]),
            "order": st.sampled_from([2, 3]),
            "eta": st.sampled_from([0.0, 1.0]),
            "history": st.sampled_from(HISTORIES),
        },
    )
)
def test_likely_values_of_later_fields_are_accepted_alike(values: dict[str, Any]) -> None:
    check_alike(values)


def test_a_study_without_later_fields_is_stored_as_before() -> None:
    spec = load_spec("fashion")
    assert not set(spec.to_json()["setting"]) & set(LATER_FIELDS)
    assert not {key for key in spec.meaning() if key.removeprefix("setting.") in LATER_FIELDS}
    assert (
        digest(spec.to_json()["setting"])
        == "a0da4aecca9b66843348df77204bbe45e4e8a62a8f924f493fee75ea58e88242"
    )
    changed = load_spec("fashion", overrides=["setting.history=restart"])
    assert changed.meaning()["setting.history"] == "restart"


def test_stochastic_solvers_may_churn() -> None:
    for solver in STOCHASTIC_SOLVERS:
        overrides = [f"setting.solver={solver}", "setting.churn={amount: 3, high: 50}"]
        setting = load_spec("fashion", overrides=overrides).setting.to_setting()
        assert (setting.churn.amount, setting.churn.high) == (3.0, 50.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("final_zero", [True, False])
def test_a_window_ends_at_the_last_point_of_the_setting(solver: str, final_zero: bool) -> None:
    # Heun's second evaluation of the last step is at the level where it ends, unless that is 0.
    last = 4 if solver == "heun" and not final_zero else 3
    setting = {"solver": solver, "steps": 4, "final_zero": final_zero}
    for end in range(3, 6):
        plain = {**SMALLEST, "setting": setting, "space": {"window": {"first": 0, "last": end}}}
        if end <= last:
            StudySpec.from_json(plain)
            continue
        with pytest.raises(SpecError, match=f"a grid point from 0 to {last} "):
            StudySpec.from_json(plain)
