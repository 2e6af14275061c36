"""Patience with a database that is away: ask again, more and more rarely, for up to ten minutes.

Every function of this room may be called again after a crash or a lost answer, so whoever waits
here and calls again ends in the same rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from skiptune.errors import UnavailableError

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "PATIENCE", "Patience"]

PATIENCE: Final = 600.0
"""Seconds after which a database that stays away ends the worker."""

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0

T = TypeVar("T")


class Patience:
    """Repeats what fails because the database is away.

    Arguments:
        seconds: How long it may stay away in one go.
        on_wait: Called before each wait with the error and the seconds until the next try.
        sleep: Waits; may raise to end it all, when a signal has come for example.
    """

    def __init__(
        self,
        seconds: float = PATIENCE,
        *,
        on_wait: Callable[[UnavailableError, float], None] = lambda error, wait: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = seconds
        self._on_wait = on_wait
        self._sleep = sleep

    def __call__(self, action: Callable[[], T]) -> T:
        """Return what an action returns, the first time that the database answers.

        Raises:
            UnavailableError: It stayed away for longer than patience lasts.
        """
        began = time.monotonic()
        wait = FIRST_WAIT
        while True:
            try:
                return action()
            except UnavailableError as error:
                left = self._seconds - (time.monotonic() - began)
                if left <= 0:
                    raise
                # Spread out, so that two hundred workers do not come back in the same moment.
                pause = min(wait * random.uniform(0.5, 1.0), left)
                self._on_wait(error, pause)
                self._sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT)
