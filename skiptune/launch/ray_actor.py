"""What Ray runs on a node: an actor that looks after one `skiptune worker`.

The worker is a process of its own, so that signals and CUDA are its own. It is tied to the
actor: where Ray kills that, the worker leaves in order. Where the actor is lost with its node, Ray
makes it anew elsewhere, and so the worker too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skiptune.launch.crew import Crew, Member
from skiptune.launch.executor import program
from skiptune.launch.tether import tethered
from skiptune.storage.location import FILE_VARIABLE, URL_VARIABLE

__all__ = ["Order", "Tender"]

TICK_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Order:
    """How a worker is started on whatever node it is.

    Arguments:
        words: What follows `skiptune` on its command line.
        environment: Variables that are added to those of the node.
        logs: Folder of the node for its output; it is made.
        folder: Where it runs; None, or one that the node lacks: where Ray runs the actor.
    """

    words: Sequence[str]
    environment: Mapping[str, str]
    logs: str
    folder: str | None

    def member(self, name: str) -> Member:
        """Return the worker of an actor of this name, with what this node has.

        Raises:
            OSError: The folder for the output cannot be made.
        """
        environment = dict(os.environ)
        if self.environment.keys() & {URL_VARIABLE, FILE_VARIABLE}:
            environment.pop(URL_VARIABLE, None)
            environment.pop(FILE_VARIABLE, None)
        Path(self.logs).mkdir(parents=True, exist_ok=True)
        return Member(
            number=int(name.rpartition("-")[2]),
            words=tethered([*program(), *self.words]),
            environment={**environment, **self.environment},
            log=Path(self.logs, f"{name}.log"),
        )


class Tender:
    """The actor; Ray calls its methods.

    Arguments:
        order: The fields of an `Order`: plain data, whatever this version is.
        name: Of the actor: the job's, a dash, and the worker's number.
    """

    def __init__(self, order: Mapping[str, Any], name: str) -> None:
        import ray

        self._me = ray.get_runtime_context().current_actor
        known = Order(**order)
        if known.folder is not None and os.path.isdir(known.folder):
            os.chdir(known.folder)
        self._crew = Crew([known.member(name)], say=_say)
        self._asked = threading.Event()
        # Not a method that somebody calls: who has started us is gone when Ray makes us anew.
        threading.Thread(target=self._tend, daemon=True).start()

    def is_here(self) -> bool:
        """Answer, which shows that the actor has a place."""
        return True

    def leave(self) -> None:
        """Ask the worker to leave; the actor ends after it."""
        self._asked.set()

    def _tend(self) -> None:
        import ray

        try:
            passed = False
            while True:
                if self._asked.is_set() and not passed:
                    self._crew.pass_on(signal.SIGTERM)
                    passed = True
                if not self._crew.tend():
                    break
                time.sleep(TICK_SECONDS)
            for lost in self._crew.lost:
                _say(f"Its log ends with{lost.log_end}")
        except BaseException:
            traceback.print_exc()
        # The worker is done: Ray is not to start it again, as it would after an exit of ours.
        ray.kill(self._me, no_restart=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # into Ray's own log of this actor
