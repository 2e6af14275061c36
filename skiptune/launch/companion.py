"""A program that stays beside us and answers each question, one line of JSON for another."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

__all__ = ["Companion", "CompanionError"]

LEAVE_SECONDS: Final = 10.0  # in which it ends once its input does
SHOWN: Final = 4  # last lines of what it has said beside its answers


class CompanionError(Exception):
    """No answer has come; the text says why."""


class Companion:
    """A process that reads questions from its input and writes answers to its output.

    It ends when its input does, so at the latest with this process, whatever ends that.

    Arguments:
        words: Its command line.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()
        self._rest = b""
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,  # a Ctrl-C in the terminal is ours
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._errors)

    def ask(self, question: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Return the answer to a question.

        Arguments:
            question: Plain data.
            seconds: How long to wait for the answer.

        Raises:
            CompanionError: It has ended, or does not answer in time; ask no more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise CompanionError(self._last_words()) from None
        answer: dict[str, Any] = json.loads(self._line(seconds))
        return answer

    def close(self) -> None:
        """End it and wait until it has."""
        self._finalizer()

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise CompanionError(f"no answer for {seconds:.0f} s")
            more = os.read(pipe, 65536)
            if not more:
                raise CompanionError(self._last_words())
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        shown = [line.strip() for line in lines if line.strip()][-SHOWN:]
        return "; ".join(shown) or f"it has ended with exit {self._process.returncode}"


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    errors.close()
