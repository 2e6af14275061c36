"""Charts as inline SVG: the same steps as `skiptune.views.chart`, colours by class.

Colours come from the page's style sheet, so that a chart follows light, dark and print. Titles of
the legend stand beside the drawing as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skiptune.views.chart import BEST, FAINT, GREY, INK, PROVED, Axis, Colour, Key, ticks
from skiptune.views.report import blocks
from skiptune.views.report.markup import Markup, joined, tag

__all__ = ["MARKS", "SvgChart", "drawing", "mark", "sample", "written"]

NAMES: Final[dict[Colour, str]] = {
    INK: "ink",
    GREY: "grey",
    FAINT: "faint",
    BEST: "best",
    PROVED: "proved",
}

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 46
MARKS: Final = ("circle", "square", "diamond", "triangle")
"""Marks that are told apart without colours."""


def mark(
    shape: str, x: float, y: float, size: float, *, colour: str, filled: bool = True
) -> Markup:
    """Return a mark at a place.

    Arguments:
        shape: One of `MARKS`, or ``below`` and ``above``: triangles for what lies outside.
        x: Across.
        y: Down.
        size: Half of its width.
        colour: Class of its colour.
        filled: Whether it is filled.
    """
    class_ = f"{'dot' if filled else 'ring'} {colour}"
    if shape == "circle":
        return tag("circle", cx=round(x, 1), cy=round(y, 1), r=size, class_=class_)
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
        "below": ((-1, -2), (1, -2), (0, 0)),
        "above": ((-1, 2), (1, 2), (0, 0)),
    }[shape]
    points = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in corners)
    return tag("polygon", points=points, class_=class_)


def drawing(parts: Sequence[Markup], size: tuple[float, float], words: str) -> Markup:
    """Return an `svg` element of parts that says in words what it shows."""
    width, height = size
    return tag(
        "svg",
        tag("title", words),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
    )


class SvgChart:
    """A chart that is drawn step by step, as `chart.Chart`: what comes later lies above.

    Arguments:
        x: The horizontal axis.
        y: The vertical one.
        title: What it shows, in words.
        keys: The legend.
        size: Width and height in the drawing's own units.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        title: str,
        keys: Sequence[Key] = (),
        size: tuple[int, int] = (620, 350),
    ) -> None:
        self._x, self._y, self._size = x, y, size
        self.title = title
        self.keys = tuple(_key(key) for key in keys)
        self._frame = (LEFT, TOP, size[0] - RIGHT, size[1] - BOTTOM)
        self._parts: list[Markup] = list(self._grid())

    def band(self, points: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Draw a band of a light colour between (x, low, high)."""
        if len(points) > 1:
            around = [self._at(x, high) for x, _, high in points]
            around += [self._at(x, low) for x, low, _ in reversed(points)]
            self._parts.append(
                tag("polygon", points=_points(around), class_=f"band {NAMES[colour]}")
            )

    def line(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            way = "M" + "L".join(_points([self._at(*point)]) for point in points)
            self._parts.append(tag("path", d=way, class_=f"line {NAMES[colour]}"))

    def level(self, y: float, colour: Colour = INK) -> None:
        """Draw a thin line over the whole width."""
        self._rule(self._at(self._x.low, y), self._at(self._x.high, y), NAMES[colour])

    def bar(self, x: float, low: float, high: float, colour: Colour) -> None:
        """Draw an error bar."""
        self._rule(self._at(x, low), self._at(x, high), NAMES[colour])

    def dot(
        self, x: float, y: float, colour: Colour, *, radius: float = 3.5, filled: bool = True
    ) -> None:
        """Draw a dot; one outside the frame becomes a small triangle on its edge."""
        shape = "below" if y < self._y.low else "above" if y > self._y.high else "circle"
        self._parts.append(
            mark(shape, *self._at(x, y), radius, colour=NAMES[colour], filled=filled)
        )

    def write(self, x: float, y: float, text: str, *, right: bool = True) -> None:
        """Write beside a place and a little below, on its right or its left."""
        across, down = self._at(x, y)
        place = across + 8 if right else across - 8
        anchor = "start" if right else "end"
        if right and across > self._frame[2] - 9 * len(text):
            place, anchor = across - 8, "end"
        self._parts.append(written(place, down + 16, text, anchor))

    def figure(self, caption: str) -> blocks.Figure:
        """Return the drawing with its legend."""
        return blocks.Figure(drawing(self._parts, self._size, self.title), caption, self.keys)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Return a place in the drawing, at the frame for what lies outside."""
        left, top, right, bottom = self._frame
        across = (x - self._x.low) / (self._x.high - self._x.low)
        up = (y - self._y.low) / (self._y.high - self._y.low)
        across, up = min(max(across, 0.0), 1.0), min(max(up, 0.0), 1.0)
        return left + across * (right - left), bottom - up * (bottom - top)

    def _rule(self, start: tuple[float, float], end: tuple[float, float], name: str) -> None:
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            tag("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1),
                class_=f"rule {name}")
        )  # fmt: skip

    def _grid(self) -> list[Markup]:
        left, top, right, bottom = self._frame
        parts = [written(2, top - 12, self._y.title, "start", "quiet")]
        for value in ticks(self._y.low, self._y.high):
            _, down = self._at(self._x.low, value)
            parts.append(
                tag("line", x1=left, y1=round(down, 1), x2=right, y2=round(down, 1),
                    class_="rule faint")
            )  # fmt: skip
            parts.append(written(left - 7, down + 4, self._y.text(value), "end", "quiet"))
        for value in ticks(self._x.low, self._x.high, 6):
            across, _ = self._at(value, self._y.low)
            parts.append(written(across, bottom + 18, self._x.text(value), "middle", "quiet"))
        parts.append(
            written((left + right) / 2, self._size[1] - 6, self._x.title, "middle", "quiet")
        )
        return parts


def _key(key: Key) -> blocks.Key:
    name = NAMES[key.colour]
    inside = (
        tag("line", x1=1, y1=7, x2=19, y2=7, class_=f"line {name}")
        if key.line
        else mark("circle", 10, 7, 4.0, colour=name, filled=key.filled)
    )
    return blocks.Key(key.text, name, sample(inside))


def sample(*inside: Markup) -> Markup:
    """Return the small drawing of a legend."""
    return tag("svg", *inside, viewBox="0 0 20 14", width=20, height=14, aria_hidden="true")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def written(x: float, y: float, text: str, anchor: str, class_: str = "") -> Markup:
    """Return a text at a place, anchored at its start, middle or end."""
    return tag(
        "text",
        joined(text),
        x=round(x, 1),
        y=round(y, 1),
        text_anchor=anchor,
        class_=class_ or None,
    )
