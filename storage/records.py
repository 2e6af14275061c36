"""What the functions of this room return: frozen plain data, never rows of a session.

Digests are 64 hexadecimal digits, identifiers 32. Times are timezone-aware UTC, by the clock of
the database. Numbers of images and seeds are in images, durations in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

__all__ = [
    "CHUNK",
    "CHUNK_FORMAT",
    "LOST_LEASES",
    "Artifact",
    "Budget",
    "Chunk",
    "ChunkState",
    "Claim",
    "Evaluation",
    "EvaluationState",
    "Kind",
    "Launch",
    "Lease",
    "Progress",
    "Rung",
    "RungState",
    "Score",
    "Spending",
    "SpentBlock",
    "Study",
    "StudyState",
    "Turn",
]

CHUNK: Final = 250
"""Images in a chunk; the first seed of a chunk is a multiple of it."""

CHUNK_FORMAT: Final = 1
"""Layout of a chunk's stored arrays: float32 features [N, d], finite [N], label [N] where any."""

LOST_LEASES: Final = 3
"""After so many lost leases a chunk is poisoned: it takes its workers with it."""

StudyState = Literal["running", "paused", "stopped", "complete"]
Kind = Literal["baseline", "teacher", "proposal", "slopes", "control", "confirm"]
EvaluationState = Literal["running", "complete", "diverged", "failed"]
RungState = Literal["open", "complete"]
ChunkState = Literal["open", "leased", "done", "poisoned", "dropped"]


@dataclass(frozen=True)
class Budget:
    """What a study's search may spend, counted over all workers; None is no limit.

    Arguments:
        evaluations: Proposals that may be entered, exactly.
        images: Images that its rungs may ask for, exactly; what another study has sampled costs
            nothing.
        seconds: Seconds of sampling, summed over workers. Nothing is claimed after that; what
            is being sampled then is finished: at most one chunk per worker.
    """

    evaluations: int | None = None
    images: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Study:
    """A study. `meaning` is the part of the spec that may not change; the rest is in `spec`.

    `files` are the files that the spec names, by content; `board` is what Optuna is asked for.
    """

    id: str
    name: str
    spec: dict[str, Any]
    meaning: dict[str, Any]
    state: StudyState
    created: datetime
    files: tuple[dict[str, Any], ...] = ()
    board: dict[str, Any] = field(default_factory=dict)
    budget: Budget = Budget()


@dataclass(frozen=True)
class Evaluation:
    """One schedule of a study on one block of seeds, from `first_seed` on.

    `number` is 0 for the study's first baseline and counts up. `series`, `measure`, `schedule`
    are digests; `schedule_json` is the schedule itself. `params` is what Optuna proposed,
    empty otherwise.
    """

    id: str
    study_id: str
    number: int
    kind: Kind
    label: str
    block: str
    series: str
    measure: str
    schedule: str
    schedule_json: dict[str, Any]
    first_seed: int
    params: dict[str, Any]
    state: EvaluationState
    reason: str | None
    created: datetime
    finished: datetime | None


@dataclass(frozen=True)
class Rung:
    """The first `images` images of an evaluation; level 0 is the lowest rung."""

    id: str
    evaluation_id: str
    level: int
    images: int
    state: RungState
    created: datetime
    completed: datetime | None


@dataclass(frozen=True)
class Chunk:
    """The images with seeds `first_seed` to `first_seed + images - 1`.

    `array` is the digest of the stored arrays once done; of a dropped chunk the scores remain and
    the arrays are gone. `seconds` is what sampling took, `nfe` the network images per image made.
    `attempts` counts leases that were begun and not handed back, `doubled_images` images that
    were sampled once more and dropped.
    """

    id: str
    series: str
    measure: str
    schedule: str
    first_seed: int
    images: int
    state: ChunkState
    study_id: str | None
    worker: str | None
    fence: int
    lease_until: datetime | None
    attempts: int
    seconds: float | None
    nfe: float | None
    array: str | None
    provenance: dict[str, Any] | None
    reason: str | None
    doubled_images: int
    committed: datetime | None
    format: int = CHUNK_FORMAT


