"""Plots of ours for the dashboard: what Optuna's own plots do not know of schedules.

All of them show numbers that `skiptune explain`, `best` and `status` print, to six digits. Each
has a fixed name, so it is replaced and not added, and a bounded number of points: the page reads
all of them at every poll.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go

from skiptune.sampling.schedule import Schedule, place_name
from skiptune.search.address_order import deepest_first
from skiptune.search.explanation import Explanation
from skiptune.search.line_slice import NEAR
from skiptune.search.overview import Leader
from skiptune.search.sensitivities import PART
from skiptune.views import numbers
from skiptune.views.dashboard.pair import caption
from skiptune.views.heat import spread_out

__all__ = ["MOST_POINTS", "PREFIX", "figures"]

PREFIX: Final = "skiptune-"
"""Begin of the names of our figures."""

MOST_POINTS: Final = 150
"""Schedules in a cloud of points: those nearest to what is shown."""

MOST_LINES: Final = 10  # schedules with a line of their own
MOST_LEVELS: Final = 24  # columns of the heat map
MOST_SKIPS: Final = 64  # rows of it, and places of a profile
BEST_FEW: Final = 5  # schedules whose gain is shown over images
HALF: Final = 1.96  # standard errors of a 95 % interval

MOST_WINDOWS: Final = 4  # noise intervals that have lines of their own
EVERYWHERE: Final = (0.0, math.inf)

BEST, GREY, INK, PROVED = "#285aaa", "#9a9a9a", "#282828", "#1e823c"
SHADES: Final = (BEST, "#c8641e", "#1e8296", "#8c3c96")  # of the best, the noisiest first


def figures(
    found: Explanation, leaders: Sequence[Leader], addresses: Sequence[str]
) -> dict[str, go.Figure]:
    """Return the figures of a study by name; what is not known yet has none.

    Arguments:
        found: The explanation of the study.
        leaders: Its best schedules, the best first; with several objectives the whole front.
        addresses: All skips of the network, deepest first; empty where they are not known.
    """
    made = {
        "profile": _profile(leaders[:MOST_LINES], addresses),
        "gain": _gain(found, leaders[:BEST_FEW]),
        "sensitivity": _sensitivity(found),
        "slice": _slice(found),
        "front": _front(leaders),
    }
    return {f"{PREFIX}{name}": figure for name, figure in made.items() if figure is not None}


def _profile(leaders: Sequence[Leader], addresses: Sequence[str]) -> go.Figure | None:
    """Scale over depth: the best schedule, those behind it, and the untouched network."""
    if not leaders:
        return None
    scaled = {place for one in leaders for place, _ in _scales(one.schedule)}
    touched = {address for one in leaders for address in one.schedule.addresses}
    places = list(addresses)
    if not scaled <= {*addresses}:
        places = deepest_first(scaled | ({*addresses} - touched))
    places = places[:MOST_SKIPS]
    spots = list(range(len(places)))
    traces = [
        go.Scatter(
            x=spots,
            y=[1.0] * len(spots),
            mode="lines",
            line={"color": INK, "dash": "dash", "width": 1},
            name="untouched",
            hoverinfo="skip",
        )
    ]
    for rank in reversed(range(len(leaders))):
        traces += _profile_lines(leaders[rank], rank, places)
    return _figure(
        traces,
        # The page opens here, and the trial that it calls best is another one at times.
        title=f"Scales over depth, the best {len(leaders)}"
        f"<br>{caption(leaders[0])}; more in the study's note",
        x={"title": "skip, deepest first", "tickvals": spots, "ticktext": places},
        y={"title": "scale"},
    )


def _profile_lines(leader: Leader, rank: int, places: Sequence[str]) -> list[go.Scatter]:
    """Return a line for each noise interval; where these are many, points alone."""
    scales = _scales(leader.schedule)
    windows = sorted({window for _, window in scales}, reverse=True) or [EVERYWHERE]
    label = f"best: {leader.measured.label}" if rank == 0 else leader.measured.label
    look: dict[str, Any] = {
        "line": {"color": GREY, "width": 1},
        "marker": {"size": 4, "color": GREY},
        "opacity": 0.5,
        "legendgroup": label,
        "legendrank": rank,
    }
    if len(windows) > MOST_WINDOWS:
        found = [(places.index(at), scale) for (at, _), scale in scales.items() if at in places]
        colour = BEST if rank == 0 else GREY
        return [
            go.Scatter(
                x=[spot for spot, _ in found],
                y=[_short(scale) for _, scale in found],
                mode="markers",
                **{**look, "marker": {"size": 6, "color": colour}, "opacity": 1.0},
                name=f"{label}, in {len(windows)} noise intervals",
            )
        ]
    lines = []
    for place, window in enumerate(windows):
        own = dict(look)
        if rank == 0:
            colour = SHADES[place]
            own |= {"line": {"color": colour, "width": 3}, "opacity": 1.0}
            own["marker"] = {"size": 7, "color": colour}
        name = label if window == EVERYWHERE else f"{label}, sigma {_interval(window)}"
        lines.append(
            go.Scatter(
                x=list(range(len(places))),
                y=[_short(scales.get((at, window), 1.0)) for at in places],
                mode="lines+markers",
                **own,
                name=name,
                showlegend=rank == 0 or place == 0,
            )
        )
    return lines


def _scales(schedule: Schedule) -> dict[tuple[str, tuple[float, float]], float]:
    """Return what a schedule multiplies by, by place and noise interval."""
    return {
        (place_name(term.address, term.part), (term.low, term.high)): term.scale
        for term in schedule.terms
    }


def _interval(window: tuple[float, float]) -> str:
    low, high = window
    if math.isinf(high):
        return f"{low:.3g} and above"
    return f"below {high:.3g}" if low <= 0 else f"{low:.3g} to {high:.3g}"


def _gain(found: Explanation, leaders: Sequence[Leader]) -> go.Figure | None:
    """Gain of the best few at each number of images, and what fresh seeds said of it."""
    traces = []
    for rank, one in enumerate(leaders):
        steps = sorted(
            (step for step in found.steps if step.number == one.number), key=lambda s: s.images
        )
        if steps:
            traces.append(
                go.Scatter(
                    x=[step.images for step in steps],
                    y=[_short(100 * step.gain) for step in steps],
                    error_y=_bars([100 * HALF * step.error for step in steps]),
                    mode="lines+markers",
                    line={"color": BEST if rank == 0 else GREY, "width": 3 if rank == 0 else 1},
                    name=f"best: {one.measured.label}" if rank == 0 else one.measured.label,
                )
            )
    for confirmed in found.overview.confirms:
        winner, base = confirmed.winner, confirmed.baseline
        gain = None if winner is None or base is None else winner.gain(base.value)
        if winner is None or base is None or gain is None:
            continue
        half = HALF * (winner.difference_error or 0.0) / base.value
        traces.append(
            go.Scatter(
                x=[winner.images],
                y=[_short(100 * gain)],
                error_y=_bars([100 * half]),
                mode="markers",
                marker={"color": PROVED, "size": 11, "symbol": "diamond"},
                name=f"confirm {confirmed.number}, fresh seeds: {confirmed.verdict}",
            )
        )
    if not traces:
        return None
    counts = sorted({int(images) for one in traces for images in one.x})
    return _figure(
        traces,
        title="Gain over images, 95 % intervals",
        x={
            "title": "images behind the number",
            "type": "log",
            "tickvals": counts,
            "ticktext": [numbers.count(count) for count in counts],
        },
        y={
            "title": "gain, % of the untouched network",
            "rangemode": "tozero",
            "zeroline": True,
            "zerolinecolor": INK,
        },
    )


def _sensitivity(found: Explanation) -> go.Figure | None:
    """What a little more of each scale does: a heat map of slopes, else bars."""
    known = found.sensitivities
    if not known.rows:
        return None
    if known.by_level is None:
        rows = list(reversed(known.rows[:MOST_SKIPS]))  # the first on top
        unit = 1.0 if known.how == "ranks" else 100.0
        bars = go.Bar(
            y=[one.name for one in rows],
            x=[_short(unit * one.change) for one in rows],
            error_x=_bars([unit * HALF * one.error for one in rows]),
            orientation="h",
            marker={"color": BEST},
        )
        said = f"{known.of}<br>below 0: more of the scale is better"
        if known.how != "ranks":
            said = f"% of change for {PART:.0%} more, below 0 is better<br>{known.of}"
        x = {"title": said}
        return _figure([bars], title="What each scale does", x=x, y={})
    by_level = known.by_level
    shown = spread_out(len(by_level.levels), MOST_LEVELS)
    count = min(len(by_level.changes), MOST_SKIPS)
    names = [one.name for one in known.rows[:count]]
    changes = [[_short(100 * row[place]) for place in shown] for row in by_level.changes[:count]]
    errors = [[_short(100 * row[place]) for place in shown] for row in by_level.errors[:count]]
    heat = go.Heatmap(
        z=changes,
        x=[f"{by_level.levels[place]:.3g}" for place in shown],
        y=names,
        customdata=errors,
        hovertemplate="%{y} at sigma %{x}: %{z} ± %{customdata} %<extra></extra>",
        colorscale=[[0.0, "#3b4cc0"], [0.5, "#dddddd"], [1.0, "#b40426"]],
        zmid=0.0,
        colorbar={"title": {"text": "%"}},
    )
    return _figure(
        [heat],
        title=f"% of change for {PART:.0%} more of a scale",
        x={"title": f"sigma; below 0 is better; {known.of}", "type": "category"},
        y={"autorange": "reversed", "type": "category"},
    )


def _slice(found: Explanation) -> go.Figure | None:
    """The landscape along the line from the untouched network to the best schedule."""
    if len(found.points) < 2:
        return None
    points = sorted(found.points, key=lambda point: (point.away, point.number))[:MOST_POINTS]
    traces = []
    for name, colour, near in (("near the line", BEST, True), ("farther away", GREY, False)):
        here = [point for point in points if (point.away <= NEAR) == near]
        if here:
            traces.append(
                go.Scatter(
                    x=[_short(point.place) for point in here],
                    y=[_short(100 * point.gain) for point in here],
                    error_y=_bars([100 * HALF * point.error for point in here]) if near else None,
                    text=[_called(point.number) for point in here],
                    mode="markers",
                    marker={"color": colour, "size": 8 if near else 5},
                    name=name,
                )
            )
    return _figure(
        traces,
        title="A slice of the landscape, measured points",
        x={"title": "0: untouched, 1: best schedule (log scales)"},
        y={"title": "gain, %", "zeroline": True, "zerolinecolor": INK},
    )


def _called(number: int) -> str:
    return f"proposal {number}" if number else "untouched"


def _front(leaders: Sequence[Leader]) -> go.Figure | None:
    """The first two of several objectives: who is beaten by nobody, and who comes behind."""
    both = [
        (one, next((other for other in one.others if other.kind == "objective"), None))
        for one in leaders
    ]
    pairs = [(one, other) for one, other in both if other is not None][:MOST_POINTS]
    if not pairs:
        return None
    traces = []
    groups = (("on the Pareto front", BEST, True), ("behind it", GREY, False))
    for name, colour, on_front in groups:
        here = [(one, other) for one, other in pairs if one.on_front == on_front]
        if here:
            traces.append(
                go.Scatter(
                    x=[_short(one.measured.value) for one, _ in here],
                    y=[_short(other.value) for _, other in here],
                    error_x=_bars([HALF * one.measured.standard_error for one, _ in here]),
                    error_y=_bars([HALF * other.standard_error for _, other in here]),
                    text=[one.measured.label for one, _ in here],
                    mode="markers",
                    marker={"color": colour, "size": 9 if on_front else 6},
                    name=name,
                )
            )
    first, second = pairs[0]
    return _figure(
        traces,
        title="Pareto front of the search",
        x={"title": first.metric},
        y={"title": second.name},
    )


def _bars(halves: Sequence[float]) -> dict[str, Any]:
    return {"type": "data", "array": [_short(half) for half in halves], "thickness": 1}


def _short(value: float) -> float:
    """Return a number with six digits: the page reads it at every poll."""
    return float(f"{value:.6g}")


def _figure(
    traces: Sequence[Any], *, title: str, x: dict[str, Any], y: dict[str, Any]
) -> go.Figure:
    """Return a figure without the template, which is larger than all that is shown."""
    axes = [
        {
            "zeroline": False,
            **axis,
            "title": {"text": axis.get("title", "")},
            "automargin": True,
            "gridcolor": "#eee",
        }
        for axis in (x, y)
    ]
    return go.Figure(
        data=list(traces),
        layout={
            "template": "none",
            # On the left: the page's own buttons lie over the right half.
            "title": {"text": title, "font": {"size": 14}, "x": 0.02, "xanchor": "left"},
            "xaxis": axes[0],
            "yaxis": axes[1],
            "legend": {"font": {"size": 10}},
            "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        },
    )
