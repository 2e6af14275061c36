"""Sequential halving: how many images candidates get, round by round, before one is chosen.

Every round spends about the same; after it the better half goes on with the images it has and
more. Bad candidates are gone after few images, so four are chosen among for less than three cost
when each gets all.

References:
    Karnin, Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, 2013,
    https://proceedings.mlr.press/v28/karnin13.html, Algorithm 1. There every round's samples are
    fresh; here an evaluation goes on from the images it has, which costs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from skiptune.storage.records import CHUNK

__all__ = ["Round", "cost", "fewest_images", "rounds"]


@dataclass(frozen=True)
class Round:
    """One round.

    Arguments:
        images: Of every candidate that is still there, those of earlier rounds among them.
        keep: How many go on.
    """

    images: int
    keep: int


def rounds(
    candidates: int, images: int, *, fewest: int, begun: int | None = None
) -> tuple[Round, ...]:
    """Return the rounds that choose one candidate; the last one has all images.

    A lone candidate has nobody to be compared with. It is looked at once with the fewest images,
    because one whose images are not finite needs no more.

    Arguments:
        candidates: How many there are, at least 1.
        images: Of the last round, whole chunks.
        fewest: Images that a round needs to say anything, whole chunks.
        begun: Images of the first round where it has begun; a rule of another version may have
            chosen them, and with all images there is one round.
    """
    sizes = [candidates]
    while sizes[-1] > 2:
        sizes.append((sizes[-1] + 1) // 2)
    total = sum(1 / size for size in sizes)
    found: list[Round] = []
    spent = 0.0
    for size in sizes:
        spent += 1 / size
        share = CHUNK * round(images * spent / total / CHUNK)
        most = min(max(share, fewest), images)
        _append(found, Round(most, (size + 1) // 2))
    if candidates == 1:
        found = [Round(min(fewest, images), 1)]
    if begun is None:
        return tuple(found)
    passed = [one.keep for one in found if one.images <= begun]
    first = Round(begun, passed[-1] if passed else candidates)
    return (first, *(one for one in found if one.images > begun))


def _append(found: list[Round], new: Round) -> None:
    """Add a round; of two with equal images the later one decides."""
    if found and found[-1].images >= new.images:
        found.pop()
    found.append(new)


def cost(candidates: int, plan: Sequence[Round]) -> int:
    """Return the images that candidates take in all rounds of a plan."""
    kept = [candidates, *(one.keep for one in plan)]
    sizes = [0, *(one.images for one in plan)]
    steps = (after - before for before, after in pairwise(sizes))
    return sum(there * step for there, step in zip(kept, steps, strict=False))


def fewest_images(rungs: Sequence[int], images: int, *, screen: bool) -> int:
    """Return the images that a first look on fresh seeds takes.

    Those of the search's first rung, which holds enough for a verdict; where that rung is a
    screen in fewer dimensions, those of the second.

    Arguments:
        rungs: Of the search.
        images: Of a block, which are never exceeded.
        screen: Whether the first of several rungs is a screen.
    """
    return min(rungs[1] if screen and len(rungs) > 1 else rungs[0], images)
