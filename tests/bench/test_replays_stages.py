"""Searches in stages, replayed on a small landscape: their spaces, their budget, their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest

from bench.replays import CHUNK, Oracle, Strategy, replayed
from bench.replays_stages import Moments, Stage, Staged, scales_of, strategies
from bench.replays_stopping import Step, ended, replay
from tests.bench.landscapes import small_world

NAMES = ("skip/8x8_block0", "skip/8x8_block1", "skip/16x16_block0")
WORLD = replace(small_world(), names=("skip/8x8_block0", "skip/16x16_block0"))


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_the_scales_of_smaller_spaces() -> None:
    assert scales_of("uniform", NAMES, {"all": 0.9}).tolist() == [0.9] * 3
    linear = scales_of("linear", NAMES, {"bottom": 0.8, "top": 1.2})
    assert linear == pytest.approx([0.8, 1.0, 1.2])
    by_resolution = scales_of("per-resolution", NAMES, {"resolution/8": 0.9, "resolution/16": 1.1})
    assert by_resolution.tolist() == [0.9, 0.9, 1.1]


@pytest.mark.parametrize(
    "strategy",
    [
        Staged("nested", (Stage("uniform", 3), Stage("linear", 3))),
        Staged("relative", (Stage("uniform", 3), Stage("per-resolution", 3)), relative=True),
        Moments("moments", (Stage("uniform", 3),)),
    ],
    ids=lambda s: s.name,
)
def test_stages_keep_their_budget_and_are_the_same_again(strategy: Strategy) -> None:
    budget = 10 * 2 * CHUNK
    curve = replayed(strategy, WORLD, seed=1, budget=budget)
    assert curve.images[-1] <= budget
    assert replayed(strategy, WORLD, seed=1, budget=budget) == curve
    assert curve.regret[-1] <= 1
    assert "stages" in strategy.settings()


def test_the_first_proposals_lie_in_the_smaller_space() -> None:
    oracle = Oracle(WORLD, 1)
    strategy = Staged("uniform", (Stage("uniform", 4),))
    for spent, _ in strategy.run(oracle, 6 * 2 * CHUNK):
        assert spent == oracle.spent
    tried = list(oracle._sampled)
    assert tried[0] == (1.0, 1.0)
    assert all(a == b for a, b in tried[:5])
    assert any(a != b for a, b in tried[5:])


def test_each_strategy_is_compared_with_one_that_is_there() -> None:
    names = [strategy.name for strategy, _ in strategies()]
    assert len(set(names)) == len(names)
    assert {against for _, against in strategies()} <= set(names)


def test_a_replay_says_what_was_expected_and_a_rule_ends_it() -> None:
    steps = replay(WORLD, seed=1, evaluations=5, confirm=2000)
    assert len(steps) == 6
    regrets = [step[0] for step in steps]
    assert regrets[0] == pytest.approx(1.0) and min(regrets) < 1
    assert steps[0][1] is None  # the design comes first
    assert all(step[1] is None or step[1] >= 0 for step in steps)
    assert np.all([step[2] >= 0 for step in steps])
    assert ended(steps, lambda known: len(known) == 4) == 3
    assert ended(steps, lambda known: False) == 5
    assert isinstance(steps[0], Step)
