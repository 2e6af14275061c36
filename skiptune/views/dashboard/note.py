"""The note of a study: what it is, what it has found, and what may be done next, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from rich.table import Table

from skiptune.search.explanation import Explanation
from skiptune.search.overview import SCORED, Leader
from skiptune.views import numbers
from skiptune.views.explanation import explanation_hints
from skiptune.views.scales import scale_table
from skiptune.views.study import confirm_text, nothing_best_text, other_text

__all__ = ["BLANK", "MOST_CHARACTERS", "note", "note_of_rung", "note_of_the_confirmed"]

MOST_CHARACTERS: Final = 16_000
"""Of a note; the page reads it at every poll."""

MOST_FRONT: Final = 10  # schedules of a Pareto front that have a row
BLANK: Final = "&emsp;"
REPLACED: Final = (
    "*Written by skiptune from its own tables after each change; what is typed here is replaced.*"
)


def note(
    found: Explanation,
    leaders: Sequence[Leader],
    *,
    addresses: Sequence[str],
    missing: str = "",
) -> str:
    """Return the note of the study that is asked.

    Arguments:
        found: The explanation of the study.
        leaders: Its best schedules, the best first.
        addresses: All skips of the network, deepest first; empty where they are not known.
        missing: Why the pair of pictures could not be made, or nothing.
    """
    parts = [
        _head(found),
        _searched(found),
        _baseline(found),
        *_best(leaders, addresses),
        f"No picture beside the untouched network's: {_plain(missing)}." if missing else "",
        _confirms(found),
        _next(found),
        _reading(found),
        REPLACED,
    ]
    return _bounded(parts)


def note_of_rung(found: Explanation, images: int) -> str:
    """Return the note of a higher rung.

    Arguments:
        found: The explanation of the study.
        images: Of the rung.
    """
    name = _code(found.overview.study)
    return _bounded(
        [
            f"## {name} at {numbers.count(images)} images",
            f"The schedules of {name} that went on, measured on {numbers.count(images)} images of"
            f" the search's seeds. What was found stands in the note of {name}.",
            REPLACED,
        ]
    )


def note_of_the_confirmed(found: Explanation) -> str:
    """Return the note of the study of confirmed numbers."""
    name = _code(found.overview.study)
    return _bounded(
        [
            f"## {name}: confirmed",
            "Only what was proved on seeds that no decision had seen: each winner, and the"
            " untouched network on the same seeds. Nothing of the search stands here.",
            _confirms(found),
            REPLACED,
        ]
    )


def _head(found: Explanation) -> str:
    study = found.overview
    last = study.confirms[-1] if study.confirms else None
    if last is not None:
        verdict = f"confirm {last.number}: {confirm_text(last)}"
    elif study.best is None:
        scored = study.states.get(SCORED)
        verdict = nothing_best_text(study) if scored else "nothing is scored yet"
    else:
        gain = study.best.measured.gain(study.best.baseline.value)
        ends = study.best.measured.gain_interval(study.best.baseline.value)
        verdict = "nothing is confirmed yet"
        if gain is not None and ends is not None:
            verdict += f"; in the search the best gains {numbers.gain(gain, *ends)}"
    head = f"## {_code(study.study)}: {_plain(study.metric or 'nothing scored yet')}"
    return f"{head}\n\n**Verdict:** {_plain(verdict)}"


def _searched(found: Explanation) -> str:
    study, setting = found.overview, found.setting
    states = ", ".join(f"{count} {state}" for state, count in sorted(study.states.items()))
    rungs = ", ".join(numbers.count(rung.images) for rung in found.rungs)
    text = (
        f"{found.space}; images by {setting['solver']} in {setting['steps']} steps; proposed by"
        f" {found.sampler}; compared at {rungs} images; least gain that counts"
        f" {100 * found.min_gain:g} %. {study.evaluations} of {study.budget} schedules"
        f" ({states or 'none yet'}); the study is {study.state}."
    )
    return f"### What is searched\n\n{_plain(text)}"


def _baseline(found: Explanation) -> str:
    base = found.overview.baseline
    if base is None:
        return "### Untouched network\n\nNot measured yet."
    text = (
        f"{numbers.value(base.value)} {numbers.interval(*base.interval())} on"
        f" {numbers.count(base.images)} images, NFE {numbers.nfe(base.nfe)}."
    )
    return f"### Untouched network\n\n{_plain(text)}"


def _best(leaders: Sequence[Leader], addresses: Sequence[str]) -> Iterator[str]:
    if not leaders:
        yield "### Best schedule\n\nNone is scored yet."
        return
    front = [one for one in leaders if one.on_front]
    if len(front) > 1:
        yield _front(front)
    best = leaders[0]
    word = "confirmed" if best.confirmed else "not confirmed"
    value = f"{numbers.value(best.measured.value)} {numbers.interval(*best.measured.interval())}"
    text = f"{best.metric} {value} on {numbers.count(best.measured.images)} images; {word}."
    gain = best.measured.gain(best.baseline.value)
    ends = best.measured.gain_interval(best.baseline.value)
    if gain is not None and ends is not None:
        text = f"Gain {numbers.gain(gain, *ends)}; {text}"
    yield f"### Best schedule: {_plain(best.measured.label)}\n\n{_plain(text)}"
    if best.schedule.is_baseline:
        yield "No skip is scaled."
    else:
        yield _markdown(scale_table(best.schedule, addresses=addresses or None))
    for other in best.others:
        yield f"- {_plain(other_text(other))}"


def _front(front: Sequence[Leader]) -> str:
    objectives = [other.name for other in front[0].others if other.kind == "objective"]
    heads = ["schedule", front[0].metric, *objectives]
    rows = [
        [
            one.measured.label,
            f"{one.measured.value:.4g} ± {1.96 * one.measured.standard_error:.2g}",
            *(
                f"{other.value:.4g} ± {1.96 * other.standard_error:.2g}"
                for other in one.others
                if other.kind == "objective"
            ),
        ]
        for one in front[:MOST_FRONT]
    ]
    more = "" if len(front) <= MOST_FRONT else f"\n\nand {len(front) - MOST_FRONT} more"
    return f"### Pareto front: {len(front)} schedules\n\n{_rows(heads, rows)}{more}"


def _confirms(found: Explanation) -> str:
    lines = [f"- confirm {one.number}: {confirm_text(one)}" for one in found.overview.confirms]
    text = "\n".join(_plain(line) for line in lines) or "Nothing yet."
    return f"### Confirmed on fresh seeds\n\n{text}"


def _next(found: Explanation) -> str:
    hints = list(explanation_hints(found, source="study.yaml"))
    lines = []
    for hint in hints:
        words, _, command = hint.partition(": skiptune ")
        line = f"- {_plain(words)}"
        lines.append(f"{line}: {_code(f'skiptune {command}')}" if command else line)
    return "### What to do next\n\n" + ("\n".join(lines) or "Nothing.")


def _reading(found: Explanation) -> str:
    text = (
        "### How to read this page\n\n"
        "Values are the untouched network's value at full size plus the paired difference on equal"
        " seeds, so that all rungs share one scale; `raw` and `corrected` are in each trial's"
        " attributes. The best trial that Optuna names is the luckiest of the lowest rung; the"
        " best schedule above has most images behind it. Each trial shows its first images, on the"
        " same seeds for all."
    )
    return text


def _markdown(table: Table) -> str:
    """Return a table of the terminal as Markdown."""
    heads = [str(column.header) for column in table.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    return _rows(heads, [list(row) for row in rows])


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # The page sets columns close together: a blank that Markdown keeps ends each cell.
    cells = [[f"{_plain(cell).replace('|', '/')}{BLANK}" for cell in line] for line in rows]
    lines = [[f"{_plain(head)}{BLANK}" for head in heads], ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Return text as code, in which nothing is markup."""
    return f"`{text.replace('`', chr(39))}`"


def _plain(text: str) -> str:
    """Return text in which nothing is markup: the page renders HTML that stands in a note."""
    for letter, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(letter, instead)
    # The backslash too, or one before a letter would take the effect of ours away; the page takes
    # what stands between dollars for formulas.
    text = re.sub(r"([\\`*\[\]~$])", r"\\\1", text)
    # An underscore within a word is none of Markdown's: addresses stay readable.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _bounded(parts: Sequence[str]) -> str:
    text = "\n\n".join(part for part in parts if part)
    if len(text) <= MOST_CHARACTERS:
        return text
    tail = f"\n\n(cut; `skiptune explain` tells all)\n\n{REPLACED}"
    return text[: MOST_CHARACTERS - len(tail)].rpartition("\n")[0] + tail
