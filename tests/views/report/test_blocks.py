"""The parts of a report: whatever one is made of, both writers take it, and nothing alters it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import get_args

import pytest

from skiptune.views.report import blocks
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Figure,
    Fold,
    Headline,
    HeatMap,
    Key,
    Listing,
    Pair,
    Paragraph,
    Report,
    Section,
    Tile,
)
from skiptune.views.report.markdown import markdown_text
from skiptune.views.report.markup import tag
from skiptune.views.report.page import html_text
from tests.views.report.parsed import parsed

DRAWING = tag("svg", tag("title", "a drawing"), viewBox="0 0 1 1", role="img")
TILE = Tile("data:image/png;base64,AAAA", "seed 7")
# Each holds a word of its own that a reader has to find.
EVERY: tuple[Block, ...] = (
    Paragraph("paragraph"),
    Bullets(["bullet"]),
    Facts([("fact", "said of it")]),
    Listing(("column",), [("cell",)], caption="listing"),
    Code("code", "python"),
    Figure(DRAWING, "figure", [Key("key", "best", DRAWING)]),
    HeatMap(("skip", "80"), [("row", [("+1.5", 0.5)])], "heat map"),
    Pair([TILE], [TILE], (8, 8), "pair", ("untouched", "tuned")),
    Fold("fold", [Paragraph("folded"), Fold("within", [Paragraph("deeper")])]),
)
# Pictures, and so their legends, are left out of Markdown.
WORDS = {
    Paragraph: ("paragraph",),
    Bullets: ("bullet",),
    Facts: ("fact", "said of it"),
    Listing: ("column", "cell", "listing"),
    Code: ("code",),
    Figure: ("figure",),
    HeatMap: ("skip", "80", "row", "+1.5", "heat map"),
    Pair: ("pair",),
    Fold: ("fold", "folded", "within", "deeper"),
}


def report(*some: Block) -> Report:
    headline = Headline("open", "badge", "", "", "sentence", [("name", "value")])
    sections = [Section("part", "title", some)]
    made = f"Made {datetime(2026, 1, 1, tzinfo=UTC):%Y-%m-%d}."
    return Report("study", "subtitle", headline, sections, made)


def test_every_kind_of_block_is_looked_at_here() -> None:
    assert {type(block) for block in EVERY} == set(get_args(Block)) == set(WORDS)
    assert {name for name in blocks.__all__ if name != "Block"} == {
        one.__name__
        for one in (*get_args(Block), Headline, Key, Report, Section, Tile)
    }  # fmt: skip


@pytest.mark.parametrize("block", EVERY, ids=lambda block: type(block).__name__)
def test_both_writers_take_it_with_all_its_words(block: Block) -> None:
    page = parsed(html_text(report(block)))
    (section,) = page.every("section")
    text = markdown_text(report(block))
    for word in WORDS[type(block)]:
        assert word in section.text
        assert word in text.partition("## title")[2]


def test_a_report_s_own_words_are_in_both() -> None:
    page, text = parsed(html_text(report())).text, markdown_text(report())
    for word in ("study", "subtitle", "badge", "sentence", "name", "value", "title", "Made 2026"):
        assert word in page and word in text


def test_nothing_stands_out_or_folds_unless_it_is_said() -> None:
    plain = Listing(("a", "b"), [("1", "2")])
    assert (plain.right, plain.wrapped, plain.caption, plain.strong) == ((), (), "", None)
    (table,) = parsed(html_text(report(plain))).every("table")
    assert not any("class" in one.attributes for one in table.every())
    first = parsed(html_text(report(replace(plain, strong=0, right=("b",), wrapped=("a",)))))
    (row,) = [one for one in first.every("tr") if "class" in one.attributes]
    assert row.attributes["class"] == "stands"
    assert [one.attributes["class"] for one in row.every() if one is not row] == ["wraps", "right"]
    assert Paragraph("x").tone == "" and Figure(DRAWING, "x").keys == ()


@pytest.mark.parametrize(
    "block", [*EVERY, report(), report().headline, TILE, Key("k", "best", DRAWING)]
)
def test_it_cannot_be_altered(block: Block | Report | Headline | Tile | Key) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(block, fields(block)[0].name, "other")
