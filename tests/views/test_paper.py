"""Tables for a paper, parsed back into the numbers of tuned.json."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.schedule import Schedule, Term
from skiptune.search.evidence import Verdict
from skiptune.views.paper import COLUMNS, PAPERS, csv_text, latex_text, markdown_text
from tests.tuned_documents import tuned_for

AWKWARD = r"a_b & 50% of $x^2$ #1 {~} c:\d | <e>"


@pytest.fixture(scope="module")
def document() -> Any:
    checkpoint = load_checkpoint("fashion")
    first, second, third, *_ = (skip.address for skip in checkpoint.skips)
    schedule = Schedule(
        [
            Term(first, 0.7071067811865476),
            Term(second, 0.9, low=0.5, high=2.0),
            Term(second, 1.1, low=2.0),
            Term(third, 0.8, part="residual"),
        ]
    )
    made = tuned_for(checkpoint, schedule)
    control = made.tuned.model_copy(update={"label": AWKWARD, "value": 5.5})
    return made.model_copy(update={"controls": (control,)})


def expected_terms(document: Any) -> list[tuple[str, str, float, float, float]]:
    return [
        (t.address, t.part, t.low, t.high, t.scale)
        for skip in document.skips
        for t in skip.terms()
    ]


def test_csv_has_every_number_in_full(document: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(document))))
    assert tuple(rows[0]) == COLUMNS
    (verdict,) = (row for row in rows if row["table"] == "verdict")
    assert (verdict["name"], float(verdict["value"])) == ("win", 9.7)
    assert (float(verdict["interval_low"]), float(verdict["interval_high"])) == (5.5, 13.9)
    scores = [row for row in rows if row["table"] == "score"]
    for row, score in zip(
        scores, [document.baseline, document.tuned, *document.controls], strict=True
    ):
        assert row["name"] == score.label
        assert float(row["value"]) == score.value
        assert float(row["standard_error"]) == score.standard_error
        ends = (float(row["interval_low"]), float(row["interval_high"]))
        assert ends == tuple(score.interval)
        assert row["difference"] == ("" if score.difference is None else repr(score.difference))
        assert (int(row["images"]), float(row["nfe"])) == (score.images, score.nfe)
        assert row["metric"] == document.measure.metric
    scales = [
        (
            row["name"],
            row["part"],
            float(row["sigma_low"]),
            float(row["sigma_high"] or "inf"),
            float(row["value"]),
        )
        for row in rows
        if row["table"] == "scale"
    ]
    assert scales == expected_terms(document)


def cells_of_markdown(text: str) -> list[list[list[str]]]:
    """Return tables as GitHub reads them: a pipe behind a backslash is no border."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [
        [
            [re.sub(r"\\([\\|])", r"\1", c).strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.splitlines()
        ]
        for table in tables
    ]


def cells_of_latex(text: str) -> list[list[list[str]]]:
    names = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^",
        "textbar": "|", "textless": "<", "textgreater": ">",
    }  # fmt: skip

    def plain(cell: str) -> str:
        cell = re.sub(r"\\(text\w+)\{\}", lambda m: f"\0{names[m[1]]}", cell)
        cell = re.sub(r"\\([&%$#_{}])", r"\1", cell)
        return cell.replace("\0", "").strip()

    found = []
    for body in re.findall(r"\\begin\{tabular\}\{\w+\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        assert [line for line in body.splitlines() if line.strip().startswith("\\")] == [
            "\\toprule",
            "\\midrule",
            "\\bottomrule",
        ]
        rows = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
        found.append([[plain(c) for c in re.split(r"(?<!\\)&", row)] for row in rows])
    return found


