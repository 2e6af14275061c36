"""The frontier: what is compared at each NFE, and a picture of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench.fresh_both import SPACES
from bench.frontier import COLOURS, LINES, PANEL, Plan, _cost, picture, settings_at, tuning_spec
from skiptune.sampling.setting import Setting, evaluations
from skiptune.search.study import check_study


@pytest.mark.parametrize(("nfe", "solvers"), [(4, 3), (5, 4), (6, 3), (14, 3)])
def test_every_solver_that_can_have_the_nfe(nfe: int, solvers: int) -> None:
    found = settings_at(nfe)
    assert len(found) == solvers
    assert {evaluations(setting) for setting in found} == {nfe}


@pytest.mark.parametrize(
    "setting", [Setting(solver="heun", steps=3), Setting(solver="euler", steps=4)]
)
def test_the_bundled_study_at_another_setting(setting: Setting) -> None:
    spec = tuning_spec(setting, 6)
    assert spec.setting.to_setting() == Setting(solver=setting.solver, steps=setting.steps)
    assert check_study(spec)[2].intervals == 3
    other = tuning_spec(Setting(solver=setting.solver, steps=setting.steps, epsilon_scale=1.01), 6)
    assert other.study != spec.study and other.setting.epsilon_scale == 1.01


def test_the_cost_grows_with_what_is_spent() -> None:
    small, large = Plan(6, 3000, 1000), Plan(12, 6000, 2000)
    assert 0 < _cost(6, small) < _cost(6, large) < _cost(8, large)


def test_a_picture_of_all_lines() -> None:
    def row(nfe: int, line: str, value: float) -> dict[str, object]:
        plain = {"value": {"value": value}, "band": (value - 1, value + 1)}
        return {"nfe": nfe, "line": line, "gains": dict.fromkeys(SPACES, plain)}

    rows = [row(n, line, 40 / n + k) for n in (4, 6, 14) for k, line in enumerate(LINES)]
    rows.append(row(20, LINES[0], -0.1))  # as a corrected distance may be
    with Image.open(io.BytesIO(picture(rows))) as drawn:
        assert drawn.size == (len(SPACES) * PANEL[0], PANEL[1])
        for panel in range(len(SPACES)):
            left = panel * PANEL[0]
            half = np.asarray(drawn.convert("RGB").crop((left, 60, left + PANEL[0], 400)), int)
            for line in LINES:
                apart = np.abs(half - np.array(COLOURS[line])).sum(axis=2)
                assert apart.min() < 20, f"{line} is not in panel {panel}"
