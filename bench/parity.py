"""What benches share that compare a network with its authors' code: figures, limit, table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.record import Bound, finish, print_table
from skiptune.sampling.skips import Skip

__all__ = ["LIMIT", "SCALES", "Measured", "finished", "scales_of"]

LIMIT = 1e-5
SCALES = (0.7, 1.3, 0.4, 1.1, 0.9)


@dataclass(frozen=True)
class Measured:
    """How far one case's outputs are apart, of the largest value in theirs.

    Arguments:
        name: The case.
        skips: Skips found.
        mixed: How many of them are mixed.
        untouched: Largest difference without scales.
        scaled: Largest difference with scales on all skips.
        effect: Smallest change that the scales make to their output, in the same measure.
    """

    name: str
    skips: int
    mixed: int
    untouched: float
    scaled: float
    effect: float

    @classmethod
    def of(
        cls,
        name: str,
        skips: Sequence[Skip],
        plain: Iterable[tuple[Tensor, Tensor]],
        pairs: Iterable[tuple[Tensor, Tensor]],
    ) -> Measured:
        """Compare outputs.

        Arguments:
            name: The case.
            skips: Skips found.
            plain: Their output and ours without scales, of each input.
            pairs: The same with scales, in the same order.
        """
        without, with_scales = list(plain), list(pairs)
        both = zip(without, with_scales, strict=True)
        return cls(
            name=name,
            skips=len(skips),
            mixed=sum(skip.mixed for skip in skips),
            untouched=max(_difference(*pair) for pair in without),
            scaled=max(_difference(*pair) for pair in with_scales),
            effect=min(_difference(one, their) for (one, _), (their, _) in both),
        )


def scales_of(skips: Iterable[Skip]) -> dict[str, float]:
    """Return a scale other than 1 for each skip."""
    return {skip.address: SCALES[skip.index % len(SCALES)] for skip in skips}


def finished(
    out: Path,
    found: Sequence[Measured],
    *,
    settings: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
) -> int:
    """Print a table, write what was found, and return the exit status.

    Arguments:
        out: Where to.
        found: The cases.
        settings: Of all of them.
        options: What each case was built from, by name.
    """
    head = ("difference : largest value", "skips", "mixed", "untouched", "scaled", "effect")
    rows = [
        (
            one.name,
            str(one.skips),
            str(one.mixed),
            *(f"{value:.1e}" for value in (one.untouched, one.scaled, one.effect)),
        )
        for one in found
    ]
    print_table(head, rows)
    return finish(
        out,
        settings={**settings, "scales": SCALES},
        bounds=[
            Bound("difference, untouched", max(one.untouched for one in found), LIMIT),
            Bound("difference, scaled", max(one.scaled for one in found), LIMIT),
        ],
        cases=[{**vars(one), "options": dict(options[one.name])} for one in found],
    )


def _difference(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs - ours).abs().max() / theirs.abs().max())
