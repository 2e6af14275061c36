"""Where studies stand, read from the database alone: no network is loaded, nothing is written.

Whatever is printed between two runs of a study comes from here: its counts, what it has cost,
the best schedules so far, and what its confirms decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from skiptune.objectives.catalogue import IMAGE, Unit
from skiptune.objectives.ranks import RankCorrelation, rank_correlation
from skiptune.sampling.schedule import Schedule
from skiptune.search.ending import images_left, seconds_left
from skiptune.search.fronts import front_ranks
from skiptune.search.result import NO_GAIN, WIN, Measured, is_win
from skiptune.storage import ledger
from skiptune.storage.crews import Member, crew
from skiptune.storage.database import Database
from skiptune.storage.records import (
    FIRST_BESIDE,
    FIRST_CONSTRAINT,
    Budget,
    Evaluation,
    Score,
    Spending,
    SpentBlock,
    Study,
)

__all__ = [
    "SCORED",
    "Confirmed",
    "Leader",
    "Other",
    "Overview",
    "confirms",
    "leaders",
    "overview",
    "overviews",
    "proposer",
]

BASELINE = "baseline"
TUNED = "tuned"
SCORED = "scored"
OPEN = "open"
FEWEST_RANKED = 3  # of two there is nothing to rank


@dataclass(frozen=True)
class Leader:
    """One of the best schedules of a search.

    Arguments:
        number: Its evaluation's number in the study.
        schedule: What it multiplies each skip by.
        params: What Optuna proposed.
        measured: Its score on the search's seeds, at the highest rung it has reached.
        baseline: The untouched network on these seeds, at its full number of images.
        metric: Name of the metric behind `measured`.
        confirmed: Whether a confirm has proved a gain on seeds that no decision had seen.
        others: Further objectives, constraints and what is measured beside, at the same rung.
        on_front: Whether it is on the Pareto front of several objectives; False with one.
    """

    number: int
    schedule: Schedule
    params: Mapping[str, float]
    measured: Measured
    baseline: Measured
    metric: str
    confirmed: bool
    others: tuple[Other, ...] = ()
    on_front: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["schedule"] = self.schedule.to_json()
        plain["gain"] = self.measured.gain(self.baseline.value)
        plain["gain_interval"] = self.measured.gain_interval(self.baseline.value)
        return plain


@dataclass(frozen=True)
class Other:
    """A score of an evaluation that the search does not decide on.

    Arguments:
        name: Of the metric, or the constraint in words.
        kind: ``objective``, ``constraint`` or ``beside``.
        value: The metric; of a constraint the gap to its limit, above 0 where missed.
        standard_error: Of the value.
        difference: Paired difference to the baseline, negative is better.
        difference_error: Its standard error.
        violated: A constraint that is violated.
    """

    name: str
    kind: str
    value: float
    standard_error: float
    difference: float | None
    difference_error: float | None
    violated: bool

    @classmethod
    def of(cls, score: Score) -> Other:
        """Return what is shown of a score."""
        kind = "objective"
        if score.place >= FIRST_CONSTRAINT:
            kind = "constraint" if score.place < FIRST_BESIDE else "beside"
        return cls(
            score.metric,
            kind,
            score.value,
            score.standard_error,
            score.difference,
            score.difference_error,
            score.is_violated,
        )


@dataclass(frozen=True)
class Confirmed:
    """One confirm of a study.

    Arguments:
        number: Which one, from 1 on.
        first_seed: Where its block of seeds begins.
        alpha: Its level, two-sided.
        finished: Whether all of its measurements are there.
        schedule: The chosen schedule, None where none is chosen yet.
        baseline: The untouched network on the deciding seeds, None before it is scored.
        winner: The chosen schedule on the same seeds, None before it is scored.
        verdict: ``win``, ``no significant gain``, or ``running``.
        violated: Constraints that the chosen schedule violates there: it is no win then.
    """

    number: int
    first_seed: int
    alpha: float
    finished: bool
    schedule: Schedule | None
    baseline: Measured | None
    winner: Measured | None
    verdict: str
    violated: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["schedule"] = None if self.schedule is None else self.schedule.to_json()
        if self.winner is not None and self.baseline is not None:
            plain["gain"] = self.winner.gain(self.baseline.value)
            plain["gain_interval"] = self.winner.gain_interval(self.baseline.value)
        return plain


@dataclass(frozen=True)
class Overview:
    """Where a study stands.

    Arguments:
        study: Its name.
        state: ``running``, ``paused``, ``stopped`` or ``complete``.
        created: When it was created, UTC.
        metric: Name of the metric at the highest rung that has a score; None before the first.
        evaluations: Proposals entered so far.
        budget: Proposals that the spec allows.
        states: Proposals by state: ``scored`` (at every rung they have entered), ``open``,
            ``diverged``, ``failed``.
        chunks: Chunks by state, of all that the study has asked for.
        workers: Workers that hold a lease now.
        baseline: The search's baseline at its full size, None before it is scored.
        best: The best schedule of the search, None before one is scored.
        confirms: What has been confirmed, in order.
        spending: Images and seconds spent.
        ranking: How alike the first rung and the highest one order those that went on; None
            with fewer than 3.
        sampler: Who proposes, as `proposer` says it.
        unit: What standard errors count: ``image``, or ``prompt`` where each image is told one.
        left: What the search may still spend, over all workers; None of it is no limit.
        crew: The workers of `workers`, with what they run on and how fast they have been.
        images_left: Images that are still to be sampled if all proposals are made; None where
            the study's row knows no plan.
    """

    study: str
    state: str
    created: datetime
    metric: str | None
    evaluations: int
    budget: int
    states: Mapping[str, int]
    chunks: Mapping[str, int]
    workers: tuple[str, ...]
    baseline: Measured | None
    best: Leader | None
    confirms: tuple[Confirmed, ...]
    spending: Spending
    ranking: RankCorrelation | None = None
    sampler: str = ""
    unit: Unit = IMAGE
    left: Budget = field(default_factory=Budget)
    crew: tuple[Member, ...] = ()
    images_left: int | None = None

    @property
    def seconds_left(self) -> float | None:
        """How long `images_left` takes those who work now; None where that is not known."""
        return seconds_left(self.images_left, self.crew)

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done: stopped, or complete with its confirms."""
        confirmed = all(confirm.finished for confirm in self.confirms)
        return self.state == "stopped" or (self.state == "complete" and confirmed)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["created"] = self.created.isoformat()
        plain["best"] = None if self.best is None else self.best.to_json()
        plain["confirms"] = [confirmed.to_json() for confirmed in self.confirms]
        plain["crew"] = [{**asdict(member), "rate": member.rate} for member in self.crew]
        plain["seconds_left"] = self.seconds_left
        return plain


