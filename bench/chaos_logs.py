"""What the workers of a chaos run write down: two files per process, a line each at a time.

`<slot>-<pid>.images` has one line per sampled image, written when its microbatch is done; it says
under which claim (chunk and fence) it was sampled, or `canary`. `<slot>-<pid>.events` has what
else happened. A line that a killed process has begun and not ended does not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["CANARY", "Event", "Image", "Log", "What", "events", "images"]

CANARY: Final = "canary"
"""Stands for the chunk of an image that a worker has sampled to be compared with a stored one."""

What = Literal["opened", "committed", "refused", "notice", "ended"]


@dataclass(frozen=True)
class Image:
    """A sampled image.

    Arguments:
        moment: When its microbatch was done: nanoseconds of a clock that all processes share.
        pid: Who sampled it.
        schedule: Digest of the schedule.
        seed: Its seed.
        chunk: The claimed chunk's identifier, or `CANARY`.
        fence: The claim's.
    """

    moment: int
    pid: int
    schedule: str
    seed: int
    chunk: str
    fence: int


@dataclass(frozen=True)
class Event:
    """Something else that happened.

    Arguments:
        moment: As for `Image`.
        pid: To whom.
        what: `opened` the study; a commit that went through (`committed`) or was `refused`, with
            chunk and fence; a `notice` to the user; `ended`, and how.
        words: The rest of the line.
    """

    moment: int
    pid: int
    what: str
    words: tuple[str, ...]


class Log:
    """The log of this process.

    Arguments:
        folder: Of all logs.
        slot: The worker's place in the crew.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._pid = os.getpid()
        stem = f"{slot}-{self._pid}"
        # Append and flush: what is written outlives the process.
        self._images = open(folder / f"{stem}.images", "a", encoding="utf-8")
        self._events = open(folder / f"{stem}.events", "a", encoding="utf-8")

    def sampled(self, schedule: str, seeds: Iterable[int], *, chunk: str, fence: int) -> None:
        """Write down sampled images."""
        head = f"{time.monotonic_ns()} {self._pid} {schedule}"
        self._images.write("".join(f"{head} {seed} {chunk} {fence}\n" for seed in seeds))
        self._images.flush()

    def happened(self, what: What, *words: object) -> None:
        """Write down an event."""
        line = " ".join(str(word) for word in words).replace("\n", " ")
        self._events.write(f"{time.monotonic_ns()} {self._pid} {what} {line}\n")
        self._events.flush()


def images(folder: Path) -> tuple[Image, ...]:
    """Return all sampled images of a run, by process."""
    return tuple(
        Image(int(moment), int(pid), schedule, int(seed), chunk, int(fence))
        for moment, pid, schedule, seed, chunk, fence in _lines(folder, "images")
    )


def events(folder: Path) -> tuple[Event, ...]:
    """Return all events of a run, by process."""
    return tuple(
        Event(int(moment), int(pid), what, tuple(words))
        for moment, pid, what, *words in _lines(folder, "events")
    )


def _lines(folder: Path, kind: str) -> Iterator[list[str]]:
    for path in sorted(folder.glob(f"*.{kind}")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield line.split()
