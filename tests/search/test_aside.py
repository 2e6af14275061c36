"""Work beside other work: never twice at once, never forgotten, never silent."""

from __future__ import annotations

import threading

import pytest

from skiptune.search.aside import Aside


def test_it_is_done_beside_and_once_more_for_whoever_asks_meanwhile() -> None:
    may_end, calls = threading.Event(), []

    def action() -> None:
        calls.append(threading.current_thread())
        assert may_end.wait(60)

    aside = Aside(action)
    for _ in range(5):
        aside.begin()
    may_end.set()
    aside.wait()
    # The four that came while it ran are served by one more run.
    assert 1 <= len(calls) <= 2
    assert threading.current_thread() not in calls
    aside.begin()
    aside.wait()
    assert 2 <= len(calls) <= 3


def test_an_error_is_raised_once_where_somebody_looks() -> None:
    def action() -> None:
        raise OSError("the disk")

    aside = Aside(action)
    aside.begin()
    with pytest.raises(OSError, match="the disk"):
        aside.wait()
    aside.check()
    aside.wait()


def test_who_waits_may_leave() -> None:
    class LeavingError(Exception):
        pass

    may_end = threading.Event()
    aside = Aside(lambda: may_end.wait(60))
    aside.begin()

    def pause() -> None:
        raise LeavingError

    with pytest.raises(LeavingError):
        aside.wait(pause)
    may_end.set()
    aside.wait()
