"""What goes wrong while the dashboard is served: a line each, and each line once.

A page asks every ten seconds; a database that is away for an hour would fill a log otherwise.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["LogLines", "Once"]

_MOST: Final = 1000  # texts that are remembered


class Once:
    """Says a text that was not said before; called from several threads.

    Arguments:
        say: Says a text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        """Say a text, unless it was said."""
        with self._lock:
            if text in self._said:
                return
            if len(self._said) >= _MOST:
                self._said.clear()
            self._said.add(text)
        self._say(text)


class LogLines(logging.Handler):
    """Says the first line of what another package logs; tracebacks stand in the others.

    Arguments:
        say: Says a text.
        whole: Say all lines.
    """

    def __init__(self, say: Callable[[str], None], *, whole: bool = False) -> None:
        super().__init__(logging.WARNING)
        self._whole = whole
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record."""
        text = record.getMessage().strip()
        lines = text.splitlines() or [record.name]
        self._say(f"{record.name.partition('.')[0]}: {text if self._whole else lines[0]}")
