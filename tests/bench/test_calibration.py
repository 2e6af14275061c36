"""The calibration's schedules are as far as they say, and its scores are the library's."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import bench.calibration
from bench.calibration import Condition, Counts, conditions, main, measure, wilson
from bench.calibration_family import BASELINE, OPTIMUM, Family
from bench.calibration_replay import Rules, Search, confirm, replay
from bench.calibration_scores import scores
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.paired import paired_difference, scored
from skiptune.search.sections import ConfirmSpec, SearchSpec

DIM = 8
POINTS = [BASELINE, OPTIMUM, (1.0, 0.3), (-0.7, -1.0)]


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("spread", [0.0, 0.15])
@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_distances_are_exact(spread: float, gain: float) -> None:
    family = Family(DIM, 4.0, spread, gain)
    for point in POINTS:
        mean, deviations = family.moments(point)
        distance = frechet_of_moments(mean, np.diag(deviations**2), family.reference)
        assert distance == pytest.approx(family.true_distance(point), rel=1e-10)
    assert family.true_distance(BASELINE) == 4.0
    assert family.true_distance(OPTIMUM) == pytest.approx(4.0 - gain)


def test_images_have_the_moments_that_distances_are_of_and_differ_between_schedules() -> None:
    family = Family(DIM, 4.0, 0.15)
    noise = family.noise(np.random.default_rng(1), 40_000)
    base = family.rows(BASELINE, noise)
    for point in POINTS[1:]:
        rows = family.rows(point, noise)
        mean, deviations = family.moments(point)
        assert rows.mean(axis=0) == pytest.approx(mean, abs=0.03)
        assert np.cov(rows.T) == pytest.approx(np.diag(deviations**2), abs=0.05)
        assert np.abs(rows - base).mean() > 0.05


def test_the_baseline_spreads_most_where_spreads_are_unequal() -> None:
    traces = [float((Family(DIM, 4.0, 0.15).moments(p)[1] ** 2).sum()) for p in POINTS]
    equal = [float((Family(DIM, 4.0).moments(p)[1] ** 2).sum()) for p in POINTS]
    assert max(traces) == traces[0] > 1.2 * min(traces)
    assert equal == pytest.approx([equal[0]] * len(POINTS))


def test_a_spread_that_is_farther_than_the_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="farther"):
        Family(DIM, 0.01, 0.5).moments(BASELINE)


def test_scores_are_those_of_the_library() -> None:
    family = Family(DIM, 4.0, 0.15)
    # A reference with correlations, whose root is no diagonal.
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(DIM, DIM)))[0]
    reference = replace(family.reference, covariance=turn @ family.reference.covariance @ turn.T)
    noise = family.noise(np.random.default_rng(3), 64)
    rows = np.array([family.rows(point, noise) for point in POINTS[:2]])
    ours = scores(rows, reference)
    for one, features in zip(ours, rows, strict=True):
        theirs = scored(features, reference).corrected
        assert one.value == pytest.approx(theirs.value, rel=1e-9)
        assert one.standard_error == pytest.approx(theirs.standard_error, rel=1e-9)
    expected = paired_difference(rows[1], rows[0], reference)
    found = ours[1].less(ours[0])
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


def test_rules_are_those_of_an_empty_spec() -> None:
    rules = Rules.of_defaults(64)
    assert rules.evaluations == SearchSpec().evaluations
    assert rules.candidates == ConfirmSpec().candidates
    per_image = 8 * 64 / SearchSpec().rungs[0]
    assert rules.rungs == tuple(round(per_image * n) for n in SearchSpec().rungs)
    assert all(images % 4 == 0 for images in (*rules.rungs, rules.images))


def test_a_search_promotes_its_best_and_confirms_on_fresh_images() -> None:
    family = Family(DIM, 4.0, gain=0.6)
    rules = replace(Rules.of_defaults(DIM), workers=8)
    search = Search(family, rules, seed=1)
    search.go_on()
    assert len(search.found[0]) == rules.evaluations
    assert 0 < len(search.found[1]) < rules.evaluations / 2
    candidates = search.candidates()
    assert 1 < len(candidates) <= rules.candidates and BASELINE not in candidates
    assert family.gain_at(candidates[0]) > 0
    first, again = (confirm(family, candidates, rules, seed=1, number=1) for _ in range(2))
    other = confirm(family, candidates, rules, seed=1, number=2)
    assert first == again and first.measured != other.measured
    assert (first.alpha, other.alpha) == (rules.alpha / 2, rules.alpha / 4)


def test_a_gain_that_is_large_is_found_and_one_that_is_none_is_not() -> None:
    rules = replace(Rules.of_defaults(DIM), workers=40, sampler="random")
    found = replay(Family(DIM, 4.0, gain=1.0), rules, seed=1, confirms=3)
    assert len(found) == 1 and found[0].won(min_gain=0.01)
    few = replace(rules, evaluations=4)
    for seed in range(5):
        unlike = replay(Family(DIM, 4.0, 0.15), few, seed=seed, confirms=2)
        assert len(unlike) <= 2 and not any(one.won(min_gain=0.0) for one in unlike)


def test_a_search_that_shows_nothing_tests_nothing() -> None:
    family = Family(DIM, 4.0, gain=3.9)
    rules = replace(Rules.of_defaults(DIM), evaluations=2, workers=2, sampler="random")
    search = Search(family, rules, seed=3)
    search.go_on()
    assert all(family.gain_at(point) < -1 for point in search.points)
    assert replay(family, rules, seed=3, confirms=1) == []


def test_conditions_and_their_counts() -> None:
    rules = replace(Rules.of_defaults(DIM), evaluations=6)
    every = conditions(rules, dim=DIM, confirms=2)
    assert [one.planted for one in every] == [0, 0, 1, 2, 4]
    assert every[4].family.gain == pytest.approx(4 * every[2].family.gain)
    whole, parts = Counts(), Counts()
    measure(every[4], whole, replays=5)
    measure(every[4], parts, replays=2)
    measure(every[4], parts, replays=3)
    parts.seconds = whole.seconds
    assert parts == whole and whole.replays == 5
    assert whole.tested >= whole.ever["0.0"] >= whole.ever["0.01"] >= whole.false["0.01"]


def test_intervals_of_shares() -> None:
    # Wilson's interval of 1 in 10 (Brown, Cai and DasGupta 2001, equation 4).
    assert wilson(1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-4)
    assert wilson(0, 100)[0] == pytest.approx(0, abs=1e-12)
    assert wilson(100, 100)[1] == pytest.approx(1)


def test_the_program_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.json"
    arguments = ["calibration", "--dim", "8", "--out", str(out), "--replays"]
    monkeypatch.setattr(bench.calibration, "conditions", _one_null)
    monkeypatch.setattr(sys, "argv", [*arguments, "2"])
    assert main() == 0
    assert "null, equal spread" in capsys.readouterr().out
    first = _counts(out)
    monkeypatch.setattr(sys, "argv", [*arguments, "3", "--batch", "1"])
    assert main() == 0
    later = _counts(out)
    assert (first["replays"], later["replays"]) == (2, 3)
    assert later["errors"] > first["errors"] > 0


def _one_null(rules: Rules, *, dim: int, confirms: int) -> list[Condition]:
    return conditions(rules, dim=dim, confirms=confirms)[:1]


def _counts(path: Path) -> dict[str, Any]:
    kept = json.loads(path.read_text(encoding="utf-8"))["conditions"]
    return dict(kept["null, equal spread"])
