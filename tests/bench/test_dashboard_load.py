"""The benchmark of the dashboard measures an answer that holds what it claims to measure."""

from __future__ import annotations

import optuna
import pytest

from bench.dashboard_load import measure


def test_a_small_study_is_measured_whole() -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        found = measure(evaluations=12, parameters=3, repeats=2)
    finally:
        optuna.logging.set_verbosity(before)
    assert {len(times) for times in found["wall"].values()} == {2}
    assert set(found["wall"]) == {"cached", "bare"}
    for clock in ("wall", "cpu"):
        assert found["ratio"][clock]["median"] == pytest.approx(
            sum(a / b for a, b in zip(*found[clock].values(), strict=True)) / 2
        )
    answer = found["bytes"]
    parts = answer["note"] + answer["figures"] + answer["attributes of all trials"]
    assert 0 < parts < answer["answer"]
    assert answer["figures"] > 1000
    assert len(found["refresh"]["unchanged"]) == 2
