"""The Markdown: the same tables, and no name that becomes a mark of its own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from skiptune.views.report.blocks import Code, Report
from skiptune.views.report.contents import report_of
from skiptune.views.report.markdown import _fenced, markdown_text, words
from skiptune.views.result import score_rows
from tests.views.report.findings import EXPLANATION, FINDINGS, MADE, OVERVIEW, RESULT


def made(study: str = "fashion") -> Report:
    overview = replace(OVERVIEW, study=study)
    found = replace(FINDINGS, explanation=replace(EXPLANATION, overview=overview))
    return report_of(found, pair=None, no_pictures="Markdown holds none", made=MADE)


def rows(text: str) -> list[list[str]]:
    """Return the cells of every line of a table, unescaped."""
    found = []
    for line in text.splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
    return found


def test_the_same_sections_and_numbers() -> None:
    text = markdown_text(made())
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        section.title for section in made().sections
    ]
    found = rows(text)
    for row in score_rows(RESULT):
        assert list(row) in found
    assert "**Proved on fresh seeds.** The tuned schedule is better: a gain" in text
    assert text.rstrip().endswith("*") and "Made 2026-02-03" in text
    assert "```console\n$ skiptune export fashion -o tuned.json" in text


def test_a_badge_that_begins_the_sentence_is_not_said_twice() -> None:
    report = made()
    headline = replace(report.headline, badge="Not *sure*", sentence="Not *sure*: it is early.")
    text = markdown_text(replace(report, headline=headline))
    assert r"**Not \*sure\***: it is early." in text.splitlines()


def test_every_row_of_a_table_has_its_columns() -> None:
    for block in markdown_text(made()).split("\n\n"):
        if block.startswith("| "):
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("**bold** [link](x)", r"\*\*bold\*\* \[link\](x)"),
        ("16x16_block0", "16x16_block0"),
        ("_emphasis_", r"\_emphasis\_"),
        ("# heading", r"\# heading"),
        ("1. item", r"\1. item"),
        ("- item", r"\- item"),
        ("-0.5", "-0.5"),
        ("two\nlines", "two lines"),
        ("`code`", r"\`code\`"),
    ],
)
def test_words_are_no_marks(text: str, written: str) -> None:
    assert words(text) == written


def test_a_hostile_name_makes_no_heading_and_no_cell() -> None:
    name = "x\n# owned\n| a | <script>"
    text = markdown_text(made(name))
    outside = re.sub(r"(?ms)^```\w+$.*?^```$", "", text)
    assert "\n# owned" not in outside and "<script>" not in outside
    assert outside.count("`") == 0
    assert text.startswith("# x # owned \\| a \\| &lt;script&gt;: skiptune report\n")


def test_a_fence_is_longer_than_any_within() -> None:
    assert _fenced(Code("a\n```\nb", "yaml")) == "````yaml\na\n```\nb\n````"
