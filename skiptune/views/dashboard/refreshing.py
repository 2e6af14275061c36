"""Keeping Optuna's side up to date while the dashboard is open, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from skiptune.errors import SkiptuneError
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database

__all__ = ["SECONDS", "Refresh", "Refreshing"]

SECONDS: Final = 10.0
"""Between two looks; Optuna's page asks anew after as long."""

Refresh = Callable[[Database, ArrayStore, str], None]
"""Brings Optuna's side of one study up to date from our tables; cheap when nothing changed."""


class Refreshing:
    """Refreshes studies again and again; what fails is said and tried again.

    Arguments:
        refresh: What is done for one study.
        database: With a connection that the requests do not use.
        store: Where files lie.
        names: Returns the names of the studies that are shown now.
        say: Told of each failure, each time.
        after: Called after each look.
        seconds: Between two looks.
    """

    def __init__(
        self,
        refresh: Refresh,
        database: Database,
        store: ArrayStore,
        *,
        names: Callable[[], Iterable[str]],
        say: Callable[[str], None],
        after: Callable[[], None] = lambda: None,
        seconds: float = SECONDS,
    ) -> None:
        self._refresh = refresh
        self._database = database
        self._store = store
        self._names = names
        self._say = say
        self._after = after
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refreshing", daemon=True)

    def once(self) -> None:
        """Refresh every study that is shown; nothing is raised."""
        self._tried("the list of studies", self._each)
        self._tried("what is shown", self._after)
        # Between two looks the connection is another one's.
        self._database.rest()

    def start(self) -> None:
        """Begin the thread, whose first look comes after `seconds`."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """End the thread; one that is at work ends after the study in hand.

        Arguments:
            timeout: How many seconds to wait for it.
        """
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self.once()

    def _each(self) -> None:
        for name in self._names():
            if self._ended.is_set():
                return
            self._tried(f"study {name}", self._one, name)

    def _one(self, name: str) -> None:
        self._refresh(self._database, self._store, name)

    def _tried(self, what: str, action: Callable[..., None], *arguments: str) -> None:
        try:
            action(*arguments)
        except Exception as error:
            # Whatever it is: what is shown is older than it could be, and no less true.
            reason = error.problems[0] if isinstance(error, SkiptuneError) else repr(error)
            self._say(f"Not up to date: {what}: {reason}")
