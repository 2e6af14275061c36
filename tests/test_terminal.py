"""What `best`, `explain` and `status` look like in 80 columns, piped, and without colour."""

from __future__ import annotations

import io
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.commands.output import print_hints, print_json
from skiptune.search.course import whole_study
from skiptune.search.study import open_study
from skiptune.search.tune import run
from skiptune.search.worker import Limits, Worker

WORDS = (("best", "tiny", "--top", "3"), ("explain", "tiny", "--no-model"), ("status", "tiny"),
         ("status",))  # fmt: skip
STATES = ("searching", "not confirmed", "finished")


@pytest.fixture(params=STATES)
def url(request: pytest.FixtureRequest, made_up_folder: Path, tiny_study: ModuleType) -> str:
    """The database of a study at one time of its life; many of its scales touch their ends."""
    controls = ["epsilon scale", "grid exponent"] if request.param == "finished" else False
    spec = tiny_study.spec(
        made_up_folder, search__rungs=[250, 500], search__sampler="random", search__evaluations=4,
        search__promote=1.0, space__intervals=3, space__low=0.99, space__high=1.3,
        confirm__controls=controls,
    )  # fmt: skip
    database = f"sqlite:///{made_up_folder / 'tiny.db'}"
    study = open_study(spec, storage=database)
    if request.param == "finished":
        run(study)
    else:
        images = 1250 if request.param == "searching" else 2500
        Worker(study, whole_study(study), limits=Limits(images=images)).run()
    study.database.close()
    return database


def test_every_line_fits_and_none_ends_in_blanks(
    command: Callable[..., Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("", "80"):
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        for words in WORDS:
            done = command(*words, "--storage", url)
            assert done.code == 0, done.err
            lines = done.out.splitlines()
            assert lines
            assert [line for line in lines if len(line) > 80] == []
            assert [line for line in lines if line != line.rstrip()] == []
            assert "\x1b" not in done.out


def seen(words: tuple[str, ...], url: str, folder: Path, **environment: str) -> str:
    """Return what a command writes to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    names = {"NO_COLOR", "COLUMNS", "FORCE_COLOR", "TERM"}
    bare = {key: value for key, value in os.environ.items() if key not in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "skiptune", *words, "--storage", url],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**bare, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )
    os.close(follower)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    assert process.wait(timeout=120) == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize("url", ["finished"], indirect=True)
def test_a_terminal_without_colour_shows_the_same_words(
    command: Callable[..., Any], url: str, tmp_path: Path
) -> None:
    for words in WORDS:
        piped = command(*words, "--storage", url).out
        plain = seen(words, url, tmp_path, NO_COLOR="1")
        # Bold is no colour: https://no-color.org
        for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
            plain = plain.replace(code, "")
        assert "\x1b" not in plain
        shown = [line.rstrip() for line in plain.replace("\r\n", "\n").splitlines()]
        assert shown == piped.splitlines()


@pytest.mark.parametrize("url", ["finished"], indirect=True)
def test_signs_that_an_encoding_lacks_end_nothing(url: str, tmp_path: Path) -> None:
    for words in WORDS:
        shown = seen(words, url, tmp_path, PYTHONIOENCODING="ascii")
        assert shown.isascii() and "[+" in shown


def test_letters_that_an_encoding_lacks_are_whole_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, text in (("latin-1", rb'"\u0161 \u00b1"'), ("utf-8", '"š ±"'.encode())):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        print_json("š ±")
        sys.stdout.flush()
        assert out.getvalue() == text + b"\n"


def test_hints_fit_and_their_commands_can_be_pasted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    options = "-s study=fashion-wider -s space.low=0.47 -s space.high=2.1 -s search.evaluations=40"
    path = "/".join(["folder"] * 15)
    print_hints(
        [
            "short: skiptune status fashion",
            f"a better one may lie beyond the range of three: skiptune tune fashion {options}",
            f"what cannot be broken stays: skiptune tune {path}/study.yaml",
        ]
    )
    out = capsys.readouterr().out
    assert out.startswith("\nhint: short: skiptune status fashion\n")
    lines = out.splitlines()
    assert lines[-1] == f"hint: what cannot be broken stays: skiptune tune {path}/study.yaml"
    assert max(map(len, lines[:-1])) <= 80
    command = out[out.index("three:\n") + len("three:\n") : out.rindex("\nhint: ")]
    # A shell joins lines at a backslash.
    assert shlex.split(command.replace("\\\n", "")) == [
        "skiptune", "tune", "fashion", *options.split(),
    ]  # fmt: skip


def test_a_command_is_not_broken_inside_a_quoted_word(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["skiptune", "plan", "my -first -study of the long winter.yaml", "-s", "x.y=1"] * 2
    print_hints([f"so: {shlex.join(words)}"])
    out = capsys.readouterr().out
    assert "\\\n" in out
    assert shlex.split(out.partition("so:\n")[2].replace("\\\n", "")) == words
