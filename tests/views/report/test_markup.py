"""Markup escapes everything: what goes in as text comes out as that text, and as nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.views.report.markup import Markup, escaped, joined, plain, tag
from tests.views.report.parsed import parsed

HOSTILE = [
    "</title><script>alert(1)</script>",
    '" onload="x',
    "a & b < c",
    "&lt;",
    "'><img src=x>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text: str) -> None:
    root = parsed(tag("p", text, title=text))
    (element,) = root.every()
    assert element.text == text
    assert element.attributes == {"title": text}


@given(st.text(), st.text())
def test_any_text_stays_text(inside: str, attribute: str) -> None:
    (element,) = parsed(tag("p", inside, title=attribute)).every()
    # A reader of HTML takes every end of a line as one and the same; ours has one kind.
    assert element.text == plain(inside)
    assert element.attributes == {"title": plain(attribute)}


def test_what_hides_or_breaks_a_text_is_shown_as_such() -> None:
    assert plain("a\x00b\u202ec\ud800d\x1b[31m\n\t") == "a\ufffdb\ufffdc\ufffdd\ufffd[31m\n\t"
    plain("".join(map(chr, range(0x300)))).encode()


def test_markup_is_escaped_once() -> None:
    inner = tag("b", "<")
    assert inner == "<b>&lt;</b>"
    assert escaped(inner) == inner
    assert tag("p", inner, ">") == "<p><b>&lt;</b>&gt;</p>"
    assert joined("<", inner, by=" & ") == "&lt; & <b>&lt;</b>"
    assert isinstance(joined("x"), Markup)


def test_attributes() -> None:
    assert tag("input", type="range", hidden=True, checked=False, value=None, min_=1.5) == (
        '<input type="range" hidden min="1.5">'
    )
    assert tag("line", x1=1, class_="a", aria_hidden="true") == (
        '<line x1="1" class="a" aria-hidden="true"/>'
    )
    assert tag("td") == "<td></td>"
