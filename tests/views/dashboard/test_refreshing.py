from __future__ import annotations

import threading

from skiptune.errors import StorageError
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.views.dashboard.complaints import Once
from skiptune.views.dashboard.refreshing import Refreshing
from tests.views.dashboard.conftest import Studied


def test_each_study_is_refreshed_and_failures_are_said(studied: Studied) -> None:
    done: list[str] = []
    looks: list[int] = []
    said: list[str] = []
    broken = ["b"]

    def refresh(database: Database, store: ArrayStore, study: str) -> None:
        assert (database, store) == (studied.database, studied.store)
        if study in broken:
            raise StorageError("the store", expected="it", found="nothing", hint="look")
        done.append(study)

    refreshing = Refreshing(
        refresh,
        studied.database,
        studied.store,
        names=lambda: ("a", "b", "c"),
        say=Once(said.append),
        after=lambda: looks.append(len(done)),
    )
    refreshing.once()
    refreshing.once()
    assert done == ["a", "c", "a", "c"]
    assert looks == [2, 4]
    assert said == ["Not up to date: study b: the store: expected it, found nothing"]
    broken.clear()
    refreshing.once()
    assert done[-3:] == ["a", "b", "c"] and len(said) == 1


def test_what_cannot_even_be_listed_is_said_and_tried_again(studied: Studied) -> None:
    said: list[str] = []

    def names() -> tuple[str, ...]:
        raise RuntimeError("gone")

    def refresh(database: Database, store: ArrayStore, study: str) -> None:
        raise AssertionError("there is no study to refresh")

    refreshing = Refreshing(
        refresh, studied.database, studied.store, names=names, say=Once(said.append)
    )
    refreshing.once()
    refreshing.once()
    assert said == ["Not up to date: the list of studies: RuntimeError('gone')"]


def test_the_thread_goes_on_until_it_is_stopped(studied: Studied) -> None:
    enough = threading.Event()
    done: list[str] = []

    def refresh(database: Database, store: ArrayStore, study: str) -> None:
        done.append(threading.current_thread().name)
        if len(done) == 3:
            enough.set()

    refreshing = Refreshing(
        refresh,
        studied.database,
        studied.store,
        names=lambda: ("a",),
        say=done.append,
        seconds=0.01,
    )
    refreshing.start()
    assert enough.wait(60)
    refreshing.stop()
    count = len(done)
    assert set(done) == {"refreshing"}
    refreshing.stop()
    assert len(done) == count
