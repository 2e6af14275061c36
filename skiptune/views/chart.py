"""Charts of points, lines, bands and error bars, drawn with Pillow alone.

Everything is drawn some times larger and shrunk, which smooths it. Places are in the units of the
axes; what lies outside ends at the frame, and a dot out there is a triangle on its edge.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "BEST",
    "FAINT",
    "GREY",
    "INK",
    "MOST_COLOURS",
    "PROVED",
    "Axis",
    "Canvas",
    "Chart",
    "Colour",
    "Key",
    "ticks",
]

Colour = tuple[int, int, int]

SCALE: Final = 3
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 62, 48
TEXT, TITLE = 13, 15  # heights of letters in pixels
MOST_COLOURS = 128

PAPER: Final[Colour] = (255, 255, 255)
INK: Final[Colour] = (40, 40, 40)
GREY: Final[Colour] = (150, 150, 150)
FAINT: Final[Colour] = (225, 225, 225)
BEST: Final[Colour] = (40, 90, 170)
PROVED: Final[Colour] = (30, 130, 60)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Arguments:
        low: Its lower or left end.
        high: Its other end, above `low`.
        title: What is shown, with its unit.
        text: A tick's label.
    """

    low: float
    high: float
    title: str
    text: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True)
class Key:
    """An entry of the legend: a dot or a line of a colour, and what it stands for."""

    text: str
    colour: Colour
    line: bool = False
    filled: bool = True


