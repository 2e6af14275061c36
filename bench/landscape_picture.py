"""The picture of the landscape: the plane of linear schedules, and the per-skip ones in order."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Bar", "Plane", "draw"]

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

SCALE = 3  # drawn so many times larger and shrunk, which smooths the lines
SIDE = 300  # pixels of a panel's inside
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 40
INK, GREY, PAPER = (40, 40, 40), (205, 205, 205), (255, 255, 255)
BEST, WORST = (40, 90, 170), (190, 60, 30)
LEVELS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
TICKS = (0.75, 0.85, 1.0, 1.15, 1.33)
FULL_LINEAR = 2.0  # difference up to which the axis of the right panel is close to linear
DIFFERENCE_TICKS = (-4, -2, -1, 0, 1, 2, 5, 10, 20, 40)


@dataclass(frozen=True, eq=False)
class Plane:
    """Differences to the baseline over the plane of linear schedules.

    Arguments:
        low: Smallest scale on both axes.
        high: Largest.
        differences: float64 [m, m], evenly spaced in log scale: rows go from the smallest
            `bottom` on, columns from the smallest `top` on.
        measured: Pairs (bottom, top) that were measured.
        optimum: The best pair.
    """

    low: float
    high: float
    differences: Array
    measured: tuple[tuple[float, float], ...]
    optimum: tuple[float, float]


@dataclass(frozen=True)
class Bar:
    """A measured difference to the baseline and its standard error."""

    value: float
    standard_error: float


def draw(plane: Plane, bars: Sequence[Bar]) -> bytes:
    """Return a PNG of both panels, side by side.

    Arguments:
        plane: On the left, as bands between the levels of `LEVELS`.
        bars: On the right, sorted here; whiskers are 95 % intervals.
    """
    size = (2 * (LEFT + SIDE + RIGHT), TOP + SIDE + BOTTOM)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    canvas = _Canvas(ImageDraw.Draw(picture), left=LEFT)
    picture.paste(_bands(plane), (SCALE * LEFT, SCALE * TOP))
    _draw_plane(canvas, plane)
    _draw_bars(_Canvas(canvas.draw, left=2 * LEFT + SIDE + RIGHT), bars)
    data = io.BytesIO()
    small = picture.resize(size, Image.Resampling.LANCZOS).quantize(96)
    small.save(data, format="PNG", optimize=True)
    return data.getvalue()


@dataclass(frozen=True)
class _Canvas:
    """Draws in shares of a panel's inside: (0, 0) is bottom left, (1, 1) top right."""

    draw: ImageDraw.ImageDraw
    left: int

    def place(self, x: float, y: float) -> tuple[float, float]:
        return SCALE * (self.left + x * SIDE), SCALE * (TOP + (1 - y) * SIDE)

    def line(self, *ends: tuple[float, float], ink: Colour, width: float = 1) -> None:
        points = [self.place(*end) for end in ends]
        self.draw.line(points, fill=ink, width=round(SCALE * width))

    def dot(self, x: float, y: float, *, radius: float, fill: Colour, edge: Colour) -> None:
        a, b = self.place(x, y)
        r = radius * SCALE
        self.draw.ellipse((a - r, b - r, a + r, b + r), fill=fill, outline=edge, width=SCALE)

    def text(
        self, x: float, y: float, words: str, anchor: str, dx: float = 0, dy: float = 0
    ) -> None:
        a, b = self.place(x, y)
        font = ImageFont.load_default(size=11 * SCALE)
        self.draw.text((a + SCALE * dx, b + SCALE * dy), words, fill=INK, font=font, anchor=anchor)


