"""Charts: things lie where they belong, and nothing is lost outside."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from skiptune.views.chart import BEST, BOTTOM, LEFT, PROVED, RIGHT, TOP, Axis, Chart, Key, ticks

SIZE = (760, 440)
Pixels = NDArray[np.int_]


def pixels(chart: Chart) -> Pixels:
    with Image.open(io.BytesIO(chart.png())) as picture:
        assert picture.size == SIZE
        return np.asarray(picture.convert("RGB")).astype(int)


def chart() -> Chart:
    return Chart(Axis(0, 10, "x"), Axis(-5, 5, "y"), title="t")


def near(found: Pixels, colour: tuple[int, int, int], *, within: int = 12) -> Pixels:
    """Return where [rows, columns] a picture has a colour, nearly."""
    return np.argwhere(np.abs(found - np.array(colour)).max(axis=2) < within)


def place(x: float, y: float) -> tuple[float, float]:
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
    return TOP + (5 - y) / 10 * height, LEFT + x / 10 * width


@pytest.mark.parametrize(("x", "y"), [(2.0, 3.0), (8.0, -4.0), (5.0, 0.0)])
def test_a_dot_lies_at_its_place(x: float, y: float) -> None:
    drawn = chart()
    drawn.dot(x, y, PROVED, radius=5)
    where = near(pixels(drawn), PROVED)
    assert 50 < len(where) < 100  # an area of about 78
    np.testing.assert_allclose(where.mean(axis=0), place(x, y), atol=1.0)


@pytest.mark.parametrize(("y", "edge"), [(-50.0, -5.0), (50.0, 5.0)])
def test_a_dot_outside_is_shown_on_the_edge(y: float, edge: float) -> None:
    drawn = chart()
    drawn.dot(5.0, y, PROVED, radius=5)
    where = near(pixels(drawn), PROVED)
    assert len(where) > 20
    assert np.abs(where[:, 0] - place(5.0, edge)[0]).max() < 14
    assert where[:, 0].min() >= TOP - 1 and where[:, 0].max() <= SIZE[1] - BOTTOM + 1


def test_a_band_fills_what_is_between_and_a_line_goes_through() -> None:
    drawn = chart()
    drawn.band([(2.0, -1.0, 1.0), (8.0, -1.0, 1.0)], BEST)
    drawn.line([(2.0, 0.5), (8.0, 0.5)], BEST)
    found = pixels(drawn)
    light = tuple(round(255 + (part - 255) * 0.22) for part in BEST)
    inside = [place(5.0, y) for y in (-0.8, 0.0, 0.9)]
    outside = [place(5.0, y) for y in (-1.3, 1.3)]
    for row, column in inside:
        assert np.abs(found[round(row), round(column)] - light).max() < 12
    for row, column in outside:
        assert np.abs(found[round(row), round(column)] - 255).max() < 12
    # Thin, so its edges are blended.
    row = round(place(5.0, 0.5)[0])
    line = near(found[row - 2 : row + 3, LEFT + 3 :], BEST, within=70)
    assert line[:, 1].max() - line[:, 1].min() == pytest.approx(0.6 * (760 - 84), abs=3)


def test_title_axes_and_legend_leave_ink() -> None:
    plain = chart()
    keyed = Chart(
        Axis(0, 10, "x"), Axis(-5, 5, "y"), title="t",
        keys=[Key("one", BEST, line=True), Key("two", PROVED)],
    )  # fmt: skip
    before, after = pixels(plain), pixels(keyed)
    assert (before[:TOP] < 128).any() and (before[-BOTTOM:] < 128).any()
    assert not len(near(before[:TOP], PROVED)) and len(near(after[:TOP], PROVED))
    # But for the palette, which both have of their own.
    assert np.abs(before[TOP + 4 :] - after[TOP + 4 :]).max() < 20


@given(low=st.floats(-1e4, 1e4), span=st.floats(1e-3, 1e5))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 8
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= value <= low + span + slack for value in found)
    if len(found) > 2:
        steps = np.diff(found)
        mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - factor) for factor in (1, 2, 5, 10)) < 1e-3
