"""Live searches see what the network makes, pay for it, and keep it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.landscape_file import read
from bench.live_search import Live, LiveOracle, found_within, live_slopes
from bench.replays import CHUNK
from skiptune.objectives.paired import paired_difference
from skiptune.objectives.reference import load_reference
from skiptune.sampling.setting import Setting

SETTING = Setting(solver="euler", steps=1)
REFERENCE = load_reference("fashion-train")
WORLD = read()["per-skip"].world("per-skip", REFERENCE)


def test_slopes_point_down_and_nothing_is_sampled_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live.open(tmp_path, setting=SETTING)
    oracle = LiveOracle(WORLD, 1, live)
    assert oracle.first_seed(2) - oracle.first_seed(0) == 2 * CHUNK
    assert LiveOracle(WORLD, 2, live).first_seed(0) > oracle.first_seed(100)
    base = oracle.score(WORLD.baseline, 2)
    assert (oracle.spent, base.images) == (2 * CHUNK, 2 * CHUNK)
    slopes, errors = live_slopes(oracle, WORLD.baseline, 2)
    assert oracle.spent == 2 * CHUNK + 2 * 200
    assert slopes.shape == errors.shape == (12,) and np.isfinite(slopes / errors).all()
    # Far enough to be seen, and near enough for a straight line.
    step = 0.05 * slopes / np.abs(slopes).max()
    ahead = WORLD.params(-step)
    difference = oracle.score(ahead, 2).less(base)
    rows = [oracle.features(params, 0, 2) for params in (ahead, WORLD.baseline)]
    expected = paired_difference(rows[0], rows[1], REFERENCE)
    assert difference.value == pytest.approx(expected.value, rel=1e-9)
    assert difference.standard_error == pytest.approx(expected.standard_error, rel=1e-9)
    foretold = -float(step @ slopes)
    assert difference.value == pytest.approx(foretold, abs=0.4 * abs(foretold))

    monkeypatch.setattr(Live, "_sampled", None)
    again = LiveOracle(WORLD, 1, live)
    assert again.score(ahead, 2).corrected == oracle.score(ahead, 2).corrected
    assert np.array_equal(live_slopes(again, WORLD.baseline, 2)[0], slopes)


def test_what_is_recommended_is_what_was_known_within_the_budget() -> None:
    steps = [(100, {"a": 1.0}), (200, {"a": 0.9}), (301, {"a": 0.8})]
    assert found_within(iter(steps), 300, {"a": 1.1}) == {"a": 0.9}
    assert found_within(iter(steps), 301, {"a": 1.1}) == {"a": 0.8}
    assert found_within(iter(steps), 50, {"a": 1.1}) == {"a": 1.1}
