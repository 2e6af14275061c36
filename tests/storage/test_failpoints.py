"""Fail points: they kill exactly where they are asked to, and a misspelt one is refused."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from skiptune.storage.failpoints import ALL_POINTS, STEPS, VARIABLE, fail_point

PROGRAM = """
from skiptune.storage.failpoints import fail_point
for count in range(1, 4):
    fail_point("renew.before")
    print(count, flush=True)
    fail_point("renew.after")
"""


def run(wanted: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={VARIABLE: wanted},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    "wanted, printed",
    [
        ("renew.before", ""),
        ("renew.after", "1"),
        ("renew.before:1", ""),
        ("renew.before:3", "12"),
        ("renew.after:3", "123"),
    ],
)
def test_the_process_dies_at_the_nth_arrival(wanted: str, printed: str) -> None:
    assert run(wanted) == (-signal.SIGKILL, printed)


@pytest.mark.parametrize("wanted", ["", "renew.before:4", "claim_chunk.before"])
def test_otherwise_nothing_happens(wanted: str) -> None:
    assert run(wanted) == (0, "123")


def test_every_step_has_two_points() -> None:
    assert len(set(ALL_POINTS)) == len(ALL_POINTS)
    assert {f"{step}.{side}" for step in STEPS for side in ("before", "after")} <= set(ALL_POINTS)


def test_misspelt_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not a fail point"):
        fail_point("comit_chunk.before")
    monkeypatch.setenv(VARIABLE, "comit_chunk.before")
    with pytest.raises(ValueError, match=VARIABLE):
        fail_point("commit_chunk.before")
