"""`skiptune explain`: what it prints and writes, without a network where none is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from skiptune.search.course import whole_study
from skiptune.search.study import open_study
from skiptune.search.worker import Limits, Worker


@pytest.fixture
def folder(made_up_folder: Path, tiny_study: ModuleType) -> Path:
    """A folder with a study that has scored its baseline and three schedules, all made up."""
    spec = tiny_study.spec(made_up_folder, search__rungs=[250], search__sampler="random")
    study = open_study(spec, storage=f"sqlite:///{made_up_folder / 'tiny.db'}")
    Worker(study, whole_study(study), limits=Limits(images=1000)).run()
    study.database.close()
    return made_up_folder


def test_a_page_two_pictures_and_data(command: Callable[..., Any], folder: Path) -> None:
    where = ("--storage", f"sqlite:///{folder / 'tiny.db'}")
    shown = command("explain", "tiny", *where)
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("hint: ")) <= 80
    for heading in ("Images per rung", "Gain over images", "What each scale does",
                    "A slice of the landscape", "What was confirmed"):  # fmt: skip
        assert heading in lines
    assert "A model of 4 schedules' features" in " ".join(shown.out.split())
    assert "hint: nobody works on it: skiptune worker tiny --until-done" in lines
    for name in ("gain", "slice"):
        path = folder / f"tiny-{name}.png"
        assert f"Wrote {path}" in shown.err
        with Image.open(path) as picture:
            assert picture.size == (760, 440)

    plain = json.loads(command("explain", "tiny", *where, "-o", "here", "--json").out)
    assert [Path(path).parent.name for path in plain["written"]] == ["here", "here"]
    assert len(plain["steps"]) == 3 and plain["steps"][-1]["spent"] == 1000
    assert plain["prediction"]["schedules"] == 4
    assert plain["rungs"][0]["entered"] == 3

    # Elsewhere the files are not there: measured points remain, and it is said why.
    (folder / "tiny.safetensors").rename(folder / "away.safetensors")
    (folder / "skiptune-artifacts").rename(folder / "away")
    moved = command("explain", "tiny", *where)
    assert moved.code == 0, moved.err
    assert "Measured points only: the study's files are not all here" in " ".join(
        moved.out.split()
    )

    unknown = command("explain", "tinny", *where)
    assert unknown.code == 2 and "tinny" in unknown.err
    no_folder = command("explain", "tiny", *where, "-o", folder / "tiny.db")
    assert no_folder.code == 2


def test_without_a_model_no_network_is_loaded(folder: Path) -> None:
    program = (
        "import sys\nfrom skiptune.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    words = ["explain", "tiny", "--no-model", "--storage", f"sqlite:///{folder / 'tiny.db'}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert "the model was not asked (--no-model)" in " ".join(done.stdout.split())


def test_where_no_schedule_keeps_the_constraints_nothing_is_called_best(
    command: Callable[..., Any], made_up_folder: Path, tiny_study: ModuleType
) -> None:
    spec = tiny_study.spec(
        made_up_folder,
        search__rungs=[250],
        search__sampler="random",
        search__evaluations=2,
        objective__constraints=["nfe <= 1"],
    )
    where = ("--storage", f"sqlite:///{made_up_folder / 'tiny.db'}")
    study = open_study(spec, storage=where[1])
    Worker(study, whole_study(study), limits=Limits(images=750)).run()
    study.database.close()

    words = "no schedule of the 2 that are scored keeps the constraints"
    best = command("best", "tiny", *where)
    assert (best.code, best.out) == (0, "")
    assert f"There is no best schedule: {words}" in best.err
    assert json.loads(command("best", "tiny", *where, "--json").out)["schedules"] == []
    assert f"best so far  none: {words}" in command("status", "tiny", *where).out
    explained = command("explain", "tiny", *where, "--no-model")
    assert f"No{words[2:]}." in " ".join(explained.out.split())
    assert "skiptune confirm" not in explained.out
    report = command("report", "tiny", *where, "-o", "tiny.md")
    assert report.code == 0, report.err
    assert f"**Not confirmed.** No{words[2:]}." in Path("tiny.md").read_text()
