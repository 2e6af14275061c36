"""`skiptune report`: one file, from a study's rows, at any time of its life."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.search.artifacts import bind_store
from skiptune.search.course import whole_study
from skiptune.search.study import open_study
from skiptune.search.tune import run
from skiptune.search.worker import Limits, Worker
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from skiptune.views.result import score_rows
from tests.views.report.parsed import parsed, tables
from tests.views.report.test_kept import grid, made

Command = Callable[..., Any]


@pytest.fixture
def folder(made_up_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny study's files, and images that are made up."""
    # What another study has brought here is no file of this one.
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    return made_up_folder


def where(folder: Path) -> tuple[str, str]:
    return "--storage", f"sqlite:///{folder / 'tiny.db'}"


def tuned(folder: Path, tiny_study: ModuleType, **changes: Any) -> Any:
    """Tune the study, and return its result."""
    spec = tiny_study.spec(
        folder, **{"search__rungs": [250], "search__sampler": "random", **changes}
    )
    study = open_study(spec, storage=where(folder)[1])
    try:
        return run(study)
    finally:
        study.database.close()


def searched(folder: Path, tiny_study: ModuleType, images: int) -> None:
    """Let a worker sample so many images of the search."""
    spec = tiny_study.spec(folder, search__rungs=[250], search__sampler="random")
    study = open_study(spec, storage=where(folder)[1])
    Worker(study, whole_study(study), limits=Limits(images=images)).run()
    study.database.close()


