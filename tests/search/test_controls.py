from __future__ import annotations

import pytest

from skiptune.sampling.setting import Churn, Setting, evaluations, sigmas
from skiptune.search.controls import options

SETTINGS = [
    Setting(solver="dpmpp_2m", steps=6),
    Setting(solver="heun", steps=10),
    Setting(solver="heun", steps=4, churn=Churn(amount=10.0)),
    Setting(solver="euler", steps=3, grid="logsnr"),
    Setting(solver="dpmpp_2m", steps=2, epsilon_scale=1.005),
    Setting(solver="unipc", steps=6, order=3, history="restart"),
    Setting(solver="dpmpp_2m_sde", steps=6, eta=0.5),
    Setting(solver="heun", steps=5, final_zero=False),
    Setting(steps=4, sigmas=(70.0, 9.0, 2.0, 0.1)),
    Setting(steps=8, guidance=2.0, guidance_low=0.2, guidance_high=3.0),
]


def nfe(setting: Setting) -> int:
    """Evaluations counted on the grid: Heun has no second one on the step to 0."""
    levels = sigmas(setting)
    called = [*levels[:-1], *(levels[1:] if setting.solver == "heun" else ())]
    return sum(2 if setting.guides(level) else 1 for level in called if level > 0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_option_costs_more_or_is_the_setting_itself(setting: Setting) -> None:
    families = options(setting)
    assert set(families) == {"solver", "epsilon scale", "grid exponent"}
    chosen = [option for choices in families.values() for _, option in choices]
    assert len(set(chosen)) == len(chosen)
    for option in chosen:
        assert option != setting
        assert nfe(option) == evaluations(option) <= nfe(setting) == evaluations(setting)
        assert option.guidance == setting.guidance and option.labels == setting.labels


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_family_turns_its_own_knob_only(setting: Setting) -> None:
    families = options(setting)
    for _, option in families["epsilon scale"]:
        assert option.solver == setting.solver and sigmas(option) == sigmas(setting)
    for _, option in families["grid exponent"]:
        assert option.solver == setting.solver and option.steps == setting.steps
    labels = [label for choices in families.values() for label, _ in choices]
    assert len(set(labels)) == len(labels)


def test_unipc_is_an_option_on_both_grids() -> None:
    solvers = dict(options(Setting(solver="heun", steps=10, final_zero=True))["solver"])
    assert solvers["unipc on logsnr, 19 steps"] == Setting(solver="unipc", steps=19, grid="logsnr")
    assert solvers["unipc on edm, 19 steps"] == Setting(solver="unipc", steps=19)
    # It keeps what the study says of it, and is not tried against itself.
    own = Setting(solver="unipc", steps=6, order=3)
    solvers = dict(options(own)["solver"])
    assert "unipc on edm, 6 steps" not in solvers
    assert solvers["unipc on logsnr, 6 steps"].order == 3


def test_only_settings_that_fit_are_options() -> None:
    found = options(Setting(), fits=lambda setting: setting.grid == "edm")
    assert {setting.grid for choices in found.values() for _, setting in choices} == {"edm"}


def test_the_exponent_is_no_knob_of_a_log_snr_grid() -> None:
    assert options(Setting(grid="logsnr"))["grid exponent"] == ()
    assert options(Setting(sigmas=(9.0, 1.0), steps=2))["grid exponent"] == ()
