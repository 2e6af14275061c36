"""A network as a person reads it: its skips, one row each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from skiptune.views.tables import listing

if TYPE_CHECKING:
    from skiptune.sampling.skips import Skip

__all__ = ["path_text", "skip_table"]


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


def path_text(skip: Skip) -> str:
    """Return which way a skip's scale reaches the block's output.

    A normalisation group that holds only skip channels undoes their scale; one that holds
    channels of the main path too does not.
    """
    return "shortcut + mixed group" if skip.mixed else "shortcut only"
