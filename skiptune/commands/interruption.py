"""What ends a command from outside: Ctrl-C, and the signals that schedulers send.

The first one states a wish: what is in hand is finished if that takes seconds, else handed back.
The second one, or ten seconds, end it wherever it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from skiptune.search.stopping import GRACE, Stop

__all__ = [
    "INTERRUPTED",
    "STOPPING",
    "TERMINATED",
    "Interruption",
    "Stopped",
    "stoppable",
]

# Slurm sends SIGUSR1 before a time limit when asked to (`--signal`), and SIGTERM at it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TERMINATED = 143  # 128 + SIGTERM

STOPPING = (
    "Stopping: the chunk in hand is finished if that takes seconds, else it goes back to the queue"
    " (once more stops at once)"
)


class Stopped(BaseException):
    """Somebody asked the command to stop.

    Not an `Exception`, so that no handler of errors takes it for one.

    Arguments:
        message: What a person reads.
        exit_code: What the process returns.
    """

    def __init__(self, message: str, *, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Interruption:
    """What has come from outside so far.

    Arguments:
        message: What a person reads at the end, with how to go on.
        stop: The wish, for whoever works.
        exit_code: Of the first signal; None before one has come.
    """

    message: str
    stop: Stop = field(default_factory=Stop)
    exit_code: int | None = None

    def raise_if_stopped(self) -> None:
        """End the command where a signal has come.

        Raises:
            Stopped: With the message and the signal's exit code.
        """
        if self.exit_code is not None:
            raise Stopped(self.message, exit_code=self.exit_code)


@contextmanager
def stoppable(message: str, *, first: str = "") -> Iterator[Interruption]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 inside the block into a wish to stop.

    Arguments:
        message: What a person reads at the end, with how to go on.
        first: What a person reads at once.

    Raises:
        Stopped: A second signal has come, or the wish was not followed for `GRACE` seconds.
    """
    state = Interruption(message)

    def asked(number: int, frame: FrameType | None) -> None:
        if state.exit_code is not None:
            late(number, frame)
        state.exit_code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        state.stop.request()
        if first:
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"{first}\n".encode())

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(message, exit_code=state.exit_code or TERMINATED)

    before = {number: signal.signal(number, asked) for number in SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, late)
    try:
        yield state
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
