"""The two pictures of an explanation: the gain over images, and a slice of the landscape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from skiptune.search.explanation import Explanation
from skiptune.search.incumbents import Step
from skiptune.search.line_slice import ENDS, NEAR, Point
from skiptune.views.chart import BEST, GREY, INK, PROVED, Axis, Canvas, Chart, Key

__all__ = ["draw_gain", "draw_slice", "gain_picture", "slice_picture"]

C = TypeVar("C", bound=Canvas)

HALF = 1.96  # standard errors of a 95 % interval
ROOM = 1.15  # of an axis beyond what is shown
LEAST_GAIN = 0.02  # half height of a chart whose gains are all smaller
WORST = 3.0  # losses of so many best gains are shown; what is worse lies on the edge


def gain_picture(found: Explanation) -> bytes | None:
    """Return a PNG of the gain over images, None before a schedule is scored."""
    chart = draw_gain(found, Chart)
    return None if chart is None else chart.png()


def slice_picture(found: Explanation) -> bytes | None:
    """Return a PNG of the landscape along the line from the baseline to the best schedule.

    Returns:
        None before there is a schedule whose scales are not all 1.
    """
    chart = draw_slice(found, Chart)
    return None if chart is None else chart.png()


def draw_gain(found: Explanation, make: Callable[..., C]) -> C | None:
    """Draw the gain over images: every score, the best so far, and what was confirmed.

    Arguments:
        found: The explanation.
        make: A class of charts, called as `Chart` is.

    Returns:
        None before a schedule is scored.
    """
    steps = found.steps
    if not steps:
        return None
    confirmed = _confirmed(found)
    tops = [step.best + HALF * step.best_error for step in steps if step.leads]
    tops += [end for _, ends in confirmed for end in ends]
    spent = steps[-1].spent
    width = spent * (1.08 + 0.06 * len(confirmed))
    chart = make(
        Axis(0, width, "images scored in the search, the baseline's included", _thousands),
        _gain_axis([step.gain for step in steps], tops),
        title=f"{found.overview.study}: gain over images, {found.overview.metric}",
        keys=[
            Key("a schedule", GREY),
            Key("best so far, 95 %", BEST, line=True),
            *([Key("confirmed on fresh seeds", PROVED)] if confirmed else []),
        ],
    )
    stairs = _stairs(steps, end=spent * 1.04)
    chart.band(
        [(x, 100 * (y - HALF * error), 100 * (y + HALF * error)) for x, y, error in stairs], BEST
    )
    chart.level(0.0)
    largest = max(step.images for step in steps)
    for step in steps:
        radius = 3.0 if step.images < largest else 4.5
        chart.dot(step.spent, 100 * step.gain, GREY, radius=radius)
    chart.line([(x, 100 * y) for x, y, _ in stairs], BEST)
    for place, (gain, ends) in enumerate(confirmed, start=1):
        across = spent * (1.04 + 0.06 * place)
        chart.bar(across, 100 * ends[0], 100 * ends[1], PROVED)
        chart.dot(across, 100 * gain, PROVED, radius=4.5)
    return chart


def draw_slice(found: Explanation, make: Callable[..., C]) -> C | None:
    """Draw the landscape along the line from the baseline to the best schedule.

    Arguments are those of `draw_gain`.

    Returns:
        None before there is a schedule whose scales are not all 1.
    """
    if not found.points:
        return None
    low, high = ENDS
    shown = [point for point in found.points if low <= point.place <= high]
    prediction = found.prediction
    near = [point.gain for point in shown if point.away <= NEAR]
    best = next((point for point in shown if _is_best(found, point)), None)
    tops = [point.gain + HALF * point.error for point in shown if point.away <= NEAR]
    if prediction is not None:
        tops += prediction.gains
    keys = [Key("measured near the line", INK), Key("further away", GREY, filled=False)]
    if prediction is not None:
        keys.insert(0, Key("predicted, 95 %", BEST, line=True))
    lowest = [*near, *(prediction.gains if prediction is not None else ())]
    chart = make(
        Axis(low, high, "from the untouched network (0) to the best schedule (1), in log scale"),
        _gain_axis(lowest, tops),
        title=f"{found.overview.study}: a slice of the landscape, {found.overview.metric}",
        keys=keys,
    )
    if prediction is not None:
        rows = list(zip(prediction.places, prediction.gains, prediction.errors, strict=True))
        chart.band([(x, 100 * (y - HALF * e), 100 * (y + HALF * e)) for x, y, e in rows], BEST)
        chart.level(0.0)
        chart.line([(x, 100 * y) for x, y, _ in rows], BEST)
    else:
        chart.level(0.0)
    for point in sorted(shown, key=lambda point: -point.away):
        close = point.away <= NEAR
        half = HALF * point.error
        if close:
            chart.bar(point.place, 100 * (point.gain - half), 100 * (point.gain + half), INK)
        chart.dot(
            point.place,
            100 * point.gain,
            INK if close else GREY,
            radius=4.5 if close else 3.0,
            filled=close,
        )
    chart.write(0.0, 0.0, "untouched")
    if best is not None:
        chart.write(best.place, 100 * best.gain, "best")
    return chart


def _confirmed(found: Explanation) -> list[tuple[float, tuple[float, float]]]:
    """Return the gain of each confirm that is measured, with its 95 % interval."""
    gains = []
    for one in found.overview.confirms:
        if one.winner is not None and one.baseline is not None:
            gain = one.winner.gain(one.baseline.value)
            ends = one.winner.gain_interval(one.baseline.value)
            if gain is not None and ends is not None:
                gains.append((gain, ends))
    return gains


def _is_best(found: Explanation, point: Point) -> bool:
    best = found.overview.best
    return best is not None and point.number == best.number


def _stairs(steps: Sequence[Step], *, end: float) -> list[tuple[float, float, float]]:
    """Return places, gains and errors of the best so far: it stays until another one leads."""
    stairs = [(steps[0].spent, steps[0].best, steps[0].best_error)]
    for before, step in pairwise(steps):
        stairs += [
            (step.spent, before.best, before.best_error),
            (step.spent, step.best, step.best_error),
        ]
    last = steps[-1]
    return [*stairs, (end, last.best, last.best_error)]


def _gain_axis(gains: Sequence[float], tops: Sequence[float]) -> Axis:
    """Return an axis in percent: gains as far as they go, and as much loss as tells something."""
    high = max([*gains, *tops, LEAST_GAIN])
    low = max(min([*gains, *tops, -LEAST_GAIN]), -WORST * high)
    return Axis(100 * low * ROOM, 100 * high * ROOM, "gain, %", _signed)


def _signed(gain: float) -> str:
    return f"{gain:+g}" if gain else "0"


def _thousands(images: float) -> str:
    return f"{images:,.0f}"