class Canvas(Protocol):
    """What a chart is drawn on, step by step; `Chart` says what each step does."""

    def band(self, points: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Draw a band."""

    def line(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Draw a line."""

    def level(self, y: float, colour: Colour = INK) -> None:
        """Draw a line over the whole width."""

    def bar(self, x: float, low: float, high: float, colour: Colour) -> None:
        """Draw an error bar."""

    def dot(
        self, x: float, y: float, colour: Colour, *, radius: float = 3.5, filled: bool = True
    ) -> None:
        """Draw a dot."""

    def write(self, x: float, y: float, text: str, *, right: bool = True) -> None:
        """Write beside a place."""


class Chart:
    """A chart that is drawn step by step: what comes later lies above.

    Arguments:
        x: The horizontal axis.
        y: The vertical one.
        title: One line above.
        keys: The legend, below the title.
        size: Width and height in pixels.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        title: str,
        keys: Sequence[Key] = (),
        size: tuple[int, int] = (760, 440),
    ) -> None:
        self._x, self._y, self._size = x, y, size
        self._picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._picture)
        self._frame = (LEFT, TOP, size[0] - RIGHT, size[1] - BOTTOM)
        self._grid()
        self._write(8, 8, title, "la", size=TITLE)
        self._legend(keys)

    def band(self, points: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Draw a band of a light colour between (x, low, high)."""
        upper = [self._at(x, high) for x, _, high in points]
        lower = [self._at(x, low) for x, low, _ in reversed(points)]
        if len(points) > 1:
            light = tuple(round(255 + (part - 255) * 0.22) for part in colour)
            self._draw.polygon([*upper, *lower], fill=light)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            places = [self._at(*point) for point in points]
            self._draw.line(places, fill=colour, width=2 * SCALE, joint="curve")

    def level(self, y: float, colour: Colour = INK) -> None:
        """Draw a thin line over the whole width."""
        self._draw.line(
            [self._at(self._x.low, y), self._at(self._x.high, y)], fill=colour, width=SCALE
        )

    def bar(self, x: float, low: float, high: float, colour: Colour) -> None:
        """Draw an error bar."""
        self._draw.line([self._at(x, low), self._at(x, high)], fill=colour, width=SCALE)

    def dot(
        self,
        x: float,
        y: float,
        colour: Colour,
        *,
        radius: float = 3.5,
        filled: bool = True,
    ) -> None:
        """Draw a dot; one outside the frame becomes a small triangle on its edge."""
        across, down = self._at(x, y)
        size = radius * SCALE
        fill = colour if filled else PAPER
        if self._y.low <= y <= self._y.high:
            box = (across - size, down - size, across + size, down + size)
            self._draw.ellipse(box, fill=fill, outline=colour, width=SCALE)
            return
        tip = 1 if y < self._y.low else -1
        corners = [(across - size, down - 2 * tip * size), (across + size, down - 2 * tip * size)]
        self._draw.polygon([*corners, (across, down)], fill=fill, outline=colour)

    def write(self, x: float, y: float, text: str, *, right: bool = True) -> None:
        """Write beside a place and a little below, on its right or its left."""
        across, down = self._at(x, y)
        step = 8 * SCALE
        down += 10 * SCALE
        self._draw.text(
            (across + (step if right else -step), down),
            text,
            fill=INK,
            font=ImageFont.load_default(size=TEXT * SCALE),
            anchor="lm" if right else "rm",
        )

    def png(self) -> bytes:
        """Return the chart as a PNG."""
        data = io.BytesIO()
        small = self._picture.resize(self._size, Image.Resampling.LANCZOS)
        small.quantize(MOST_COLOURS).save(data, format="PNG", optimize=True)
        return data.getvalue()

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Return a place's pixels, at the frame for what lies outside."""
        left, top, right, bottom = self._frame
        across = (x - self._x.low) / (self._x.high - self._x.low)
        up = (y - self._y.low) / (self._y.high - self._y.low)
        across, up = min(max(across, 0.0), 1.0), min(max(up, 0.0), 1.0)
        return SCALE * (left + across * (right - left)), SCALE * (bottom - up * (bottom - top))

    def _grid(self) -> None:
        left, top, right, bottom = self._frame
        for value in ticks(self._y.low, self._y.high):
            _, down = self._at(self._x.low, value)
            self._draw.line([(SCALE * left, down), (SCALE * right, down)], fill=FAINT, width=SCALE)
            self._write(left - 6, down / SCALE, self._y.text(value), "rm")
        for value in ticks(self._x.low, self._x.high):
            across, _ = self._at(value, self._y.low)
            self._draw.line(
                [(across, SCALE * bottom), (across, SCALE * (bottom + 4))], fill=INK, width=SCALE
            )
            self._write(across / SCALE, bottom + 7, self._x.text(value), "ma")
        self._draw.line(
            [(SCALE * left, SCALE * top), (SCALE * left, SCALE * bottom),
             (SCALE * right, SCALE * bottom)],
            fill=INK, width=SCALE,
        )  # fmt: skip
        self._write((left + right) / 2, self._size[1] - 6, self._x.title, "mb")
        self._write(left - 58, top - 7, self._y.title, "lb")

    def _legend(self, keys: Sequence[Key]) -> None:
        font = ImageFont.load_default(size=TEXT * SCALE)
        # From the right end, beside the title of the vertical axis.
        right: float = (self._size[0] - RIGHT) * SCALE
        down = (TOP - 14) * SCALE
        for key in reversed(keys):
            right -= self._draw.textlength(key.text, font=font)
            self._draw.text((right, down), key.text, fill=INK, font=font, anchor="lm")
            right -= 12 * SCALE
            size = 3.5 * SCALE
            if key.line:
                ends = [(right - 2 * size, down), (right + size, down)]
                self._draw.line(ends, fill=key.colour, width=2 * SCALE)
            else:
                box = (right - size, down - size, right + size, down + size)
                fill = key.colour if key.filled else PAPER
                self._draw.ellipse(box, fill=fill, outline=key.colour, width=SCALE)
            right -= 22 * SCALE

    def _write(
        self, across: float, down: float, text: str, anchor: str, *, size: int = TEXT
    ) -> None:
        font = ImageFont.load_default(size=size * SCALE)
        self._draw.text((SCALE * across, SCALE * down), text, fill=INK, font=font, anchor=anchor)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round values between two ends: multiples of 1, 2 or 5 times a power of ten.

    Arguments:
        low: The lower end.
        high: The higher one.
        most: How many at most, at least 2.
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
