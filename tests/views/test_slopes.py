from __future__ import annotations

import math

import numpy as np
import pytest

from skiptune.search.slopes import Slopes
from skiptune.views.slopes import interval_table, sensitivity_table
from tests.views.printed import printed


def shown(slopes: Slopes, addresses: list[str]) -> list[str]:
    table = sensitivity_table(slopes, addresses, unit=10.0, log=math.log1p(0.1))
    return printed(table).splitlines()


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


def test_each_noise_interval_has_its_change() -> None:
    blocks = np.array([[[-5.0, 1.0, 3.0]], [[-5.2, -1.0, 1.0]]])
    slopes = Slopes(blocks, (80.0, 5.0, 0.5), 0.0)
    bounds = [(20.0, math.inf), (0.0, 20.0)]
    log = math.log1p(0.1)
    table = interval_table(slopes, ["32x32_block10"], bounds=bounds, unit=10.0, log=log)
    lines = printed(table).splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "@0: 20 up" in lines[0] and "@1: to 20" in lines[0]
    (row,) = [line for line in lines if "32x32_block10" in line]
    assert f"{-5.1 * log / 10 * 100:+.2f}* ± {0.1 * log / 10 * 100:.2f}" in row
    assert f"{2.0 * log / 10 * 100:+.2f}  ± {2.0 * log / 10 * 100:.2f}" in row
