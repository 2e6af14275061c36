"""What a running study tells whoever watches it: plain facts, in the order they happen.

The engine prints nothing. It calls one function with one of these; the command line draws bars
from them, a log writes lines, a test collects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = [
    "ChunkDone",
    "Event",
    "ImagesMade",
    "Listener",
    "Notice",
    "Scored",
    "Stage",
    "silent",
]


@dataclass(frozen=True)
class Stage:
    """A part of the job begins.

    Arguments:
        name: ``search``, ``confirm A``, ``confirm B``.
        images: Images that this part needs in all, those already stored included; an upper
            bound while the search may still end early.
        stored: How many of them were stored before this run began.
    """

    name: str
    images: int
    stored: int = 0


@dataclass(frozen=True)
class ImagesMade:
    """One microbatch of a chunk is sampled.

    Arguments:
        images: Images of the chunk so far.
        of: Images in the chunk.
        label: What is sampled, e.g. ``baseline`` or ``trial 12``.
    """

    images: int
    of: int
    label: str


@dataclass(frozen=True)
class ChunkDone:
    """One chunk is committed.

    Arguments:
        images: Images in the chunk.
        seconds: Wall time of the chunk, sampling and extraction.
        nfe: Network evaluations per image.
        label: What was sampled.
    """

    images: int
    seconds: float
    nfe: float
    label: str


@dataclass(frozen=True)
class Scored:
    """A rung of an evaluation is complete and has its score.

    Arguments:
        number: The evaluation's number in its study; 0 is the baseline.
        kind: ``baseline``, ``proposal``, ``control`` or ``confirm``.
        label: Short name for a person.
        images: Images behind the score.
        value: The metric, in its own unit; a distance is corrected for its bias in N.
        standard_error: Of `value`.
        difference: Paired difference to the baseline on the same seeds (negative is better,
            whatever the metric); None for a baseline.
        difference_error: Standard error of `difference`.
        params: What Optuna proposed, by parameter name; empty where it proposed nothing.
        state: ``complete`` or ``diverged``.
        metric: Short name of the metric, e.g. ``FD``.
    """

    number: int
    kind: str
    label: str
    images: int
    value: float
    standard_error: float
    difference: float | None
    difference_error: float | None
    params: Mapping[str, float]
    state: str = "complete"
    metric: str = "FD"


@dataclass(frozen=True)
class Notice:
    """Something that a person should know and need not mend: the work goes on.

    Arguments:
        text: One sentence, e.g. that the database is away, the disk full, a stored file lost.
    """

    text: str


Event = Stage | ImagesMade | ChunkDone | Scored | Notice
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Take an event and do nothing: the listener of whoever does not watch."""
