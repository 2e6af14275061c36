"""The table at the end of a tune: baseline, tuned, controls, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from skiptune.sampling.setting import LATER_FIELDS, Setting
from skiptune.search.result import WIN, Measured, Result
from skiptune.views import numbers
from skiptune.views.scales import scale_table
from skiptune.views.tables import listing, paragraph

__all__ = [
    "SCORE_HEADS",
    "hindsight",
    "notes",
    "result_view",
    "score_rows",
    "setting_text",
    "verdict_text",
]

SCORE_HEADS = ("", "value [95 %]", "gain % [95 %]", "NFE", "images")


def result_view(result: Result, *, addresses: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the parts of the page that a finished study shows.

    Arguments:
        result: What the study found.
        addresses: All skips of the network, deepest first.
    """
    yield Text(f"{result.study}: {result.metric}, {result.better} is better", style="bold")
    where = (
        f"measured on fresh seeds from {numbers.count(result.seeds[1])} on, which took no part in "
        "any choice"
        if result.tested
        else "measured on the search's own seeds; no fresh ones were spent"
    )
    counted = ""
    if result.prompts is not None:
        counted = f"; errors count prompts, drawn from {numbers.count(result.prompts)}"
    yield paragraph(
        f"{setting_text(result.setting)}; {where}{counted}; 95 % intervals in brackets",
        style="dim",
    )
    yield Text("")
    yield score_table(result)
    yield Text("")
    won = result.verdict == WIN
    yield paragraph(verdict_text(result), style="bold green" if won else "bold")
    for note in notes(result):
        yield paragraph(note, style="yellow")
    for line in hindsight(result):
        yield paragraph(line)
    if not result.schedule.is_baseline:
        yield Text("")
        yield Text("Tuned scales" if won else "Scales of the candidate", style="bold")
        yield scale_table(result.schedule, addresses=addresses)
    yield Text("")
    yield paragraph(
        f"{numbers.count(result.evaluations)} schedules tried, "
        f"{numbers.count(result.images)} images in {numbers.duration(result.seconds)} of sampling"
    )


def score_table(result: Result) -> Table:
    """Return the rows baseline, tuned and controls with intervals and gains."""
    # Five columns have to fit into 80.
    return listing(SCORE_HEADS, score_rows(result), right=SCORE_HEADS[3:], gap=1)


def score_rows(result: Result) -> list[tuple[str, ...]]:
    """Return the cells of `SCORE_HEADS` for baseline, tuned and controls.

    The rows of other features, parts of joint ones and a second opinion, have the value in their
    own features, and the gain on the baseline's value there.
    """
    rows = [_row("baseline", result.baseline, result.baseline)]
    if result.winner is not None:
        rows.append(_row("tuned", result.winner, result.baseline))
    for look in (*result.parts, *([] if result.second is None else [result.second])):
        label, *cells = _row(f"in {_features(look.metric)}", look.tuned, look.baseline)
        low, high = look.tuned.interval()
        # Of another unit, and three decimals keep the column as narrow as it is.
        cells[0] = f"{look.tuned.value:.3f} [{low:.3f}, {high:.3f}]"
        rows.append((label, *cells))
    # "solver: heun on edm, 3 steps" says its family by itself, and 80 columns are narrow.
    rows += [
        _row(c.label.partition(": ")[2] or c.label, c, result.baseline) for c in result.controls
    ]
    return rows


