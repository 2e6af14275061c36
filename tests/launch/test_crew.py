"""Workers of one machine: crashes are followed by restarts, refusals are not, signals pass on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skiptune.launch import crew as module
from skiptune.launch.crew import DELAYS, MOST_CRASHES, Crew, Member, signals_kept

Script = Callable[..., Path]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def member(program: Path, tmp_path: Path, number: int = 0) -> Member:
    return Member(number, [str(program)], dict(os.environ), tmp_path / f"{number}.log")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def settled(crew: Crew) -> bool:
    """Tend until nobody runs; return whether somebody is to be started later."""
    left = True

    def idle() -> bool:
        nonlocal left
        left = crew.tend()
        return crew.running == 0

    until(idle)
    return left


def test_workers_that_end_well_are_not_started_again(script: Script, tmp_path: Path) -> None:
    said: list[str] = []
    members = [member(script("ok", "echo done"), tmp_path, n) for n in range(3)]
    crew = Crew(members, say=said.append)
    assert not settled(crew)
    assert (said, crew.lost) == ([], [])
    assert [m.log.read_text() for m in members] == ["done\n"] * 3


def test_a_crash_is_followed_by_restarts_further_and_further_apart(
    script: Script, tmp_path: Path
) -> None:
    said: list[str] = []
    clock = Clock()
    crew = Crew(
        [member(script("bad", "echo oh no; exit 1"), tmp_path)], say=said.append, clock=clock
    )
    starts = []
    while settled(crew):
        starts.append(clock.now)
        log = (tmp_path / "0.log").read_text()
        while (tmp_path / "0.log").read_text() == log and crew.running == 0:
            clock.now += 0.5
            crew.tend()
    assert starts == [0.0, 1.0, 3.0, 7.0]
    [lost] = crew.lost
    assert (lost.code, lost.crashes, lost.refused) == (1, MOST_CRASHES, False)
    assert lost.log_end == "\n         oh no"
    assert lost.reason == "exit 1, 5 times in a row"
    assert said[-1].startswith("Worker 0 is given up (exit 1, 5 times in a row)")
    assert [text.partition(": ")[2].split()[2] for text in said[:-1]] == ["1", "2", "4", "8"]


def test_a_delay_has_an_end_and_steady_work_forgets_crashes(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CRASHES", 20)
    said: list[str] = []
    clock = Clock()
    program = script("bad", "while [ ! -e go ]; do sleep 0.01; done; rm go; kill -9 $$")
    monkeypatch.chdir(tmp_path)
    crew = Crew([member(program, tmp_path)], say=said.append, clock=clock)
    crew.tend()
    for crash in range(9):
        clock.now += module.STEADY if crash == 8 else 10.0
        Path("go").touch()
        settled(crew)
        if crash < 8:
            clock.now += DELAYS[1]
            crew.tend()
    waits = [text.partition("again in ")[2].split()[0] for text in said]
    assert waits == ["1", "2", "4", "8", "16", "32", "60", "60", "1"]
    assert all("signal 9" in text for text in said)


def test_who_is_refused_is_not_started_again(script: Script, tmp_path: Path) -> None:
    said: list[str] = []
    program = script("refused", "echo 'error: no such study' >&2; exit 2")
    crew = Crew([member(program, tmp_path)], say=said.append)
    assert not settled(crew)
    [lost] = crew.lost
    assert lost.refused and lost.reason == "exit 2"
    assert "no such study" in lost.log_end


@pytest.mark.parametrize("end", ["exit 143", "exit 130", "kill -TERM $$"])
def test_who_was_asked_to_leave_is_not_started_again(
    script: Script, tmp_path: Path, end: str
) -> None:
    said: list[str] = []
    crew = Crew([member(script("left", end), tmp_path)], say=said.append)
    assert not settled(crew)
    assert (said, crew.lost) == (["Worker 0 was asked to leave"], [])


def test_a_signal_passes_on_once_and_nobody_is_started_again(
    script: Script, tmp_path: Path
) -> None:
    body = "trap 'echo got it; exit 143' USR1\necho ready\nwhile :; do sleep 0.05; done"
    crew = Crew(
        [member(script("steady", body), tmp_path), member(script("bad", "exit 1"), tmp_path, 1)],
        say=lambda text: None,
    )
    crew.tend()
    until(lambda: "ready" in (tmp_path / "0.log").read_text())
    until(lambda: crew.tend() and crew.running == 1)
    crew.pass_on(signal.SIGUSR1)
    assert not settled(crew)
    assert (tmp_path / "0.log").read_text() == "ready\ngot it\n"
    assert crew.lost == []


def test_who_does_not_leave_is_killed(script: Script, tmp_path: Path) -> None:
    clock = Clock()
    body = "trap '' TERM\necho ready\nwhile :; do sleep 0.05; done"
    crew = Crew([member(script("deaf", body), tmp_path)], say=lambda text: None, clock=clock)
    crew.tend()
    until(lambda: "ready" in (tmp_path / "0.log").read_text())
    crew.pass_on(signal.SIGTERM)
    clock.now = module.LAST_SECONDS - 1
    assert crew.tend()
    clock.now = module.LAST_SECONDS
    assert not settled(crew)


def test_signals_are_kept_and_handlers_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with signals_kept() as kept:
        for number in numbers:
            os.kill(os.getpid(), number)
    assert kept.numbers == list(numbers)
    assert [signal.getsignal(number) for number in numbers] == before
