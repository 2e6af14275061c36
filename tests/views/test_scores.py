from __future__ import annotations

import io
import json
import math
import re
import time

import pytest
from rich.console import Console

from skiptune.objectives.paired import Estimate
from skiptune.objectives.standalone import Pair, Row
from skiptune.search.reproduction import Reproduced
from skiptune.views.scores import (
    ComparedRow,
    compared_view,
    image_bar,
    image_lines,
    pairs_json,
    pairs_view,
    reproduced_view,
    scores_json,
    scores_view,
)
from tests.views.printed import printed


def row(value: float, error: float, name: str = "KID(inception)-50k") -> Row:
    return Row("kid", name, "lower", Estimate(value, error, 50_000))


def test_a_score_has_an_interval_where_its_error_is_known() -> None:
    rows = [
        row(2.5, 0.1),
        row(3.25, math.nan, "FD(efficientnet-lite0)-50k"),
        row(1.0, 0.2, "FD(efficientnet-lite0)-50k-corrected"),
    ]
    text = printed(*scores_view("images/: 50,000 images", rows, ["Nobody knows."]))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "2.500 [2.304, 2.696]" in lines["KID(inception)-50k"]
    plain = lines["FD(efficientnet-lite0)-50k"]
    assert "3.250" in plain and "[" not in plain and "nan" not in plain
    assert re.search(r"0\.2 +lower", lines["FD(efficientnet-lite0)-50k-corrected"])
    assert "Caution: Nobody knows." in text
    assert max(map(len, text.splitlines())) <= 80


def test_two_schedules_stand_below_each_other_with_their_difference() -> None:
    pairs = [
        Pair(row(2.5, 0.1), row(2.25, 0.1), Estimate(-0.25, 0.01, 50_000)),
        Pair(row(9.0, math.nan, "FD-50k"), row(8.0, math.nan, "FD-50k"), None),
    ]
    text = printed(*pairs_view("tuned.json", pairs, []))
    lines = [line.strip() for line in text.splitlines()]
    names = [line.split("  ")[0] for line in lines[4:] if line]
    assert names == [
        "KID(inception)-50k, lower is better",
        "baseline",
        "tuned",
        "tuned - baseline, paired",
        "FD-50k, lower is better",
        "baseline",
        "tuned",
    ]
    assert "-0.2500 [-0.2696, -0.2304]" in text
    assert "Caution" not in text


def test_plain_data_has_every_number() -> None:
    (plain,) = scores_json([row(2.5, 0.1)])
    assert plain["metric"] == "KID(inception)-50k" and plain["better"] == "lower"
    assert (plain["value"], plain["standard_error"], plain["images"]) == (2.5, 0.1, 50_000)
    assert plain["interval"] == pytest.approx([2.304, 2.696], abs=1e-3)
    (pair,) = pairs_json([Pair(row(2.5, 0.1), row(2.25, 0.1), None)])
    assert pair["difference"] is None and pair["tuned"]["value"] == 2.25
    assert json.dumps(pair)


def test_a_log_gets_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines: list[str] = []
    told = image_lines(lines.append, "stats.npz", 10_000)
    told(500)
    for done in range(750, 10_001, 250):
        now[0] += 1
        told(done)
    assert [line.split("stats.npz: ")[1] for line in lines] == [
        "500/10,000 images",
        "3,000/10,000 images, 250.0 images/s",
        "5,500/10,000 images, 250.0 images/s",
        "8,000/10,000 images, 250.0 images/s",
        "10,000/10,000 images, 250.0 images/s",
    ]


def test_a_bar_goes_away() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with image_bar(console, "baseline", 300) as told:
        told(150)
        told(300)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "300/300 images" in text and text.endswith("\x1b[2K")


def test_schedules_side_by_side_are_shown_metric_by_metric() -> None:
    rows = [
        ComparedRow("baseline", "FD(dct)-2k", "lower", "5.000", ""),
        ComparedRow("mine", "FD(dct)-2k", "lower", "4.000", "-1.000 [-1.200, -0.800]"),
        ComparedRow("baseline", "recall(dct)-2k", "higher", "0.500", ""),
    ]
    text = printed(*compared_view("Seeds 0 to 1,999", rows, ["few prompts."], first="baseline"))
    assert text.count("minus baseline, paired [95 %]") == 2
    assert re.search(r"mine +4.000 +-1.000 \[-1.200, -0.800\]", text)
    assert text.endswith("Caution: few prompts.\n")
    assert text.index("FD(dct)-2k, lower is better") < text.index("recall(dct)-2k, higher")


def test_scores_that_were_made_again_stand_beside_the_stored_ones() -> None:
    rows = [Reproduced("baseline", 0.1, 0.1), Reproduced("tuned", 0.1, 0.1 + 2**-56)]
    assert [one.is_same for one in rows] == [True, False]
    text = printed(*reproduced_view("tuned.json", rows, ["Another device."]))
    assert re.search(r"baseline +0.1 +0.1 +same bits", text)
    assert re.search(r"tuned +0.1 +0.10000000000000002 +\+1.4e-17", text)
    assert "Caution: Another device." in text
