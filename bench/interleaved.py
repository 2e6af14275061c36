"""Fair timings: several ways to do one thing, in turns, in one process.

Every round times every way once, each round beginning with the next one, so that drift, heat and
other people's load fall on all of them alike. Ratios are taken within a round, and their median
counts: one disturbed round moves nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

__all__ = ["Spread", "Timing", "Way", "interleave", "ratios"]

T = TypeVar("T")


@dataclass(frozen=True)
class Way(Generic[T]):
    """One way to do the thing.

    Arguments:
        name: Printed in tables.
        around: Makes what a call needs and clears it away, both untimed.
        call: What is timed; takes what `around` gave.
    """

    name: str
    around: Callable[[], AbstractContextManager[T]]
    call: Callable[[T], object]


@dataclass(frozen=True)
class Timing:
    """What one call took.

    Arguments:
        wall: Seconds on the clock.
        cpu: Seconds of processor time, all threads of this process together.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one number."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} .. {self.high:.4g})"


def interleave(
    ways: Sequence[Way[Any]], *, repeats: int, warmup: int = 1
) -> dict[str, list[Timing]]:
    """Time every way `repeats` times, in turns.

    Arguments:
        ways: At least one, with different names.
        repeats: Rounds that count, at least 1.
        warmup: Rounds before them that do not.

    Returns:
        By name, one timing per round, in the order of the rounds.
    """
    timings: dict[str, list[Timing]] = {way.name: [] for way in ways}
    for round_ in range(warmup + repeats):
        first = round_ % len(ways)
        for way in (*ways[first:], *ways[:first]):
            timing = _timed(way)
            if round_ >= warmup:
                timings[way.name].append(timing)
    return timings


def ratios(
    timings: Mapping[str, Sequence[Timing]], name: str, base: str, *, clock: str = "wall"
) -> Spread:
    """Return the spread of the rounds' ratios of one way's time to another's.

    Arguments:
        timings: From `interleave`.
        name: The way in the numerator.
        base: The way in the denominator.
        clock: `wall` or `cpu`.
    """
    pairs = zip(timings[name], timings[base], strict=True)
    return Spread.of([getattr(a, clock) / getattr(b, clock) for a, b in pairs])


def _timed(way: Way[Any]) -> Timing:
    with way.around() as given:
        # Rubbish that another way has left is not this one's to collect.
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        way.call(given)
        return Timing(time.perf_counter() - wall, time.process_time() - cpu)
