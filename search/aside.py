"""Work beside the sampling: scores are computed while the next chunk is on the device.

At d = 2048 the eigenvalues behind one corrected distance take a CPU thread about a minute, in
which the device would stand still. numpy lets go of the interpreter meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Aside"]


class Aside:
    """One action at a time in a thread of its own; asked again meanwhile, it is done once more.

    The thread ends with the process: the action must be one that may be cut off anywhere and done
    again, as scoring is.

    Arguments:
        action: What to do.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._changed = threading.Condition()
        self._running = self._again = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Do the action soon; what it does covers all that was there before this call."""
        with self._changed:
            if self._running:
                self._again = True
                return
            self._running = True
        threading.Thread(target=self._run, name="scoring", daemon=True).start()

    def check(self) -> None:
        """Raise here what the action raised there."""
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, pause: Callable[[], object] = lambda: None) -> None:
        """Wait until nothing is left to do, and raise what the action raised.

        Arguments:
            pause: Called a few times a second while waiting; may raise.
        """
        while True:
            with self._changed:
                if not self._running or self._changed.wait_for(lambda: not self._running, 0.2):
                    break
            pause()
        self.check()

    def _run(self) -> None:
        while True:
            try:
                self._action()
            except BaseException as error:
                with self._changed:
                    self._error, self._running, self._again = error, False, False
                    self._changed.notify_all()
                return
            with self._changed:
                if not self._again:
                    self._running = False
                    self._changed.notify_all()
                    return
                self._again = False
