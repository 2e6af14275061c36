"""What a study has done and found, as a page that a person reads, and what may be done next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from skiptune.objectives.catalogue import PROMPT
from skiptune.search.explanation import Explanation, Parameter
from skiptune.search.incumbents import Step
from skiptune.search.line_slice import NEAR
from skiptune.search.overview import Confirmed
from skiptune.search.power import POWER, images_for
from skiptune.search.result import HOPELESS, WIN, Measured
from skiptune.search.sensitivities import LEAST_IMPORTANT, PART, Sensitivity
from skiptune.views import numbers
from skiptune.views.heat import spread_out
from skiptune.views.study import confirm_text, nothing_best_text, other_text, ranking_text
from skiptune.views.tables import facts, listing, paragraph

__all__ = [
    "RUNG_HEADS",
    "change_text",
    "explanation_hints",
    "explanation_view",
    "how_text",
    "rung_rows",
    "searched_text",
    "slice_text",
]

RUNG_HEADS = ("rung", "schedules", "scored", "better", "went on", "images", "reused")

MOST_STEPS = 10  # rows of the gain over images
CLEAR = 2.0  # standard errors from which on a change is marked
HALF = 1.96  # standard errors of a 95 % interval
WIDER = 1.5  # factor by which a range is widened in a hint


def explanation_view(found: Explanation) -> Iterator[RenderableType]:
    """Yield the parts of the page."""
    study = found.overview
    yield Text(f"{study.study}: {study.metric or 'nothing scored yet'}", style="bold")
    yield facts(_standing(found))
    yield Text("")
    yield from _rungs_view(found)
    yield from _gain_view(found)
    yield from _scales_view(found)
    yield from _slice_view(found)
    yield from _confirms_view(found)


def explanation_hints(found: Explanation, *, source: str) -> Iterator[str]:
    """Yield what may be done next, each with a command.

    Arguments:
        found: The explanation.
        source: The study's file or preset, for what needs a new study.
    """
    study = found.overview
    name = study.study
    if found.failed:
        yield f"{found.failed} schedules have lost their chunks: skiptune resume {name} --retry"
    if study.state in ("paused", "stopped"):
        yield f"the study is {study.state}: skiptune resume {name}"
    elif study.state == "running" and not study.workers:
        yield f"nobody works on it: skiptune worker {name} --until-done"
    if found.edges:
        words = _range_words(found.edges)
        what = ", ".join(one.name for one in found.edges[:3])
        more = "" if len(found.edges) <= 3 else f" and {len(found.edges) - 3} more"
        yield (
            f"a better schedule may lie beyond the range of {what}{more}: "
            f"skiptune tune {source} -s study={name}-wide {words}"
        )
    if found.steps and found.sloped and found.sensitivities.how != "slopes":
        yield f"measure what each skip does: skiptune sensitivity {name}"
    last = study.confirms[-1] if study.confirms else None
    if last is not None and last.finished:
        if last.verdict == WIN:
            yield f"hand the schedule over: skiptune export {name} -o tuned.json"
        else:
            yield from _again(found)
    elif last is None and study.state == "complete" and _is_hopeful(found):
        yield f"prove it on fresh seeds: skiptune confirm {name}"


def _is_hopeful(found: Explanation) -> bool:
    """Return whether a confirm would find something to test."""
    if found.overview.best is None:
        return False
    tried = found.points[1:]  # without the untouched network
    return not tried or any(one.gain >= -HOPELESS * one.error for one in tried)


def searched_text(found: Explanation) -> str:
    """Return what was searched, who proposed, and how images were made."""
    return f"Searched: {found.space}, proposed by {found.sampler}; images by {_images_text(found)}"


def _standing(found: Explanation) -> Iterator[tuple[str, str]]:
    """Yield what was searched and where it stands, each with its name."""
    study = found.overview
    states = ", ".join(f"{count} {state}" for state, count in sorted(study.states.items()))
    yield "searched", f"{found.space}, proposed by {found.sampler}"
    yield "images by", _images_text(found)
    yield "state", study.state
    yield (
        "schedules",
        f"{study.evaluations} of {study.budget} ({states or 'none yet'})",
    )
    yield (
        "spent",
        f"{numbers.count(study.spending.images)} images, "
        f"{numbers.duration(study.spending.seconds)} of sampling",
    )
    if study.baseline is not None:
        base = study.baseline
        yield (
            "untouched",
            f"{numbers.value(base.value)} {numbers.interval(*base.interval())} on "
            f"{numbers.count(base.images)} images",
        )


def _images_text(found: Explanation) -> str:
    return f"{found.setting['solver']}, {found.setting['steps']} steps"


def _rungs_view(found: Explanation) -> Iterator[RenderableType]:
    yield Text("Images per rung", style="bold")
    yield listing(RUNG_HEADS, rung_rows(found), right=RUNG_HEADS)
    ranking = found.overview.ranking
    if ranking is not None:
        yield paragraph(f"The first rung {ranking_text(ranking)}")
    yield Text("")


def rung_rows(found: Explanation) -> list[tuple[str, ...]]:
    """Return the cells of `RUNG_HEADS`, a row for each rung."""
    return [
        (
            numbers.count(rung.images),
            f"{rung.entered}",
            f"{rung.scored}",
            f"{rung.better}",
            "" if rung.promoted is None else f"{rung.promoted}",
            numbers.count(rung.new_images),
            numbers.count(rung.reused),
        )
        for rung in found.rungs
    ]


def _gain_view(found: Explanation) -> Iterator[RenderableType]:
    yield Text("Gain over images", style="bold")
    leading = [step for step in found.steps if step.leads]
    if not leading:
        text = nothing_best_text(found.overview)
        yield paragraph(f"{text[:1].upper()}{text[1:]}.")
        yield Text("")
        return
    shown = [leading[place] for place in spread_out(len(leading), MOST_STEPS)]
    heads = ("images spent", "best so far", "on images", "gain % [95 %]")
    yield listing(heads, [_step_row(step) for step in shown], right=(heads[0], heads[2]))
    last = found.steps[-1]
    yield paragraph(
        f"{numbers.count(last.spent)} images are scored. A schedule that was chosen for its gain "
        "on these seeds looks better than it is: only a confirm tells."
    )
    yield Text("")


def _step_row(step: Step) -> tuple[str, ...]:
    half = 1.96 * step.best_error
    return (
        numbers.count(step.spent),
        step.best_label,
        numbers.count(step.images),
        numbers.bare_gain(step.best, step.best - half, step.best + half),
    )


def _scales_view(found: Explanation) -> Iterator[RenderableType]:
    known = found.sensitivities
    # Of a skip or of a parameter: the same thing where each skip has a parameter.
    changes = {one.name: one for one in known.rows}
    own = {one.name: changes.get(one.name.removeprefix("skip/")) for one in found.parameters}
    own = {name: one or changes.get(name) for name, one in own.items()}
    yield Text("What each scale does", style="bold")
    yield paragraph(how_text(found))
    if found.parameters:
        what = "rank" if known.how == "ranks" else f"{PART:.0%} more"
        heads: tuple[str, ...] = ("parameter", "best", what, "importance", "edge")
        rows: list[tuple[str, ...]] = [
            (
                one.name,
                f"{one.value:.3g}",
                change_text(own[one.name], ranks=known.how == "ranks"),
                "" if one.importance is None else f"{one.importance:.2f}",
                _edge_text(one),
            )
            for one in found.parameters
        ]
        # A column in which nothing is known yet tells nothing.
        told = [k for k in range(len(heads)) if k < 2 or any(row[k] for row in rows)]
        heads, rows = tuple(heads[k] for k in told), [tuple(r[k] for k in told) for r in rows]
        yield listing(heads, rows, right=[head for head in heads[1:] if head != "edge"])
    apart = [one for one in known.rows if one not in own.values()]
    if apart:
        what = "rank" if known.how == "ranks" else f"{PART:.0%} more"
        cells = [(one.name, change_text(one, ranks=known.how == "ranks")) for one in apart]
        yield listing(("scale", what), cells, right=(what,))
    if found.parameters and all(one.importance is None for one in found.parameters):
        yield paragraph(f"Importances are told from {LEAST_IMPORTANT} schedules on.", style="dim")
    yield Text("")


def how_text(found: Explanation) -> str:
    """Return how the sensitivities are to be read, and where they come from."""
    known = found.sensitivities
    if known.how == "nothing":
        return f"Not known yet: {known.of}."
    if known.how == "ranks":
        return (
            f"From {known.of}: +1 where the objective always falls as the scale shrinks, -1 where "
            "it always falls as the scale grows; ± one standard error. Averages over what was "
            "tried, not causes."
        )
    text = (
        f"Change of the objective in % of the untouched network's value where a scale is "
        f"{PART:.0%} larger, below zero is better; from {known.of}; ± one standard error, * from "
        f"{CLEAR:g} on."
    )
    if known.how == "regression":
        text += " Averages over the range that was tried, which bends."
    return text


def change_text(one: Sensitivity | None, *, ranks: bool) -> str:
    """Return a sensitivity with its error in percent, marked where it is clear; or of ranks."""
    if one is None:
        return ""
    if ranks:
        return f"{one.change:+.2f} ± {one.error:.2f}"
    mark = "*" if abs(one.change) > CLEAR * one.error else " "
    return f"{100 * one.change:+.2f} ± {100 * one.error:.2f}{mark}"


def _edge_text(one: Parameter) -> str:
    if not one.edge:
        return ""
    end = one.low if one.edge == "low" else one.high
    return f"touches {end:g}"


def _slice_view(found: Explanation) -> Iterator[RenderableType]:
    if not found.points:
        return
    yield Text("A slice of the landscape", style="bold")
    yield paragraph(slice_text(found))
    yield Text("")


def slice_text(found: Explanation) -> str:
    """Return what the line to the best schedule tells; there are points beside it."""
    near = sum(point.away <= NEAR for point in found.points)
    text = (
        f"Along the line from the untouched network to the best schedule: {near} of "
        f"{len(found.points)} schedules, the untouched network among them, were measured near it."
    )
    prediction = found.prediction
    if prediction is None:
        why = f": {found.no_prediction}" if found.no_prediction else ""
        return f"{text} Measured points only{why}."
    gain, place, error = max(
        zip(prediction.gains, prediction.places, prediction.errors, strict=True)
    )
    where = "" if found.is_inside(place) else ", beyond the range that is searched"
    return (
        f"{text} A model of {prediction.schedules} schedules' features predicts its highest gain, "
        f"{numbers.percent(gain)} ± {100 * HALF * error:.1f} %, at {place:.2f} of the way{where}. "
        f"On schedules that it was made without it is wrong by {100 * prediction.left_out:.1f} %."
    )


def _confirms_view(found: Explanation) -> Iterator[RenderableType]:
    yield Text("What was confirmed", style="bold")
    study = found.overview
    if not study.confirms:
        yield paragraph("Nothing yet.")
    for one in study.confirms:
        yield paragraph(f"Confirm {one.number}: {confirm_text(one)}")
        evidence = found.evidence.get(one.number)
        if evidence is None:
            continue
        if evidence.luck is not None and evidence.luck_error is not None:
            yield paragraph(_luck_text(evidence.luck, evidence.luck_error))
        for other in evidence.beside:
            yield paragraph(f"Beside: {other_text(other)}")
        yield from _controls_view(one, evidence.controls)


def _luck_text(luck: float, error: float) -> str:
    half = HALF * error
    size = f"{numbers.percent(luck)} ± {100 * half:.1f} % of the untouched network"
    if luck > half:
        return f"In the search, which chose it, its gain was {size} larger: that part was luck."
    return f"The search, which chose it, did not clearly show it better than it is: {size}."


def _controls_view(one: Confirmed, controls: Sequence[Measured]) -> Iterator[RenderableType]:
    """Yield what is gained without touching a skip, and whether that is more."""
    if not controls or one.baseline is None:
        return
    unit = one.baseline.value
    rows = []
    for control in controls:
        gain, ends = control.gain(unit), control.gain_interval(unit)
        if gain is not None and ends is not None:
            interval = numbers.bare_gain(gain, *ends)
            rows.append((control.label, interval, numbers.nfe(control.nfe)))
    yield listing(("without touching a skip", "gain % [95 %]", "NFE"), rows, right=("NFE",))
    tuned = None if one.winner is None else one.winner.gain(unit)
    better = [c.label for c in controls if (c.gain(unit) or 0.0) > max(tuned or 0.0, 0.0)]
    if better:
        yield paragraph(f"More is gained without touching a skip by {', '.join(better)}.")


def _range_words(edges: tuple[Parameter, ...]) -> str:
    words = []
    low = [one.low for one in edges if one.edge == "low"]
    high = [one.high for one in edges if one.edge == "high"]
    if low:
        words.append(f"-s space.low={min(low) / WIDER:.2g}")
    if high:
        words.append(f"-s space.high={max(high) * WIDER:.2g}")
    return " ".join(words)


def _again(found: Explanation) -> Iterator[str]:
    """Yield a confirm that would see the gain that the last one measured, where it is one."""
    study = found.overview
    last = study.confirms[-1]
    if last.winner is None or last.baseline is None or not last.winner.difference_error:
        return
    if study.unit == PROMPT:
        return  # the next confirm has half as many prompts, and more images make up for none
    gain = last.winner.gain(last.baseline.value)
    if gain is None or gain <= found.min_gain:
        return
    deviation = last.winner.difference_error * last.winner.images**0.5 / last.baseline.value
    images = images_for(gain, deviation=deviation, level=last.alpha / 2, least=found.min_gain)
    if images is not None:
        yield (
            f"were the gain {numbers.percent(gain)} %, {100 * POWER:g} % of such confirms would "
            f"find it: skiptune confirm {study.study} -s confirm.images={images}"
        )
