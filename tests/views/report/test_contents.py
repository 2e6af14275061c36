"""What a report says at every time of a study's life, and that its numbers are the tables'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from skiptune.sampling.schedule import Schedule
from skiptune.search.findings import Findings
from skiptune.search.result import NO_GAIN
from skiptune.views.explanation import RUNG_HEADS, rung_rows
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Figure,
    Fold,
    HeatMap,
    Listing,
    Pair,
    Paragraph,
    Report,
)
from skiptune.views.report.contents import NOT_CONFIRMED, report_of, schedule_of
from skiptune.views.result import notes, score_rows, verdict_text
from skiptune.views.scales import scale_rows
from tests.views.report.findings import (
    FINDINGS,
    LEADER,
    MADE,
    OVERVIEW,
    PAIR,
    RESULT,
    SCHEDULE,
    SKIPS,
)


def made(found: Findings = FINDINGS, *, pair: Pair | None = PAIR) -> Report:
    return report_of(found, pair=pair, no_pictures="they were not asked for", made=MADE)


def blocks(report: Report, key: str) -> list[Block]:
    return flat(next(s.blocks for s in report.sections if s.key == key))


def flat(some: Any) -> list[Block]:
    found: list[Block] = []
    for block in some:
        found += [block] if not isinstance(block, Fold) else flat(block.blocks)
    return found


def text(report: Report, key: str) -> str:
    parts: list[str] = []
    for block in blocks(report, key):
        match block:
            case Paragraph() | Code():
                parts.append(block.text)
            case Bullets():
                parts += block.items
            case Facts():
                parts += [f"{name}: {words}" for name, words in block.rows]
            case Listing():
                parts += [block.caption, *(" ".join(row) for row in block.rows)]
            case Figure() | HeatMap():
                parts.append(block.caption)
    return "\n".join(parts)


def listing(report: Report, key: str) -> Listing:
    return next(block for block in blocks(report, key) if isinstance(block, Listing))


def unconfirmed(**changes: Any) -> Findings:
    overview = replace(OVERVIEW, confirms=(), **changes)
    explanation = replace(FINDINGS.explanation, overview=overview, evidence={})
    leader = replace(LEADER, confirmed=False)
    return replace(FINDINGS, explanation=explanation, result=None, leaders=(leader,))


def test_a_win() -> None:
    report = made()
    headline = report.headline
    assert (headline.standing, headline.badge) == ("win", "Proved on fresh seeds")
    # 2.241 standard errors of 2 % on either side.
    assert headline.gain == "+10.0 %"
    assert headline.interval == "+5.5 to +14.5 % (97.5 % interval)"
    assert headline.sentence == verdict_text(RESULT)
    assert ("untouched", "10.00 at 6 NFE") in headline.facts
    assert ("tuned", "9.000 at 6 NFE") in headline.facts
    assert [section.key for section in report.sections] == [
        "pictures", "result", "scales", "controls", "search", "landscape", "cost", "use",
        "limits", "provenance",
    ]  # fmt: skip
    assert report.made.startswith("Made 2026-02-03 by skiptune ")


def test_tables_hold_what_the_command_line_prints() -> None:
    report = made()
    result = listing(report, "result")
    assert [tuple(row) for row in result.rows] == score_rows(RESULT)
    assert result.strong == 1 and result.rows[1][0] == "tuned"
    assert [tuple(r) for r in listing(report, "search").rows] == rung_rows(FINDINGS.explanation)
    assert tuple(listing(report, "search").columns) == RUNG_HEADS
    columns, rows = scale_rows(SCHEDULE, addresses=SKIPS)
    scales = listing(report, "scales")
    assert (list(scales.columns), list(scales.rows)) == (columns, rows)
    for note in notes(RESULT):
        assert note in text(report, "result")
    assert "A row in other features" in text(report, "result")
    alone = made(replace(FINDINGS, result=replace(RESULT, second=None)))
    assert "A row in other features" not in text(alone, "result")
    # What stands in the table is not told once more.
    assert "recall 0.61" in text(report, "result")
    assert "FD(y)-2k-corrected 0.9" not in text(report, "result")


def test_controls_are_told_with_what_they_change() -> None:
    report = made()
    rows = [tuple(row) for row in listing(report, "controls").rows]
    assert rows[0][:3] == ("tuned scales", "+10.0 [+6.1, +13.9]", "6")
    assert rows[2][:3] == ("epsilon scale: epsilon x 1.005", "+2.0 [+0.0, +4.0]", "6")
    assert "arXiv 2308.15321" in rows[2][3]
    assert "The skips do something that these do not" in text(report, "controls")
    better = replace(RESULT.controls[1], difference=-2.0)
    told = text(made(replace(FINDINGS, result=replace(RESULT, controls=(better,)))), "controls")
    assert "More is gained without touching a skip: epsilon scale: epsilon x 1.005 gains" in told
    # +9 % ± 4 beside +10 % ± 3.9: nobody has shown which is larger.
    close = replace(RESULT.controls[1], difference=-0.9, difference_error=0.2)
    told = text(made(replace(FINDINGS, result=replace(RESULT, controls=(close,)))), "controls")
    assert "None of these gains as much: the best of them, epsilon scale" in told
    assert "the intervals overlap" in told and "The skips do something" not in told
    none = text(made(replace(FINDINGS, result=replace(RESULT, controls=()))), "controls")
    assert "this study asked for none (confirm.controls)" in none


def test_no_gain_and_nothing_tested() -> None:
    lost = replace(RESULT, verdict=NO_GAIN, min_gain=0.5)
    overview = replace(OVERVIEW, confirms=(replace(OVERVIEW.confirms[0], verdict=NO_GAIN),))
    told = replace(FINDINGS.explanation, overview=overview)
    report = made(replace(FINDINGS, explanation=told, result=lost))
    assert (report.headline.standing, report.headline.badge) == ("no gain", "No significant gain")
    assert "smaller than the least that counts" in report.headline.sentence
    assert "No gain is proved: what looks better here may be chance" in text(report, "pictures")
    assert "No gain is proved: the untouched network is what to use" in text(report, "use")
    assert "stands beside it" not in text(report, "result")
    assert "skiptune export fashion" in text(report, "use")

    broken = replace(lost, violated=("recall >= 0.9 x baseline",))
    headline = made(replace(FINDINGS, result=broken)).headline
    assert (headline.standing, headline.badge) == ("no gain", "A constraint is violated")
    assert "violates recall >= 0.9 x baseline" in headline.sentence

    untested = replace(
        RESULT, verdict=NO_GAIN, tested=False, winner=None, controls=(), second=None, luck=None,
        schedule=Schedule.baseline(), seeds=(1_000_000, 1_000_000), edges=(),
    )  # fmt: skip
    found = replace(FINDINGS, result=untested)
    report = made(found, pair=None)
    assert schedule_of(found) is None
    assert "nothing was tested" in report.headline.sentence
    assert "no fresh ones were spent" in text(report, "result")
    assert "keep the untouched network" in text(report, "use")
    assert "scales" not in [section.key for section in report.sections]
    assert text(report, "pictures") == "There are no pictures here: they were not asked for."


def test_a_confirm_that_won_is_told_beside_a_newer_one_that_did_not() -> None:
    (first,) = OVERVIEW.confirms
    second = replace(first, number=2, verdict=NO_GAIN)
    told = replace(FINDINGS.explanation, overview=replace(OVERVIEW, confirms=(first, second)))
    lost = replace(RESULT, confirm=2, verdict=NO_GAIN, min_gain=0.5)
    report = made(replace(FINDINGS, explanation=told, result=lost))
    words = "The newest confirm proves no gain, confirm 1 did"
    assert words in text(report, "pictures") and words in text(report, "use")
    beside = "Confirm 1 stands beside it: win: gain +10.0 % [+5.5, +14.5] (97.5 % interval)"
    assert beside in text(report, "result")
    assert "No gain is proved" not in text(report, "use")
    # Of two that won the newer one alone is told above.
    both = replace(FINDINGS, explanation=told, result=replace(RESULT, confirm=2))
    assert "stands beside it" not in text(made(both), "result")


def test_before_a_confirm_it_is_marked_everywhere() -> None:
    report = made(unconfirmed())
    headline = report.headline
    assert (headline.standing, headline.badge) == ("open", NOT_CONFIRMED)
    assert headline.sentence.startswith(f"{NOT_CONFIRMED}: on 2,000 of the search's own images")
    assert "+11.0 % [+7.1, +14.9]" in headline.sentence
    assert headline.interval == "in the search, which chose it"
    assert NOT_CONFIRMED in text(report, "result")
    assert [row[0] for row in listing(report, "result").rows] == ["baseline", "proposal 3"]
    assert "no confirm is finished" in text(report, "controls")
    assert "$ skiptune confirm fashion\n" in text(report, "use")
    assert "Nothing here is proved" in text(report, "limits")
    assert "candidate" in next(s.title for s in report.sections if s.key == "scales")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "running"}, "The search is running."),
        ({"state": "paused"}, "The search is paused."),
        (
            {"state": "running", "best": None, "states": {"open": 3}},
            "No schedule is scored yet. The search is running.",
        ),
        (
            {"state": "paused", "best": None},
            "No schedule of the 3 that are scored keeps the constraints. The search is paused.",
        ),
    ],
)
def test_a_study_that_is_not_over(changes: dict[str, Any], words: str) -> None:
    found = unconfirmed(**changes)
    if found.explanation.overview.best is None:
        bare = replace(found.explanation, steps=(), points=(), parameters=(), prediction=None)
        found = replace(found, explanation=bare, leaders=())
    report = made(found)
    assert report.headline.sentence.endswith(words)
    there = bool(found.leaders)
    assert ("The best schedules of the search" in text(report, "result")) == there
    assert ("There is no best schedule: no schedule" in text(report, "result")) != there
    assert ("skiptune confirm fashion" in text(report, "use")) == there
    assert ("nothing to use yet" in text(report, "use")) != there


def test_a_confirm_that_is_under_way() -> None:
    (confirmed,) = OVERVIEW.confirms
    open_one = replace(confirmed, finished=False, winner=None, verdict="running")
    found = unconfirmed()
    overview = replace(found.explanation.overview, confirms=(open_one,))
    found = replace(found, explanation=replace(found.explanation, overview=overview))
    assert made(found).headline.sentence.endswith("Confirm 1 is under way.")


def test_knobs_and_branches_are_told() -> None:
    schedule = Schedule(SCHEDULE.terms, branches="cond", knobs={"epsilon_scale": 1.01})
    told = text(made(replace(FINDINGS, result=replace(RESULT, schedule=schedule))), "scales")
    assert "the cond branch of guidance alone" in told
    assert "epsilon_scale 1.01" in told
    alone = Schedule(knobs={"epsilon_scale": 1.01})
    report = made(replace(FINDINGS, result=replace(RESULT, schedule=alone)))
    assert not any(isinstance(block, Figure) for block in blocks(report, "scales"))
