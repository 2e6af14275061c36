"""How the node pack reads `tuned.json`, and what it refuses in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from integrations.comfyui.nodes import ModelError
from integrations.comfyui.tuned_file import TunedFileError, read
from skiptune.errors import SpecError
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import KNOBS, Setting
from skiptune.search.tuned import FORMAT, SCHEMA_VERSION
from skiptune.search.tuned import load as load_with_skiptune
from tests.integrations.both_ways import (
    KINDS,
    NAMES,
    close,
    noise,
    ours,
    patched,
    theirs,
)
from tests.integrations.handed_over import damage, schedules, tuned_of, write_tuned


def test_parts_of_blocks_are_refused(denoiser: Any, tmp_path: Path) -> None:
    schedule = Schedule([Term(NAMES[0], 0.5, part="shortcut"), Term(NAMES[1], 0.6)])
    write_tuned(tmp_path / "t.json", denoiser, schedule)
    with pytest.raises(TunedFileError) as refused:
        read(tmp_path / "t.json")
    assert "- skips[0] (output_blocks.0): scales its shortcut alone" in str(refused.value)
    assert "`skiptune export --format baked`" in str(refused.value)


def test_numbers_of_the_setting_are_refused_until_set(denoiser: Any, tmp_path: Path) -> None:
    before = Setting(solver="euler", steps=4, guidance=3.0)
    now = before.with_knobs({"guidance": 4.5, "epsilon_scale": 1.01})
    schedule = schedules(NAMES)["static"]
    sections: dict[str, Any] = {"setting": now, "untouched": before}
    with pytest.raises(ModelError) as refused:
        patched(denoiser, tmp_path / "t.json", schedule, **sections)
    assert "together with the scales: epsilon_scale 1.01, guidance 4.5" in str(refused.value)
    model = patched(denoiser, tmp_path / "t.json", schedule, setting_by_hand=True, **sections)
    assert close(theirs(model, noise()), ours(denoiser, schedule, noise()))


def test_every_number_of_a_setting_is_known(denoiser: Any, tmp_path: Path) -> None:
    before = Setting(solver="dpmpp_2m_sde", guidance=2.0)
    for name in KNOBS:
        values = tuned_of(denoiser, schedules(NAMES)["static"], setting=before).to_json()
        values["untouched_setting"] = json.loads(json.dumps(values["setting"]))
        if name == "churn_noise":
            values["setting"]["churn"]["noise"] = 1.5
        else:
            values["setting"][name] = 1.5
        (tmp_path / "t.json").write_text(json.dumps(values))
        found = read(tmp_path / "t.json").setting.knobs
        assert found == {name.replace("churn_", "churn."): 1.5}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda v: v.update(format="lora"), 'format: expected skiptune.tuned, found "lora"'),
        (lambda v: v.update(schema_version=2), "schema_version: expected at most 1, found 2"),
        (lambda v: v.update(schema_version="1"), 'schema_version: expected 1, found "1"'),
        (lambda v: v["skips"][1].update(scale=-1), "skips[1].scale: expected a finite number"),
        (lambda v: v["skips"][1].update(scale="1"), 'skips[1].scale: expected a finite number'),
        (lambda v: v["skips"][1].update(scale=True), "skips[1].scale: expected a finite number"),
        (lambda v: v["skips"][1].pop("scale"), "skips[1].scale: expected a finite number"),
        (lambda v: v["skips"][1].update(scale=1e999), "the number Infinity"),
        (lambda v: v["skips"][1].update(scale=10**400), "skips[1].scale: expected a finite"),
        (lambda v: v["skips"][1].update(scale=0.99), "the scales were edited by hand"),
        (lambda v: v.update(branches="cond"), "the scales were edited by hand"),
        (lambda v: v.update(branches="left"), "branches: expected one of both, cond, uncond"),
        (lambda v: v["skips"].pop(0), "skips[0].index: expected 0: every skip once"),
        (lambda v: v["skips"].pop(), "the scales were edited by hand"),
        (lambda v: v.update(skips=[]), "skips: expected a list of the network's skips"),
        (lambda v: v["skips"][2].update(address=NAMES[1]), f"skips: {NAMES[1]} stands there"),
        (lambda v: v["skips"][2].update(skip_channels=0), "skips[2].skip_channels: expected a"),
        (lambda v: v["skips"].append(3), "skips[4]: expected an object, found 3"),
        (
            lambda v: v["skips"][0].update(windows=[{"low": 0, "high": 1, "scale": 2}]),
            "skips[0].windows: expected no windows where `scale` is not 1",
        ),
        (
            lambda v: v["skips"][0].update(
                scale=1, windows=[{"low": 0, "high": 2, "scale": 2}, {"low": 1, "high": None,
                                                                     "scale": 2}]
            ),
            "skips[0].windows: expected none that overlap, found 0.0..2.0 and 1.0..inf",
        ),
        (
            lambda v: v["skips"][0].update(scale=1, windows=[{"low": 3, "high": 2, "scale": 2}]),
            "skips[0].windows[0]: expected low below high",
        ),
        (lambda v: v["setting"].update(steps=0), "setting.steps: expected a whole number"),
        (lambda v: v.pop("network"), "network: expected an object, found nothing"),
        (lambda v: v["network"].pop("name"), "network.name: expected a name, found nothing"),
        (lambda v: v.update(study=""), 'study: expected a name, found ""'),
        (lambda v: v["skips"][1].update(address=""), "skips[1].address: expected a decoder block"),
        (lambda v: v["skips"][1].update(main_channels=True), "skips[1].main_channels: expected a"),
        (lambda v: v["skips"][1].update(windows=3), "skips[1].windows: expected a list, found 3"),
        (lambda v: v["skips"][1].update(parts=3), "skips[1].parts: expected a list, found 3"),
        (lambda v: v["skips"][1].update(parts=[{}]), "skips[1].parts[0].part: expected the name"),
        (lambda v: v["setting"].update(solver=3), "setting.solver: expected a name, found 3"),
        (lambda v: v["setting"].update(guidance=-1), "setting.guidance: expected a finite number"),
        (lambda v: v.update(untouched_setting=3), "untouched_setting: expected an object"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(
    denoiser: Any, tmp_path: Path, change: Any, problem: str
) -> None:
    path = write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    read(path)
    damage(path, change)
    with pytest.raises(TunedFileError) as refused:
        read(path)
    assert problem in str(refused.value)
    assert "Hint: " in str(refused.value)
    # skiptune's own reader refuses the same files.
    with pytest.raises(SpecError):
        load_with_skiptune(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": "skiptune.tuned"', "line 1: expected complete JSON, found the end of the"),
        ('{"format": NaN}', "the number NaN"),
        ('{"format": 1, "format": 1}', 'the key "format" twice in one object'),
        ("[1]", "format: expected skiptune.tuned, found [1]"),
        ("\xff", "the file cannot be read"),
    ],
)
def test_files_that_are_no_json_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "t.json").write_text(text, encoding="latin-1")
    with pytest.raises(TunedFileError) as refused:
        read(tmp_path / "t.json")
    assert problem in str(refused.value)
    with pytest.raises(TunedFileError, match="the file cannot be read"):
        read(tmp_path / "absent.json")


@pytest.mark.parametrize("kind", KINDS)
def test_what_skiptune_writes_is_read(denoiser: Any, tmp_path: Path, kind: str) -> None:
    schedule = schedules(NAMES)[kind]
    path = write_tuned(tmp_path / "t.json", denoiser, schedule, setting=Setting(guidance=2.0))
    found = read(path)
    terms = [
        Term(row.address, one.scale, one.low, one.high)
        for row in found.rows
        for one in row.windows
    ]
    assert Schedule(terms, branches=found.branches) == schedule
    assert found.verdict == "win (+9.7 % [5.5, 13.9])"
    assert FORMAT == json.loads(path.read_text())["format"] and SCHEMA_VERSION == 1


def test_rows_may_say_the_same_in_other_pieces(denoiser: Any, tmp_path: Path) -> None:
    schedule = schedules(NAMES)["windowed"]
    path = write_tuned(tmp_path / "t.json", denoiser, schedule)

    def cut(values: dict[str, Any]) -> None:
        one, two = values["skips"][0]["windows"]
        pieces = [two, {**one, "low": 5.0}, {**one, "high": 5.0}]
        nothing = [
            {"low": 0.0, "high": 1.0, "scale": 1.0},
            {"low": 3.0, "high": 3.0, "scale": 2.0},
        ]
        values["skips"][0]["windows"] = pieces + nothing

    damage(path, cut)
    assert load_with_skiptune(path).schedule == schedule
    windows = read(path).rows[0].windows
    assert [(one.low, one.high, one.scale) for one in windows] == [
        (1.0, 5.0, 0.6), (5.0, 20.0, 0.6), (20.0, math.inf, 1.2),
    ]  # fmt: skip


def test_a_verdict_without_its_numbers_is_told_without(denoiser: Any, tmp_path: Path) -> None:
    path = write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    for interval in ([None, 13.9], ["5.5", "13.9"], [5.5], None):
        values = json.loads(path.read_text())
        values["verdict"]["interval"] = interval
        path.write_text(json.dumps(values))
        assert read(path).verdict == "win"
    for verdict in (None, "win", {}, {"verdict": 1, "gain": 9.7, "interval": [5.5, 13.9]}):
        values = json.loads(path.read_text())
        values["verdict"] = verdict
        path.write_text(json.dumps(values))
        assert read(path).verdict == "no verdict in the file"


def test_one_step_is_enough(denoiser: Any, tmp_path: Path) -> None:
    setting = Setting(solver="euler", steps=1)
    path = write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"], setting=setting)
    assert read(path).setting.steps == 1


def test_keys_of_later_versions_are_no_harm(denoiser: Any, tmp_path: Path) -> None:
    """What a schedule means is bound by its hash, so other keys may come."""
    path = write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    damage(path, lambda values: values.update(notes="of a later version"))
    assert len(read(path).rows) == 4
