"""Studies as a person reads them between two runs: where they stand, and their best schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from skiptune.objectives.catalogue import PROMPT
from skiptune.objectives.ranks import RankCorrelation
from skiptune.search.overview import SCORED, Confirmed, Leader, Other, Overview
from skiptune.search.result import WIN
from skiptune.storage.crews import Member
from skiptune.views import numbers
from skiptune.views.scales import scale_table
from skiptune.views.tables import facts, listing, paragraph

__all__ = [
    "confirm_text",
    "leaders_view",
    "nothing_best_text",
    "other_text",
    "overview_view",
    "ranking_text",
    "standing_line",
    "studies_table",
]

SHOWN_WORKERS = 8
WIDE = 66  # letters beside the names of facts in 80 columns


def studies_table(studies: Sequence[Overview]) -> Table:
    """Return one row per study of a database."""
    return listing(
        ("study", "schedules", "images", "best gain so far", "confirmed"),
        [
            (
                study.study,
                f"{study.evaluations}/{study.budget}",
                numbers.count(study.spending.images),
                "" if study.best is None else _short_gain(study.best),
                _confirmed_word(study.confirms),
            )
            for study in studies
        ],
        right=("schedules", "images"),
    )


def standing_line(study: Overview) -> str:
    """Return where a study stands in one line, e.g. for a log."""
    parts = [
        f"{study.study} {study.state}",
        f"{study.evaluations} of {study.budget} schedules ({_counts(study.states) or 'none yet'})",
        f"{numbers.count(study.spending.images)} images",
    ]
    if study.best is not None:
        parts.append(f"best {_short_gain(study.best)}")
    return ", ".join(parts)


def overview_view(study: Overview) -> Iterator[RenderableType]:
    """Yield the parts of the page that shows where one study stands."""
    yield Text(f"{study.study}: {study.metric or 'nothing scored yet'}", style="bold")
    rows = [
        ("state", study.state),
        ("created", study.created.strftime("%Y-%m-%d %H:%M UTC")),
        (
            "schedules",
            f"{study.evaluations} of {study.budget} ({_counts(study.states) or 'none yet'})",
        ),
        (
            "chunks",
            ", ".join(f"{n} {state}" for state, n in sorted(study.chunks.items())) or "none",
        ),
        *([("proposed by", study.sampler)] if study.sampler else []),
        *([("errors count", "prompts")] if study.unit == PROMPT else []),
        ("workers now", _crew(study) or "none"),
        ("spent", _spent(study)),
        *([("left to spend", left)] if (left := _left(study)) else []),
        *([("estimated end", end)] if (end := _end(study)) else []),
    ]
    if study.baseline is not None:
        base = study.baseline
        rows.append(
            (
                "baseline",
                f"{numbers.value(base.value)} {numbers.interval(*base.interval())}, "
                f"{numbers.count(base.images)} images, NFE {numbers.nfe(base.nfe)}",
            )
        )
    if study.best is not None:
        word = "confirmed" if study.best.confirmed else "not confirmed"
        rows.append(
            ("best so far", f"{study.best.measured.label}: {_evidence(study.best)}, {word}")
        )
    elif study.states.get(SCORED):
        rows.append(("best so far", f"none: {nothing_best_text(study)}"))
    if study.ranking is not None:
        rows.append(("first rung", ranking_text(study.ranking)))
    rows += [(f"confirm {c.number}", confirm_text(c)) for c in study.confirms]
    yield facts(rows)


def nothing_best_text(study: Overview) -> str:
    """Return why a study has no best schedule."""
    scored = study.states.get(SCORED, 0)
    if not scored:
        return "no schedule is scored yet"
    return f"no schedule of the {scored} that are scored keeps the constraints"


def leaders_view(leaders: Sequence[Leader]) -> Iterator[RenderableType]:
    """Yield the best schedules: one row per skip, then what they gain and how sure that is."""
    for leader in leaders:
        word = "confirmed" if leader.confirmed else "not confirmed"
        front = ", on the Pareto front" if leader.on_front else ""
        yield Text(f"{leader.measured.label}: {word}{front}", style="bold")
        if leader.schedule.is_baseline:
            yield paragraph("no skip is scaled")
        else:
            yield scale_table(leader.schedule)
        base = leader.baseline
        yield paragraph(
            f"{leader.metric} {numbers.value(leader.measured.value)} "
            f"{numbers.interval(*leader.measured.interval())}, baseline "
            f"{numbers.value(base.value)} on {numbers.count(base.images)} images"
        )
        yield paragraph(f"Gain in the search: {_evidence(leader)}")
        for other in leader.others:
            yield paragraph(other_text(other))
        yield Text("")


def other_text(other: Other) -> str:
    """Return what was measured beside: its value, and how it compares with the baseline's."""
    half = 1.96 * other.standard_error
    if other.kind == "constraint":
        word = "violated" if other.violated else "kept"
        return f"{other.name}: {word} (gap {other.value:.3g} ± {half:.2g})"
    text = f"{other.name} {other.value:.4g} ± {half:.2g}"
    if other.difference is None or other.difference_error is None:
        return text
    if other.difference == 0 and other.difference_error == 0:
        return f"{text}, as the baseline"
    sign = "better" if other.difference < 0 else "worse"
    error = 1.96 * other.difference_error
    return f"{text}, {abs(other.difference):.3g} ± {error:.2g} {sign} than the baseline"


