"""What a report says, in which order: from a study's findings to headline and sections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from skiptune import __version__
from skiptune.objectives.catalogue import PROMPT
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.findings import Findings
from skiptune.search.result import WIN, Measured, Result
from skiptune.views import numbers
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Fold,
    Headline,
    Listing,
    Pair,
    Paragraph,
    Report,
    Section,
)
from skiptune.views.report.course import landscape_section, search_section
from skiptune.views.report.origin import (
    cost_section,
    limits_section,
    no_proof_text,
    provenance_section,
    use_section,
)
from skiptune.views.report.profile import profile_figure
from skiptune.views.result import (
    SCORE_HEADS,
    hindsight,
    notes,
    score_rows,
    setting_text,
    verdict_text,
)
from skiptune.views.scales import NUMBERS, scale_rows
from skiptune.views.study import confirm_text, nothing_best_text, other_text

__all__ = ["NOT_CONFIRMED", "report_of", "schedule_of"]

NOT_CONFIRMED: Final = "Not confirmed"

# What each family of controls changes, by the word before the colon of its label.
FAMILIES: Final = {
    "solver": "another solver or grid at no more network evaluations; every skip untouched",
    "epsilon scale": "one number on the predicted noise (arXiv 2308.15321); every skip untouched",
    "grid exponent": "noise levels spaced otherwise; every skip untouched",
}
SETTING_ALONE: Final = "the tuned numbers of the setting, without the scales"


def report_of(found: Findings, *, pair: Pair | None, no_pictures: str, made: datetime) -> Report:
    """Return the report of a study.

    Arguments:
        found: What it found.
        pair: The same seeds before and after; None where there are no pictures.
        no_pictures: Why there are none.
        made: When the report is made, UTC; all else is a function of the study.
    """
    study = found.explanation.overview
    setting = Setting.from_json(found.explanation.setting)
    sections = [
        _pictures(found, pair, no_pictures),
        _result(found),
        _scales(found),
        _controls(found),
        search_section(found),
        landscape_section(found),
        cost_section(found),
        use_section(found),
        limits_section(found),
        provenance_section(found),
    ]
    metric = study.metric or "nothing scored yet"
    better = "" if found.result is None else f", {found.result.better} is better"
    return Report(
        study=study.study,
        subtitle=f"{metric}{better}; images by {setting_text(setting)}",
        headline=_headline(found),
        sections=[section for section in sections if section is not None],
        made=f"Made {made:%Y-%m-%d} by skiptune {__version__}.",
    )


def schedule_of(found: Findings) -> Schedule | None:
    """Return the schedule that a report is about: the confirm's, else the best of the search."""
    if found.result is not None:
        return None if found.result.schedule.is_baseline else found.result.schedule
    best = found.explanation.overview.best
    return None if best is None or best.schedule.is_baseline else best.schedule


def _headline(found: Findings) -> Headline:
    result, study = found.result, found.explanation.overview
    facts = [
        ("images made", numbers.count(study.spending.images)),
        ("schedules tried", f"{study.evaluations} of {study.budget}"),
        ("worker time", numbers.duration(study.spending.seconds)),
    ]
    if result is None:
        return _open_headline(found, facts)
    base = result.baseline
    shown = [("untouched", f"{numbers.value(base.value)} at {numbers.nfe(base.nfe)} NFE")]
    gain = interval = ""
    winner = result.winner
    if winner is not None:
        shown.append(("tuned", f"{numbers.value(winner.value)} at {numbers.nfe(winner.nfe)} NFE"))
        fraction = winner.gain(base.value)
        ends = winner.gain_interval(base.value, 1 - result.alpha)
        if fraction is not None and ends is not None:
            gain = f"{numbers.percent(fraction)} %"
            interval = (
                f"{numbers.percent(ends[0])} to {numbers.percent(ends[1])} % "
                f"({100 * (1 - result.alpha):g} % interval)"
            )
    won = result.verdict == WIN
    if won:
        badge = "Proved on fresh seeds"
    else:
        badge = "A constraint is violated" if result.violated else "No significant gain"
    return Headline(
        "win" if won else "no gain", badge, gain, interval, verdict_text(result), [*shown, *facts]
    )


