"""The schedule as a drawing: a mark for each scale where it belongs."""

from __future__ import annotations

import pytest

from skiptune.sampling.schedule import Schedule, Term
from skiptune.views.report.blocks import Figure
from skiptune.views.report.profile import LONGEST, profile_figure
from tests.views.report.parsed import Element, parsed

SKIPS = ("8x8_block0", "8x8_block1", "16x16_block0")


def drawn(schedule: Schedule, *, searched: tuple[float, float] | None = (0.5, 2.0)) -> Figure:
    found = profile_figure(schedule, addresses=SKIPS, searched=searched, caption="words")
    assert found is not None
    return found


def marks(figure: Figure) -> list[Element]:
    return [
        one
        for one in parsed(figure.svg).every()
        if (one.attributes.get("class") or "").startswith("dot ")
    ]


def test_nothing_is_drawn_of_the_baseline() -> None:
    assert profile_figure(Schedule.baseline(), addresses=SKIPS, searched=None, caption="x") is None


def test_marks_are_where_their_scales_are() -> None:
    figure = drawn(Schedule.uniform({SKIPS[0]: 0.5, SKIPS[2]: 2.0}))
    low, high = marks(figure)
    root = parsed(figure.svg)
    box = next(one for one in root.every("rect") if one.attributes["class"] == "range")
    left = float(box.attributes["x"] or 0)
    right = left + float(box.attributes["width"] or 0)
    # The range that was searched ends where the scales are.
    assert float(low.attributes["cx"] or 0) == pytest.approx(left, abs=0.2)
    assert float(high.attributes["cx"] or 0) == pytest.approx(right, abs=0.2)
    # Deepest above; the untouched skip has its row between them.
    assert float(low.attributes["cy"] or 0) < float(high.attributes["cy"] or 0)
    names = [one.text for one in root.every("text")]
    assert [name for name in names if "block" in name] == list(SKIPS)
    one = [e for e in root.every("line") if e.attributes["class"] == "rule ink"]
    assert left < float(one[0].attributes["x1"] or 0) < right


def test_noise_levels_and_parts_are_told_apart() -> None:
    terms = [
        Term(SKIPS[0], 1.2, 2.0),
        Term(SKIPS[0], 0.9, high=2.0),
        Term(SKIPS[1], 1.1, part="shortcut"),
    ]
    figure = drawn(Schedule(terms), searched=None)
    assert [key.text for key in figure.keys] == [
        "at sigma 2 and above", "at sigma below 2", "shortcut, at every noise level",
    ]  # fmt: skip
    classes = [one.attributes["class"] for one in marks(figure)]
    assert classes == ["dot c0", "dot c1", "dot c2"]
    assert len({one.name for one in marks(figure)}) == 2  # circle and polygons


def test_joined_intervals_have_their_own_marks() -> None:
    terms = [
        Term(SKIPS[0], 1.2, 2.0),
        Term(SKIPS[0], 0.9, high=2.0),
        Term(SKIPS[1], 0.8),  # the same in both intervals, so it is one term
    ]
    figure = drawn(Schedule(terms))
    assert [key.text for key in figure.keys[:2]] == ["at sigma 2 and above", "at sigma below 2"]
    assert len(figure.keys) == 3  # with the range
    assert len(marks(figure)) == 4


def test_long_addresses_are_cut_and_told_in_whole() -> None:
    name = "decoder.up_blocks.1.resnets.0.<conv_shortcut>"
    found = profile_figure(
        Schedule.uniform({name: 1.1}), addresses=(), searched=None, caption="words"
    )
    assert found is not None
    root = parsed(found.svg)
    assert name in [one.text for one in root.every("title")]
    assert all(len(one.text) <= LONGEST or "scale" in one.text for one in root.every("text"))
