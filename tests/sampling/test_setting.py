"""Settings: validation, round trip, and the noise levels they name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.sampling.grids import edm_grid, logsnr_grid, time_uniform_grid
from skiptune.sampling.setting import (
    LATER_FIELDS,
    Churn,
    Setting,
    evaluations,
    sigmas,
    steps_of,
)

_POSITIVE = st.floats(1e-3, 1e3)
_SETTINGS = st.builds(
    Setting,
    solver=st.sampled_from(["euler", "heun"]),
    steps=st.integers(1, 60),
    grid=st.sampled_from(["edm", "logsnr", "time-uniform"]),
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
    final_zero=st.booleans(),
)


@given(_SETTINGS)
def test_json_round_trip_is_exact(setting: Setting) -> None:
    text = json.dumps(setting.to_json(), allow_nan=False)
    assert Setting.from_json(json.loads(text)) == setting
    assert digest(json.loads(text)) == digest(setting.to_json())


@settings(deadline=None)  # the first grid imports torch
@given(_SETTINGS)
def test_sigmas_are_the_grid_the_solver_steps_on(setting: Setting) -> None:
    ends = {"sigma_min": setting.sigma_min, "sigma_max": setting.sigma_max}
    steps = setting.steps if setting.final_zero else setting.steps + 1
    if setting.grid == "edm":
        grid = edm_grid(steps, exponent=setting.exponent, **ends)
    elif setting.grid == "logsnr":
        grid = logsnr_grid(steps, **ends)
    else:
        grid = time_uniform_grid(steps, **ends)
    assert sigmas(setting) == tuple(grid.tolist())[: setting.steps + 1]
    assert (sigmas(setting)[-1] == 0) == setting.final_zero


@pytest.mark.parametrize(
    ("setting", "identity"),
    [
        (
            Setting(),
            "a0da4aecca9b66843348df77204bbe45e4e8a62a8f924f493fee75ea58e88242",
        ),
        (
            Setting(solver="dpmpp_2m", steps=10),
            "4a6208fb91330c1f74edcd14d98c11a0e5c2f266b5ca43484a0a63ba46a5e1e6",
        ),
        (
            Setting(solver="heun", steps=10),
            "75bbc4ad7ed5e559b08a1bb4ea538b68f7e9ea981c6dc6fdb61875c79342c81a",
        ),
        (
            Setting(solver="euler", steps=3, grid="logsnr", sigma_min=0.01, sigma_max=40),
            "a2a7e550dcf81ee1658e39d7bfbb27086db36e14f072e7ca2404e5beeccba928",
        ),
        (
            Setting(
                solver="heun", steps=9, churn=Churn(amount=40, low=0.05, high=50, noise=1.003)
            ),
            "3ff06d663eb328e16350dc7d7d3682eea0ac1b5f12ee8f725013a981fe8f451c",
        ),
        (
            Setting(solver="heun", churn=Churn(amount=1.5)),
            "4af99cd5342decfa3e69a4ced43e1ebf4b08702249a1b2a97f9967fe2c34602e",
        ),
        (
            Setting(guidance=2.0, labels=3),
            "2b5f7dc9523fb211906c26a879f2ce8b930e5acecf74a894c2016c63f476435e",
        ),
        (
            Setting(guidance=0, epsilon_scale=1.005, exponent=5),
            "f6f323a098cf6fcd89f985a4969337e5f3b0faa575da8aedb6164a43df4ddea7",
        ),
        (
            Setting(labels=None),
            "e5877eeb879e5857ee39ea5486acfe6ed92b9461e0d68a001f58ee16002873a9",
        ),
    ],
)
def test_settings_of_the_first_version_keep_their_identity(
    setting: Setting, identity: str
) -> None:
    assert not set(setting.to_json()) & set(LATER_FIELDS)
    assert digest(setting.to_json()) == identity


@pytest.mark.parametrize(
    "setting",
    [
        Setting(solver="unipc", order=3),
        Setting(solver="dpmpp_2m_sde", eta=0.5),
        Setting(final_zero=False),
        Setting(sigmas=(80.0, 5.0, 0.1), steps=3),
        Setting(sigmas=(80.0, 5.0, 0.1), steps=2, final_zero=False),
        Setting(guidance=2.0, guidance_low=0.3),
        Setting(guidance=2.0, guidance_high=5.0),
        Setting(guidance=2.0, guidance_low=0.3, guidance_high=5.0),
        Setting(history="restart"),
        Setting(noise="counter"),
    ],
)
def test_later_fields_are_written_where_they_say_something(setting: Setting) -> None:
    plain = setting.to_json()
    later = set(plain) & set(LATER_FIELDS)
    assert later
    assert all(plain[name] != getattr(Setting(), name) for name in later)
    assert Setting.from_json(json.loads(json.dumps(plain, allow_nan=False))) == setting
    assert isinstance(hash(setting), int)


def test_levels_given_one_by_one() -> None:
    given = Setting.from_json({"sigmas": [80, 5, 0.1]})
    assert given == Setting(sigmas=(80.0, 5.0, 0.1), steps=3)
    assert sigmas(given) == (80.0, 5.0, 0.1, 0.0)
    given = Setting.from_json({"sigmas": [80, 5, 0.1], "final_zero": False})
    assert (given.steps, sigmas(given)) == (2, (80.0, 5.0, 0.1))
    assert digest(Setting(sigmas=(80, 5), steps=2).to_json()) == digest(
        Setting(sigmas=(80.0, 5.0), steps=2).to_json()
    )


@pytest.mark.parametrize(
    ("changes", "nfe"),
    [
        ({"steps": 6}, 6),
        ({"solver": "unipc", "steps": 7}, 7),
        ({"solver": "heun", "steps": 10}, 19),
        ({"solver": "heun", "steps": 10, "final_zero": False}, 20),
        ({"solver": "heun", "steps": 10, "guidance": 2.0}, 38),
        ({"solver": "dpmpp_2m_sde", "steps": 6, "guidance": 0.0}, 12),
    ],
)
def test_steps_are_found_from_evaluations(changes: dict[str, Any], nfe: int) -> None:
    setting = Setting(**changes)
    assert evaluations(setting) == nfe
    assert steps_of(nfe, Setting(**{**changes, "steps": 1})) == setting.steps


@pytest.mark.parametrize(
    ("changes", "nfe", "near"),
    [
        ({"solver": "heun"}, 10, "9 or 11, the nearest that heun can take (heun: 2 steps - 1)"),
        ({"solver": "heun", "final_zero": False}, 1, "2, the nearest"),
        ({"guidance": 2.0}, 7, "6 or 8"),
        ({"guidance": 2.0}, 1, "2, the nearest"),
        ({}, 4000, "1000, the nearest"),
    ],
)
def test_impossible_evaluations_name_the_nearest(
    changes: dict[str, Any], nfe: int, near: str
) -> None:
    with pytest.raises(SpecError) as caught:
        steps_of(nfe, Setting(**changes))
    (problem,) = caught.value.problems
    assert problem.expected.startswith(near)
    assert (problem.where, problem.found) == ("setting.nfe", str(nfe))


def test_the_interval_of_the_guidance_papers_code() -> None:
    # Kynkaanniemi et al. 2024, README of their code: EDM2-XXL, steps [17, 22] of 32; (0.19, 1.61].
    setting = Setting(
        solver="heun", steps=32, guidance=2.0, guidance_low=0.1886, guidance_high=1.6086
    )
    levels = sigmas(setting)
    assert [i for i, level in enumerate(levels) if setting.guides(level)] == list(range(17, 23))
    assert (round(levels[23], 2), round(levels[17], 2)) == (0.19, 1.61)
    # Six first and six second evaluations more.
    assert evaluations(setting) == 63 + 12
    # The upper bound belongs to the interval, the lower one does not.
    exact = Setting(
        solver="heun", steps=32, guidance=2.0, guidance_low=levels[23], guidance_high=levels[17]
    )
    assert [exact.guides(level) for level in (levels[17], levels[23])] == [True, False]


def test_another_solver_gets_no_option_that_it_does_not_know() -> None:
    unipc = Setting(solver="unipc", order=3, history="restart", final_zero=False)
    assert unipc.with_solver("heun", steps=4) == Setting(solver="heun", steps=4, final_zero=False)
    assert unipc.with_solver("unipc", steps=4, grid="logsnr") == Setting(
        solver="unipc", steps=4, grid="logsnr", order=3, history="restart", final_zero=False
    )
    assert Setting(noise="counter").with_solver("heun", steps=4).noise == "counter"
    churned = Setting(solver="heun", churn=Churn(amount=2.0))
    assert churned.with_solver("euler", steps=6).churn == churned.churn
    assert churned.with_solver("dpmpp_2m", steps=6) == Setting()
    given = Setting(sigmas=(70.0, 5.0, 0.1), steps=3)
    assert given.with_solver("euler", steps=5, grid="logsnr") == Setting(
        solver="euler", steps=5, grid="logsnr", sigma_min=0.1, sigma_max=70.0
    )


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
        ({"order": 4}, ["setting.order"]),
        ({"solver": "unipc", "order": 2.0}, ["setting.order"]),
        ({"order": 3}, ["setting.order"]),
        ({"eta": -1}, ["setting.eta"]),
        ({"eta": 0.0}, ["setting.eta"]),
        ({"final_zero": 0}, ["setting.final_zero"]),
        ({"sigmas": []}, ["setting.sigmas"]),
        ({"sigmas": [1.0, 2.0]}, ["setting.sigmas"]),
        ({"sigmas": [1.0, 0.0]}, ["setting.sigmas"]),
        ({"sigmas": [2.0, True]}, ["setting.sigmas"]),
        ({"sigmas": 2.0}, ["setting.sigmas"]),
        ({"sigmas": [2.0, 1.0], "steps": 3}, ["setting.steps"]),
        ({"sigmas": [2.0], "final_zero": False}, ["setting.sigmas"]),
        ({"sigmas": [2.0, 1.0], "grid": "logsnr"}, ["setting.grid"]),
        ({"sigmas": [2.0, 1.0], "sigma_max": 3.0}, ["setting.sigma_max"]),
        ({"guidance_low": 0.3}, ["setting.guidance_low"]),
        ({"guidance_high": 3}, ["setting.guidance_high"]),
        ({"guidance": 2.0, "guidance_low": -1}, ["setting.guidance_low"]),
        ({"guidance": 2.0, "guidance_high": 0}, ["setting.guidance_high"]),
        ({"guidance": 2.0, "guidance_low": 3, "guidance_high": 3}, ["setting.guidance_high"]),
        ({"history": "forget"}, ["setting.history"]),
        ({"history": "restart", "solver": "heun"}, ["setting.history"]),
        ({"noise": "philox"}, ["setting.noise"]),
        ({"noise": None}, ["setting.noise"]),
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
