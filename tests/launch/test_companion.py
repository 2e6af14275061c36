"""A program that answers line by line: answers, its end, its silence, and what it leaves."""

from __future__ import annotations

import gc
import os
import signal
import sys
import weakref

import pytest

from skiptune.launch.companion import Companion, CompanionError

ECHO = """
import json, os, sys
for line in sys.stdin:
    question = json.loads(line)
    if question == {"do": "die"}:
        print("so long", file=sys.stderr)
        sys.exit(3)
    if question == {"do": "end"}:
        os._exit(4)
    if question != {"do": "nothing"}:
        print(json.dumps({"pid": os.getpid(), "group": os.getpgid(0), **question}), flush=True)
"""


def companion() -> Companion:
    return Companion([sys.executable, "-c", ECHO])


def test_each_question_has_its_answer_from_one_process() -> None:
    found = companion()
    long = "x" * 300_000  # more than a pipe holds
    answers = [found.ask({"text": text}, seconds=60) for text in ("a", long, "ä\n")]
    assert [answer["text"] for answer in answers] == ["a", long, "ä\n"]
    [pid] = {answer["pid"] for answer in answers}
    assert answers[0]["group"] == pid != os.getpgid(0)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("do", "words"), [("die", "so long"), ("end", "it has ended with exit 4")]
)
def test_one_that_ends_is_told_with_its_last_words(do: str, words: str) -> None:
    found = companion()
    for question in (do, "again"):  # the second one finds a pipe without a reader
        with pytest.raises(CompanionError, match=words):
            found.ask({"do": question}, seconds=60)
    found.close()


def test_one_that_is_silent_is_waited_for_with_an_end() -> None:
    found = companion()
    with pytest.raises(CompanionError, match="no answer for 0 s"):
        found.ask({"do": "nothing"}, seconds=0.05)
    found.close()


def test_it_ends_with_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = companion()
    pid = found.ask({}, seconds=60)["pid"]
    gone = weakref.ref(found)
    del found
    gc.collect()
    assert gone() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiptune.launch.companion.LEAVE_SECONDS", 0.1)
    found = Companion([sys.executable, "-c", "print('{}', flush=True)\nwhile True: pass"])
    assert found.ask({}, seconds=60) == {}
    process = found._process
    found.close()
    assert process.returncode == -signal.SIGKILL
