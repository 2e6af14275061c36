"""Slopes as a person reads them: what a little more of each skip would do at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from skiptune.views.heat import heat, spread_out
from skiptune.views.tables import listing

if TYPE_CHECKING:
    from skiptune.search.slopes import Slopes

__all__ = ["CLEAR", "PART", "sensitivity_table"]

PART: Final = 0.1
"""What is shown is the change that this part more of a scale makes."""

CLEAR: Final = 2.0
"""From so many standard errors on a slope is marked."""

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


def _number(slope: float, error: float, times: float) -> str:
    mark = "*" if abs(slope) > CLEAR * error else " "
    return f"{100 * slope * times:+6.2f}{mark}"
