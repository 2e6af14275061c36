"""What ends a command from outside: Ctrl-C, and the signals that schedulers send.

A signal becomes an exception in the main thread, so that whatever holds a lease hands it back on
the way out; a second one cuts even that short.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Stopped", "stoppable"]

# Slurm sends SIGUSR1 before a time limit when asked to (`--signal`), and SIGTERM at it.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TERMINATED = 143  # 128 + SIGTERM


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


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 inside the block into `Stopped`.

    Arguments:
        message: What a person reads, with how to go on.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(message, exit_code=TERMINATED)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(message) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
