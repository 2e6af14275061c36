"""The note is Markdown in which nothing of a study's own texts is markup, and it ends."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from skiptune.sampling.schedule import Schedule, Term
from skiptune.search.overview import Confirmed, Leader, Other
from skiptune.search.result import Measured
from skiptune.views.dashboard.note import (
    BLANK,
    MOST_CHARACTERS,
    note,
    note_of_rung,
    note_of_the_confirmed,
)
from tests.views.dashboard.test_figures import BASE, SKIPS, explanation, leader

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def test_texts_of_a_study_are_no_markup() -> None:
    found = explanation(space="<img src=x onerror=alert(1)> **bold** `code` [link](http://x)")
    found = replace(found, overview=replace(found.overview, study="<b>`x`"))
    text = note(found, (), addresses=())
    # Code is shown as it is, and no backtick of a name ends it.
    code = re.findall(r"(?<!\\)`[^`]*`", text)
    assert "`<b>'x'`" in code
    rest = re.sub(r"(?<!\\)`[^`]*`", "", text)
    assert "<" not in rest
    assert r"\*\*bold\*\* \`code\` \[link\](http://x)" in rest
    assert "&lt;img" in rest


def test_a_backslash_of_a_text_does_not_undo_ours() -> None:
    found = explanation(space=r"\[link\](http://x) \*bold* $x$ ~~gone~~ _it_ a_b")
    text = note(found, (), addresses=())
    # CommonMark, section 2.4: each pair of backslashes is one, what is left over escapes.
    assert r"\\\[link\\\](http://x) \\\*bold\* \$x\$ \~\~gone\~\~ \_it\_ a_b" in text


def test_a_row_for_each_skip_that_is_scaled_and_each_that_is_not() -> None:
    best = leader(1, Term(SKIPS[0], 0.8), Term(SKIPS[2], 1.25))
    text = note(explanation(), (best,), addresses=SKIPS).replace(BLANK, "")
    assert "| 8x8_block0 | 0.800 | -20.0 % |" in text
    assert "| 8x8_block1 | 1 | untouched |" in text
    assert "| 16x16_block0 | 1.250 | +25.0 % |" in text
    assert "Gain +10.0 % \\[+6.1, +13.9\\]" in text


def test_the_baseline_may_lead() -> None:
    assert "No skip is scaled." in note(explanation(), (leader(1),), addresses=SKIPS)


def test_the_last_confirm_is_the_verdict() -> None:
    tuned = Measured("tuned", 1000, 6.0, 9.0, 0.5, -1.0, 0.2)
    schedule = Schedule.uniform({SKIPS[0]: 0.8})
    confirms = (
        Confirmed(1, 2_100_000, 0.025, True, None, BASE, None, "no significant gain"),
        Confirmed(2, 2_200_000, 0.0125, True, schedule, BASE, tuned, "win"),
    )
    found = explanation()
    found = replace(found, overview=replace(found.overview, confirms=confirms))
    for text in (note(found, (), addresses=()), note_of_the_confirmed(found)):
        assert "- confirm 1: no significant gain" in text
        assert "- confirm 2: win: gain +10.0 % \\[+5.0, +15.0\\] (98.75 % interval)" in text
    assert "**Verdict:** confirm 2: win" in note(found, (), addresses=())


def test_a_front_has_a_table() -> None:
    def on_front(number: int, value: float) -> Leader:
        return leader(number, others=(Other("recall", "objective", value, 0.01, 0.0, 0.0, False),))

    best = tuple(on_front(number, number / 100) for number in range(1, 16))
    text = note(explanation(), best, addresses=SKIPS).replace(BLANK, "")
    assert "### Pareto front: 15 schedules" in text
    assert "| schedule | FD | recall |" in text
    assert "| proposal 3 | 9.3 ± 0.98 | 0.03 ± 0.02 |" in text
    assert "| proposal 11 |" not in text
    assert "and 5 more" in text


def test_a_note_that_would_be_too_long_says_so() -> None:
    terms = [Term(f"64x64_block{i}", 1.1, float(k), float(k + 1)) for i in range(200)
             for k in range(0, 8, 2)]  # fmt: skip
    text = note(explanation(), (leader(1, *terms),), addresses=())
    assert len(text) <= MOST_CHARACTERS
    assert "(cut; `skiptune explain` tells all)" in text
    assert text.endswith("is replaced.*")


def test_a_rung_says_what_it_is() -> None:
    assert "## `s` at 2,000 images" in note_of_rung(explanation(), 2000)
