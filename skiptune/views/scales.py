"""A schedule as a person reads it: one row per skip."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from skiptune.sampling.schedule import PARTS, Schedule
from skiptune.search.address_order import deepest_first
from skiptune.views import numbers
from skiptune.views.tables import listing

__all__ = ["scale_rows", "scale_table", "window_text"]

NUMBERS = ("scale", "change from 1")  # columns that are aligned to the right


def scale_table(schedule: Schedule, *, addresses: Sequence[str] | None = None) -> Table:
    """Return `scale_rows` as a table; arguments are the same."""
    columns, rows = scale_rows(schedule, addresses=addresses)
    return listing(columns, rows, right=NUMBERS)


def scale_rows(
    schedule: Schedule, *, addresses: Sequence[str] | None = None
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return columns, and one row per skip: address, scale, change from 1, and where it acts.

    The branch of guidance has a column where the schedule acts in one alone, and so has the part
    of the block where one is scaled alone; a skip then has a row for each of its parts. Numbers
    of the setting that go with the schedule stand below.

    Arguments:
        schedule: The scales.
        addresses: All skips in the order to show them; by default those of the schedule only,
            deepest first.
    """
    shown = list(addresses) if addresses is not None else deepest_first(schedule.addresses)
    rows: list[tuple[str, ...]] = []
    for address in shown:
        terms = [term for term in schedule.terms if term.address == address]
        if not terms:
            rows.append((address, "1", "untouched", "everywhere", ""))
        rows += [
            (
                address,
                f"{t.scale:.3f}",
                numbers.change(t.scale),
                window_text(t.low, t.high),
                t.part,
            )
            for t in sorted(terms, key=lambda term: (PARTS.index(term.part), term.low))
        ]
    rows += [
        (f"setting {name}", f"{value:.4g}", "", "everywhere", "")
        for name, value in schedule.knobs.items()
    ]
    columns = ["skip", "scale", "change from 1", "acts at sigma", "part of the block"]
    places = [0, 1, 2]
    if any(row[3] != "everywhere" for row in rows):
        places.append(3)
    if set(schedule.parts) - {"both"}:
        places.append(4)
    columns, rows = [columns[k] for k in places], [tuple(row[k] for k in places) for row in rows]
    if schedule.branches != "both":
        columns.append("branch")
        rows = [(*row, schedule.branches) for row in rows]
    return columns, rows


def window_text(low: float, high: float) -> str:
    """Return at which noise levels a scale acts, e.g. ``0.3 to 12``."""
    if low <= 0 and math.isinf(high):
        return "everywhere"
    if math.isinf(high):
        return f"{low:.3g} and above"
    return f"below {high:.3g}" if low <= 0 else f"{low:.3g} to {high:.3g}"
