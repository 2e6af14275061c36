"""Being asked to stop: what is in hand is finished if that takes seconds, else handed back."""

from __future__ import annotations

import math
import threading
import time
from typing import Final

__all__ = ["GRACE", "Stop"]

GRACE: Final = 10.0
"""Seconds between being asked to stop and having stopped."""

_HAND_BACK: Final = 2.0  # of them, what handing a chunk back may take


class Stop:
    """A wish to stop that anyone, a signal handler too, may state at any moment."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._until = math.inf

    def request(self) -> None:
        """State the wish; said again, the first time counts."""
        if not self._event.is_set():
            self._until = time.monotonic() + GRACE - _HAND_BACK
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether somebody wishes the work to stop."""
        return self._event.is_set()

    def leaves(self, seconds: float) -> bool:
        """Whether there is time for something that takes so many seconds."""
        return not self.requested or time.monotonic() + seconds <= self._until

    def wait(self, seconds: float) -> bool:
        """Wait, at most until somebody wishes to stop; return whether somebody does."""
        return self._event.wait(seconds)
