"""`skiptune status --watch`: a line for each change, a page on a terminal, and an end."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.commands import following
from skiptune.errors import UnavailableError
from skiptune.search import overview
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from skiptune.storage.records import StudyState
from tests.command_line import Outcome, write_spec

Command = Callable[..., Outcome]
URL = "sqlite:///skiptune.db"


@pytest.fixture
def created(command: Command, tiny_study: ModuleType, study_folder: Path) -> str:
    """The name of a study that was created and not begun."""
    assert command("create", write_spec(tiny_study, study_folder), "-q").code == 0
    return "tiny"


def set_state(state: StudyState) -> None:
    with open_database(URL) as database:
        ledger.set_study_state(database, ledger.require_study(database, "tiny").id, state)


def meanwhile(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], None]) -> list[float]:
    """Let a step happen during each wait between two looks; return the waits."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        steps[len(waits) - 1]()

    monkeypatch.setattr("time.sleep", sleep)
    return waits


def nothing() -> None:
    """Let nothing happen."""


def test_a_line_for_each_change_until_the_end(
    command: Command, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = meanwhile(
        monkeypatch,
        nothing,
        lambda: set_state("paused"),
        nothing,
        lambda: set_state("complete"),
    )
    outcome = command("status", created, "--watch")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "tiny running",
        "tiny paused",
        "tiny complete",
    ]
    assert all(line.endswith("; workers: 0") for line in lines)
    assert waits == [following.LOOK_SECONDS] * 4


@pytest.mark.parametrize("state", ["complete", "stopped"])
def test_a_study_that_is_done_is_shown_once(
    command: Command, created: str, state: StudyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_state(state)
    waits = meanwhile(monkeypatch)
    assert command("status", created, "--watch").out.startswith(f"tiny {state}")
    assert waits == []


def test_a_database_that_is_away_is_asked_again(
    command: Command, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = overview.overview

    def away(*arguments: Any) -> None:
        raise UnavailableError("database", expected="an answer", found="none", hint="wait")

    def back() -> None:
        monkeypatch.setattr(overview, "overview", known)
        set_state("stopped")

    meanwhile(monkeypatch, nothing, back)
    monkeypatch.setattr(overview, "overview", away)
    outcome = command("status", created, "--watch")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == "The database cannot be read: none"
    assert outcome.out.splitlines()[-1].startswith("tiny stopped")
    assert len(outcome.out.splitlines()) == 2


def test_what_cannot_be_watched(command: Command, created: str) -> None:
    for words in (("--watch",), (created, "--watch", "--json"), (created, "--watch", "--disk")):
        outcome = command("status", *words)
        assert outcome.code == 2
        assert outcome.err.startswith("error: skiptune status --watch\n")
    assert "'tinny'" in command("status", "tinny", "--watch").err


def test_what_is_on_disk(command: Command, created: str) -> None:
    assert command("worker", created, "--images", "500", "-q").code == 0
    plain = json.loads(command("status", created, "--disk", "--json").out)
    assert plain["disk"]["studies"]["tiny"]["files"] == 2
    assert plain["disk"]["store"]["bytes"] >= plain["disk"]["studies"]["tiny"]["bytes"] > 0
    assert plain["disk"]["orphans"] == {"files": 0, "bytes": 0}
    outcome = command("status", created, "--disk")
    assert re.search(r"arrays of tiny +2 +\S+ kB\n", outcome.out)
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    of_all = command("status", "--disk")
    assert of_all.code == 0 and "arrays of tiny" in of_all.out
    assert "disk" not in json.loads(command("status", "--json").out)
    elsewhere = command("status", "--disk", "--artifacts", "elsewhere")
    assert elsewhere.code == 2 and "elsewhere" in elsewhere.err


def test_a_page_on_a_terminal(created: str) -> None:
    set_state("complete")
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        done = subprocess.run(
            [sys.executable, "-m", "skiptune", "status", created, "--watch"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=60,
            env=environment,
            check=False,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "proposed by" in shown and "workers now" in shown