@pytest.mark.parametrize(("kind", "read"), [("md", cells_of_markdown), ("latex", cells_of_latex)])
def test_tables_read_back(document: Any, kind: str, read: Any) -> None:
    text = PAPERS[kind](document)
    scores, scales = read(text)
    rows = [row for row in scores[1:] if "---" not in row]
    assert [row[0] for row in rows] == ["baseline", "tuned", AWKWARD]
    for row, score in zip(
        rows, [document.baseline, document.tuned, *document.controls], strict=True
    ):
        value, low, high = (float(n) for n in re.findall(r"-?[\d.]+", row[1]))
        assert value == pytest.approx(score.value, rel=1e-3)
        assert (low, high) == pytest.approx(score.interval, abs=1e-3)
        assert (float(row[3]), int(row[4].replace(",", ""))) == (score.nfe, score.images)
        if score.difference is None:
            assert row[2] == ""
            continue
        value, low, high = (float(n) for n in re.findall(r"-?[\d.]+", row[2]))
        assert value == pytest.approx(score.difference, abs=1e-3)
        half = 1.96 * score.difference_error
        ends = (score.difference - half, score.difference + half)
        assert (low, high) == pytest.approx(ends, abs=1e-3)
    rows = [row for row in scales[1:] if "---" not in row]
    terms = expected_terms(document)
    assert [row[0] for row in rows] == [address for address, *_ in terms]
    places = [(skip.index, skip.resolution) for skip in document.skips for _ in skip.terms()]
    assert [row[1:3] for row in rows] == [[f"{i}", f"{size}x{size}"] for i, size in places]
    parts = ["both" if row[3] == "skip" else row[3] for row in rows]
    assert parts == [part for _, part, *_ in terms]
    assert [float(row[5]) for row in rows] == pytest.approx([t[4] for t in terms], rel=1e-3)
    windows = [row[4] for row in rows if row[4] != "all"]
    assert windows == ["0.5 to 2", "from 2"]
    assert "gain +9.7" in text and "[+5.5, +13.9]" in text
    confidence = re.search(r"13\.9\] at ([\d.]+) ", text.replace("\\%", "%"))
    assert confidence is not None
    assert 1 - float(confidence[1]) / 100 == pytest.approx(document.verdict.alpha)
    assert f"{document.measure.better} is better" in text


def test_latex_is_balanced_and_names_its_package(document: Any) -> None:
    text = latex_text(document)
    assert r"\usepackage{booktabs}" in text
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 2
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[#$~^|<>]", bare)


def test_a_table_without_a_confirm_says_so(document: Any) -> None:
    unconfirmed = document.model_copy(update={"verdict": Verdict(verdict="not confirmed")})
    for text in (markdown_text(unconfirmed), latex_text(unconfirmed)):
        assert "not confirmed: the seeds are those of the search" in text
        assert "gain" not in text
    row = next(csv.DictReader(io.StringIO(csv_text(unconfirmed))))
    assert (row["name"], row["value"], row["interval_low"]) == ("not confirmed", "", "")


def test_what_goes_with_the_scales_stands_in_every_table(document: Any) -> None:
    before = document.setting.model_copy(update={"guidance": 3.0})
    now = before.model_copy(update={"epsilon_scale": 1.008966, "guidance": 2.5})
    changes = {"setting": now, "untouched_setting": before, "branches": "cond"}
    along = document.model_copy(update=changes)
    for text in (markdown_text(along), latex_text(along).replace(r"\_", "_")):
        assert "epsilon_scale 1.009 (baseline 1), guidance 2.5 (baseline 3)" in text
        assert "in the cond evaluations of guidance alone" in text
    rows = [r for r in csv.DictReader(io.StringIO(csv_text(along))) if r["table"] == "setting"]
    assert [(row["name"], row["value"]) for row in rows] == [
        ("epsilon_scale", "1.008966"), ("guidance", "2.5"), ("branches cond", ""),
    ]  # fmt: skip
    for text in (markdown_text(document), latex_text(document), csv_text(document)):
        assert "tuned with" not in text and "guidance" not in text and "setting," not in text


def test_of_metrics_of_which_more_is_better_a_gain_is_above_zero(document: Any) -> None:
    measure = document.measure.model_copy(update={"metric": "recall", "better": "higher"})
    # The file's own difference is negative where the tuned network is better.
    more = {"value": 6.375, "difference": -0.5625, "difference_error": 0.0625}
    tuned = document.tuned.model_copy(update=more)
    recall = document.model_copy(update={"measure": measure, "tuned": tuned, "controls": ()})
    text = markdown_text(recall)
    assert recall.tuned.value - recall.baseline.value == 0.5625
    assert "| 6.375 [5.600, 6.000] | 0.5625 [0.4400, 0.6850] |" in text
    (row,) = (r for r in csv.DictReader(io.StringIO(csv_text(recall))) if r["name"] == "tuned")
    assert (row["difference"], row["difference_error"]) == ("0.5625", "0.0625")
