"""How exactly scales were folded into weights, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from skiptune.views.tables import listing, paragraph

if TYPE_CHECKING:
    from skiptune.sampling.deviation import Deviation, Deviations
    from skiptune.sampling.fold import Fold, FoldedBlock

__all__ = ["baked_view"]


def baked_view(
    fold: Fold, found: Deviations, *, beside: Sequence[str] = ()
) -> Iterator[RenderableType]:
    """Yield the parts of the page: a row per scale, then how far all of them are together.

    Arguments:
        fold: What became of the scales.
        found: How far that is from scaling the skips themselves.
        beside: What was tuned with the scales and is no weight, in words.
    """
    rows: list[tuple[str, ...]] = []
    for block in fold.blocks:
        for place, (part, scale) in enumerate(block.terms.items()):
            whole = part == "both"
            rows.append(
                (
                    "" if place else block.address,
                    f"{scale:.3f}" if whole else f"{part} {scale:.3f}",
                    _how(block) if whole else "exactly",
                    *_numbers(found.blocks.get(block.address) if whole else None),
                )
            )
    if 0 < len(found.blocks) < len(fold.blocks):
        rows.append(("all exact ones", "", "", *_numbers(found.exact)))
    rows.append(("all", "", "", *_numbers(found.whole)))
    yield listing(
        ("skip", "scale", "folded", "off, of output", "of effect"),
        rows,
        right=("scale", "off, of output", "of effect"),
        gap=1,  # addresses of diffusers have to fit into 80
    )
    yield Text("")
    rounded = ""
    if found.rounded:
        rounded = f" Rounding to the file's {' and '.join(found.rounded)} is part of it."
    images = "image" if found.images == 1 else "images"
    yield paragraph(
        f"Baked against hooked on {found.images} {images}, {found.evaluations} evaluations: off by"
        f" at most {found.whole.output:.1e} of the output and {100 * found.whole.effect:.2g} % of"
        f" what the scales change; images by {found.levels:.2g} grey levels of 255, where the"
        f" scales move them by {found.moved:.2g}.{rounded}"
    )
    left = [block.address for block in fold.blocks if block.left]
    if left:
        yield paragraph(
            f"Left at 1: {', '.join(left)}. `--mixed fold` folds them nearly.", style="yellow"
        )
    if beside:
        yield paragraph(
            f"Not in the weights, but tuned with them: {', '.join(beside)}. Set it where images"
            " are made.",
            style="yellow",
        )


def _how(block: FoldedBlock) -> str:
    if block.left:
        return "left at 1"
    return "nearly, mixed group" if block.mixed else "exactly"


def _numbers(one: Deviation | None) -> tuple[str, str]:
    return ("", "") if one is None else (f"{one.output:.1e}", f"{100 * one.effect:.2g} %")
