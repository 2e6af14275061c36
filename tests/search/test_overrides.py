"""`-s KEY=VALUE`: a later word replaces an earlier one, also one in other words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skiptune.errors import SpecError
from skiptune.search.spec import load_spec

GOOD = """\
study: s
network: {checkpoint: fashion}
setting: {steps: 6}
objective: {extractor: fashion-cnn, reference: fashion-train}
"""


def test_overrides_replace_values_and_are_checked_alike() -> None:
    spec = load_spec("fashion", overrides=["space.low=0.7", "setting.labels=3", "study=other"])
    assert (spec.space.low, spec.setting.labels, spec.study) == (0.7, 3, "other")
    with pytest.raises(SpecError) as caught:
        load_spec("fashion", overrides=["space.low=-1.5", "space.hihg=3", "spaec.low=0.7"])
    problems = {p.where: p for p in caught.value.problems}
    assert set(problems) == {"-s space.low", "-s space.hihg", "-s spaec.low"}
    assert "did you mean `high`?" in problems["-s space.hihg"].expected


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("space.part=foo", 'leave space.part out for its default, "both"'),
        ("search.patience=soon", "leave search.patience out for its default, null"),
        ("setting.churn.amount=-1", "leave setting.churn.amount out for its default, 0.0"),
        ("space.low=-1", "every key is explained in the file that `skiptune init` writes"),
        ("spaec.low=1", "every key is explained in the file that `skiptune init` writes"),
        ("space.window=search", "one interval for all noise levels: -s space.intervals=1"),
        ("space.setting={exponent: [5, 9]}", "one interval for all noise levels: -s space.int"),
    ],
)
def test_a_hint_is_of_use_for_the_key_that_is_wrong(override: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("fashion", overrides=[override])
    assert caught.value.hint.startswith(hint)


def test_the_hint_of_a_searched_window_leads_on() -> None:
    spec = load_spec("fashion", overrides=["space.window=search", "space.intervals=1"])
    assert spec.space.window == "search"


@pytest.mark.parametrize(
    ("setting", "overrides", "steps"),
    [
        ("steps: 6", ["setting.nfe=10"], 10),
        ("nfe: 10", ["setting.steps=6"], 6),
        ("solver: heun, nfe: 19", ["setting.nfe=9"], 5),
        ("steps: 6", ["setting.nfe=null"], 6),
        ("steps: 6", ["setting.solver=heun", "setting.nfe=19"], 10),
        ("steps: 6", ["setting={solver: heun, nfe: 19}"], 10),
        ("steps: 6", ["setting.sigmas=[80, 5, 0.1]"], 3),
        ("nfe: 6", ["setting.sigmas=[80, 5, 0.1]"], 3),
    ],
)
def test_an_override_replaces_what_the_file_says_in_other_words(
    setting: str, overrides: list[str], steps: int, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(GOOD.replace("steps: 6", setting))
    assert load_spec(tmp_path / "study.yaml", overrides=overrides).setting.steps == steps


@pytest.mark.parametrize(
    ("setting", "overrides"),
    [
        ("nfe: 6, steps: 6", []),
        ("steps: 6", ["setting.nfe=10", "setting.steps=10"]),
        ("steps: 6", ["setting={nfe: 10, steps: 10}"]),
        ("steps: 6", ["setting={steps: 10}", "setting.nfe=10"]),
        # Levels that were chosen one by one are not given up for a number.
        ("sigmas: [80, 5, 0.1]", ["setting.nfe=3"]),
        ("sigmas: [80, 5, 0.1]", ["setting.steps=4"]),
    ],
)
def test_what_contradicts_itself_in_one_place_is_refused(
    setting: str, overrides: list[str], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(GOOD.replace("steps: 6", setting))
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "study.yaml", overrides=overrides)
    (found,) = caught.value.problems
    assert re.search("not both|3 sigmas|4 sigmas|5 sigmas", found.expected)
