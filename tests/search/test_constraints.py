"""Constraints as people write them, and how far they are missed."""

from __future__ import annotations

import numpy as np
import pytest

from skiptune.objectives.metrics import Summary
from skiptune.objectives.paired import Estimate
from skiptune.search.constraints import Constraint, gap, parsed_constraint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recall >= 0.95 x baseline", Constraint("recall", True, 0.95, True)),
        ("recall>=0.95*baseline", Constraint("recall", True, 0.95, True)),
        ("recall >= baseline", Constraint("recall", True, 1.0, True)),
        ("kid <= 1e-05", Constraint("kid", False, 1e-5, False)),
        ("nfe <= 9", Constraint("nfe", False, 9.0, False)),
        ("fd <= -0.5", Constraint("fd", False, -0.5, False)),
        ("fid <= 2.5", None),  # of the study's own extractor only
    ],
)
def test_what_can_be_written(text: str, expected: Constraint | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="one of"):
            parsed_constraint(text)
        return
    assert parsed_constraint(text) == expected
    assert parsed_constraint(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["recall", "recall > 1", "recall >= 0.9 x", "recall >= 2 x 3", ">= 1", "recal >= 1"]
)
def test_what_cannot_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"METRIC|did you mean `recall`"):
        parsed_constraint(text)


@pytest.mark.parametrize("at_least", [True, False])
def test_the_gap_is_paired_with_a_share_of_the_baseline(at_least: bool) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(2.0, 1.0, 400)
    ours = 0.9 * base + rng.normal(0.0, 0.1, 400)
    summaries = [
        Summary("precision", Estimate(float(x.mean()), 0.05, 400), x) for x in (ours, base)
    ]
    found = gap(Constraint("precision", at_least, 0.95, True), *summaries)
    sign = -1 if at_least else 1
    assert found.value == pytest.approx(sign * (ours.mean() - 0.95 * base.mean()))
    expected = (ours - 0.95 * base).std(ddof=1) / 20
    assert found.standard_error == pytest.approx(expected)
    assert found.standard_error < 0.2 * 0.05  # the share that both have cancels


def test_a_limit_of_its_own_has_the_value_s_error() -> None:
    summary = Summary("density", Estimate(0.8, 0.02, 100), np.zeros(100))
    found = gap(Constraint("density", True, 0.9, False), summary, summary)
    assert found.value == pytest.approx(0.1)
    assert found.standard_error == 0.02
