"""Scores of images as a person reads them, and how far the images have come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from skiptune.objectives.paired import Estimate
from skiptune.objectives.standalone import Pair, Row
from skiptune.views import numbers
from skiptune.views.tables import listing, paragraph

if TYPE_CHECKING:
    from skiptune.search.reproduction import Reproduced
    from skiptune.search.rescoring import Rescored

__all__ = [
    "ComparedRow",
    "compared_view",
    "estimate_text",
    "image_bar",
    "image_lines",
    "pairs_json",
    "pairs_view",
    "reproduced_view",
    "rescored_view",
    "scores_json",
    "scores_view",
]

LINE_SECONDS = 10.0  # between two lines of a log


@dataclass(frozen=True)
class ComparedRow:
    """One metric of one schedule among several on the same seeds.

    Arguments:
        label: Of the schedule.
        metric: With features, count and correction.
        better: ``lower`` or ``higher``.
        value: With its 95 % interval, as text.
        difference: To the first schedule, in pairs, likewise; empty for the first one itself.
    """

    label: str
    metric: str
    better: str
    value: str
    difference: str


def scores_view(
    title: str, rows: Sequence[Row], cautions: Sequence[str]
) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows scores of images.

    Arguments:
        title: What was scored, with what.
        rows: One per value.
        cautions: What a person has to know, in sentences.
    """
    yield from _head(title)
    yield listing(
        ("metric", "value [95 %]", "error", "better"),
        [
            (row.name, estimate_text(row.estimate), _error(row.estimate), row.better)
            for row in rows
        ],
        gap=1,  # the longest names have to fit into 80
    )
    yield from _tail(cautions)


def pairs_view(
    title: str, pairs: Sequence[Pair], cautions: Sequence[str]
) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows baseline and tuned scales on the same seeds.

    Arguments:
        title: What was scored, with what.
        pairs: One per value.
        cautions: What a person has to know, in sentences.
    """
    yield from _head(title)
    rows: list[tuple[str, ...]] = []
    for pair in pairs:
        rows.append((f"{pair.tuned.name}, {pair.tuned.better} is better", ""))
        rows.append(("  baseline", estimate_text(pair.baseline.estimate)))
        rows.append(("  tuned", estimate_text(pair.tuned.estimate)))
        if pair.difference is not None:
            rows.append(("  tuned - baseline, paired", estimate_text(pair.difference)))
    yield listing(("metric", "value [95 %]"), rows)
    yield from _tail(cautions)


def compared_view(
    title: str, rows: Sequence[ComparedRow], cautions: Sequence[str], *, first: str
) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows several schedules on the same seeds, by metric.

    Arguments:
        title: What was scored, with what.
        rows: One per schedule and metric.
        cautions: What a person has to know, in sentences.
        first: The schedule that the others are held against.
    """
    yield from _head(title)
    for metric in dict.fromkeys(row.metric for row in rows):
        own = [row for row in rows if row.metric == metric]
        yield Text(f"{metric}, {own[0].better} is better", style="bold")
        yield listing(
            ("schedule", "value [95 %]", f"minus {first}, paired [95 %]"),
            [(row.label, row.value, row.difference) for row in own],
        )
        yield Text("")
    for caution in cautions:
        yield paragraph(f"Caution: {caution}", style="yellow")


def rescored_view(title: str, rows: Sequence[Rescored]) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows a study scored once more, by metric and block.

    Arguments:
        title: What was scored, with what.
        rows: One per evaluation and metric.
    """
    yield from _head(title)
    for block in dict.fromkeys(row.block for row in rows):
        for metric in dict.fromkeys(row.metric for row in rows if row.block == block):
            yield Text(f"{metric}, seeds of {block}", style="bold")
            yield listing(
                ("schedule", "value [95 %]", "better by, paired [95 %]"),
                [
                    (row.label, estimate_text(row.estimate), _better(row))
                    for row in rows
                    if (row.block, row.metric) == (block, metric)
                ],
            )
            yield Text("")


def reproduced_view(
    title: str, rows: Sequence[Reproduced], notes: Sequence[str]
) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows stored scores beside those that were made again.

    Arguments:
        title: What was made again.
        rows: One per number.
        notes: What a person has to know where they differ.
    """
    yield from _head(title)
    yield listing(
        ("", "in the file", "found now", ""),
        [
            (
                row.name,
                repr(row.stored),
                repr(row.found),
                "same bits" if row.is_same else f"{row.found - row.stored:+.2g}",
            )
            for row in rows
        ],
    )
    yield from _tail(notes)


def _better(row: Rescored) -> str:
    if row.difference is None or row.difference_error is None:
        return ""
    return estimate_text(Estimate(-row.difference, row.difference_error, row.images))


def scores_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return scores of images as plain data; what is not known is NaN."""
    return [{**_named(row), **_plain(row.estimate)} for row in rows]


def pairs_json(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return scores of two schedules as plain data; what is not known is NaN."""
    return [
        {
            **_named(pair.tuned),
            "baseline": _plain(pair.baseline.estimate),
            "tuned": _plain(pair.tuned.estimate),
            "difference": None if pair.difference is None else _plain(pair.difference),
        }
        for pair in pairs
    ]


@contextmanager
def image_bar(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Draw a bar while the block runs; yield what takes the number of images done.

    Arguments:
        console: A terminal.
        label: What is done.
        total: Images.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} images", justify="right"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
    )
    with progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def image_lines(write: Callable[[str], None], label: str, total: int) -> Callable[[int], None]:
    """Return what writes lines for a log: at most one in ten seconds, and one at the end.

    Arguments:
        write: Takes a line without its end.
        label: What is done.
        total: Images.
    """
    begun: list[tuple[float, int]] = []
    last = [0.0]

    def told(done: int) -> None:
        now = time.monotonic()
        begun.append((now, done)) if not begun else None
        if done < total and last[0] and now - last[0] < LINE_SECONDS:
            return
        last[0] = now
        since, before = begun[0]
        rate = f", {(done - before) / (now - since):.1f} images/s" if done > before else ""
        count = f"{numbers.count(done)}/{numbers.count(total)} images"
        write(f"[I {time.strftime('%Y-%m-%d %H:%M:%S')}] {label}: {count}{rate}")

    return told


def _head(title: str) -> Iterator[RenderableType]:
    yield paragraph(title, style="bold")
    yield Text("")


def _tail(cautions: Sequence[str]) -> Iterator[RenderableType]:
    if cautions:
        yield Text("")
    for caution in cautions:
        yield paragraph(f"Caution: {caution}", style="yellow")


def estimate_text(estimate: Estimate) -> str:
    """Return a value with its 95 % interval where its error is known."""
    value = numbers.value(estimate.value)
    if not estimate.standard_error > 0:  # NaN too
        return value
    return f"{value} {numbers.interval(*estimate.interval())}"


def _error(estimate: Estimate) -> str:
    error = estimate.standard_error
    return "" if math.isnan(error) else f"{error:.2g}"


def _named(row: Row) -> dict[str, Any]:
    return {"metric": row.name, "key": row.key, "better": row.better}


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": list(estimate.interval()),
        "images": estimate.images,
    }
