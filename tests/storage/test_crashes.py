"""A crash before or after any commit or rename ends in the same tables and files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from skiptune.storage.failpoints import STEPS

pytestmark = pytest.mark.slow

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(empty_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The outcome of the drill for every fail point."""
    program = Path(__file__).with_name("crash_drill.py")
    folder = tmp_path_factory.mktemp("drill")
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(empty_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found: Results = json.loads(done.stdout)
    return found


def test_the_drill_meets_everything(results: Results) -> None:
    """Otherwise the comparisons below would compare too little."""
    left = results["first"]["left"]
    states = sorted(
        (row["label"], row["state"]) for row in map(json.loads, left["skiptune_evaluations"])
    )
    assert states == [
        ("bad", "failed"),
        ("baseline", "complete"),
        ("diverging", "diverged"),
        ("good", "complete"),
        ("lost", "complete"),
    ]
    chunks = [json.loads(row) for row in left["skiptune_chunks"]]
    assert sorted(chunk["state"] for chunk in chunks) == ["done"] * 4 + ["dropped", "poisoned"]
    assert sum(chunk["doubled_images"] for chunk in chunks) == 250
    arrays = {f"{chunk['array']}.safetensors" for chunk in chunks if chunk["state"] == "done"}
    assert len(left["files"]) == 5
    # Of the other study nothing is left but descriptions of what it asked for.
    assert [json.loads(row)["name"] for row in left["skiptune_studies"]] == ["drill"]
    assert len(left["skiptune_schedules"]) == len(states) + 2
    assert {json.loads(row)["projected"] for row in left["skiptune_scores"]} == {1}
    assert arrays == {name for name in left["files"] if name.endswith(".safetensors")}
    assert all(left[table] for table in left if table.startswith("skiptune_"))


@pytest.mark.parametrize(
    "point", [f"{step}.{side}" for step in STEPS for side in ("before", "after")]
)
def test_a_crash_changes_nothing(results: Results, point: str) -> None:
    outcome = results[point]
    assert outcome["codes"] == [-signal.SIGKILL, 0]
    assert outcome["left"]["damaged"] == []
    assert outcome["left"] == results["first"]["left"]


def test_a_finished_study_started_again_changes_nothing(results: Results) -> None:
    assert results[""]["codes"] == [0]
    assert results[""]["left"] == results["first"]["left"]
