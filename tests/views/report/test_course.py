"""What a report shows of the landscape: slice, slopes by noise level, fronts and frontiers."""

from __future__ import annotations

from dataclasses import replace

from skiptune.search.findings import Findings
from skiptune.search.overview import Other
from skiptune.search.result import Measured
from skiptune.search.sensitivities import Sensitivities, Sensitivity
from skiptune.views.report.blocks import Block, Figure, Fold, HeatMap, Listing, Paragraph
from skiptune.views.report.course import landscape_section, search_section
from tests.views.report.findings import EXPLANATION, FINDINGS, LEADER
from tests.views.report.parsed import parsed


def landscape(found: Findings) -> list[Block]:
    section = landscape_section(found)
    assert section is not None
    return list(section.blocks)


def drawn(blocks: list[Block], words: str) -> Figure:
    return next(b for b in blocks if isinstance(b, Figure) and words in b.caption)


def count(figure: Figure, class_: str) -> int:
    return sum(one.attributes.get("class") == class_ for one in parsed(figure.svg).every())


def told(known: Sensitivities) -> Findings:
    return replace(FINDINGS, explanation=replace(EXPLANATION, sensitivities=known))


def test_the_search_is_drawn_with_every_score_and_every_confirm() -> None:
    blocks = list(search_section(FINDINGS).blocks)
    figure = next(block for block in blocks if isinstance(block, Figure))
    assert count(figure, "dot grey") == len(EXPLANATION.steps)
    assert count(figure, "dot proved") == 1
    assert count(figure, "line best") == 1
    assert [key.text for key in figure.keys] == [
        "a schedule", "best so far, 95 %", "confirmed on fresh seeds",
    ]  # fmt: skip
    none = search_section(replace(FINDINGS, explanation=replace(EXPLANATION, steps=())))
    assert any(
        isinstance(b, Paragraph) and b.text == "No schedule is scored yet." for b in none.blocks
    )


def test_the_slice_has_its_points_and_its_prediction() -> None:
    figure = drawn(landscape(FINDINGS), "foot of its perpendicular")
    assert count(figure, "dot ink") == 3  # near the line
    assert count(figure, "ring grey") == 1
    assert count(figure, "line best") == 1


def test_slopes_are_a_map_of_numbers() -> None:
    blocks = landscape(FINDINGS)
    (heat,) = [block for block in blocks if isinstance(block, HeatMap)]
    assert heat.columns == ("skip, by sigma", "80", "3", "0.1")
    (name, cells), (_, other) = heat.rows
    assert name == "8x8_block0"
    # Per cent, marked from two standard errors on; the largest is full blue: below zero is better.
    assert cells == [("-0.10", -0.05), ("-2.00*", -1.0), ("-1.00*", -0.5)]
    assert other == [("+0.00", 0.0), ("+0.00", 0.0), ("+0.20", 0.1)]
    (fold,) = [block for block in blocks if isinstance(block, Fold)]
    table = next(block for block in fold.blocks if isinstance(block, Listing))
    assert table.rows[0] == ("8x8_block0", "-3.10 ± 0.40*")


def test_without_slopes_there_is_a_table_or_the_reason() -> None:
    ranks = Sensitivities("ranks", "rank correlations over 6 schedules",
                          (Sensitivity("all", -0.9, 0.1),))  # fmt: skip
    blocks = landscape(told(ranks))
    assert not any(isinstance(block, HeatMap) for block in blocks)
    (fold,) = [block for block in blocks if isinstance(block, Fold)]
    table = next(block for block in fold.blocks if isinstance(block, Listing))
    assert table.rows == [("all", "-0.90 ± 0.10")]

    why = "slopes of proposal 3 are not here (/data/store: no marker of the database)"
    missing = [
        b for b in landscape(told(Sensitivities("nothing", why))) if isinstance(b, Paragraph)
    ]
    assert missing[-1].text == (
        "What each scale does is not known: slopes of proposal 3 are not here."
    )


def test_two_objectives_have_a_front() -> None:
    def leader(number: int, first: float, second: float, *, on_front: bool) -> object:
        other = Other("recall", "objective", 0.5, 0.01, second, 0.01, violated=False)
        measured = Measured(f"proposal {number}", 500, 6.0, 9.0, 0.3, first, 0.2)
        return replace(
            LEADER, number=number, measured=measured, others=(other,), on_front=on_front
        )

    several = tuple(
        leader(number, first, second, on_front=front)
        for number, (first, second, front) in enumerate(
            [(-1.0, 0.02, True), (-0.5, -0.03, True), (0.2, 0.05, False)]
        )
    )
    figure = drawn(landscape(replace(FINDINGS, leaders=several)), "first two objectives")  # type: ignore[arg-type]
    assert count(figure, "dot best") == 2 and count(figure, "ring grey") == 1
    titles = [one.text for one in parsed(figure.svg).every("text")]
    assert "better in recall" in titles and "gain in FD(x)-2k-corrected, %" in titles


def test_the_untouched_network_is_in_the_picture_of_a_front() -> None:
    """Else the line of no change would lie on the frame, at a value that is none."""
    other = Other("recall", "objective", 0.5, 0.01, -0.4, 0.01, violated=False)
    leaders = tuple(
        replace(LEADER, number=k, others=(replace(other, difference=-0.4 - k / 100),))
        for k in range(3)
    )
    figure = drawn(landscape(replace(FINDINGS, leaders=leaders)), "first two objectives")
    root = parsed(figure.svg)
    (level,) = [one for one in root.every("line") if one.attributes["class"] == "rule ink"]
    (zero,) = [
        one
        for one in root.every("text")
        if one.text == "0" and one.attributes["text-anchor"] == "end"
    ]
    down = float(level.attributes["y1"] or "")
    assert float(zero.attributes["y"] or "") - 4 == down
    rows = [float(one.attributes["cy"] or "") for one in root.every("circle")]
    assert max(rows) < down - 100  # far better than no change


def test_studies_of_other_numbers_of_evaluations_make_a_frontier() -> None:
    figure = drawn(landscape(FINDINGS), "Value against network evaluations")
    assert count(figure, "dot grey") == 2 and count(figure, "dot proved") == 1
    assert "fashion, longer" in figure.caption
    # A confirm that proved nothing stands there as well: nothing is called confirmed.
    assert [key.text for key in figure.keys[1:]] == [
        "tuned, on fresh seeds",
        "tuned, in the search",
    ]
    assert not any(
        isinstance(b, Figure) and "against network" in b.caption
        for b in landscape(replace(FINDINGS, frontier=()))
    )


def test_nothing_seen_is_no_section() -> None:
    bare = replace(EXPLANATION, points=(), sensitivities=Sensitivities("nothing", "3 are too few"))
    found = replace(FINDINGS, explanation=bare, leaders=(), frontier=())
    (only,) = landscape(found)
    assert isinstance(only, Paragraph) and "3 are too few" in only.text