def _bands(plane: Plane) -> Image.Image:
    side = SIDE * SCALE
    fine = _resized(plane.differences, side)
    level = np.searchsorted(LEVELS, fine)
    shade = np.array([_colour(step) for step in range(len(LEVELS) + 1)], dtype=np.float64)
    pixels = shade[level]
    # A line where two bands meet; the one at the baseline's own level is darker.
    for drawn, weight in ((level, 0.85), (fine > 0, 0.45)):
        meets = np.zeros(drawn.shape, dtype=bool)
        meets[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
        meets[1:, :] |= drawn[1:, :] != drawn[:-1, :]
        thick = meets.copy()
        thick[1:, :] |= meets[:-1, :]
        thick[:, 1:] |= meets[:, :-1]
        pixels[thick] *= weight
    # `bottom` grows to the right, `top` upwards.
    turned = pixels.transpose(1, 0, 2)[::-1]
    return Image.fromarray(turned.astype(np.uint8))


def _resized(values: Array, side: int) -> Array:
    """Return values on a square of another size, linearly interpolated."""
    at = np.linspace(0, len(values) - 1, side)
    first = np.clip(at.astype(int), 0, len(values) - 2)
    part = at - first
    rows = values[first] * (1 - part)[:, None] + values[first + 1] * part[:, None]
    fine: Array = rows[:, first] * (1 - part) + rows[:, first + 1] * part
    return fine


def _colour(step: int) -> Colour:
    """Return a light colour: blue below the baseline's level, then white to orange above."""
    zero = LEVELS.index(0.0)
    if step <= zero:
        share = (zero + 1 - step) / (zero + 1)
        end: Colour = (150, 185, 230)
    else:
        share = (step - zero - 1) / (len(LEVELS) - zero - 1)
        end = (240, 180, 140)
    red, green, blue = (round(255 + (e - 255) * share) for e in end)
    return red, green, blue


def _draw_plane(canvas: _Canvas, plane: Plane) -> None:
    def share(scale: float) -> float:
        return math.log(scale / plane.low) / math.log(plane.high / plane.low)

    for bottom, top in plane.measured:
        canvas.dot(share(bottom), share(top), radius=1.2, fill=GREY, edge=(150, 150, 150))
    canvas.dot(share(1.0), share(1.0), radius=4, fill=PAPER, edge=INK)
    x, y = share(plane.optimum[0]), share(plane.optimum[1])
    canvas.dot(x, y, radius=4, fill=BEST, edge=BEST)
    canvas.text(share(1.0), share(1.0), "untouched", "lm", dx=8)
    canvas.text(x, y, "best", "lm" if x < 0.8 else "rm", dx=8 if x < 0.8 else -8)
    for scale in TICKS:
        canvas.text(share(scale), 0, f"{scale:g}", "ma", dy=4)
        canvas.text(0, share(scale), f"{scale:g}", "rm", dx=-5)
    canvas.line((0, 0), (1, 0), (1, 1), (0, 1), (0, 0), ink=INK)
    canvas.text(0.5, 0, "scale of the deepest skip (bottom)", "ma", dy=20)
    canvas.text(0, 1, "scale of the shallowest skip (top); FD less untouched", "ls", dy=-8)


def _draw_bars(canvas: _Canvas, bars: Sequence[Bar]) -> None:
    order = sorted(bars, key=lambda bar: bar.value)
    ends = [bar.value + sign * 2 * bar.standard_error for bar in order for sign in (-1, 1)]
    low, high = _bent(min(*ends, -1.0)) - 0.1, _bent(max(*ends, 1.0)) + 0.1

    def up(value: float) -> float:
        return (_bent(value) - low) / (high - low)

    for tick in DIFFERENCE_TICKS:
        if low <= _bent(tick) <= high:
            canvas.line((0, up(tick)), (1, up(tick)), ink=INK if tick == 0 else GREY)
            canvas.text(0, up(tick), f"{tick:+d}" if tick else "0", "rm", dx=-5)
    for index, bar in enumerate(order):
        x = (index + 0.5) / len(order)
        ink = BEST if bar.value < 0 else WORST
        half = 1.96 * bar.standard_error
        canvas.line((x, up(bar.value - half)), (x, up(bar.value + half)), ink=ink)
        canvas.dot(x, up(bar.value), radius=1.8, fill=ink, edge=ink)
    canvas.text(0.5, 0, f"{len(order)} random per-skip schedules, sorted", "ma", dy=20)
    canvas.text(0, 1, "FD less untouched, 95 % intervals", "ls", dy=-8)


def _bent(value: float) -> float:
    return math.asinh(value / FULL_LINEAR)
