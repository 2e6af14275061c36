"""How long a module's forward runs, seen from outside of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["Stopwatch", "watched"]


class Stopwatch:
    """Seconds and calls, added up.

    Attributes:
        wall: Seconds on the clock.
        cpu: Seconds of processor time of this process.
        calls: How often.
    """

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0
        self.calls = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what the `with` block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            self.calls += 1


@contextmanager
def watched(module: nn.Module) -> Iterator[Stopwatch]:
    """Time a module's forward on the CPU; its pre-hooks count as outside, those within as inside.

    The module itself is called as ever; its `forward` keeps its signature.
    """
    watch = Stopwatch()
    forward = module.forward

    @functools.wraps(forward)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with watch.running():
            return forward(*args, **kwargs)

    # On the instance: the class serves other networks too.
    module.__dict__["forward"] = timed
    try:
        yield watch
    finally:
        del module.__dict__["forward"]
