"""A network as a person reads it: its skips, one row each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from skiptune.views.heat import heat, spread_out
from skiptune.views.tables import listing

if TYPE_CHECKING:
    from skiptune.sampling.norms import NormRatios
    from skiptune.sampling.skips import Skip

__all__ = ["heat_table", "path_text", "skip_table"]

WIDEST_RATIO = 4.0  # where the colour is full: skip or main path so many times the other


def skip_table(skips: Sequence[Skip], *, searched: Collection[str] | None = None) -> Table:
    """Return one row per skip, deepest first.

    Arguments:
        skips: All skips of the network.
        searched: Addresses that a study searches; None shows no such column.
    """
    columns = ["address", "index", "main + skip", "groups", "acts through"]
    rows = [
        [
            skip.address,
            str(skip.index),
            f"{skip.main_channels} + {skip.skip_channels}",
            str(skip.groups),
            path_text(skip),
        ]
        for skip in skips
    ]
    if searched is not None:
        columns.append("searched")
        for row in rows:
            row.append("yes" if row[0] in searched else "no")
    return listing(columns, rows, right=("index", "main + skip", "groups"))


def heat_table(norms: NormRatios) -> Table:
    """Return the norm of each skip over its main path's, deepest first, as a map of colours.

    Blue: the skip is the weaker of the two, grey: they are even, red: it is the stronger one.
    Where colours cannot be shown the numbers stand alone.

    Arguments:
        norms: What was measured; of more than 8 noise levels, 8 are shown, both ends among them.
    """
    shown = spread_out(len(norms.sigmas))
    columns = [f"{norms.sigmas[place]:.3g}" for place in shown]
    table = listing(["skip, by sigma", *columns], [], right=columns, gap=1)
    for address, ratios in zip(norms.addresses, norms.ratios, strict=True):
        table.add_row(Text(address), *(_heat(ratios[place]) for place in shown))
    return table


def path_text(skip: Skip) -> str:
    """Return which way a skip's scale reaches the block's output.

    A normalisation group that holds only skip channels undoes their scale; one that holds
    channels of the main path too does not. Without normalisation (EDM2) nothing undoes it.
    """
    if skip.groups == 0:
        return "both branches"
    return "shortcut + mixed group" if skip.mixed else "shortcut only"


def _heat(ratio: float) -> Text:
    if not math.isfinite(ratio):
        return Text("not finite")
    return heat(f"{ratio:5.2f}", math.log(ratio, WIDEST_RATIO) if ratio > 0 else -1.0)