@dataclass(frozen=True)
class Claim:
    """The right of one worker to sample one chunk until its lease ends.

    `fence` grows with every claim of the chunk: a commit that carries an old one is refused.
    `series`, `measure` and `schedule` are the descriptions themselves; `kind`, `label` and
    `number` are those of the evaluation, and `opens_evaluation` marks its first chunk.
    """

    chunk_id: str
    fence: int
    worker: str
    study_id: str
    evaluation_id: str
    number: int
    kind: Kind
    label: str
    series: dict[str, Any]
    measure: dict[str, Any]
    schedule: dict[str, Any]
    first_seed: int
    images: int
    opens_evaluation: bool


@dataclass(frozen=True)
class Lease:
    """A chunk that somebody holds; `remaining` seconds (negative: expired, anyone may claim)."""

    chunk_id: str
    fence: int
    worker: str
    first_seed: int
    remaining: float


@dataclass(frozen=True)
class Turn:
    """The right of one worker to do a task of a study that one does at a time."""

    study_id: str
    task: str
    worker: str
    fence: int


@dataclass(frozen=True)
class Launch:
    """Workers of a study that were started together.

    `executor` has started them at `place` (a host, a cluster, a namespace) and knows them by the
    name `job`.
    """

    id: str
    study_id: str
    executor: str
    place: str
    job: str
    workers: int
    created: datetime


FIRST_CONSTRAINT = 100
"""Places of scores: 0 is what the search decides on, 1 to 99 are a study's further objectives,
from 100 on its constraints, from 1000 on what is measured beside, behind that other features."""

FIRST_BESIDE = 1000

SECOND_PLACE = 2000
"""Place of the distance in a second opinion's features."""

FIRST_PART = 2001
"""Place of the distance in the first part of joint features; the others follow."""

CONSTRAINT_ERRORS = 1.96
"""A constraint is violated where its gap exceeds so many standard errors: where the 95 % interval
leaves the limit out."""


@dataclass(frozen=True)
class NewScore:
    """A score that is to be stored.

    Arguments:
        metric: Name of the metric, with features, count and correction.
        reference: Digest of the reference.
        images: Images behind the value.
        value: The metric, finite; of a constraint the gap to its limit, above 0 where missed.
        standard_error: Of the value.
        raw: The metric without its correction for the number of images.
        difference: Paired with the baseline on the same seeds, negative is better.
        difference_error: Standard error of the difference.
        baseline_images: Images of the baseline behind the difference.
        place: What it is for, see `FIRST_CONSTRAINT`.
    """

    metric: str
    reference: str
    images: int
    value: float
    standard_error: float
    raw: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    baseline_images: int | None = None
    place: int = 0


@dataclass(frozen=True)
class Score:
    """One metric of one rung, as `NewScore` says."""

    id: str
    evaluation_id: str
    level: int
    place: int
    metric: str
    reference: str
    images: int
    value: float
    standard_error: float
    raw: float | None
    difference: float | None
    difference_error: float | None
    baseline_images: int | None
    created: datetime

    @property
    def is_violated(self) -> bool:
        """Whether this is a constraint, and violated."""
        constraint = FIRST_CONSTRAINT <= self.place < FIRST_BESIDE
        return constraint and self.value > CONSTRAINT_ERRORS * self.standard_error


@dataclass(frozen=True)
class SpentBlock:
    """Seeds that one confirm alone may use, and the level `alpha` at which it may test."""

    study_id: str
    block: str
    number: int
    first_seed: int
    images: int
    alpha: float


@dataclass(frozen=True)
class Artifact:
    """A stored file by the SHA-256 of its bytes."""

    digest: str
    kind: str
    bytes: int
    name: str
    created: datetime


@dataclass(frozen=True)
class Spending:
    """What a study, or one block of it, has spent.

    Arguments:
        images: Images stored that were sampled for this study.
        seconds: What sampling them took, summed over workers.
        network_images: Images through the network (images x NFE).
        doubled_images: Images sampled once more after a lost lease, and dropped.
        reused_images: Images stored that another study has paid for.
    """

    images: int
    seconds: float
    network_images: float
    doubled_images: int
    reused_images: int


@dataclass(frozen=True)
class Progress:
    """Where a study stands: how many evaluations and chunks are in which state.

    Arguments:
        evaluations: Count by (kind, state).
        chunks: Count by state, of the chunks that its rungs ask for, each once.
        workers: Names of the workers that hold an unexpired lease, sorted.
    """

    evaluations: Mapping[tuple[Kind, EvaluationState], int]
    chunks: Mapping[ChunkState, int]
    workers: tuple[str, ...]
