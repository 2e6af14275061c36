"""Settings: validation, round trip, and the noise levels they name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.sampling.grids import edm_grid, logsnr_grid
from skiptune.sampling.setting import Churn, Setting, sigmas

_POSITIVE = st.floats(1e-3, 1e3)
_SETTINGS = st.builds(
    Setting,
    solver=st.sampled_from(["euler", "heun"]),
    steps=st.integers(1, 60),
    grid=st.sampled_from(["edm", "logsnr"]),
    sigma_min=st.floats(1e-4, 0.5),
    sigma_max=st.floats(1, 200),
    exponent=st.floats(0.5, 12),
    guidance=_POSITIVE,
    churn=st.builds(
        Churn,
        amount=st.floats(0, 80),
        low=st.floats(0, 1),
        high=st.one_of(st.floats(1, 100), st.just(math.inf)),
        noise=_POSITIVE,
    ),
    epsilon_scale=_POSITIVE,
    labels=st.one_of(st.just("random"), st.integers(0, 1000)),
)


@given(_SETTINGS)
def test_json_round_trip_is_exact(setting: Setting) -> None:
    text = json.dumps(setting.to_json(), allow_nan=False)
    assert Setting.from_json(json.loads(text)) == setting
    assert digest(json.loads(text)) == digest(setting.to_json())


@given(_SETTINGS)
def test_sigmas_are_the_grid_the_solver_steps_on(setting: Setting) -> None:
    ends = {"sigma_min": setting.sigma_min, "sigma_max": setting.sigma_max}
    if setting.grid == "edm":
        grid = edm_grid(setting.steps, exponent=setting.exponent, **ends)
    else:
        grid = logsnr_grid(setting.steps, **ends)
    assert sigmas(setting) == tuple(grid.tolist())


def test_absent_keys_take_their_defaults() -> None:
    assert Setting.from_json({}) == Setting()
    assert Setting.from_json({"churn": {"amount": 1}, "solver": "heun"}).churn == Churn(amount=1)
    assert Setting.from_json({"labels": None}).labels is None


@pytest.mark.parametrize(
    ("fields", "wheres"),
    [
        ({"solver": "huen"}, ["setting.solver"]),
        ({"grid": "karras"}, ["setting.grid"]),
        ({"steps": 0}, ["setting.steps"]),
        ({"steps": 2.0}, ["setting.steps"]),
        ({"steps": True}, ["setting.steps"]),
        ({"sigma_min": 0}, ["setting.sigma_min"]),
        ({"sigma_min": 90.0}, ["setting.sigma_min"]),
        ({"sigma_max": math.inf}, ["setting.sigma_max"]),
        ({"exponent": math.nan}, ["setting.exponent"]),
        ({"guidance": -1.0}, ["setting.guidance"]),
        ({"guidance": 2.0, "labels": None}, ["setting.labels"]),
        ({"epsilon_scale": 0}, ["setting.epsilon_scale"]),
        ({"labels": "all"}, ["setting.labels"]),
        ({"labels": -1}, ["setting.labels"]),
        ({"labels": True}, ["setting.labels"]),
        ({"churn": {"amount": -1}}, ["setting.churn.amount"]),
        ({"churn": {"low": 2, "high": 1}}, ["setting.churn.low"]),
        ({"churn": {"S_churn": 2}}, ["setting.churn.S_churn"]),
        ({"churn": {"amount": 2}}, ["setting.solver"]),
        ({"stepps": 3}, ["setting.stepps"]),
        (
            {"steps": "6", "solver": 1, "guidance": None},
            ["setting.solver", "setting.steps", "setting.guidance"],
        ),
        ([], ["setting"]),
    ],
)
def test_every_problem_is_told_at_once(fields: Any, wheres: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        Setting.from_json(fields)
    assert [problem.where for problem in caught.value.problems] == wheres
    assert caught.value.hint


def test_close_names_are_suggested() -> None:
    with pytest.raises(SpecError, match="did you mean heun"):
        Setting(solver="huen")
    with pytest.raises(SpecError, match="did you mean steps"):
        Setting.from_json({"stepps": 3})


def test_plain_modules_cost_no_torch() -> None:
    names = ("", ".schedule", ".setting", ".grids", ".skips")
    imports = "; ".join(f"import skiptune.sampling{name}" for name in names)
    program = f"{imports}; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
