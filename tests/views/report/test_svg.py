"""Charts as SVG: places, what lies outside, legends, and texts that stay texts."""

from __future__ import annotations

import pytest

from skiptune.views.chart import BEST, GREY, INK, Axis, Key
from skiptune.views.report.svg import BOTTOM, LEFT, RIGHT, TOP, SvgChart
from tests.views.report.parsed import Element, parsed

SIZE = (620, 350)


def chart() -> SvgChart:
    keys = [Key("a line", BEST, line=True), Key("a ring", GREY, filled=False)]
    return SvgChart(Axis(0, 10, "x <title>"), Axis(-1, 1, "y"), title="A & B", keys=keys)


def elements(made: SvgChart, class_: str) -> list[Element]:
    svg = parsed(made.figure("words").svg)
    return [one for one in svg.every() if one.attributes.get("class") == class_]


def test_a_dot_is_where_its_axes_say() -> None:
    made = chart()
    made.dot(2.5, 0.5, BEST, radius=4)
    (dot,) = elements(made, "dot best")
    left, right = LEFT, SIZE[0] - RIGHT
    top, bottom = TOP, SIZE[1] - BOTTOM
    assert float(dot.attributes["cx"] or 0) == pytest.approx(left + 0.25 * (right - left), abs=0.1)
    assert float(dot.attributes["cy"] or 0) == pytest.approx(top + 0.25 * (bottom - top), abs=0.1)
    assert dot.attributes["r"] == "4"


@pytest.mark.parametrize(("y", "edge"), [(-7.0, SIZE[1] - BOTTOM), (7.0, TOP)])
def test_what_lies_outside_is_a_triangle_on_the_edge(y: float, edge: float) -> None:
    made = chart()
    made.dot(5, y, GREY)
    (shape,) = elements(made, "dot grey")
    assert shape.name == "polygon"
    points = [tuple(map(float, p.split(","))) for p in (shape.attributes["points"] or "").split()]
    assert any(point[1] == pytest.approx(edge) for point in points)
    assert all(TOP <= point[1] <= SIZE[1] - BOTTOM for point in points)


def test_lines_bands_bars_and_levels() -> None:
    made = chart()
    made.line([(0, 0), (5, 0.5), (10, -0.5)], BEST)
    made.line([(0, 0)], BEST)  # of one point there is none
    made.band([(0, -0.5, 0.5), (10, -1, 1)], BEST)
    made.bar(5, -0.5, 0.5, INK)
    made.level(0.0)
    (line,) = elements(made, "line best")
    assert (line.attributes["d"] or "").count("L") == 2
    (band,) = elements(made, "band best")
    assert len((band.attributes["points"] or "").split()) == 4
    bar, level = elements(made, "rule ink")
    assert bar.attributes["x1"] == bar.attributes["x2"]
    assert level.attributes["y1"] == level.attributes["y2"]


def test_titles_and_texts_are_escaped_and_legends_stand_beside() -> None:
    made = chart()
    made.write(9.9, 0, "<b>far right")
    figure = made.figure("caption")
    svg = next(parsed(figure.svg).every("svg"))
    assert next(svg.every("title")).text == "A & B"
    texts = {one.text: one for one in svg.every("text")}
    assert "x <title>" in texts
    assert texts["<b>far right"].attributes["text-anchor"] == "end"
    assert [key.text for key in figure.keys] == ["a line", "a ring"]
    assert "line best" in figure.keys[0].mark and "ring grey" in figure.keys[1].mark
    assert svg.attributes["role"] == "img"
