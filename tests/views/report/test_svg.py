"""Charts as SVG: places, what lies outside, legends, and texts that stay texts."""

from __future__ import annotations

import math

import pytest

from skiptune.views.chart import BEST, GREY, INK, Axis, Key
from skiptune.views.report.svg import BOTTOM, LEFT, MARKS, RIGHT, TOP, SvgChart, mark, sample
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


def test_an_axis_may_begin_anywhere_and_its_numbers_stand_at_their_places() -> None:
    made = SvgChart(Axis(20, 30, "x"), Axis(-1, 1, "y", "{:+g}".format), title="t")
    for x, y in ((20, -1), (25, 0.5), (30, 1)):
        made.dot(x, y, BEST)
    left, right, top, bottom = LEFT, SIZE[0] - RIGHT, TOP, SIZE[1] - BOTTOM
    places = [
        tuple(float(dot.attributes[key] or 0) for key in ("cx", "cy"))
        for dot in elements(made, "dot best")
    ]
    assert places == [
        (left, bottom), ((left + right) / 2, top + 0.25 * (bottom - top)), (right, top),
    ]  # fmt: skip
    texts = {one.text: one.attributes for one in elements(made, "quiet")}
    for value in ("-1", "-0.5", "+0", "+0.5", "+1"):
        assert texts[value]["text-anchor"] == "end"
        down = bottom - (float(value) + 1) / 2 * (bottom - top)
        assert float(texts[value]["y"] or 0) == pytest.approx(down + 4, abs=0.06)
        assert float(texts[value]["x"] or 0) < left
    for value in ("20", "22", "24", "26", "28", "30"):
        across = left + (float(value) - 20) / 10 * (right - left)
        assert texts[value]["text-anchor"] == "middle"
        assert float(texts[value]["x"] or 0) == pytest.approx(across, abs=0.06)
        assert float(texts[value]["y"] or 0) > bottom


def corners(shape: str) -> list[tuple[float, float]]:
    drawn = parsed(sample(mark(shape, 100, 50, 4.0, colour="best")))
    (polygon,) = drawn.every("polygon")
    assert polygon.attributes["class"] == "dot best"
    found = (point.split(",") for point in (polygon.attributes["points"] or "").split())
    return [(float(x) - 100, float(y) - 50) for x, y in found]


def test_marks_lie_around_their_place_and_are_about_of_one_size() -> None:
    areas = {}
    for shape in MARKS:
        if shape == "circle":
            areas[shape] = math.pi * 4.0**2
            continue
        points = corners(shape)
        assert sum(x for x, _ in points) == pytest.approx(0, abs=0.2)
        assert max(abs(x) for x, _ in points) < 1.4 * 4.0
        turned = [*points[1:], points[0]]
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, turned, strict=True)) / 2
        areas[shape] = abs(area)
    assert all(0.7 * areas["circle"] < area < 1.1 * areas["circle"] for area in areas.values())
    # What lies outside ends in a tip at its place, on the inner side of the edge.
    assert corners("below") == [(-4, -8), (4, -8), (0, 0)]
    assert corners("above") == [(-4, 8), (4, 8), (0, 0)]
    assert "ring grey" in mark("square", 0, 0, 4.0, colour="grey", filled=False)


def test_a_word_stands_on_the_side_where_there_is_room() -> None:
    made = chart()
    for x, right in ((2, True), (2, False), (9.9, True)):
        made.dot(x, 0, BEST)
        made.write(x, 0, f"word {x} {right}", right=right)
    texts = {one.text: one.attributes for one in parsed(made.figure("c").svg).every("text")}
    dots = [float(dot.attributes["cx"] or 0) for dot in elements(made, "dot best")]
    for (word, side), dot in zip(
        (("word 2 True", 1), ("word 2 False", -1), ("word 9.9 True", -1)), dots, strict=True
    ):
        assert texts[word]["text-anchor"] == ("start" if side > 0 else "end")
        assert 0 < side * (float(texts[word]["x"] or 0) - dot) < 12


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