def _open_headline(found: Findings, facts: list[tuple[str, str]]) -> Headline:
    study = found.explanation.overview
    running = next((c for c in study.confirms if not c.finished), None)
    state = "" if study.state == "complete" else f" The search is {study.state}."
    if running is not None:
        state = f" Confirm {running.number} is under way."
    best = study.best
    if best is None:
        text = nothing_best_text(study)
        sentence = f"{text[:1].upper()}{text[1:]}.{state}"
        return Headline("open", NOT_CONFIRMED, "", "", sentence, facts)
    base = best.baseline
    fraction, ends = best.measured.gain(base.value), best.measured.gain_interval(base.value)
    shown = [
        ("untouched", f"{numbers.value(base.value)} at {numbers.nfe(base.nfe)} NFE"),
        ("best so far", f"{numbers.value(best.measured.value)}"),
    ]
    if fraction is None or ends is None:
        sentence = "the best schedule has no paired difference to the untouched network"
    else:
        sentence = (
            f"on {numbers.count(best.measured.images)} of the search's own images the best "
            f"schedule gains {numbers.gain(fraction, *ends)} (95 % interval), and it was chosen "
            "for that, so the figure is too good on average: only a confirm on fresh seeds tells"
        )
    gain = "" if fraction is None else f"{numbers.percent(fraction)} %"
    interval = "" if ends is None else "in the search, which chose it"
    return Headline(
        "open", NOT_CONFIRMED, gain, interval, f"{NOT_CONFIRMED}: {sentence}.{state}",
        [*shown, *facts],
    )  # fmt: skip


def _pictures(found: Findings, pair: Pair | None, why: str) -> Section:
    blocks: list[Block]
    if pair is None:
        blocks = [Paragraph(f"There are no pictures here: {why}.", "quiet")]
    else:
        blocks = [pair]
        if found.result is None or found.result.verdict != WIN:
            text = f"{no_proof_text(found)}: what looks better here may be chance."
            blocks.append(Paragraph(text, "warning"))
    return Section("pictures", "Before and after", blocks)


def _result(found: Findings) -> Section:
    result = found.result
    if result is None:
        return _standing(found)
    blocks: list[Block] = [Paragraph(_where(result), "quiet")]
    strong = 1 if result.winner is not None else None
    caption = f"{result.metric}, {result.better} is better; 95 % intervals in brackets"
    blocks.append(
        Listing(
            ("measured", *SCORE_HEADS[1:]), score_rows(result), right=SCORE_HEADS[3:],
            caption=caption, strong=strong,
        )
    )  # fmt: skip
    blocks += [Paragraph(note, "warning") for note in notes(result)]
    blocks += [
        Paragraph(f"Confirm {one.number} stands beside it: {confirm_text(one)}.", "warning")
        for one in found.explanation.overview.confirms
        if one.verdict == WIN and result.verdict != WIN
    ]
    lines = list(hindsight(result))
    evidence = found.explanation.evidence.get(result.confirm)
    if evidence is not None:
        shown = {look.metric for look in result.parts}
        shown |= set() if result.second is None else {result.second.metric}
        lines += [other_text(one) for one in evidence.beside if one.name not in shown]
    if lines:
        blocks.append(Bullets(lines))
    return Section("result", "The result", blocks)


def _where(result: Result) -> str:
    if not result.tested:
        return (
            "Measured on the search's own seeds; no fresh ones were spent, because nothing was "
            "worth testing."
        )
    text = (
        f"Confirm {result.confirm}: measured on fresh seeds from {numbers.count(result.seeds[1])} "
        "on, which took no part in any choice. Gains are paired differences on the same seeds, as "
        "a part of the untouched network's value."
    )
    if result.parts or result.second is not None:
        text += " A row in other features has its value and its gain there."
    return f"{text} Errors count prompts." if result.unit == PROMPT else text


def _standing(found: Findings) -> Section:
    if found.leaders:
        text = (
            "The best schedules of the search on its own seeds: each was chosen for its value "
            "there, so the gains are too good on average."
        )
    else:
        text = f"There is no best schedule: {nothing_best_text(found.explanation.overview)}."
    blocks: list[Block] = [Paragraph(f"{NOT_CONFIRMED}. {text}", "warning")]
    rows = [
        (
            leader.measured.label,
            f"{numbers.value(leader.measured.value)} "
            f"{numbers.interval(*leader.measured.interval())}",
            _gain_text(leader.measured, leader.baseline),
            numbers.nfe(leader.measured.nfe),
            numbers.count(leader.measured.images),
        )
        for leader in found.leaders[:5]
    ]
    baseline = found.explanation.overview.baseline
    if baseline is not None:
        value = f"{numbers.value(baseline.value)} {numbers.interval(*baseline.interval())}"
        nfe, images = numbers.nfe(baseline.nfe), numbers.count(baseline.images)
        rows.insert(0, ("baseline", value, "", nfe, images))
    metric = found.explanation.overview.metric
    blocks.append(
        Listing(
            ("measured", *SCORE_HEADS[1:]), rows, right=SCORE_HEADS[3:],
            caption=f"{metric}; 95 % intervals in brackets", strong=1 if len(rows) > 1 else None,
        )
    )  # fmt: skip
    return Section("result", "The result so far", blocks)


