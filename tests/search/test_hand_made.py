"""Schedules written by hand: every form, and every way to write one wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skiptune.errors import OutputError, SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import Skip
from skiptune.search.hand_made import StartFile, hand_made, load_start

# Two skips of 4x4, three of 8x8, one of 16x16.
SKIPS = tuple(
    Skip(f"{size}x{size}_block{number}", index, size, 8, 8, 4, mixed=False)
    for index, (size, number) in enumerate([(4, 0), (4, 1), (8, 0), (8, 1), (8, 2), (16, 0)])
)
NAMES = [skip.address for skip in SKIPS]


def read(folder: Path, text: str, *, name: str = "mine.yaml") -> Any:
    (folder / name).write_text(text)
    return hand_made(folder / name, SKIPS[::-1])  # in whatever order


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("[0.5, 0.6, 0.7, 0.8, 0.9, 1]", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("- 0.5\n- 1\n- 1\n- 1\n- 0\n- 2.5\n", [0.5, 1, 1, 1, 0, 2.5]),
        ("8x8_block1: 0.5\n4x4_block0: 1.5\n", [1.5, 1, 1, 0.5, 1, 1]),
        ("stages: [0.9, 0.2]", [0.9, 0.9, 0.2, 0.2, 0.2, 1]),
        ("stages: [1, 1, 0.3]", [1, 1, 1, 1, 1, 0.3]),
        ("s1: 0.9\ns2: 0.2\nb1: 1.2\nb2: 1.4\n", [0.9, 0.9, 0.2, 0.2, 0.2, 1]),
        ("{s2: 0.2}", [1, 1, 0.2, 0.2, 0.2, 1]),
    ],
)
def test_every_form_gives_one_scale_per_skip(
    text: str, scales: list[float], tmp_path: Path
) -> None:
    found = read(tmp_path, text)
    assert list(found.scales) == NAMES
    assert list(found.scales.values()) == scales
    assert found.schedule == Schedule.uniform(dict(zip(NAMES, scales, strict=True)))


def test_json_is_read_as_json(tmp_path: Path) -> None:
    found = read(tmp_path, '{\n\t"stages": [5e-1]\n}', name="mine.json")
    assert list(found.scales.values()) == [0.5, 0.5, 1, 1, 1, 1]


def test_stages_are_told_and_called_a_start(tmp_path: Path) -> None:
    *stages, caution, left = read(tmp_path, "{s1: 0.9, s2: 0.2, b1: 1.2, b2: 1}").notes
    assert stages == ["stage 1, 4x4: 0.9 for 2 skips", "stage 2, 8x8: 0.2 for 3 skips"]
    assert "lowest frequencies" in caution and "a start" in caution
    assert left == "b1 left out: they scale the main path"
    third = read(tmp_path, "stages: [1, 1, 0.3]").notes[2]
    assert third == "stage 3, 16x16: 0.3 for 1 skip"
    assert read(tmp_path, "[0.5, 1, 1, 1, 1, 1]").notes == ()


def test_a_network_of_one_resolution_has_one_stage(tmp_path: Path) -> None:
    skips = [Skip(f"block{index}", index, 16, 8, 8, 4, mixed=False) for index in range(3)]
    path = tmp_path / "mine.yaml"
    path.write_text("s1: 0.9\nb1: 1.2\n")
    found = hand_made(path, skips)
    assert list(found.scales.values()) == [0.9, 0.9, 0.9]
    assert found.notes[0] == "stage 1, 16x16: 0.9 for 3 skips"
    path.write_text("s1: 0.9\ns2: 0.2\n")
    with pytest.raises(SpecError, match=r"mine\.yaml:2: s2: expected a list of 1 to 1 numbers"):
        hand_made(path, skips)


@pytest.mark.parametrize(
    ("text", "where", "expected", "found"),
    [
        ("[0.5, 1]", "", "6 numbers, one per skip, deepest first", "2"),
        ("[1, 1, x, 1, 1, 1]", ":1: [2]", "a factor of at least 0", '"x"'),
        ("- 0.5\n- -1\n- 1\n- 1\n- 1\n- 1\n", ":2: [1]", "a factor of at least 0", "-1"),
        ("[.nan, 1, 1, 1, 1, 1]", ":1: [0]", "a factor of at least 0", "NaN"),
        ("[.inf, 1, 1, 1, 1, 1]", ":1: [0]", "a factor of at least 0", "Infinity"),
        ("[true, 1, 1, 1, 1, 1]", ":1: [0]", "a factor of at least 0", "true"),
        (f"[1{'0' * 400}, 1, 1, 1, 1, 1]", ":1: [0]", "a factor of at least 0", "1000000"),
        ("[1, 1, 1, 1, 1, 1]", "", "a scale other than 1", "the untouched network"),
        ("8x8_blok1: 0.5", ":1: 8x8_blok1", "(did you mean `8x8_block1`?)", "no such skip"),
        ("8x8_block1: -2", ":1: 8x8_block1", "a factor of at least 0", "-2"),
        ("8x8_block1: 0.5\n8x8_block1: 0.6\n", ":2: 8x8_block1", "", ""),
        ("stages: 0.9", ":1: stages", "a list of 1 to 3 numbers, one per resolution", "0.9"),
        ("stages: []", ":1: stages", "a list of 1 to 3 numbers", "0 numbers"),
        ("stages: [1, 1, 1, 1]", ":1: stages", "(4, 8, 16)", "4 numbers"),
        ("stages: [0.9, -0.2]", ":1: stages[1]", "a factor of at least 0", "-0.2"),
        ("s1: low", ":1: s1", "a factor of at least 0", '"low"'),
        ("b1: 1.2", "", "a scale other than 1", "the untouched network"),
        ("s1: 0.9\n4x4_block0: 0.5", ":1: s1", "an address of the network", "no such skip"),
        ("", "", "scales", "an empty file"),
        ("{}", "", "scales", "an empty file"),
        ("0.5", "", "scales", "0.5"),
        ("[0.5", ":1", "one YAML document", ""),
        ("format: skiptune.tuned", ": format", "scales written by hand", "skiptune.tuned"),
    ],
)
def test_what_is_no_schedule_is_refused(
    text: str, where: str, expected: str, found: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    problem = caught.value.problems[0]
    assert problem.where == f"{tmp_path / 'mine.yaml'}{where}"
    assert expected in problem.expected and found in problem.found
    assert caught.value.hint


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "8x8_blok1: 0.5\n4x4_block0: -1\n8x8_block2: low\n")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[NaN]", "the number NaN"),
        ('{"4x4_block0": 1, "4x4_block0": 2}', "twice in one object"),
        ("[0.5,", "the end of the file"),
    ],
)
def test_json_is_read_strictly(text: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=found):
        read(tmp_path, text, name="mine.json")


def test_a_start_survives_its_file(tmp_path: Path) -> None:
    made = read(tmp_path, "stages: [0.9, 0.2]").start(source="mine.yaml", network="fashion")
    path = tmp_path / "start.json"
    made.write(path)
    again = load_start(path)
    assert again == made
    assert again is not None and again.schedule == made.schedule
    assert [skip.address for skip in again.skips] == NAMES
    with pytest.raises(OutputError, match="an existing file"):
        made.write(path)
    made.write(path, force=True)
    path.write_text('{"format": "skiptune.tuned"}')
    assert load_start(path) is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"skips": []}, "skips"),
        ({"skips": [{"address": "a", "scale": -1}]}, "skips[0].scale"),
        ({"skips": [{"address": "a", "scale": 1}] * 2}, "skips[1].address"),
        ({"skips": [{"scale": 1}]}, "skips[0].address"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_broken_start_is_refused(change: dict[str, Any], where: str, tmp_path: Path) -> None:
    plain = StartFile.model_validate(
        {"source": "m", "network": "n", "skips": [{"address": "a", "scale": 0.5}]}
    ).model_dump(mode="json")
    path = tmp_path / "start.json"
    path.write_text(json.dumps(plain | change))
    with pytest.raises(SpecError) as caught:
        load_start(path)
    assert caught.value.problems[0].where == f"{path}: {where}"
    assert caught.value.hint
