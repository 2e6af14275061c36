from __future__ import annotations

import math

import numpy as np
import pytest
from rich.console import Console

from skiptune.search.slopes import Slopes
from skiptune.views.slopes import sensitivity_table


def shown(slopes: Slopes, addresses: list[str]) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(sensitivity_table(slopes, addresses, unit=10.0, log=math.log1p(0.1)))
    return capture.get().splitlines()


def test_a_cell_is_the_change_in_percent_and_clear_ones_are_marked() -> None:
    blocks = np.array([[[-5.0, 1.0]], [[-5.2, -1.0]]])
    lines = shown(Slopes(blocks, (80.0, 0.5), 0.0), ["4x4_block0"])
    (row,) = [line for line in lines if "4x4_block0" in line]
    # -5.1 per e-fold, of 10, for a factor 1.1.
    assert f"{-5.1 * math.log(1.1) / 10 * 100:+.2f}*" in row
    assert "+0.00 " in row
    assert "80" in lines[0] and "0.5" in lines[0]


@pytest.mark.parametrize("count", [1, 6, 7, 40])
def test_any_grid_fits_80_columns_with_both_ends(count: int) -> None:
    levels = tuple(np.geomspace(80.0, 0.002, count).tolist())
    blocks = np.random.default_rng(0).standard_normal((3, 2, count)) * 10
    lines = shown(Slopes(blocks, levels, 0.0), ["32x32_block10", "64x64_block0"])
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "80" in lines[0]
    assert count == 1 or "0.002" in lines[0]