def overviews(database: Database) -> tuple[Overview, ...]:
    """Return where every study of a database stands, oldest first."""
    return tuple(overview(database, study.name) for study in ledger.list_studies(database))


def overview(database: Database, name: str) -> Overview:
    """Return where a study stands.

    Raises:
        StorageError: There is no study of this name.
    """
    study = ledger.require_study(database, name)
    progress = ledger.progress(database, study.id)
    board = _Board(database, study)
    states = board.states()
    base = board.baseline()
    leaders_now = board.leaders(1)
    left = ledger.budget_left(database, study.id)
    finished = {f"confirm-{c.number}": c.finished for c in board.confirms}
    return Overview(
        study=study.name,
        state=study.state,
        created=study.created,
        metric=None if base is None else base.metric,
        evaluations=sum(states.values()),
        budget=board.budget,
        states=states,
        chunks={str(state): number for state, number in progress.chunks.items()},
        workers=progress.workers,
        baseline=None if base is None else board.measured(base, BASELINE),
        best=leaders_now[0] if leaders_now else None,
        confirms=board.confirms,
        spending=ledger.spending(database, study.id),
        ranking=board.ranking(),
        sampler=proposer(study),
        unit=study.meaning.get("network.prompts.unit", IMAGE),
        left=left,
        crew=crew(database, study.id) if progress.workers else (),
        images_left=images_left(database, study, finished, most=left.images),
    )


