"""The worker processes of a chaos run: started, stopped in the middle, killed, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import chaos_logs
from bench.chaos_logs import Event

__all__ = ["SKEW", "Crew", "CrewError", "StudyEndedError"]

SKEW: Final = 3600
"""Seconds by which the clock of one worker is ahead."""

POLL: Final = 0.1
"""Seconds between two looks at what is waited for."""

ROOT: Final = Path(__file__).resolve().parents[1]


class CrewError(Exception):
    """A worker has ended as none may, or time is up."""


class StudyEndedError(Exception):
    """The study is complete, so what is waited for will not happen any more."""


@dataclass
class _Worker:
    """One process; `asked` is the signal that it was sent to end it."""

    process: subprocess.Popen[bytes]
    stderr: Path
    asked: signal.Signals | None = None


class Crew:
    """Workers in numbered slots, each replaced when it is killed; a context manager.

    Arguments:
        folder: Of the run, with its orders.
        workers: How many slots.
        is_complete: Whether the study is.
        seconds: After so many, waiting for anything fails.
        skewed: The slot whose clock is an hour off, or None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int,
        is_complete: Callable[[], bool],
        seconds: float,
        skewed: int | None = None,
    ) -> None:
        self.started = 0
        self._folder = folder
        self._is_complete = is_complete
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._skewed = skewed
        self._workers: dict[int, _Worker] = {}
        self._slots = range(workers)

    def __enter__(self) -> Crew:
        for slot in self._slots:
            self._start(slot)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.wait()

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self._folder / "logs"

    def events(self) -> tuple[Event, ...]:
        """Return what the workers have written down so far, images left out."""
        return chaos_logs.events(self.logs)

    def pid(self, slot: int) -> int:
        """Return the process that is in a slot."""
        return self._workers[slot].process.pid

    def at_work(self) -> tuple[int, ...]:
        """Return the slots whose worker has opened the study and was not asked to end."""
        opened = {event.pid for event in self.events() if event.what == "opened"}
        return tuple(
            slot
            for slot, worker in sorted(self._workers.items())
            if worker.asked is None and worker.process.poll() is None
            and worker.process.pid in opened
        )  # fmt: skip

    def is_leaving(self) -> bool:
        """Return whether a worker that was asked to end has not been replaced yet."""
        return any(worker.asked is not None for worker in self._workers.values())

    @contextmanager
    def frozen(self, slot: int) -> Iterator[int]:
        """Stop a worker's process for the length of a `with` block; yields its process id."""
        pid = self.pid(slot)
        os.kill(pid, signal.SIGSTOP)
        try:
            stat = Path(f"/proc/{pid}/stat")
            while stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "TtZ":
                time.sleep(0.001)
            # What it has sent to a server is answered without it.
            time.sleep(0.02)
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def end(self, slot: int, by: signal.Signals) -> None:
        """Kill a worker, or ask it to stop; another one takes its slot."""
        worker = self._workers[slot]
        worker.asked = by
        worker.process.send_signal(by)

    def wait_until(self, true: Callable[[], bool], *, what: str) -> None:
        """Wait for something, replacing workers that have ended meanwhile.

        Raises:
            StudyEndedError: The study is complete before.
            CrewError: A worker failed, or time is up.
        """
        while not true():
            if self._is_complete():
                raise StudyEndedError(f"the study was complete before this had happened: {what}")
            self._mend()
            self._check_time(what)
            time.sleep(POLL)

    def rest(self, seconds: float) -> None:
        """Wait for so many seconds, as `wait_until` waits."""
        end = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= end, what="another moment")

    def wait_for_end(self) -> None:
        """Wait until the study is complete and every worker has ended by itself."""
        while any(worker.process.poll() is None for worker in self._workers.values()) or not (
            self._is_complete()
        ):
            self._mend()
            self._check_time("the end of the study")
            time.sleep(POLL)
        for worker in self._workers.values():
            self._ended(worker)

    def _start(self, slot: int) -> None:
        path = self.logs / f"{slot}-{self.started}.stderr"
        moved = ["bench.chaos_clock", str(SKEW)] if slot == self._skewed else []
        program = [*moved, "bench.chaos_worker", str(self._folder), str(slot)]
        with path.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", *program],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                # Ctrl-C in the terminal is for the driver, which ends the workers.
                start_new_session=True,
            )
        self._workers[slot] = _Worker(process, path)
        self.started += 1

    def _mend(self) -> None:
        for slot, worker in list(self._workers.items()):
            if worker.process.poll() is None:
                continue
            self._ended(worker)
            if worker.asked is not None and not self._is_complete():
                self._start(slot)

    def _ended(self, worker: _Worker) -> None:
        """Refuse an end that nobody asked for."""
        code, asked = worker.process.returncode, worker.asked
        # SIGTERM kills a worker that is still being imported; later it stops.
        right = asked is not None and (
            code == -asked or (code == 0 and asked == signal.SIGTERM)
        )  # fmt: skip
        if right or (code == 0 and self._is_complete()):
            return
        text = worker.stderr.read_text(encoding="utf-8", errors="replace")[-4000:]
        raise CrewError(f"worker {worker.stderr.stem} ended with {code}:\n{text}")

    def _check_time(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            last = sorted(self.events(), key=lambda event: event.moment)[-20:]
            lines = "\n".join(f"{e.pid} {e.what} {' '.join(e.words)}" for e in last)
            raise CrewError(
                f"{self._seconds:g} s are over, waiting for {what}; the last:\n{lines}"
            )
