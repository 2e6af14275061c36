"""A schedule as a person reads it: one row per skip."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from rich.table import Table

from skiptune.sampling.schedule import Schedule
from skiptune.views import numbers
from skiptune.views.tables import listing

__all__ = ["scale_table", "skip_order"]


def scale_table(schedule: Schedule, *, addresses: Sequence[str] | None = None) -> Table:
    """Return one row per skip: address, scale, change from 1, and where it acts.

    Arguments:
        schedule: The scales.
        addresses: All skips in the order to show them; by default those of the schedule only,
            deepest first.
    """
    shown = list(addresses) if addresses is not None else skip_order(schedule.addresses)
    rows: list[tuple[str, ...]] = []
    for address in shown:
        terms = [term for term in schedule.terms if term.address == address]
        if not terms:
            rows.append((address, "1", "untouched", "everywhere"))
        rows += [
            (address, f"{t.scale:.3f}", numbers.change(t.scale), _window(t.low, t.high))
            for t in terms
        ]
    columns = ["skip", "scale", "change from 1", "acts at sigma"]
    if all(row[3] == "everywhere" for row in rows):
        columns, rows = columns[:3], [row[:3] for row in rows]
    return listing(columns, rows, right=("scale", "change from 1"))


def skip_order(addresses: Iterable[str]) -> list[str]:
    """Return addresses in the order of the decoder: low resolutions first, then by block."""

    def key(address: str) -> tuple[int, ...]:
        return tuple(int(digits) for digits in re.findall(r"\d+", address))

    return sorted(addresses, key=lambda address: (key(address), address))


def _window(low: float, high: float) -> str:
    if low <= 0 and math.isinf(high):
        return "everywhere"
    if math.isinf(high):
        return f"{low:.3g} and above"
    return f"below {high:.3g}" if low <= 0 else f"{low:.3g} to {high:.3g}"