def proposer(study: Study) -> str:
    """Return who proposes a study's schedules: of `auto` also whom it has chosen.

    Studies that an earlier version opened last do not know that: of these it is `auto` alone.
    """
    asked = str(study.spec["search"].get("sampler", ""))
    chosen = str(study.board.get("sampler", asked))
    return asked if chosen == asked else f"{chosen} ({asked})"


def leaders(database: Database, name: str, top: int = 5) -> tuple[Leader, ...]:
    """Return the best schedules of a study: those with most images first, then the best value.

    Arguments:
        database: Where the study lives.
        name: Its name.
        top: How many at most.

    Raises:
        StorageError: There is no study of this name.
    """
    return _Board(database, ledger.require_study(database, name)).leaders(top)


def confirms(database: Database, name: str) -> tuple[Confirmed, ...]:
    """Return what a study's confirms decided, in order.

    Raises:
        StorageError: There is no study of this name.
    """
    return _Board(database, ledger.require_study(database, name)).confirms


class _Board:
    """The rows of one study, read once."""

    def __init__(self, database: Database, study: Study) -> None:
        # Read as plain data: the models of a whole spec cost more time than all queries here.
        self.budget = int(study.spec["search"]["evaluations"])
        self._min_gain = float(study.meaning["confirm.min_gain"])
        self._database = database
        self._evaluations = ledger.evaluations(database, study.id)
        self._scores: dict[str, Score] = {}
        self._first: dict[str, Score] = {}  # of the lowest rung
        for score in sorted(ledger.scores(database, study.id), key=lambda s: s.level):
            self._scores[score.evaluation_id] = score  # the highest rung stays
            self._first.setdefault(score.evaluation_id, score)
        # Boards of earlier versions have one metric.
        metrics = study.board.get("metrics", [])
        self._objectives = max(len(metrics), 1)
        self._others: dict[str, list[Score]] = {}
        if study.board.get("places", 1) > 1:
            self._read_others(database, study)
        # The highest rung that each evaluation has entered.
        self._entered = {
            rung.evaluation_id: rung.level for rung in ledger.rungs(database, study.id)
        }
        self.confirms = tuple(
            self._confirmed(block) for block in ledger.spent_blocks(database, study.id)
        )

    def baseline(self) -> Score | None:
        """Return the score of the search's baseline."""
        return next(
            (
                self._scores[e.id]
                for e in self._evaluations
                if e.kind == "baseline" and e.block == "search" and e.id in self._scores
            ),
            None,
        )

    def states(self) -> dict[str, int]:
        """Return how many proposals are in which state."""
        proposals = (e for e in self._evaluations if e.kind == "proposal")
        return dict(Counter(self._state(e) for e in proposals))

    def leaders(self, top: int) -> tuple[Leader, ...]:
        """Return the best schedules of the search."""
        base = self.baseline()
        if base is None:
            return ()
        scored = [
            (e, self._scores[e.id])
            for e in self._evaluations
            if e.kind == "proposal"
            and e.state not in ("diverged", "failed")
            and e.id in self._scores
            and self._scores[e.id].difference is not None
            and not any(other.is_violated for other in self._others.get(e.id, ()))
        ]
        front = self._front(scored)
        scored.sort(
            key=lambda pair: (
                pair[0].id not in front,
                -pair[1].level,
                pair[1].difference,
                pair[0].number,
            )
        )
        proved = {c.schedule for c in self.confirms if c.verdict == WIN}
        return tuple(
            Leader(
                number=e.number,
                schedule=(schedule := Schedule.from_json(e.schedule_json)),
                params=e.params,
                measured=self.measured(score, e.label),
                baseline=self.measured(base, BASELINE),
                metric=score.metric,
                confirmed=schedule in proved,
                others=tuple(Other.of(other) for other in self._others.get(e.id, ())),
                on_front=e.id in front,
            )
            for e, score in scored[: max(top, len(front))]
        )

    def ranking(self) -> RankCorrelation | None:
        """Return how alike the first rung and the highest one order those that went on."""
        # Rounds of a confirm are rungs as well, on other seeds.
        searched = {e.id for e in self._evaluations if e.kind == "proposal"}
        pairs = [
            (self._first[key].difference, score.difference)
            for key, score in self._scores.items()
            if key in searched and score.level > self._first[key].level
        ]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        first, last = ([pair[side] for pair in both] for side in (0, 1))
        if len(both) < FEWEST_RANKED or len(set(first)) == 1 or len(set(last)) == 1:
            return None
        return rank_correlation(first, last)

    def _read_others(self, database: Database, study: Study) -> None:
        for score in ledger.scores(database, study.id, every_place=True):
            here = self._scores.get(score.evaluation_id)
            if score.place > 0 and here is not None and here.level == score.level:
                self._others.setdefault(score.evaluation_id, []).append(score)

    def _front(self, scored: Sequence[tuple[Evaluation, Score]]) -> set[str]:
        """Return who is on the Pareto front of the highest rung; nobody with one objective."""
        if self._objectives == 1 or not scored:
            return set()
        top = max(score.level for _, score in scored)
        here = [(e, score) for e, score in scored if score.level == top]
        points = [
            (
                score.difference,
                *(o.difference for o in self._others[e.id] if o.place < FIRST_CONSTRAINT),
            )
            for e, score in here
        ]
        ranks = front_ranks([[value or 0.0 for value in point] for point in points])
        return {e.id for (e, _), rank in zip(here, ranks, strict=True) if rank == 0}

    def measured(self, score: Score, label: str) -> Measured:
        """Return a score as a row of a table."""
        chunk = ledger.chunks_of(self._database, score.evaluation_id, score.images)[0]
        return Measured(
            label=label,
            images=score.images,
            nfe=chunk.nfe or 0.0,
            value=score.value,
            standard_error=score.standard_error or 0.0,
            difference=score.difference,
            difference_error=score.difference_error,
        )

    def _confirmed(self, block: SpentBlock) -> Confirmed:
        here = [e for e in self._evaluations if e.block == f"{block.block}/B"]
        base = self._in(here, BASELINE)
        chosen = next((e for e in here if e.label == TUNED), None)
        winner = None if chosen is None else self._scored(chosen, TUNED)
        finished = bool(here) and all(self._state(e) != OPEN for e in here)
        verdict = "running"
        limits = () if chosen is None else self._others.get(chosen.id, ())
        violated = tuple(limit.metric for limit in limits if limit.is_violated)
        if finished:
            won = (
                winner is not None
                and base is not None
                and not violated
                and is_win(winner, base, alpha=block.alpha, min_gain=self._min_gain)
            )
            verdict = WIN if won else NO_GAIN
        return Confirmed(
            number=block.number,
            first_seed=block.first_seed,
            alpha=block.alpha,
            finished=finished,
            schedule=None if chosen is None else Schedule.from_json(chosen.schedule_json),
            baseline=base,
            winner=winner,
            verdict=verdict,
            violated=violated,
        )

    def _state(self, evaluation: Evaluation) -> str:
        if evaluation.state in ("diverged", "failed"):
            return evaluation.state
        score = self._scores.get(evaluation.id)
        return SCORED if score and score.level == self._entered[evaluation.id] else OPEN

    def _in(self, evaluations: Sequence[Evaluation], label: str) -> Measured | None:
        found = next((e for e in evaluations if e.label == label), None)
        return None if found is None else self._scored(found, label)

    def _scored(self, evaluation: Evaluation, label: str) -> Measured | None:
        score = self._scores.get(evaluation.id)
        return None if score is None else self.measured(score, label)
