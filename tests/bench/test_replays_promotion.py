"""Rules of promotion in replays: promoting thirds is what the big table calls skiptune."""

from __future__ import annotations

import optuna

from bench.replays import CHUNK, Oracle
from bench.replays_promotion import Promoting, strategies
from bench.replays_strategies import Ours
from tests.bench.landscapes import small_world

WORLD = small_world()
RUNGS = (1, 2, 4)
BUDGET = 14 * CHUNK


def path(strategy: Ours) -> list[tuple[int, tuple[float, ...]]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    oracle = Oracle(WORLD, seed=3)
    return [(paid, tuple(params.values())) for paid, params in strategy.run(oracle, BUDGET)]


def test_thirds_and_the_highest_rung_are_skiptunes_strategy_of_the_table() -> None:
    settings = {"rungs": RUNGS, "promote": 0.5, "sampler": "random"}
    ours = path(Promoting("a", **settings))  # type: ignore[arg-type]
    table = path(Ours("b", **settings))  # type: ignore[arg-type]
    # The table's baseline is paid rung by rung, here in whole before all else: fewer decisions.
    assert [params for _, params in ours] == [params for _, params in table[: len(ours)]]
    assert len(ours) > 8


def test_the_fewer_go_on_the_more_schedules_are_seen() -> None:
    assert len({(one.rule, one.order) for one in strategies()}) == len(strategies())
    seen = {}
    for rule in ("thirds", "undecided", "none"):
        strategy = Promoting(
            rule, rungs=RUNGS, promote=0.8, sampler="random", rule=rule, order="upper bound"
        )
        oracle = Oracle(WORLD, seed=2)
        paid = [images for images, _ in strategy.run(oracle, BUDGET)]
        assert paid == sorted(paid)
        seen[rule] = len(oracle._sampled) - 1  # without the baseline
        if rule == "none":
            # The baseline has all of its images; a schedule one chunk.
            assert oracle.spent == CHUNK * (RUNGS[-1] + seen[rule])
    # Random proposals are the same ones, and rivals are some of the best part.
    assert seen["none"] > seen["undecided"] >= seen["thirds"]
