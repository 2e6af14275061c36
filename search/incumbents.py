"""How the best schedule of a search changed with the images spent, from its rows alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from skiptune.storage.records import CHUNK, Evaluation, Rung, Score

__all__ = ["RungCount", "Step", "rung_counts_of", "steps_of"]


@dataclass(frozen=True)
class Step:
    """A schedule is scored.

    Arguments:
        spent: Images that scores rest on so far, this one's included.
        number: Of the evaluation.
        label: Its label.
        images: Behind this score.
        gain: A part of the baseline's value, positive is better.
        error: Its standard error, paired.
        leads: Whether it is the best schedule from now on.
        best: The gain of the best schedule after it; 0 while none may lead.
        best_error: Its standard error.
        best_label: Its label; ``baseline`` while none may lead.
    """

    spent: int
    number: int
    label: str
    images: int
    gain: float
    error: float
    leads: bool
    best: float
    best_error: float
    best_label: str


@dataclass(frozen=True)
class RungCount:
    """One rung of a search.

    Arguments:
        images: At which its schedules are compared.
        entered: Schedules that have come to it.
        scored: Of these, with a score.
        promoted: Of these, that have come to the next rung; None for the last rung.
        better: Of the scored, with a gain above 0.
        new_images: Images that it asks for beyond the rung before.
        reused: Of these, images that another study has paid for.
    """

    images: int
    entered: int
    scored: int
    promoted: int | None
    better: int
    new_images: int
    reused: int


def steps_of(
    proposals: Mapping[str, Evaluation],
    scores: Sequence[Score],
    *,
    baseline: Score,
    violating: Collection[tuple[str, int]] = (),
) -> tuple[Step, ...]:
    """Return every score of a search in the order in which they were stored.

    The best is the schedule with most images, among these the one with the largest gain: what a
    search recommends at any time. A promoted schedule is measured anew on more images, so the best
    gain may fall. One that violates a constraint is never the best.

    Arguments:
        proposals: By identity.
        scores: Of the study (place 0); those of other evaluations are passed over.
        baseline: Its score at full size; its value is above 0.
        violating: Evaluation and level of the scores that violate a constraint.
    """
    ours = [s for s in scores if s.evaluation_id in proposals and s.difference is not None]
    ours.sort(key=lambda s: (s.created, s.level, proposals[s.evaluation_id].number))
    spent = baseline.images
    seen: dict[str, Score] = {}
    admitted: dict[str, Score] = {}
    steps = []
    leader: str | None = None

    def place(key: str) -> tuple[int, float, int]:
        one = admitted[key]
        return -one.level, one.difference or 0.0, proposals[key].number

    for score in ours:
        before = seen.get(score.evaluation_id)
        spent += score.images - (0 if before is None else before.images)
        seen[score.evaluation_id] = score
        best = leader
        if (score.evaluation_id, score.level) in violating:
            admitted.pop(score.evaluation_id, None)
            if leader == score.evaluation_id:
                best = min(admitted, key=place, default=None)
        else:
            admitted[score.evaluation_id] = score
            # A leader whose next rung is scored leads on: it alone has come so high.
            best = min(leader or score.evaluation_id, score.evaluation_id, key=place)
        gain, error = _gain(score, baseline.value)
        best_gain, best_error = (
            (0.0, 0.0) if best is None else _gain(admitted[best], baseline.value)
        )
        steps.append(
            Step(
                spent=spent,
                number=proposals[score.evaluation_id].number,
                label=proposals[score.evaluation_id].label,
                images=score.images,
                gain=gain,
                error=error,
                leads=best == score.evaluation_id and (best != leader or before is not None),
                best=best_gain,
                best_error=best_error,
                best_label="baseline" if best is None else proposals[best].label,
            )
        )
        leader = best
    return tuple(steps)


def rung_counts_of(
    sizes: Sequence[int],
    rungs: Sequence[Rung],
    scores: Sequence[Score],
    *,
    proposals: Mapping[str, Evaluation],
    reused: Mapping[str, Sequence[int]],
) -> tuple[RungCount, ...]:
    """Return what came of each rung of a search.

    Arguments:
        sizes: Images of the rungs, increasing.
        rungs: Of the study; those of other evaluations are passed over.
        scores: Of the study (place 0).
        proposals: By identity.
        reused: First images' places in each evaluation, e.g. 0 and 250, that another study paid.
    """
    counts = []
    by_size = {size: {r.evaluation_id for r in rungs if r.images == size} for size in sizes}
    for place, size in enumerate(sizes):
        here = by_size[size] & proposals.keys()
        scored = [s for s in scores if s.evaluation_id in here and s.images == size]
        before = sizes[place - 1] if place else 0
        onward = None if place + 1 == len(sizes) else len(here & by_size[sizes[place + 1]])
        taken = sum(
            CHUNK for key in here for first in reused.get(key, ()) if before <= first < size
        )
        counts.append(
            RungCount(
                images=size,
                entered=len(here),
                scored=len(scored),
                promoted=onward,
                better=sum((s.difference or 0.0) < 0 for s in scored),
                new_images=len(here) * (size - before),
                reused=taken,
            )
        )
    return tuple(counts)


def _gain(score: Score, value: float) -> tuple[float, float]:
    return -(score.difference or 0.0) / value, (score.difference_error or 0.0) / value
