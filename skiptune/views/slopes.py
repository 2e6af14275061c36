"""Slopes as a person reads them: what a little more of each skip would do at each noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from skiptune.views.heat import heat, spread_out
from skiptune.views.tables import listing

if TYPE_CHECKING:
    from skiptune.search.slopes import Slopes

__all__ = ["CLEAR", "PART", "interval_table", "sensitivity_table"]

PART: Final = 0.1
"""What is shown is the change that this part more of a scale makes."""

CLEAR: Final = 2.0
"""From so many standard errors on a slope is marked."""

MOST_INTERVALS = 3  # columns with errors beside an address
MOST_LEVELS = 5  # columns that fit beside an address and the sum


def sensitivity_table(
    slopes: Slopes, addresses: Sequence[str], *, unit: float, log: float
) -> Table:
    """Return one row per skip, deepest first: the change at each noise level, and in all.

    Blue: a larger scale is better, red: a smaller one.

    Arguments:
        slopes: What was measured.
        addresses: Of the skips, or the names of what is scaled (`schedule.place_name`).
        unit: The objective's value that changes are a part of.
        log: Logarithm of the factor whose change is shown.
    """
    values, errors = slopes.map
    sums, sum_errors = slopes.skips
    shown = spread_out(len(slopes.levels), MOST_LEVELS)
    columns = [f"{slopes.levels[place]:.3g}" for place in shown]
    table = listing(["skip, by sigma", *columns, "all"], [], right=[*columns, "all"], gap=1)
    widest = max(float(np.abs(values).max()), 1e-300)
    for row, address in enumerate(addresses):
        cells = [
            heat(
                _number(values[row, place], errors[row, place], log / unit),
                float(values[row, place]) / widest,
            )
            for place in shown
        ]
        whole = f"{_number(sums[row], sum_errors[row], log / unit)} ± "
        whole += f"{100 * sum_errors[row] * log / unit:.2f}"
        table.add_row(Text(address), *cells, Text(whole))
    return table


def interval_table(
    slopes: Slopes,
    addresses: Sequence[str],
    *,
    bounds: Sequence[tuple[float, float]],
    unit: float,
    log: float,
) -> Table:
    """Return one row per skip, deepest first: the change in each noise interval.

    Arguments:
        slopes: What was measured.
        addresses: As for `sensitivity_table`.
        bounds: Noise levels [low, high) of each interval, noisiest first.
        unit: As for `sensitivity_table`.
        log: As for `sensitivity_table`.
    """
    values, errors = slopes.within(bounds)
    shown = spread_out(len(bounds), MOST_INTERVALS)
    columns = [_interval(place, *bounds[place]) for place in shown]
    table = listing(["skip, by interval", *columns], [], right=columns, gap=1)
    widest = max(float(np.abs(values).max()), 1e-300)
    for row, address in enumerate(addresses):
        cells = [
            heat(
                f"{_number(values[row, place], errors[row, place], log / unit)} ± "
                f"{100 * errors[row, place] * log / unit:.2f}",
                float(values[row, place]) / widest,
            )
            for place in shown
        ]
        table.add_row(Text(address), *cells)
    return table


def _interval(place: int, low: float, high: float) -> str:
    if math.isinf(high):
        return f"@{place}: {low:.2g} up"
    return f"@{place}: to {high:.2g}" if low == 0 else f"@{place}: {low:.2g}-{high:.2g}"


def _number(slope: float, error: float, times: float) -> str:
    mark = "*" if abs(slope) > CLEAR * error else " "
    return f"{100 * slope * times:+6.2f}{mark}"
