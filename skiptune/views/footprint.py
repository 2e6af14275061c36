"""What studies take on disk, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from skiptune.views import numbers
from skiptune.views.tables import listing

if TYPE_CHECKING:
    from skiptune.search.footprint import Footprint, Pile

__all__ = ["footprint_view"]


def footprint_view(footprint: Footprint | None) -> Iterator[RenderableType]:
    """Yield what is on disk: a row per study, then the store, its orphans and the database.

    Arguments:
        footprint: None where nobody asked: nothing is yielded.
    """
    if footprint is None:
        return
    rows = [(f"arrays of {name}", *_pile(pile)) for name, pile in footprint.studies.items()]
    rows.append(("whole store", *_pile(footprint.store)))
    if footprint.orphans is not None:
        rows.append(("orphaned (skiptune db gc)", *_pile(footprint.orphans)))
    rows.append(("database", "", _size(footprint.database)))
    if footprint.free is not None:
        rows.append(("free beside the store", "", _size(footprint.free)))
    yield Text("")
    yield listing(("on disk", "files", "size"), rows, right=("files", "size"))
    yield Text(f"store: {footprint.location}", style="dim", overflow="fold")


def _pile(pile: Pile) -> tuple[str, str]:
    return numbers.count(pile.files), _size(pile.bytes)


def _size(number: int) -> str:
    """Return bytes in the unit that a person would take, ``12.3 MB``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"
