"""The schedule as a drawing: one row per skip, deepest above, a mark for each of its scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from skiptune.sampling.schedule import Schedule, Term, place_name
from skiptune.search.address_order import deepest_first
from skiptune.views.chart import ticks
from skiptune.views.report.blocks import Figure, Key
from skiptune.views.report.markup import Markup, tag
from skiptune.views.report.svg import MARKS, drawing, mark, sample, written
from skiptune.views.scales import window_text

__all__ = ["profile_figure"]

WIDTH, TOP, BOTTOM, RIGHT = 620, 14, 46, 16
LETTER: Final = 8.6  # units that a letter of an address takes
LONGEST: Final = 26  # letters of an address that are shown
ROW: Final = 13  # units of a row for each of its marks
COLOURS: Final = 4  # classes c0 to c3

Series = tuple[str, float, float]  # part of the block, and the noise levels of a scale


def profile_figure(
    schedule: Schedule,
    *,
    addresses: Sequence[str],
    searched: tuple[float, float] | None,
    caption: str,
) -> Figure | None:
    """Return the drawing of a schedule, None where it scales no skip.

    Arguments:
        schedule: The scales.
        addresses: All skips, deepest first; empty for those of the schedule.
        searched: Ends of the range that was searched, if it is known.
        caption: What it shows.
    """
    if not schedule.terms:
        return None
    shown = list(addresses) or deepest_first(schedule.addresses)
    terms = _split(schedule.terms)
    series = sorted({_key(term) for term in terms}, key=lambda key: (key[0], -key[2]))
    left = min(max(len(one) for one in shown), LONGEST) * LETTER + 14
    row = max(ROW * len(series), 22)
    bottom = TOP + row * len(shown)
    low, high = _ends(schedule, searched)

    def across(scale: float) -> float:
        return left + (scale - low) / (high - low) * (WIDTH - RIGHT - left)

    parts: list[Markup] = []
    if searched is not None:
        start, end = (across(value) for value in searched)
        width = round(end - start, 1)
        parts.append(
            tag("rect", x=round(start, 1), y=TOP, width=width, height=bottom - TOP, class_="range")
        )
    for value in ticks(low, high, 8):
        x = round(across(value), 1)
        parts.append(tag("line", x1=x, y1=TOP, x2=x, y2=bottom, class_="rule faint"))
        parts.append(written(x, bottom + 18, f"{value:g}", "middle", "quiet"))
    one = round(across(1.0), 1)
    parts.append(tag("line", x1=one, y1=TOP, x2=one, y2=bottom, class_="rule ink"))
    for place, address in enumerate(shown):
        if place:
            under = TOP + row * place
            parts.append(
                tag("line", x1=4, y1=under, x2=WIDTH - RIGHT, y2=under, class_="rule faint")
            )
        middle = TOP + row * (place + 0.5)
        parts.append(_address(address, left - 10, middle + 4))
        for number, key in enumerate(series):
            y = middle + ROW * (number - (len(series) - 1) / 2)
            parts += [
                _stem(one, across(term.scale), y, number)
                for term in terms
                if term.address == address and _key(term) == key
            ]
    parts.append(
        written(
            (left + WIDTH - RIGHT) / 2,
            bottom + 40,
            "scale (1 leaves the skip untouched)",
            "middle",
            "quiet",
        )
    )
    words = f"Scales of {len(shown)} skips, the deepest above"
    return Figure(
        drawing(parts, (WIDTH, bottom + BOTTOM), words), caption, _legend(series, searched)
    )


def _split(terms: Sequence[Term]) -> list[Term]:
    """Return terms that are split wherever one of the same part of blocks begins or ends.

    Adjoining windows of equal scales are one term; here each noise interval has its own mark.
    """
    ends: dict[str, set[float]] = {}
    for term in terms:
        ends.setdefault(term.part, set()).update((term.low, term.high))
    return [
        replace(term, low=low, high=high)
        for term in terms
        for low, high in pairwise(sorted(ends[term.part]))
        if term.low <= low and high <= term.high
    ]


def _key(term: Term) -> Series:
    return term.part, term.low, term.high


def _ends(schedule: Schedule, searched: tuple[float, float] | None) -> tuple[float, float]:
    values = [term.scale for term in schedule.terms] + [1.0, *(searched or ())]
    room = 0.06 * max(max(values) - min(values), 0.1)
    return max(min(values) - room, 0.0), max(values) + room


def _look(number: int) -> tuple[str, str]:
    return MARKS[number % len(MARKS)], f"c{number % COLOURS}"


def _stem(start: float, end: float, y: float, number: int) -> Markup:
    shape, colour = _look(number)
    y = round(y, 1)
    return Markup(
        tag("line", x1=start, y1=y, x2=round(end, 1), y2=y, class_=f"stem {colour}")
        + mark(shape, end, y, 3.6, colour=colour)
    )


def _address(address: str, x: float, y: float) -> Markup:
    if len(address) <= LONGEST:
        return written(x, y, address, "end")
    cut = written(x, y, f"{address[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}", "end")
    return tag("g", tag("title", address), cut)


def _legend(series: Sequence[Series], searched: tuple[float, float] | None) -> list[Key]:
    keys = []
    for number, (part, low, high) in enumerate(series):
        where = window_text(low, high)
        text = "at every noise level" if where == "everywhere" else f"at sigma {where}"
        shape, colour = _look(number)
        shown = text if part == "both" else f"{place_name('', part).rstrip('/')}, {text}"
        keys.append(Key(shown, colour, sample(mark(shape, 10, 7, 4.0, colour=colour))))
    if searched is not None:
        box = tag("rect", x=2, y=2, width=16, height=10, class_="range")
        keys.append(Key(f"searched: {searched[0]:g} to {searched[1]:g}", "range", sample(box)))
    return keys
