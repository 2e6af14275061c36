"""The HTML file: well formed, accessible, self-contained, the tables' numbers, hostile names."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.search.findings import Findings
from skiptune.views.explanation import rung_rows
from skiptune.views.report.contents import report_of
from skiptune.views.report.markup import plain
from skiptune.views.report.page import html_text
from skiptune.views.result import score_rows
from tests.views.report.findings import (
    EXPLANATION,
    FINDINGS,
    MADE,
    OVERVIEW,
    PAIR,
    RESULT,
)
from tests.views.report.parsed import Element, parsed, tables


def page(found: Findings = FINDINGS, *, pictures: bool = True, days: int = 0) -> str:
    pair = PAIR if pictures else None
    made = MADE + timedelta(days=days)
    return html_text(report_of(found, pair=pair, no_pictures="none", made=made))


@pytest.fixture(scope="module")
def root() -> Element:
    return parsed(page())


def test_a_document_with_language_title_and_headings_in_order(root: Element) -> None:
    assert page().startswith('<!DOCTYPE html>\n<html lang="en">')
    titles = [one.text for one in root.every("title")]
    assert titles[0] == "fashion: skiptune report"
    levels = [int(one.name[1]) for one in root.every("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    viewport = next(m for m in root.every("meta") if m.attributes.get("name") == "viewport")
    assert viewport.attributes["content"] == "width=device-width, initial-scale=1"


def test_names_are_unique_and_links_lead_to_one(root: Element) -> None:
    names = [one.attributes["id"] for one in root.every() if "id" in one.attributes]
    assert len(set(names)) == len(names)
    links = [one.attributes["href"] or "" for one in root.every("a")]
    assert links and all(link[:1] == "#" and link[1:] in names for link in links)
    for one in root.every():
        if "aria-labelledby" in one.attributes:
            assert one.attributes["aria-labelledby"] in names


def test_pictures_tables_and_controls_have_words(root: Element) -> None:
    images = list(root.every("img"))
    assert len(images) == 8
    assert all(one.attributes["alt"] for one in images)
    drawings = [one for one in root.every("svg") if "aria-hidden" not in one.attributes]
    assert all(next(one.every("title")).text for one in drawings)
    for head in root.every("th"):
        assert head.attributes["scope"] in ("col", "row")
        assert head.text
    for table in root.every("table"):
        assert {"aria-labelledby", "aria-label"} & table.attributes.keys()
        widths = {len(list(row.every("th", "td"))) for row in table.every("tr")}
        assert len(widths) == 1
    (slider,) = root.every("input")
    assert slider.attributes["type"] == "range" and slider.attributes["aria-label"]


def test_nothing_is_asked_of_the_network(root: Element) -> None:
    for one in root.every():
        assert one.name not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in one.attributes.items():
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert str(value).startswith(("data:image/", "#")), (one.name, name, value)
            assert not name.startswith("on")
    assert "url(" not in page() and "@import" not in page()
    meta = next(m for m in root.every("meta") if "http-equiv" in m.attributes)
    (script,) = root.every("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(meta.attributes["content"])


def test_numbers_are_the_tables(root: Element) -> None:
    found = tables(root)
    assert [list(row) for row in score_rows(RESULT)] in [rows[1:] for rows in found]
    assert [list(row) for row in rung_rows(EXPLANATION)] in [rows[1:] for rows in found]
    text = root.text
    for words in ("+10.0 %", "+5.5 to +14.5 % (97.5 % interval)", "12,500"):
        assert words in text


def test_it_is_whole_without_script_and_pictures() -> None:
    bare = parsed(page(pictures=False))
    assert not list(bare.every("img", "input"))
    assert "There are no pictures here: none." in bare.text
    # Both pictures stand one above the other; the script alone lays one over the other.
    sheet = next(parsed(page()).every("style")).text
    assert ".slide{display:none}" in sheet
    assert not re.search(r"(?<!sliding )\.after\{position", sheet)


def test_the_same_study_gives_the_same_bytes_but_for_the_date() -> None:
    assert page() == page()
    first, later = page(), page(days=40)
    assert first != later
    assert first.replace("2026-02-03", "") == later.replace("2026-03-15", "")


def named(name: str) -> Findings:
    """The findings with a name everywhere that a user may choose one."""
    overview = replace(OVERVIEW, study=name, metric=f"FD({name})-2k")
    explanation = replace(EXPLANATION, overview=overview, sampler=name, space=name)
    controls = tuple(replace(one, label=f"solver: {name}") for one in RESULT.controls)
    result = replace(RESULT, study=name, metric=f"FD({name})-2k", controls=controls, edges=(name,))
    spec = {"study": name, "space": {"low": 0.7, "high": 1.3}, "prompts": [name]}
    origin = replace(
        FINDINGS.origin, spec=spec, hashes=(("network", name, "0" * 64),),
        versions={name: (name,)},
    )  # fmt: skip
    return replace(
        FINDINGS, explanation=explanation, result=result, origin=origin,
        skips=(name, *FINDINGS.skips),
    )  # fmt: skip


def shape(root: Element) -> list[Any]:
    """Return the elements and the names of their attributes, without any text.

    An address that is too long for its drawing has its whole beside it, in a title of a group.
    """
    found = [(one.name, sorted(one.attributes)) for one in root.every()]
    return [one for one in found if one[0] not in ("g", "title")]


HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><h1>",
    "' onmouseover='x",
    "<!--",
    "]]><svg onload=alert(1)>",
    "&lt;b&gt;&#x3c;",
    "javascript:alert(1)",
    "\u202egnp.exe",
    "\x00\x1b[2J\ud800",
]
BENIGN = shape(parsed(page(named("n"))))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(name: str) -> None:
    root = parsed(page(named(name)))
    assert shape(root) == BENIGN
    assert next(root.every("h1")).text == plain(name)
    page(named(name)).encode()


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec=None), min_size=1, max_size=40))
def test_any_name_is_text(name: str) -> None:
    root = parsed(page(named(name)))
    assert shape(root) == BENIGN
    assert next(root.every("h1")).text == plain(name)
