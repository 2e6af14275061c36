"""Workers that do everything but sample: what they ask of the database, at times laid down before.

A worker finishes its chunk when the plan says so and looks for the next one, in the order of
`search.worker` and `search.course`; scores are made up. One process serves several of them, each
with its own view of Optuna's studies. The plan is an open loop: a slow answer makes no worker ask
less often, and lateness is counted from the planned time.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, cast
from unittest.mock import patch

import optuna
from optuna.storages import RDBStorage, get_storage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo

from bench.long_history import NAME, RUNGS, attributes, made_up, simulated_study
from skiptune.canonical import digest
from skiptune.errors import TurnLostError
from skiptune.search import promotion
from skiptune.search.course import TURN_SECONDS
from skiptune.search.liveness import break_dead_leases
from skiptune.search.projection import Board
from skiptune.search.promotion import promote
from skiptune.search.proposals import propose
from skiptune.search.samplers import make_sampler
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.worker import LEASE_SECONDS, POLL_SECONDS
from skiptune.storage import leases, ledger
from skiptune.storage.database import open_database
from skiptune.storage.records import CHUNK
from skiptune.storage.turns import end_turn, renew_turn, take_turn

__all__ = ["CHUNKS", "Part", "Plan", "Served", "Way", "serve"]

CHUNKS = RUNGS[0] // CHUNK  # of one evaluation
JITTER = (0.8, 1.2)  # no two chunks take the same time

Way = Literal["skiptune", "bare Optuna"]


@dataclass(frozen=True)
class Plan:
    """What one process serves.

    Arguments:
        way: Who asks: workers of skiptune, or loops of Optuna's ask and tell.
        url: The database.
        parameters: Scales of the study.
        workers: Numbers of the simulated workers, from 0 on.
        of: How many there are in all processes.
        minute: Seconds that a worker has for one evaluation.
        seconds: For how long events begin.
        poll: First and longest wait of a worker that finds nothing, as in `search.worker`.
    """

    way: Way
    url: str
    parameters: int
    workers: tuple[int, ...]
    of: int
    minute: float
    seconds: float
    poll: tuple[float, float] = POLL_SECONDS


@dataclass
class Part:
    """What one chunk of an evaluation has cost its worker: to find it, and to finish it.

    With bare Optuna an evaluation has one part.

    Arguments:
        began: When its first event was planned, seconds after the begin of the plan.
        evaluation: Which evaluation, and which of its rungs.
        steps: Seconds in each of the storage's operations.
        processor: Seconds of this process's processor in all of them.
        waited: Seconds slept until another worker's turn might have ended.
        sojourn: Seconds from the planned times until what was due was done.
    """

    began: float
    evaluation: str = ""
    steps: dict[str, float] = field(default_factory=dict)
    processor: float = 0.0
    waited: float = 0.0
    sojourn: float = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time an operation."""
        began, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - began
            self.processor += time.process_time() - processor


@dataclass(frozen=True)
class Served:
    """What a process has seen.

    Arguments:
        first_look: Seconds in which a worker that has just begun reads what it needs.
        parts: All that were finished.
    """

    first_look: float
    parts: list[Part]


class Worker(Protocol):
    """A simulated worker."""

    def act(self, due: float, now: Callable[[], float]) -> float:
        """Do what is due and return when it acts next; times are seconds after the begin."""


