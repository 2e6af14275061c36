"""How a search went, and what it saw of the landscape: tables and drawings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from skiptune.search.findings import Findings
from skiptune.search.sensitivities import PART
from skiptune.views.chart import BEST, GREY, PROVED, Axis, Key
from skiptune.views.explanation import (
    RUNG_HEADS,
    change_text,
    how_text,
    rung_rows,
    searched_text,
    slice_text,
)
from skiptune.views.explanation_pictures import draw_gain, draw_slice
from skiptune.views.heat import spread_out
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Figure,
    Fold,
    HeatMap,
    Listing,
    Paragraph,
    Section,
)
from skiptune.views.report.svg import SvgChart
from skiptune.views.study import confirm_text, ranking_text

__all__ = ["landscape_section", "search_section"]

MOST_LEVELS: Final = 12  # columns of a heat map
CLEAR: Final = 2.0  # standard errors from which on a change is marked
ROOM: Final = 0.08  # of an axis beyond what is shown
ASIDE: Final = 0.018  # of an axis between two marks of one place
NOT_HERE: Final = " are not here ("  # what follows names a place of this machine


def search_section(found: Findings) -> Section:
    """Return how the search went: rungs, the gain over images, what was confirmed."""
    told = found.explanation
    blocks: list[Block] = [Paragraph(f"{searched_text(told)}.")]
    chart = draw_gain(told, SvgChart)
    if chart is None:
        blocks.append(Paragraph("No schedule is scored yet.", "quiet"))
    else:
        blocks.append(
            chart.figure(
                "Each dot is a schedule when it was scored, larger at the highest rung; the line "
                "is what the search would have recommended then. What lies outside is a triangle "
                "on the edge. A confirm is expected below the line: the search chose what looked "
                "best on its own seeds."
            )
        )
    blocks.append(
        Listing(
            RUNG_HEADS,
            rung_rows(told),
            right=RUNG_HEADS,
            caption="Images per rung: schedules that came to it, what became of them, and images",
        )
    )
    ranking = told.overview.ranking
    if ranking is not None:
        blocks.append(Paragraph(f"The first rung {ranking_text(ranking)}."))
    if told.overview.confirms:
        blocks.append(
            Bullets([f"Confirm {c.number}: {confirm_text(c)}" for c in told.overview.confirms])
        )
    return Section("search", "How the search went", blocks)


def landscape_section(found: Findings) -> Section | None:
    """Return what was seen of the landscape, None where nothing was."""
    told = found.explanation
    blocks: list[Block] = []
    chart = draw_slice(told, SvgChart)
    if chart is not None:
        blocks += [Paragraph(slice_text(told)), chart.figure(_SLICE)]
    blocks += _sensitivity(found)
    blocks += [one for one in (_front(found), _frontier(found)) if one is not None]
    return Section("landscape", "The landscape", blocks) if blocks else None


_SLICE: Final = (
    "The line from the untouched network (0) to the best schedule (1) in log scale. Each schedule "
    "is at the foot of its perpendicular, filled where it is near the line."
)


def _sensitivity(found: Findings) -> Iterator[Block]:
    known = found.explanation.sensitivities
    if known.how == "nothing":
        yield Paragraph(f"What each scale does is not known: {_no_place(known.of)}.", "quiet")
        return
    cells = known.by_level
    if cells is not None:
        shown = spread_out(len(cells.levels), MOST_LEVELS)
        widest = max(abs(row[k]) for row in cells.changes for k in shown) or 1.0
        # The first rows are the skips'.
        rows = [
            (one.name, [(_percent(changes[k], errors[k]), changes[k] / widest) for k in shown])
            for one, changes, errors in zip(known.rows, cells.changes, cells.errors, strict=False)
        ]
        yield HeatMap(
            ("skip, by sigma", *(f"{cells.levels[k]:.3g}" for k in shown)),
            rows,
            f"Change of the objective, in % of the untouched network's value, where a scale is "
            f"{PART:.0%} larger at one noise level: blue is better, red worse; * from {CLEAR:g} "
            f"standard errors on. From {known.of}.",
        )
    ranks = known.how == "ranks"
    lines = [(one.name, change_text(one, ranks=ranks).strip()) for one in known.rows]
    what = "rank" if ranks else f"{PART:.0%} more"
    table = Listing(("scale", what), lines, right=(what,))
    yield Fold("What each scale does, all noise levels together", [Paragraph(how_text(
        found.explanation), "quiet"), table])  # fmt: skip


def _percent(change: float, error: float) -> str:
    return f"{100 * change:+.2f}{'*' if abs(change) > CLEAR * error else ''}"


def _no_place(text: str) -> str:
    return text.partition(NOT_HERE)[0] + (" are not here" if NOT_HERE in text else "")


def _front(found: Findings) -> Figure | None:
    """Return the Pareto front of the first two objectives, None with one."""
    points = []
    second = ""
    for leader in found.leaders:
        gain = leader.measured.gain(leader.baseline.value)
        other = next((one for one in leader.others if one.kind == "objective"), None)
        if gain is not None and other is not None and other.difference is not None:
            second = other.name
            points.append((100 * gain, -other.difference, leader.on_front))
    if not points:
        return None
    # The untouched network is part of the picture: a level of 0 outside would lie on the frame.
    across, up = (_axis_ends([0.0, *(point[k] for point in points)]) for k in (0, 1))
    chart = SvgChart(
        Axis(*across, f"gain in {found.leaders[0].metric}, %", _signed),
        Axis(*up, f"better in {second}", _signed),
        title="Pareto front of two objectives",
        keys=[Key("on the front", BEST), Key("dominated", GREY, filled=False)],
    )
    chart.level(0.0)
    for x, y, on_front in sorted(points, key=lambda point: point[2]):
        chart.dot(
            x, y, BEST if on_front else GREY, radius=4.5 if on_front else 3.5, filled=on_front
        )
    return chart.figure(
        "Each schedule against the untouched network in the first two objectives: right and up "
        "is better. Nobody on the front is beaten in both."
    )


def _frontier(found: Findings) -> Figure | None:
    """Return distances against network evaluations over comparable studies, None without any."""
    points = found.frontier
    if not points:
        return None
    values = [m for p in points for m in (p.baseline, p.tuned) if m is not None]
    low, high = _axis_ends([end for m in values for end in m.interval()])
    left, right = _axis_ends([m.nfe for m in values])
    chart = SvgChart(
        Axis(left, right, "network evaluations per image (NFE)", _whole),
        Axis(low, high, found.explanation.overview.metric or "value"),
        title="Value against network evaluations",
        keys=[
            Key("untouched", GREY),
            Key("tuned, on fresh seeds", PROVED),
            Key("tuned, in the search", BEST, filled=False),
        ],
    )
    beside = ASIDE * (right - left)  # of the untouched network at the same NFE
    for point in sorted(points, key=lambda point: point.baseline.nfe):
        base, tuned = point.baseline, point.tuned
        chart.bar(base.nfe, *base.interval(), GREY)
        chart.dot(base.nfe, base.value, GREY, radius=4)
        if tuned is not None:
            colour = PROVED if point.confirmed else BEST
            chart.bar(tuned.nfe + beside, *tuned.interval(), colour)
            chart.dot(tuned.nfe + beside, tuned.value, colour, radius=4.5, filled=point.confirmed)
    names = ", ".join(sorted({point.study for point in points}))
    return chart.figure(
        f"Value against network evaluations with 95 % intervals, of {len(points)} studies of this "
        f"network and measure in the same database: {names}. Numbers of images differ."
    )


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _whole(value: float) -> str:
    return f"{value:g}" if value == round(value) else ""


def _axis_ends(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = ROOM * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room
