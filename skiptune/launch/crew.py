"""The workers of one machine: started, started again when they crash, and ended together."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from skiptune.launch.executor import log_end

__all__ = ["MOST_CRASHES", "Crew", "Lost", "Member", "Signals", "signals_kept"]

MOST_CRASHES: Final = 5
"""Crashes in a row after which a worker is given up."""

DELAYS: Final = (1.0, 60.0)  # seconds before the first restart, doubled up to the second
STEADY: Final = 1800.0
"""Seconds of work after which earlier crashes are forgotten; longer than a worker waits for a
database that is away."""

LAST_SECONDS: Final = 20.0
"""Seconds between asking workers to leave, which takes them ten, and killing them."""

REFUSED: Final = 2  # exit code: something to mend, so starting again would not help
ASKED: Final = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # somebody wanted this worker gone


@dataclass(frozen=True)
class Member:
    """One worker to be.

    Arguments:
        number: From 0 on.
        words: Its command line.
        environment: All of its environment.
        log: Where its output is appended.
    """

    number: int
    words: Sequence[str]
    environment: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class Lost:
    """A worker that was given up: its exit code, crashes in a row, and how its log ends."""

    member: Member
    code: int
    crashes: int
    log_end: str

    @property
    def refused(self) -> bool:
        """Whether it has said what a person has to mend."""
        return self.code == REFUSED

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        how = f"signal {-self.code}" if self.code < 0 else f"exit {self.code}"
        return how if self.refused else f"{how}, {self.crashes} times in a row"


@dataclass
class _Post:
    """Where a member stands."""

    member: Member
    process: subprocess.Popen[bytes] | None = None
    since: int = 0  # size of its log when it was started last
    began: float = 0.0
    crashes: int = 0
    due: float | None = 0.0  # when it is to be started; None: it runs, or is done


@dataclass
class Signals:
    """Signals that have come, oldest first."""

    numbers: list[int] = field(default_factory=list)


class Crew:
    """The workers of one launch on this machine.

    Arguments:
        members: Who is to be started.
        say: Told what happens, one line each.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._posts = [_Post(member) for member in members]
        self._say = say
        self._clock = clock
        self._kill_at: float | None = None
        self.lost: list[Lost] = []

    @property
    def running(self) -> int:
        """How many workers live."""
        return sum(post.process is not None for post in self._posts)

    def tend(self) -> bool:
        """Look after every worker once; return whether any is left."""
        now = self._clock()
        for post in self._posts:
            if post.process is not None and (code := post.process.poll()) is not None:
                post.process = None
                self._ended(post, code, now)
            if post.due is not None and now >= post.due and self._kill_at is None:
                self._start(post, now)
        if self._kill_at is not None and now >= self._kill_at:
            self._send(signal.SIGKILL)
        waits = self._kill_at is None and any(post.due is not None for post in self._posts)
        return self.running > 0 or waits

    def pass_on(self, number: int) -> None:
        """Send a signal to every worker; none is started again after that."""
        if self._kill_at is None:
            self._kill_at = self._clock() + LAST_SECONDS
        self._send(number)

    def _send(self, number: int) -> None:
        for post in self._posts:
            if post.process is not None:
                with suppress(ProcessLookupError):
                    post.process.send_signal(number)

    def _start(self, post: _Post, now: float) -> None:
        member = post.member
        with member.log.open("ab") as log:
            post.since = log.tell()
            post.process = subprocess.Popen(
                member.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(member.environment),
                # A Ctrl-C in the terminal reaches them through us, once: the second one of two
                # would end them in the middle of a chunk.
                process_group=0,
            )
        post.began, post.due = now, None

    def _ended(self, post: _Post, code: int, now: float) -> None:
        name = f"Worker {post.member.number}"
        if code == 0 or self._kill_at is not None:
            return
        if code in ASKED:
            self._say(f"{name} was asked to leave")
            return
        if code != REFUSED:
            post.crashes = 1 if now - post.began >= STEADY else post.crashes + 1
            if post.crashes < MOST_CRASHES:
                wait = min(DELAYS[0] * 2 ** (post.crashes - 1), DELAYS[1])
                post.due = now + wait
                how = f"signal {-code}" if code < 0 else f"exit {code}"
                self._say(f"{name} crashed ({how}): again in {wait:.0f} s; {post.member.log}")
                return
        lost = Lost(post.member, code, post.crashes, log_end(post.member.log, since=post.since))
        self.lost.append(lost)
        self._say(f"{name} is given up ({lost.reason}): {post.member.log}")


@contextmanager
def signals_kept() -> Iterator[Signals]:
    """Collect Ctrl-C, SIGTERM and SIGUSR1 inside the block instead of being ended by them."""
    kept = Signals()

    def keep(number: int, frame: FrameType | None) -> None:
        kept.numbers.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        yield kept
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