def serve(plan: Plan, ready: Callable[[], float]) -> Served:
    """Serve the simulated workers of one process, one event at a time.

    Arguments:
        plan: What to do.
        ready: Called when everything is open; returns the begin of the plan by `time.time`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts: list[Part] = []
    with open_database(plan.url) as database, ExitStack() as closing:
        study = simulated_study(database, parameters=plan.parameters)
        make = _tuners if plan.way == "skiptune" else _askers
        workers, first_look = make(plan, study, parts, closing)
        database.rest()
        begin = ready()
        _run(plan, workers, lambda: time.time() - begin)
    return Served(first_look, parts)


def _run(plan: Plan, workers: list[Worker], now: Callable[[], float]) -> None:
    # Evenly staggered over the time of one chunk, or of one evaluation.
    between = plan.minute / (CHUNKS if plan.way == "skiptune" else 1)
    events = [
        (between * number / plan.of, number, worker)
        for number, worker in zip(plan.workers, workers, strict=True)
    ]
    heapq.heapify(events)
    while events:
        due, number, worker = heapq.heappop(events)
        if due >= plan.seconds:
            return
        time.sleep(max(due - now(), 0.0))
        heapq.heappush(events, (worker.act(due, now), number, worker))


class Tuner:
    """One worker of skiptune, without a network.

    Arguments:
        study: The study, of this process.
        board: This worker's own.
        number: Of the worker.
        plan: Of its process.
        parts: Where what is finished is noted.
    """

    def __init__(
        self, study: OpenStudy, board: Board, *, number: int, plan: Plan, parts: list[Part]
    ) -> None:
        self._study = study
        self._board = board
        self._name = f"simulated-{number}"
        self._seconds = plan.minute / CHUNKS
        self._poll = plan.poll
        self._parts = parts
        self._random = random.Random(number)
        self._claim: leases.Claim | None = None
        self._part: Part | None = None  # of the chunk that is being sampled, or looked for
        self._asked = 0.0  # when it began to look
        self._wait = 0.0  # the next one, none while it samples
        self._planned: float | None = None  # when the chunk is sampled

    def act(self, due: float, now: Callable[[], float]) -> float:
        """Finish the chunk and look for another one, or go on looking."""
        try:
            return self._act(due, now)
        finally:
            # As a worker does while it samples or waits.
            self._study.database.rest()

    def _act(self, due: float, now: Callable[[], float]) -> float:
        if self._wait:
            assert self._part is not None
            self._connect(self._part)
            with self._part.step("look around"):
                self._look_around()
        else:
            if self._claim is not None and self._part is not None:
                self._finish(self._claim, self._part)
                self._part.sojourn += now() - due
                self._parts.append(self._part)
                self._asked = now()
                self._part = Part(began=self._asked)
            else:
                self._asked = due
                self._part = Part(began=due)
                self._connect(self._part)
            self._wait = self._poll[0]
        part = self._part
        self._claim = self._look(part)
        if self._claim is None:
            pause = self._wait * self._random.uniform(0.7, 1.0)
            self._wait = min(1.5 * self._wait, self._poll[1])
            part.waited += pause
            return now() + pause
        self._wait = 0.0
        part.sojourn += now() - self._asked
        part.evaluation = f"{self._claim.number}/{_rung(self._claim)}"
        self._planned = due if self._planned is None else self._planned
        self._planned += self._seconds * self._random.uniform(*JITTER)
        return self._planned

    def _connect(self, part: Part) -> None:
        with part.step("connect"):
            self._study.database.engine.connect().close()

    def _finish(self, claim: leases.Claim, part: Part) -> None:
        database = self._study.database
        self._connect(part)
        with part.step("renew"):
            leases.renew(database, claim, seconds=LEASE_SECONDS)
        with part.step("commit"):
            array = digest([claim.schedule, claim.first_seed])
            leases.commit_chunk(
                database, claim, array=array, seconds=self._seconds, nfe=6.0, provenance=VERSIONS
            )
        self._score(part)

    def _score(self, part: Part) -> None:
        """As `scoring.score_ready`, with made-up numbers in place of those from the arrays."""
        database, study_id = self._study.database, self._study.id
        with part.step("ready rungs"):
            ready = ledger.ready_rungs(database, study_id)
        for rung in ready:
            with part.step("score"):
                evaluation = ledger.evaluation(database, rung.evaluation_id)
                ledger.chunks_of(database, evaluation.id, rung.images)
                (baseline,) = ledger.evaluations(database, study_id, kind="baseline", block=SEARCH)
                ledger.chunks_of(database, baseline.id, rung.images)
                ledger.put_score(
                    database,
                    evaluation.id,
                    level=rung.level,
                    **made_up(evaluation.schedule, rung.level),
                )

    def _look(self, part: Part) -> leases.Claim | None:
        """Claim a chunk; where none is open, take the turn and enter some."""
        while True:
            with part.step("claim"):
                claim = leases.claim_chunk(
                    self._study.database, self._study.id, worker=self._name, seconds=LEASE_SECONDS
                )
            if claim is not None:
                return claim
            with part.step("state"):
                ledger.require_study(self._study.database, NAME)
            if not self._decide(part):
                return None

    def _decide(self, part: Part) -> bool:
        """As `Worker._decide` and `course._search`; return whether anything was entered."""
        study, board = self._study, self._board
        with part.step("take turn"):
            turn = take_turn(
                study.database, study.id, task="propose", worker=self._name, seconds=TURN_SECONDS
            )
        if turn is None:
            return False
        try:
            with part.step("baseline"):
                ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
                baseline = study.baseline(
                    block=SEARCH, first_seed=SEARCH_SEED, images=study.rungs[-1]
                )
                study.images_of(baseline)
            self._score(part)
            with part.step("look at Optuna"):
                board.refresh()
            with part.step("fail orphans"):
                board.fail_orphans()
            with part.step("tell Optuna"):
                board.project(keep=partial(renew_turn, study.database, turn, seconds=TURN_SECONDS))
            with part.step("promote"):
                # No features are stored here: whoever is among the best part counts as a rival.
                with patch.object(promotion, "are_rivals", _is_rival):
                    promoted = promote(study)
            if promoted:
                return True
            with part.step("budget"):
                ledger.budget_left(study.database, study.id)
            with part.step("propose"):
                return propose(study, board, turn) is not None
        except TurnLostError:
            return False
        finally:
            with part.step("end turn"):
                end_turn(study.database, turn)

    def _look_around(self) -> None:
        study = self._study
        break_dead_leases(study.database, study.id)
        study.database.require_current()
        ledger.foreign_formats(study.database, study.id)


class Asker:
    """A loop of ask and tell on one of Optuna's studies, its parameters all at once.

    Arguments:
        study: The study, with a cache of its own.
        space: The study of skiptune whose parameters are asked for.
        number: Of the worker.
        minute: What an evaluation takes, about.
        parts: Where what is finished is noted.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: OpenStudy,
        *,
        number: int,
        minute: float,
        parts: list[Part],
    ) -> None:
        self._study = study
        self._space = space
        self._minute = minute
        self._parts = parts
        self._random = random.Random(number)
        self._trial: optuna.Trial | None = None
        self._part: Part | None = None
        self._planned: float | None = None

    def act(self, due: float, now: Callable[[], float]) -> float:
        """Tell what the trial has given, and ask for the next one."""
        if self._trial is not None and self._part is not None:
            schedule = digest(self._trial.params)
            score = made_up(schedule, 0)
            with self._part.step("tell"):
                for key, value in attributes("proposal", schedule, score).items():
                    self._trial.set_user_attr(key, value)
                self._study.tell(self._trial, score["value"])
            self._part.sojourn += now() - due
            self._parts.append(self._part)
            due = now()
        self._part = Part(began=due)
        with self._part.step("ask"):
            self._trial = self._study.ask(self._space.space.distributions())
        self._part.evaluation = f"{self._trial.number}"
        self._part.sojourn += now() - due
        self._planned = due if self._planned is None else self._planned
        self._planned += self._minute * self._random.uniform(*JITTER)
        return self._planned


