"""A program whose clock is wrong: `python -m bench.chaos_clock SECONDS MODULE [ARGUMENT ...]`.

Runs a module as `python -m` does, in a process where Python's own clock is so many seconds ahead:
`time.time`, `time.time_ns`, and `now` and `today` of `datetime`. It is moved before anything else
is imported, so every library sees it. What the kernel dates, files for example, and the monotonic
clock stay as they are, as on a host whose clock is set wrong.
"""

from __future__ import annotations

import datetime
import runpy
import sys
import time
from typing import Self

__all__ = ["main", "shift"]

Real = datetime.datetime


class _Kind(type):
    """Lets a moment that C code has made pass for one of the moved class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Real)


class Moved(Real, metaclass=_Kind):
    """A `datetime` whose present comes from `time.time`."""

    __slots__ = ()  # C code compares the size of the class with the one it was compiled for

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        """Return the present in a time zone, local without one."""
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def today(cls) -> Self:
        """Return the present in local time."""
        return cls.now()


def shift(seconds: float) -> None:
    """Move this process's clock ahead."""
    real, real_ns = time.time, time.time_ns

    ahead = int(seconds * 1e9)
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + ahead
    datetime.datetime = Moved  # type: ignore[misc]


def main() -> None:
    """Move the clock and become the other program."""
    seconds, module, *_ = sys.argv[1:]
    shift(float(seconds))
    del sys.argv[0:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
