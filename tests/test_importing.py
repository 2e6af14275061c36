"""`skiptune import`: from a hand-made schedule to the first proposal of a study."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from skiptune.search.spec import load_spec
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import open_database
from tests.command_line import Outcome, write_spec

Command = Callable[..., Outcome]


@pytest.fixture
def spec(tiny_study: ModuleType, study_folder: Path) -> Path:
    """A study file; the command runs in the folder above it."""
    changes = {"search__evaluations": 2, "search__rungs": [250], "confirm__candidates": 1}
    return write_spec(tiny_study, study_folder, **changes)


def test_a_hand_made_schedule_is_the_first_proposal(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("stages: [0.9, 0.6]\n")
    done = command("import", "mine.yaml", "--into", spec)
    assert done.code == 0, done.err
    assert done.out == ""
    assert "stage 1, " in done.err and f"Next: skiptune check {spec}" in done.err
    start = json.loads((spec.parent / "start.json").read_text())
    assert load_spec(spec).search.warm_start == (str(spec.parent / "start.json"),)
    assert 'warm_start: "./start.json"' in spec.read_text()

    url = f"sqlite:///{tmp_path / 'tiny.db'}"
    assert command("tune", spec, "--storage", url, "-q", "--no-progress").code == 0
    with open_database(url) as database:
        study = ledger.find_study(database, "tiny")
        assert study is not None
        first, *_ = ledger.evaluations(database, study.id, kind="proposal", block=SEARCH_BLOCK)
    wanted = {f"skip/{row['address']}": row["scale"] for row in start["skips"]}
    assert first.params == pytest.approx(wanted)
    assert {0.9, 0.6} <= set(wanted.values())


def test_a_file_for_a_study(command: Command, spec: Path, tmp_path: Path) -> None:
    count = len(
        json.loads(command("skips", spec.parent / "tiny.safetensors", "--json").out)["skips"]
    )
    (tmp_path / "mine.json").write_text(json.dumps([3.0] + [0.75] * (count - 1)))
    before = spec.read_text()
    done = command("import", "mine.json", "--for", spec, "-o", "first.json", "--json")
    assert done.code == 0, done.err
    plain = json.loads(done.out)
    assert plain["written"] == "first.json" and plain["into"] is None
    assert list(plain["scales"].values()) == [3.0] + [0.75] * (count - 1)
    (note,) = plain["notes"]
    assert note.startswith("clipped to 0.5 to 2.0: ")
    assert "warm_start: ./first.json" in done.err
    assert spec.read_text() == before
    again = command("import", "mine.json", "--for", spec, "-o", "first.json")
    assert again.code == 2 and "--force" in again.err
    assert command("import", "mine.json", "--for", spec, "-o", "first.json", "--force").code == 0


@pytest.mark.parametrize(
    ("words", "where", "found"),
    [
        ("mine.yaml", "skiptune import", "neither"),
        ("mine.yaml --for S --into S", "skiptune import", "both"),
        ("none.yaml --for S", "none.yaml", "no such file"),
        ("mine.yaml --for none.yaml", "none.yaml", "no such file"),
        ("mine.yaml --into none.yaml", "none.yaml", "no such file"),
        ("mine.yaml --for S -o none/s.json", "-o none/s.json", "No such file"),
        ("wrong.yaml --for S", "wrong.yaml:1: 4x4_blok", "no such skip"),
        ("mine.yaml --for S -s space.skips=[9x9]", "space.skips[0]", "9x9"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    command: Command, spec: Path, tmp_path: Path, words: str, where: str, found: str
) -> None:
    (tmp_path / "mine.yaml").write_text("stages: [0.9]\n")
    (tmp_path / "wrong.yaml").write_text("4x4_blok: 0.9\n")
    before = spec.read_text()
    done = command("import", *(str(spec) if word == "S" else word for word in shlex.split(words)))
    assert done.code == 2
    assert f"error: {where}" in done.err
    assert found in done.err and "hint: " in done.err
    assert done.out == "" and "Traceback" not in done.err
    assert spec.read_text() == before
    assert not list(tmp_path.rglob("start.json"))


def test_a_study_that_has_a_start_is_left_as_it_is(command: Command, spec: Path) -> None:
    Path("mine.yaml").write_text("stages: [0.9]\n")
    assert command("import", "mine.yaml", "--into", spec).code == 0
    before = spec.read_text()
    done = command("import", "mine.yaml", "--into", spec, "-o", "other.json")
    assert done.code == 2
    assert "search.warm_start" in done.err and "no warm start yet" in done.err
    assert spec.read_text() == before
    assert not Path("other.json").exists()


def test_a_space_that_holds_nothing_of_it_is_told(command: Command, spec: Path) -> None:
    skips = json.loads(command("skips", spec.parent / "tiny.safetensors", "--json").out)["skips"]
    deepest, *others = [skip["address"] for skip in skips]
    Path("mine.yaml").write_text(f"{deepest}: 0.5\n")
    narrow = f"space.skips=[{', '.join(others)}]"
    done = command("import", "mine.yaml", "--for", spec, "-s", narrow)
    assert done.code == 2
    assert "a schedule that scales a skip of this space" in done.err
    assert not Path("start.json").exists()


def test_files_that_are_read_are_never_written_over(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("stages: [0.9, 0.6]\n")
    before = spec.read_bytes()
    for words in (("--for", spec, "-o", mine), ("--into", spec, "-o", spec)):
        refused = command("import", "mine.yaml", *words, "--force")
        assert refused.code == 2 and "another file than those that are read" in refused.err
    assert mine.read_text() == "stages: [0.9, 0.6]\n" and spec.read_bytes() == before


def test_what_cannot_be_read_is_the_only_problem(command: Command, spec: Path) -> None:
    Path("mine.yaml").write_text("1: 0.5\n")
    refused = command("import", "mine.yaml", "--for", spec)
    assert refused.code == 2 and "keys that are text" in refused.err
    assert "an empty file" not in refused.err