def _evidence(leader: Leader) -> str:
    fraction = leader.measured.gain(leader.baseline.value)
    ends = leader.measured.gain_interval(leader.baseline.value)
    if fraction is None or ends is None:
        return "no paired difference"
    return f"{numbers.gain(fraction, *ends)} on {numbers.count(leader.measured.images)} images"


def _short_gain(leader: Leader) -> str:
    fraction = leader.measured.gain(leader.baseline.value)
    ends = leader.measured.gain_interval(leader.baseline.value)
    return "" if fraction is None or ends is None else numbers.gain(fraction, *ends)


def confirm_text(confirmed: Confirmed) -> str:
    """Return what a confirm decided: the verdict, and the gain with its interval and images.

    A schedule that violates a constraint is no win, however much it gains.
    """
    if confirmed.baseline is None or confirmed.winner is None:
        return f"{confirmed.verdict} (level {confirmed.alpha:g})"
    level = 1 - confirmed.alpha
    fraction = confirmed.winner.gain(confirmed.baseline.value)
    ends = confirmed.winner.gain_interval(confirmed.baseline.value, level)
    if fraction is None or ends is None:
        return f"{confirmed.verdict} (level {confirmed.alpha:g})"
    evidence = (
        f"gain {numbers.gain(fraction, *ends)} ({100 * level:g} % interval) on "
        f"{numbers.count(confirmed.winner.images)} images"
    )
    if confirmed.violated:
        return f"no win: {evidence}, but it violates {' and '.join(confirmed.violated)}"
    return f"{confirmed.verdict}: {evidence}"


def ranking_text(ranking: RankCorrelation) -> str:
    """Return how alike the first rung and the highest one order schedules."""
    return f"ranks like the highest: Spearman {ranking}"


def _confirmed_word(confirms: Sequence[Confirmed]) -> str:
    if any(c.verdict == WIN for c in confirms):
        return "yes"
    return confirms[-1].verdict if confirms else "no"


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))


def _spent(study: Overview) -> str:
    spending = study.spending
    seconds = numbers.duration(spending.seconds)
    text = f"{numbers.count(spending.images)} images, {seconds} of sampling"
    if spending.reused_images:
        text += f", {numbers.count(spending.reused_images)} images taken over from other studies"
    if spending.doubled_images:
        text += f", {numbers.count(spending.doubled_images)} sampled twice"
    return text


def _left(study: Overview) -> str:
    """Return what a search may still spend; empty where only its schedules are counted."""
    left = study.left
    parts = []
    if left.images is not None:
        parts.append(f"{numbers.count(left.images)} images")
    if left.seconds is not None:
        parts.append(f"{numbers.duration(left.seconds)} of sampling")
    return ", ".join(parts)


def _end(study: Overview) -> str:
    """Return when the study will be done; empty where it is, or nothing tells how fast it goes."""
    seconds = study.seconds_left
    if seconds is None or not study.images_left:
        return ""
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return (
        f"{end:%Y-%m-%d %H:%M UTC}, in {numbers.duration(seconds)}, if all proposals are made:"
        f" {numbers.count(study.images_left)} images"
    )


def _crew(study: Overview) -> str:
    """Return a line for each worker: its host and process, device, speed, last sign of life."""
    lines = [_member(member) for member in study.crew[:SHOWN_WORKERS]]
    if len(study.crew) > SHOWN_WORKERS:
        lines.append(f"and {len(study.crew) - SHOWN_WORKERS} more")
    return "\n".join(lines)


def _member(member: Member) -> str:
    """Return a worker in one line, in two where the name of its host is long."""
    does = _doing(member)
    line = f"{member.name}: {does}"
    return line if len(line) <= WIDE else f"{member.name}:\n  {does}"


def _doing(member: Member) -> str:
    seen = "" if member.seen_ago is None else f", seen {numbers.duration(member.seen_ago)} ago"
    if member.rate is None or member.stored_ago is None:
        return f"nothing stored yet{seen}"
    device = f"{member.device} ({member.gpu})" if member.gpu else member.device
    return (
        f"{device + ', ' if device else ''}{member.rate:.3g} images/s,"
        f" stored {numbers.duration(member.stored_ago)} ago{seen}"
    )