def verdict_text(result: Result) -> str:
    """Return the verdict in words, with the level of the test and what it rests on."""
    test = (
        f"Test at level {result.alpha:g} (confirm {result.confirm}), "
        f"least gain that counts {100 * result.min_gain:g} %."
    )
    if not result.tested:
        return (
            "No significant gain: no candidate was better than the baseline in the search and "
            "kept every constraint there is, so nothing was tested. This is a valid answer: keep "
            "the baseline."
        )
    winner, base = result.winner, result.baseline.value
    measured = None if winner is None else winner.gain(base)
    ends = None if winner is None else winner.gain_interval(base, 1 - result.alpha)
    if winner is None:
        return f"No significant gain: no candidate could be measured. {test}"
    if measured is None or ends is None:
        return (
            "No significant gain: the baseline's own value is not above zero, so there is nothing "
            f"to gain that could be told apart from noise. {test}"
        )
    evidence = (
        f"{numbers.gain(measured, *ends)} ({100 * (1 - result.alpha):g} % interval) "
        f"on {numbers.count(winner.images)} images"
    )
    if result.verdict == WIN:
        return f"The tuned schedule is better: a gain of {evidence}. {test}"
    if result.violated:
        return (
            f"No win: a gain of {evidence}, but on these seeds it violates "
            f"{' and '.join(result.violated)}. {test}"
        )
    reason = (
        "the interval reaches zero"
        if ends[0] <= 0
        else "the gain is smaller than the least that counts"
    )
    return (
        f"No significant gain: {evidence}, and {reason}. "
        f"This is a valid answer: keep the baseline. {test}"
    )


def notes(result: Result) -> Iterator[str]:
    """Yield what qualifies the verdict: other features, better controls, edges of ranges."""
    base = result.baseline.value
    second = result.second
    if second is not None and second.disagrees and second.gain is not None and second.interval:
        yield (
            f"Warning: in features that the search has not looked at, {second.metric}, the "
            f"schedule is worse: {numbers.gain(second.gain, *second.interval)}. Its gain may be "
            f"one in {_features(result.metric)} alone."
        )
    tuned = (result.winner.gain(base) if result.winner is not None else None) or 0.0
    better = [c for c in result.controls if (c.gain(base) or 0.0) > max(tuned, 0.0)]
    if better:
        names = ", ".join(f"{c.label} ({numbers.percent(c.gain(base) or 0.0)} %)" for c in better)
        yield f"Note: without touching a skip, more is gained by {names}."
    if result.edges:
        yield (
            f"Warning: the optimum touches the edge of its range at {', '.join(result.edges)}: "
            "a better one may lie beyond. Widen space.low or space.high under a new study name."
        )


def hindsight(result: Result) -> Iterator[str]:
    """Yield what fresh seeds say of the search: how much was luck, and which rungs ranked well."""
    luck, base = result.luck, result.baseline.value
    if luck is not None and base > 0:
        seen = Measured("", luck.images, 0, 0, 0, luck.difference, luck.difference_error)
        fraction, ends = seen.gain(base), seen.gain_interval(base)
        half = 1.96 * luck.luck_error / base
        if fraction is not None and ends is not None:
            yield (
                f"The search had seen {numbers.gain(fraction, *ends)} of this baseline's value on "
                f"{numbers.count(luck.images)} images of its own; of that, "
                f"{numbers.percent(luck.luck / base)} ± {100 * half:.1f} points were luck."
            )
    for one in result.rankings:
        yield (
            f"{one.first} rank schedules as {one.last} by {one.value:.2f} "
            f"({one.low:.2f} to {one.high:.2f}, {one.schedules} schedules; Spearman)."
        )


def _features(metric: str) -> str:
    """Return the features in a metric's full name: ``fashion-cnn``."""
    return metric.partition("(")[2].rpartition(")")[0] or metric


def setting_text(setting: Setting) -> str:
    """Return how images were made in a few words."""
    grid = f"{setting.grid} grid" if setting.sigmas is None else "given noise levels"
    text = f"{setting.solver}, {setting.steps} steps, {grid}"
    if setting.guidance != 1:
        text += f", guidance {setting.guidance:g}"
    plain = Setting()
    for name in LATER_FIELDS:
        value = getattr(setting, name)
        if name != "sigmas" and value != getattr(plain, name):
            text += f", {name.replace('_', ' ')} {value}"
    if setting.labels is None:
        return f"{text}, no labels"
    return text if setting.labels == "random" else f"{text}, class {setting.labels}"


def _row(label: str, measured: Measured, baseline: Measured) -> tuple[str, ...]:
    fraction = measured.gain(baseline.value)
    ends = measured.gain_interval(baseline.value)
    return (
        label,
        f"{numbers.value(measured.value)} {numbers.interval(*measured.interval())}",
        "" if fraction is None or ends is None else numbers.bare_gain(fraction, *ends),
        numbers.nfe(measured.nfe),
        numbers.count(measured.images),
    )