VERSIONS = {"device": "none", "torch": "0.0.0", "numpy": "0.0.0", "python": "0.0.0"}


def _is_rival(*_: object, **__: object) -> bool:
    return True


def _tuners(
    plan: Plan, study: OpenStudy, parts: list[Part], _: ExitStack
) -> tuple[list[Worker], float]:
    boards = [Board(study.database, study.row) for _ in plan.workers]
    looks = []
    for board in boards:
        began = time.perf_counter()
        board.refresh()
        board.fail_orphans()
        looks.append(time.perf_counter() - began)
    return [
        Tuner(study, board, number=number, plan=plan, parts=parts)
        for number, board in zip(plan.workers, boards, strict=True)
    ], looks[0]


def _askers(
    plan: Plan, study: OpenStudy, parts: list[Part], closing: ExitStack
) -> tuple[list[Worker], float]:
    # What Optuna's documentation shows, with connections that are looked at before their use.
    storage = RDBStorage(plan.url, engine_kwargs={"pool_pre_ping": True})
    closing.callback(storage.engine.dispose)
    closing.callback(storage.remove_session)
    first = cast(_CachedStorage, get_storage(storage))
    began = time.perf_counter()
    optuna.load_study(study_name=NAME, storage=first).get_trials(deepcopy=False)
    first_look = time.perf_counter() - began
    workers: list[Worker] = []
    for number in plan.workers:
        own = cast(_CachedStorage, get_storage(storage))
        _copy(first, own)
        asked = optuna.load_study(
            study_name=NAME, storage=own, sampler=make_sampler("tpe", seed=number)
        )
        workers.append(Asker(asked, study, number=number, minute=plan.minute, parts=parts))
    return workers, first_look


def _copy(source: _CachedStorage, target: _CachedStorage) -> None:
    """Let a cache hold what another one has read: 128 times that much memory is not at hand."""
    for key, info in source._studies.items():
        copy: Any = _StudyInfo()
        for name, value in vars(info).items():
            setattr(copy, name, value.copy() if isinstance(value, dict | set | list) else value)
        target._studies[key] = copy
    target._trial_id_to_study_id_and_number |= source._trial_id_to_study_id_and_number
    target._study_id_and_number_to_trial_id |= source._study_id_and_number_to_trial_id


def _rung(claim: leases.Claim) -> int:
    return int(claim.first_seed - SEARCH_SEED >= RUNGS[0])
