from __future__ import annotations

import logging
import threading

from skiptune.views.dashboard import complaints
from skiptune.views.dashboard.complaints import LogLines, Once


def test_a_text_is_said_once_by_all_threads() -> None:
    said: list[str] = []
    once = Once(said.append)
    threads = [threading.Thread(target=once, args=(text,)) for text in "abcab" * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["a", "b", "c"]


def test_what_was_said_long_ago_is_forgotten() -> None:
    said: list[str] = []
    once = Once(said.append)
    for number in range(complaints._MOST + 1):
        once(str(number))
    once("0")
    assert said.count("0") == 2


def test_a_log_record_is_its_first_line() -> None:
    said: list[str] = []
    log = logging.getLogger("some_package.of_others")
    log.propagate = False
    handler = LogLines(said.append)
    log.addHandler(handler)
    try:
        log.error("Exception: %s\n  File x", "gone")
        log.info("nobody asked")
        log.warning("")
    finally:
        log.removeHandler(handler)
    assert said == ["some_package: Exception: gone", "some_package: some_package.of_others"]
    whole = LogLines(said.append, whole=True)
    whole.emit(logging.makeLogRecord({"name": "a.b", "msg": "one\ntwo"}))
    assert said[-1] == "a: one\ntwo"