def _scales(found: Findings) -> Section | None:
    schedule = schedule_of(found)
    if schedule is None:
        return None
    won = found.result is not None and found.result.verdict == WIN
    title = "The tuned scales" if won else "The scales of the candidate"
    space = found.origin.spec["space"]
    columns, rows = scale_rows(schedule, addresses=found.skips or None)
    figure = profile_figure(
        schedule,
        addresses=found.skips,
        searched=(float(space["low"]), float(space["high"])),
        caption="What each skip is multiplied by, the deepest skip above.",
    )
    table = Listing(columns, rows, right=NUMBERS)
    blocks: list[Block] = [Paragraph(_scales_text(schedule))]
    if figure is not None:
        blocks.append(figure)
    blocks.append(Fold(f"All {len(rows)} scales as numbers", [table]))
    return Section("scales", title, blocks)


def _scales_text(schedule: Schedule) -> str:
    count = len(schedule.addresses)
    skips = f"{count} skip{'' if count == 1 else 's'}" if count else "no skip"
    text = f"The schedule scales {skips}; the network itself is neither edited nor trained."
    if schedule.branches != "both":
        text += f" It acts in the {schedule.branches} branch of guidance alone."
    if schedule.knobs:
        knobs = ", ".join(f"{name} {value:.4g}" for name, value in schedule.knobs.items())
        text += f" With it goes the setting's {knobs}."
    return text


def _controls(found: Findings) -> Section:
    blocks: list[Block] = [
        Paragraph(
            "A study may gain something that has nothing to do with skips: a better solver, or a "
            "number that shifts every noise estimate alike. So the best option of each of these, "
            "with every skip untouched, is measured on the same seeds."
        )
    ]
    result = found.result
    if result is None or not result.controls:
        why = (
            "no confirm is finished"
            if result is None
            else "nothing was tested"
            if not result.tested
            else "this study asked for none (confirm.controls)"
        )
        blocks.append(Paragraph(f"No controls are measured: {why}.", "quiet"))
        return Section("controls", "Is it the skips?", blocks)
    base = result.baseline
    rows = [
        (c.label, _gain_text(c, base), numbers.nfe(c.nfe), _family_text(c.label))
        for c in result.controls
    ]
    if result.winner is not None:
        tuned = ("tuned scales", _gain_text(result.winner, base), numbers.nfe(result.winner.nfe))
        rows.insert(0, (*tuned, "what this study found"))
    blocks.append(
        Listing(
            ("measured", "gain % [95 %]", "NFE", "what it changes"), rows, right=("NFE",),
            caption="Gain over the untouched network, same seeds, same images",
            wrapped=("what it changes",), strong=0 if result.winner is not None else None,
        )
    )  # fmt: skip
    blocks += _answer(result)
    return Section("controls", "Is it the skips?", blocks)


def _family_text(label: str) -> str:
    family, colon, _ = label.partition(": ")
    return FAMILIES.get(family, "every skip untouched") if colon else SETTING_ALONE


def _answer(result: Result) -> Iterator[Paragraph]:
    """Yield what the controls say."""
    base = result.baseline.value
    gains = [(c.gain(base) or 0.0, c) for c in result.controls]
    gain, best = max(gains, key=lambda pair: pair[0])
    tuned = None if result.winner is None else result.winner.gain(base)
    if tuned is None:
        return
    if gain > max(tuned, 0.0):
        yield Paragraph(
            f"More is gained without touching a skip: {best.label} gains "
            f"{numbers.percent(gain)} %, the schedule {numbers.percent(tuned)} %.",
            "warning",
        )
    elif result.verdict == WIN:
        said = (
            f"the best of them, {best.label}, gains {numbers.percent(gain)} %, the schedule "
            f"{numbers.percent(tuned)} %"
        )
        if _is_apart(result):
            yield Paragraph(f"The skips do something that these do not: {said}.", "strong")
        else:
            yield Paragraph(
                f"None of these gains as much: {said}. But the intervals overlap, so that the "
                "skips do more than all of these is not shown."
            )
    yield Paragraph(
        "A control and the schedule were each compared with the untouched network, not with each "
        "other, and not put together: whether their gains add up is not measured.",
        "quiet",
    )


def _is_apart(result: Result) -> bool:
    """Whether the schedule's interval lies above those of all controls."""
    base = result.baseline.value
    own = None if result.winner is None else result.winner.gain_interval(base)
    others = [control.gain_interval(base) for control in result.controls]
    return own is not None and all(ends is None or ends[1] < own[0] for ends in others)


def _gain_text(measured: Measured, baseline: Measured) -> str:
    fraction = measured.gain(baseline.value)
    ends = measured.gain_interval(baseline.value)
    return "" if fraction is None or ends is None else numbers.bare_gain(fraction, *ends)
