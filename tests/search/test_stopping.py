from __future__ import annotations

import math
import threading

import pytest

from skiptune.search.stopping import GRACE, Stop


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def test_without_a_wish_there_is_all_the_time_in_the_world(clock: Clock) -> None:
    stop = Stop()
    assert not stop.requested
    assert stop.leaves(math.inf)
    assert not stop.wait(0.0)


def test_after_the_wish_time_runs_out(clock: Clock) -> None:
    stop = Stop()
    stop.request()
    assert stop.requested
    assert stop.leaves(GRACE - 2.0)
    assert not stop.leaves(GRACE - 2.0 + 0.01)
    clock.now += 5.0
    assert stop.leaves(3.0)
    assert not stop.leaves(3.01)
    clock.now += 3.01
    assert not stop.leaves(0.0)
    assert 0.0 < GRACE <= 10.0


def test_said_again_the_first_time_counts(clock: Clock) -> None:
    stop = Stop()
    stop.request()
    clock.now += 6.0
    stop.request()
    assert stop.leaves(2.0)
    assert not stop.leaves(2.01)


def test_the_wish_ends_a_wait_in_another_thread() -> None:
    stop = Stop()
    said: list[bool] = []
    waiting = threading.Thread(target=lambda: said.append(stop.wait(600.0)))
    waiting.start()
    stop.request()
    waiting.join(timeout=60)
    assert said == [True]
    assert stop.wait(600.0)