def test_one_file_that_holds_everything(
    command: Command, folder: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    result = tuned(folder, tiny_study, confirm__controls=["epsilon scale"])
    done = command("report", "tiny", *where(folder), "-o", "tiny.html")
    assert done.code == 0, done.err
    assert done.out == ""
    assert f"Wrote tiny.html: {result.verdict}" in done.err
    assert "Sampling 24 images on cpu" in done.err
    text = (tmp_path / "tiny.html").read_text()
    root = parsed(text)
    assert [list(row) for row in score_rows(result)] in [rows[1:] for rows in tables(root)]
    assert len(list(root.every("img"))) == 24
    assert "A model of" in root.text  # the slice's prediction, where the files are
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text
    assert result.schedule.digest in text

    again = command("report", "tiny", *where(folder), "-o", "tiny.html")
    assert again.code == 2 and "--force" in again.err
    forced = command("report", "tiny", *where(folder), "-o", "tiny.html", "--force")
    assert forced.code == 0
    date = re.compile(r"Made \d{4}-\d\d-\d\d by")
    assert date.sub("", (tmp_path / "tiny.html").read_text()) == date.sub("", text)

    plain = command("report", "tiny", *where(folder), "-o", "tiny.md", "--json")
    assert json.loads(plain.out) == {
        "written": "tiny.md", "format": "md", "verdict": result.verdict, "pictures": False,
    }  # fmt: skip
    markdown = (tmp_path / "tiny.md").read_text()
    assert markdown.startswith("# tiny: skiptune report\n")
    assert str(tmp_path) not in markdown
    assert command("report", "tiny", *where(folder), "--format", "md").code == 0
    assert (tmp_path / "report.md").read_text() == markdown


def test_without_the_files_the_page_is_whole(
    command: Command, folder: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    result = tuned(folder, tiny_study)
    (folder / "tiny.safetensors").unlink()
    (folder / "reference.npz").unlink()
    (folder / "skiptune-artifacts").rename(folder / "away")
    done = command("report", "tiny", *where(folder))
    assert done.code == 0, done.err
    assert "No pictures: the study's files are not all here" in done.err
    text = (tmp_path / "report.html").read_text()
    root = parsed(text)
    assert [list(row) for row in score_rows(result)] in [rows[1:] for rows in tables(root)]
    assert "the study's files were not at hand where it was made" in root.text
    assert "Measured points only" in root.text
    assert str(tmp_path) not in text


def test_pictures_that_workers_have_kept_are_shown(
    command: Command, folder: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    searched(folder, tiny_study, 750)
    with open_database(where(folder)[1]) as database:
        study = ledger.require_study(database, "tiny")
        store = bind_store(database, folder / "skiptune-artifacts")
        kept = []
        for number, one in enumerate(ledger.evaluations(database, study.id)):
            data = grid(made(number), "1000000 to 1000015")
            digest = store.write_bytes(data, ".png")
            kept.append(digest)
            name = f"{one.series}/{one.schedule}.png"
            ledger.put_artifact(database, digest=digest, kind="grid", bytes=len(data), name=name)
    done = command("report", "tiny", *where(folder))
    assert done.code == 0 and "Sampling" not in done.err, done.err
    root = parsed((tmp_path / "report.html").read_text())
    words = [one.attributes["alt"] for one in root.every("img")]
    assert len(words) == 32
    assert (words[0], words[-1]) == ("seed 1000000, untouched", "seed 1000015, candidate")
    assert "the search's first ones, not chosen" in root.text

    # One is lost: it is said, and seeds are sampled instead; without the network there are none.
    store.path(kept[0], suffix=".png").unlink()
    lost = command("report", "tiny", *where(folder), "--force")
    assert lost.code == 0 and "The kept pictures are not here" in lost.err
    assert "Sampling 24 images" in lost.err
    (folder / "tiny.safetensors").unlink()
    for file in (folder / "skiptune-artifacts").rglob("*.safetensors"):
        file.unlink()  # small networks are kept there as well
    bare = command("report", "tiny", *where(folder), "--force")
    assert bare.code == 0 and "No pictures" in bare.err, bare.err
    text = (tmp_path / "report.html").read_text()
    assert "the study's files were not at hand where it was made" in parsed(text).text
    assert str(tmp_path) not in text


def test_before_a_confirm_it_is_marked_and_before_a_schedule_refused(
    command: Command, folder: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    searched(folder, tiny_study, 0)
    nothing = command("report", "tiny", *where(folder))
    assert nothing.code == 2
    assert "expected: a scored baseline and at least one schedule" in nothing.err
    assert "hint: let it work first: skiptune worker tiny --until-done" in nothing.err
    assert not (tmp_path / "report.html").exists()

    searched(folder, tiny_study, 1000)
    done = command("report", "tiny", *where(folder), "--pictures", "none")
    assert done.code == 0, done.err
    assert "Wrote report.html: not confirmed" in done.err
    root = parsed((tmp_path / "report.html").read_text())
    badge = next(p for p in root.every("p") if p.attributes.get("class") == "badge")
    assert badge.text == "Not confirmed"
    assert "they were not asked for" in root.text


def test_what_is_asked_for_wrongly(
    command: Command,
    folder: Path,
    tiny_study: ModuleType,
    tmp_path: Path,
    unprivileged: Callable[[], AbstractContextManager[None]],
) -> None:
    searched(folder, tiny_study, 750)
    unknown = command("report", "tinny", *where(folder))
    assert unknown.code == 2 and "tinny" in unknown.err and "tiny" in unknown.err
    missing = command("report", "tiny", *where(folder), "-o", "none/report.html")
    assert missing.code == 2 and "No such file or directory" in missing.err
    a_folder = command("report", "tiny", *where(folder), "-o", folder)
    assert a_folder.code == 2 and "a folder" in a_folder.err
    assert command("report", "tiny", *where(folder), "--format", "pdf").code == 2
    other = command("report", "tiny", *where(folder), "-o", tmp_path / "report.pdf")
    assert other.code == 2 and "one that ends in .pdf" in other.err
    assert not (tmp_path / "report.pdf").exists()
    said = command("report", "tiny", *where(folder), "-o", tmp_path / "r.v2", "--format", "md")
    assert said.code == 0 and (tmp_path / "r.v2").exists()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with unprivileged():
        shut = command("report", "tiny", *where(folder), "-o", closed / "report.html")
    assert shut.code == 2 and "Permission denied" in shut.err
    none = command("report", "tiny", "--storage", f"sqlite:///{tmp_path / 'no.db'}")
    assert none.code == 2


def test_it_is_shown_where_there_is_a_browser(
    command: Command,
    folder: Path,
    tiny_study: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched(folder, tiny_study, 750)
    opened: list[str] = []
    answer = [True]

    def show(url: str) -> bool:
        opened.append(url)
        return answer[0]

    monkeypatch.setattr(webbrowser, "open", show)
    words = ("report", "tiny", *where(folder), "--pictures", "none", "--open", "--force")
    assert "No browser" not in command(*words).err
    assert opened == [(tmp_path / "report.html").as_uri()]
    answer[0] = False
    assert "No browser is here. Open it yourself: report.html" in command(*words).err


def test_without_pictures_no_torch_is_loaded_and_no_password_told(
    folder: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    searched(folder, tiny_study, 750)
    program = (
        "import sys\nfrom skiptune.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "tiny", "--pictures", "none", *where(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert "sqlite" not in (tmp_path / "report.html").read_text()
