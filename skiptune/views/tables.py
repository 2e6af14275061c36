"""The one style of all tables: no frames, a line under the heading, numbers to the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

__all__ = ["facts", "listing", "paragraph"]


def listing(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    gap: int = 2,
) -> Table:
    """Return a table of texts.

    Arguments:
        columns: Headings.
        rows: One text per column.
        right: Headings of the columns that are aligned to the right.
        gap: Blanks between two columns.
    """
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap, 0, 0),
        header_style="bold",
    )
    for index, heading in enumerate(columns):
        # The first column names things and may be long: it is the one that folds.
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=index > 0,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Return names and what is to be said of each, one below the other.

    Arguments:
        rows: A name, and words that may hold several lines.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, words in rows:
        table.add_row(Text(name), Text(words))
    return table


def paragraph(text: str, *, style: str = "") -> Text:
    """Return a paragraph that wraps at words."""
    return Text(text, style=style)
