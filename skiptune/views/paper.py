r"""Scores and scales as tables for a paper: CSV, Markdown, LaTeX with booktabs.

Every number that has an interval stands with it: a value with its 95 % interval, a paired
difference with that of the difference: of value less baseline, also of metrics of which more is
better. CSV has all digits, for it is read by programs.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skiptune.views import numbers

if TYPE_CHECKING:
    from skiptune.sampling.schedule import Term
    from skiptune.search.evidence import Score
    from skiptune.search.tuned import Tuned

__all__ = ["COLUMNS", "PAPERS", "csv_text", "latex_text", "markdown_text"]

COLUMNS = (
    "table",
    "name",
    "part",
    "sigma_low",
    "sigma_high",
    "value",
    "standard_error",
    "interval_low",
    "interval_high",
    "difference",
    "difference_error",
    "images",
    "nfe",
    "metric",
)
"""Of the CSV: `table` is verdict, score, setting (what was tuned beside scales) or scale; a cell
that does not apply is empty."""

NORMAL = 1.959963984540054  # the 97.5 % point of the normal distribution
_SCORES = ("", "value [95 %]", "less baseline [95 %]", "NFE", "images")
_SCALES = ("skip", "index", "resolution", "part", "sigma", "scale")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other signs in LaTeX's own fonts.
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def csv_text(document: Tuned) -> str:
    """Return the verdict, the scores, what goes with the scales, and these: a CSV of `COLUMNS`."""
    verdict, metric = document.verdict, document.measure.metric
    low, high = verdict.interval or (None, None)
    rows: list[dict[str, Any]] = [
        {
            "table": "verdict",
            "name": verdict.verdict,
            "value": verdict.gain,
            "interval_low": low,
            "interval_high": high,
            "metric": f"gain in % of the baseline's {metric}",
        }
    ]
    rows += [
        {
            "table": "score",
            "name": score.label,
            "value": score.value,
            "standard_error": score.standard_error,
            "interval_low": score.interval[0],
            "interval_high": score.interval[1],
            "difference": _less_baseline(document, score),
            "difference_error": score.difference_error,
            "images": score.images,
            "nfe": score.nfe,
            "metric": metric,
        }
        for score in _scores(document)
    ]
    rows += [
        {"table": "setting", "name": name, "value": value}
        for name, value in document.knobs.items()
    ]
    if document.branches != "both":
        rows.append({"table": "setting", "name": f"branches {document.branches}"})
    rows += [
        {
            "table": "scale",
            "name": term.address,
            "part": term.part,
            "sigma_low": term.low,
            "sigma_high": None if math.isinf(term.high) else term.high,
            "value": term.scale,
        }
        for _, term in _terms(document)
    ]
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def markdown_text(document: Tuned) -> str:
    """Return a heading, what was measured, and two tables in GitHub's Markdown."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(_plain_cell(c) for c in row)} |" for row in lines)

    return (
        f"# {_plain_cell(document.study)}: {_plain_cell(document.measure.metric)}\n\n"
        f"{_caption(document)}\n\n"
        f"{table(_SCORES, _score_rows(document))}\n\n"
        f"{table(_SCALES, _scale_rows(document))}\n"
    )


def latex_text(document: Tuned) -> str:
    r"""Return two `table` environments; they need `\usepackage{booktabs}`."""

    def table(
        head: Sequence[str], rows: Sequence[Sequence[str]], columns: str, caption: str, label: str
    ) -> str:
        cells = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in (head, *rows)]
        body = "\n".join(cells[1:])
        return (
            "\\begin{table}\n  \\centering\n"
            f"  \\caption{{{_tex(caption)}}}\n  \\label{{tab:{label}}}\n"
            f"  \\begin{{tabular}}{{{columns}}}\n\\toprule\n{cells[0]}\n\\midrule\n{body}\n"
            "\\bottomrule\n  \\end{tabular}\n\\end{table}\n"
        )

    name = re.sub(r"[^A-Za-z0-9-]", "-", document.study)
    scales = f"Scales of the skips of {document.network.name}, deepest first."
    return (
        "% Needs \\usepackage{booktabs}.\n"
        + table(_SCORES, _score_rows(document), "lrrrr", _caption(document), f"{name}-scores")
        + "\n"
        + table(_SCALES, _scale_rows(document), "lrrllr", scales, f"{name}-scales")
    )


PAPERS: Mapping[str, Callable[[Tuned], str]] = {
    "csv": csv_text,
    "md": markdown_text,
    "latex": latex_text,
}
"""By the names of `--format`."""


def _scores(document: Tuned) -> list[Score]:
    return [document.baseline, document.tuned, *document.controls]


def _terms(document: Tuned) -> list[tuple[Any, Term]]:
    return [(skip, term) for skip in document.skips for term in skip.terms()]


def _caption(document: Tuned) -> str:
    verdict, setting = document.verdict, document.setting
    measured = f"{document.measure.metric}, {document.measure.better} is better"
    where = [f"{setting.solver}, {setting.steps} steps", *_beside(document)]
    text = f"{measured}; {'; '.join(where)}. Verdict: {verdict.verdict}"
    if verdict.gain is not None and verdict.interval is not None and verdict.alpha is not None:
        gain = numbers.gain(verdict.gain / 100, *(end / 100 for end in verdict.interval))
        text += f", gain {gain} at {100 * (1 - verdict.alpha):g} %"
    if verdict.verdict == "not confirmed":
        text += ": the seeds are those of the search, which chose the scales"
    return f"{text}."


def _beside(document: Tuned) -> list[str]:
    """Return what the scales are nothing without: numbers that were tuned too, and branches."""
    found = []
    if document.knob_changes:
        found.append(f"tuned with the scales: {', '.join(document.knob_changes)}")
    if document.branches != "both":
        found.append(f"scales in the {document.branches} evaluations of guidance alone")
    return found


def _score_rows(document: Tuned) -> list[tuple[str, ...]]:
    return [
        (
            score.label,
            f"{numbers.value(score.value)} {numbers.interval(*score.interval)}",
            _difference(document, score),
            numbers.nfe(score.nfe),
            numbers.count(score.images),
        )
        for score in _scores(document)
    ]


def _less_baseline(document: Tuned, score: Score) -> float | None:
    """Return a value less the baseline's; the file's own difference is negative where better."""
    if score.difference is None or document.measure.better == "lower":
        return score.difference
    return -score.difference


def _difference(document: Tuned, score: Score) -> str:
    difference = _less_baseline(document, score)
    if difference is None:
        return ""
    value = numbers.value(difference)
    if score.difference_error is None:
        return value
    half = NORMAL * score.difference_error
    return f"{value} {numbers.interval(difference - half, difference + half)}"


def _scale_rows(document: Tuned) -> list[tuple[str, ...]]:
    return [
        (
            term.address,
            str(skip.index),
            f"{skip.resolution}x{skip.resolution}",
            "skip" if term.part == "both" else term.part,
            _window(term.low, term.high),
            f"{term.scale:.4g}",
        )
        for skip, term in _terms(document)
    ]


def _window(low: float, high: float) -> str:
    if low <= 0 and math.isinf(high):
        return "all"
    return f"{low:.4g} to {high:.4g}" if not math.isinf(high) else f"from {low:.4g}"


def _plain_cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text.replace("\n", " "))
