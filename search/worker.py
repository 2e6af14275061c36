"""A worker: claims chunks, samples and commits them, and decides what comes when none is open.

One worker or two hundred run this loop on one study, knowing nothing of each other: chunks and the
turn to decide are leased in the database. Whatever ends a worker costs at most its open chunk.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import torch

from skiptune.errors import (
    LeaseLostError,
    NetworkError,
    SkiptuneError,
    StorageError,
    TurnLostError,
    UnavailableError,
    WorkerError,
)
from skiptune.search.aside import Aside
from skiptune.search.canary import sing
from skiptune.search.chunks import Sampled, sampled_chunk
from skiptune.search.course import TURN_SECONDS, Course, Step
from skiptune.search.delivery import deliver, deliver_pending, stored
from skiptune.search.events import ChunkDone, ImagesMade, Listener, Notice, Scored, silent
from skiptune.search.liveness import break_dead_leases, worker_name
from skiptune.search.projection import Board
from skiptune.search.renewal import Renewal
from skiptune.search.sample_grid import keep_grid
from skiptune.search.scoring import NotSampledError, score_ready
from skiptune.search.slopes import sloped_chunk
from skiptune.search.stopping import Stop
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.leases import Claim
from skiptune.storage.patience import PATIENCE, Patience
from skiptune.storage.records import CHUNK, CHUNK_FORMAT
from skiptune.storage.turns import end_turn, settle, take_turn

__all__ = ["IDLE_SECONDS", "LEASE_SECONDS", "Ended", "Limits", "Worker"]

LEASE_SECONDS: Final = 120.0
"""Shortest lease; it is three times as long as a chunk takes where that is more."""

IDLE_SECONDS: Final = 60.0
"""A worker that finds nothing to do for so long ends, unless it was told to stay."""

POLL_SECONDS: Final = (0.5, 5.0)  # first and longest wait between looks at what others hold
SAME_FAILURES: Final = 5

Ended = Literal["complete", "stopped", "study stopped", "idle", "limit reached"]
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """When one worker ends, whatever the study's own budget says.

    Arguments:
        trials: Scores that it has completed, of proposals.
        images: Images that it has sampled; it claims no chunk beyond.
        seconds: Time since it began; it claims no chunk that would take it beyond.
        until_done: Stay while others hold what is left, or the study is paused, until it is done.
    """

    trials: int | None = None
    images: int | None = None
    seconds: float | None = None
    until_done: bool = False


class _LeavingError(Exception):
    """A signal has come and there is no time to finish what is in hand."""


class Worker:
    """One process at work on one study.

    Arguments:
        study: The open study.
        course: What happens when no chunk is open.
        limits: When to end.
        on_event: Who watches.
        stop: The wish to stop; a signal handler states it.
        patience: Seconds for which the database may stay away in one go.
    """

    def __init__(
        self,
        study: OpenStudy,
        course: Course,
        *,
        limits: Limits | None = None,
        on_event: Listener = silent,
        stop: Stop | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name = worker_name()
        self._study = study
        self._course = course
        self._limits = limits or Limits()
        self._on_event = on_event
        self._stop = stop or Stop()
        self._patience = Patience(patience, on_wait=self._database_away, sleep=self._wait)
        self._away = False
        self._board: Board | None = None
        self._checked = False  # the canary has sung
        self._began = time.monotonic()
        self._trials = self._images = 0
        self._chunk_seconds = 0.0  # what the last chunk took
        self._failure, self._failures = "", 0
        self._scoring = Aside(
            lambda: self._patiently(lambda: score_ready(study, on_event=self._scored))
        )

    @property
    def images(self) -> int:
        """Images that it has sampled and committed so far."""
        return self._images

    @property
    def trials(self) -> int:
        """Scores of proposals that it has completed so far."""
        return self._trials

    def run(self) -> Ended:
        """Work until the study is complete, a limit is reached, or somebody asks to stop.

        Raises:
            UnavailableError: The database stayed away; what is not delivered is kept with the
                arrays and delivered by whoever works on the study next.
            WorkerError: The same failure came five times in a row.
            SkiptuneError: This worker cannot work on the study, and says why.
        """
        try:
            return self._run()
        except _LeavingError:
            return "stopped"

    def _run(self) -> Ended:
        study = self._study
        self._patiently(lambda: deliver_pending(study))
        self._patiently(lambda: break_dead_leases(study.database, study.id))
        idle_since: float | None = None
        wait = POLL_SECONDS[0]
        while True:
            if self._stop.requested:
                return "stopped"
            if self._at_limit():
                self._scoring.wait(lambda: self._wait(0.0))
                return "limit reached"
            self._scoring.check()
            self._check_once()
            claim = self._patiently(self._claim)
            if claim is not None:
                idle_since, wait = None, POLL_SECONDS[0]
                self._work(claim)
                continue
            # What comes next depends on the scores.
            self._scoring.wait(lambda: self._wait(0.0))
            state = self._patiently(lambda: ledger.require_study(study.database, study.row.name))
            if state.state == "stopped":
                return "study stopped"
            step = None if state.state == "paused" else self._patiently(self._decide)
            if step == "complete":
                return "complete"
            if step == "entered":
                idle_since, wait = None, POLL_SECONDS[0]
                continue
            now = time.monotonic()
            idle_since = now if idle_since is None else idle_since
            if not self._limits.until_done and now - idle_since > IDLE_SECONDS:
                return "idle"
            study.database.rest()
            self._wait(wait * random.uniform(0.7, 1.0))
            wait = min(1.5 * wait, POLL_SECONDS[1])
            self._patiently(self._look_around)

    def _at_limit(self) -> bool:
        limits = self._limits
        elapsed = time.monotonic() - self._began + self._chunk_seconds
        return (
            (limits.trials is not None and self._trials >= limits.trials)
            or (limits.images is not None and self._images + CHUNK > limits.images)
            or (limits.seconds is not None and elapsed > limits.seconds)
        )

    def _claim(self) -> Claim | None:
        return leases.claim_chunk(
            self._study.database, self._study.id, worker=self.name, seconds=self._lease()
        )

    def _lease(self) -> float:
        return max(LEASE_SECONDS, 3 * self._chunk_seconds)

    def _decide(self) -> Step | None:
        """Take the study's turn and let its course go on; None where another worker has it."""
        study = self._study
        turn = take_turn(
            study.database, study.id, task="propose", worker=self.name, seconds=TURN_SECONDS
        )
        if turn is None:
            return None
        try:
            if self._board is None:
                self._board = Board(study.database, study.row)
            return self._course(self._board, turn)
        except TurnLostError:
            return None
        except UnavailableError:
            # What was asked or told may or may not have arrived: look again from the start.
            self._board = None
            raise
        finally:
            with suppress(UnavailableError):
                if self._board is None:
                    settle(study.database)
                end_turn(study.database, turn)

    def _look_around(self) -> None:
        """See to what a quiet moment shows: dead workers of this host, and being out of date."""
        study = self._study
        break_dead_leases(study.database, study.id)
        study.database.require_current()
        foreign = ledger.foreign_formats(study.database, study.id)
        if foreign:
            raise StorageError(
                f"study {study.row.name}: chunks",
                expected=f"chunks of format {CHUNK_FORMAT}, which this version writes",
                found=f"format {', '.join(map(str, foreign))}",
                hint="this worker was refused, the study goes on; use the version of skiptune that"
                " its other workers have",
            )

    def _check_once(self) -> None:
        """Let the canary sing before the first claim, as soon as there is what to compare with."""
        if self._checked:
            return
        study = self._study

        def look() -> bool:
            if not ledger.open_rungs(study.database, study.id):
                return False
            found = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
            chunk = ledger.chunks_of(study.database, found[0].id)[0] if found else None
            if chunk is None or chunk.state != "done":
                return False
            if chunk.worker != self.name:
                sing(study)
            return True

        try:
            self._checked = self._patiently(look)
        except LostFileError:
            pass  # the chunk is sampled again, and looked at then

    def _work(self, claim: Claim) -> None:
        """Sample the claimed chunk and commit it; what cannot be finished goes back."""
        study = self._study
        began = time.monotonic()
        try:
            made, array = self._sampled(claim, began)
        except LeaseLostError:
            self._lost(claim)
            return
        except (LostFileError, NotSampledError):
            # Slopes need stored features, and a file of them is gone: its chunk comes first, which
            # another worker may be sampling.
            self._release(claim)
            self._wait(POLL_SECONDS[0])
            return
        except (SkiptuneError, _LeavingError):
            self._release(claim)
            raise
        except Exception as error:
            self._release(claim)
            self._failed(error)
            return
        except BaseException:
            # A second Ctrl-C: the chunk is somebody else's at once.
            self._release(claim)
            raise
        seconds = time.monotonic() - began
        try:
            # From here on the chunk is not handed back: it is stored, and will be delivered.
            deliver(
                study, claim, array=array, seconds=seconds, nfe=made.nfe, patience=self._patience
            )
        except LeaseLostError:
            self._lost(claim)
            return
        self._failures, self._chunk_seconds = 0, seconds
        self._images += claim.images
        self._on_event(ChunkDone(claim.images, seconds, made.nfe, claim.label))
        self._scoring.begin()
        if self._limits.trials is not None:
            self._scoring.wait(lambda: self._wait(0.0))

    def _sampled(self, claim: Claim, began: float) -> tuple[Sampled, str]:
        study = self._study
        study.database.rest()
        with Renewal(study.database, claim, seconds=self._lease) as renewal:

            def on_images(made: int) -> None:
                self._on_event(ImagesMade(made, claim.images, claim.label))
                elapsed = time.monotonic() - began
                self._chunk_seconds = max(self._chunk_seconds, elapsed)
                renewal.check()
                if not self._stop.leaves(elapsed * (claim.images - made) / made):
                    raise _LeavingError

            make = sloped_chunk if claim.kind == "slopes" else sampled_chunk
            made = self._within_memory(lambda: make(study, claim, on_images=on_images))
            # A bucket may be away for a while, too.
            array = self._patience(
                lambda: stored(study, made, wait=self._wait, on_event=self._on_event)
            )
            if made.images is not None:
                keep_grid(
                    study.database, study.arrays, claim, made.images, made.arrays["finite"],
                    on_event=self._on_event,
                )  # fmt: skip
        return made, array

    def _within_memory(self, action: Callable[[], T]) -> T:
        """Do it once more with an empty cache where memory ran out, then refuse with the figure.

        The microbatch is part of what a chunk is: fewer images at once would be other images.
        """
        try:
            return action()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        try:
            return action()
        except torch.OutOfMemoryError as error:
            raise NetworkError(
                f"device {self._study.device}",
                expected=f"memory for one microbatch of {self._study.spec.microbatch} images",
                found=str(error).splitlines()[0],
                hint="this worker was refused, the study goes on; use a device with more memory,"
                " or begin a new study with a smaller `microbatch`",
            ) from error

    def _lost(self, claim: Claim) -> None:
        self._on_event(Notice(f"{claim.label}: the lease went to another worker"))

    def _release(self, claim: Claim) -> None:
        # Where the database is away the lease runs out by itself.
        with suppress(StorageError):
            leases.release(self._study.database, claim)

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self._failures = self._failures + 1 if text == self._failure else 1
        self._failure = text
        if self._failures >= SAME_FAILURES:
            raise WorkerError(
                f"worker {self.name}",
                expected="chunks that can be sampled",
                found=f"{SAME_FAILURES} times in a row: {text}",
                hint="the chunks went back to the queue; see the whole error with --debug",
            ) from error
        self._on_event(Notice(f"the chunk goes back to the queue: {text}"))

    def _scored(self, event: object) -> None:
        if isinstance(event, Scored):
            self._trials += event.kind == "proposal"
        self._on_event(event)  # type: ignore[arg-type]

    def _patiently(self, action: Callable[[], T]) -> T:
        value = self._patience(action)
        if self._away:
            self._away = False
            self._on_event(Notice("the database is back"))
        return value

    def _database_away(self, error: UnavailableError, wait: float) -> None:
        if not self._away:
            problem = error.problems[0]
            self._on_event(Notice(f"{problem.where}: {problem.found}; trying again"))
        self._away = True

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _LeavingError
