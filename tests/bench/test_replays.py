"""The replay gives what the library computes of the same rows, and charges what was sampled."""

from __future__ import annotations

import itertools
import math

import numpy as np
import optuna
import pytest

from bench import replays_descent
from bench.replays import CHUNK, Curve, Oracle, Params, median_and_quartiles, replayed
from bench.replays_descent import Descent, KnownMoments, emulated_slopes
from bench.replays_strategies import FullSize, Halving, Ours
from bench.search_efficiency import full_size, strategies
from skiptune.objectives.frechet import frechet_distance
from skiptune.objectives.paired import paired_difference, scored
from skiptune.sampling.slopes import PASSES
from tests.bench.landscapes import DIM, reference, small_world

PARAMS = {"a": 0.85, "b": 1.1}
WORLD = small_world()


def test_scores_are_those_of_the_library_on_the_same_rows() -> None:
    world = WORLD
    oracle = Oracle(world, seed=3)
    rows, base = (oracle.features(p, 0, 3) for p in (PARAMS, world.baseline))
    assert rows.shape == (3 * CHUNK, DIM)
    ours, theirs = oracle.score(PARAMS, 3), scored(rows, world.reference)
    assert ours.raw == pytest.approx(theirs.raw.value, rel=1e-9)
    assert ours.corrected == pytest.approx(theirs.corrected.value, rel=1e-9)
    assert oracle.raw(PARAMS, 3) == pytest.approx(frechet_distance(rows, world.reference))
    difference = ours.less(oracle.score(world.baseline, 3))
    expected = paired_difference(rows, base, world.reference)
    assert difference.value == pytest.approx(expected.value, rel=1e-8)
    assert difference.standard_error == pytest.approx(expected.standard_error, rel=1e-6)


def test_a_chunk_is_paid_for_once_per_schedule() -> None:
    oracle = Oracle(WORLD, seed=3)
    oracle.raw(PARAMS, 2)
    oracle.score(PARAMS, 2)
    oracle.features(PARAMS, 1, 2)
    assert oracle.spent == 3 * CHUNK
    oracle.raw({"a": 0.85, "b": 1.0}, 1)
    assert oracle.spent == 4 * CHUNK


def test_all_schedules_of_a_replay_have_the_same_images_and_replays_have_others() -> None:
    world = WORLD
    first, again, other = (Oracle(world, seed).drawn(2) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.sum() == 2 * CHUNK
    assert Oracle(world, 1).drawn(1).sum() == CHUNK


def test_the_distance_of_many_drawn_images_comes_to_the_truth() -> None:
    world = WORLD
    raw = Oracle(world, seed=4).raw(PARAMS, 1000)
    assert raw == pytest.approx(world.distance(PARAMS), rel=0.02)


def test_no_point_of_a_fine_grid_is_better_than_the_optimum() -> None:
    world = WORLD
    axis = np.exp(np.linspace(math.log(world.low), math.log(world.high), 25))
    grid = [world.distance({"a": a, "b": b}) for a, b in itertools.product(axis, axis)]
    assert world.distance(world.optimum) <= min(grid) + 1e-9
    assert world.regret(world.optimum) == pytest.approx(0, abs=1e-12)
    assert world.regret(world.baseline) == pytest.approx(1)


def test_curves_say_when_a_regret_is_reached_and_kept() -> None:
    curve = Curve(images=(100, 200, 300, 400), regret=(0.5, 0.04, 0.3, 0.01))
    assert [curve.at(n) for n in (50, 100, 250, 1000)] == [1.0, 0.5, 0.04, 0.01]
    assert curve.first(0.05) == 200
    assert curve.settled(0.05) == 400
    assert Curve((100,), (0.5,)).first(0.05) == math.inf
    assert median_and_quartiles([1, math.inf, 2, 3]) == (3, 2, math.inf)


def test_the_full_size_halves_the_noise_by_four_times_the_images() -> None:
    world = WORLD
    chunks = full_size(world)
    oracle = Oracle(world, seed=0)
    error = oracle.score(world.optimum, 32).less(oracle.score(world.baseline, 32)).standard_error
    at_full = error * math.sqrt(32 / chunks)
    assert at_full <= 0.05 * world.gain / 3 or chunks == 400


@pytest.mark.parametrize(
    "strategy",
    [
        FullSize("random", "random", 4),
        FullSize("TPE", "tpe", 4),
        Halving("Hyperband", "hyperband", 2, 18),
        Halving("successive halving", "successive-halving", 2, 18),
        Ours(rungs=(2, 6, 18)),
        Ours(rungs=(2, 6, 18), paired=False),
        Descent(rungs=(2, 6)),
        Descent("not handed over", rungs=(2, 6), hands_over=False),
    ],
    ids=lambda s: s.name,
)
def test_every_strategy_keeps_its_budget_and_comes_nearer(strategy: Ours) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    world, budget = WORLD, 12_000
    curve = replayed(strategy, world, seed=1, budget=budget)
    assert curve.images[-1] <= budget + 2 * 18 * CHUNK
    assert list(curve.images) == sorted(curve.images)
    assert curve.regret[-1] < 0.5
    assert replayed(strategy, world, seed=1, budget=budget) == curve
    assert "sampler" in strategy.settings()


def test_rungs_go_on_from_the_images_that_they_have() -> None:
    world = WORLD
    ours = Ours(rungs=(2, 6))
    oracle = Oracle(world, seed=2)
    # Three proposals at the lowest rung, of which one third goes on, and the baseline on both.
    steps = list(ours.run(oracle, 4 * 2 * CHUNK))
    assert [spent for spent, _ in steps] == [1000, 1500, 2000, 4000]
    assert oracle.spent == (3 * 2 + 4 + 6) * CHUNK


def test_emulated_slopes_are_those_of_the_corrected_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, width = WORLD, 1e-3
    monkeypatch.setattr(replays_descent, "IMAGES", CHUNK)  # all of a chunk: no sampling error
    oracle = Oracle(world, seed=5)
    oracle.features(PARAMS, 0, 2)
    spent = oracle.spent
    found, errors = emulated_slopes(oracle, PARAMS, 2)
    assert oracle.spent - spent == PASSES * 2 * CHUNK
    expected = []
    for name in world.names:
        ends = [PARAMS | {name: PARAMS[name] * math.exp(side * width)} for side in (1, -1)]
        rows = [Oracle(world, seed=5).features(end, 0, 2) for end in ends]
        # Of each chunk alone: a block has moments of its own.
        above, below = (
            [scored(part, world.reference).corrected.value for part in np.split(one, 2)]
            for one in rows
        )
        expected.append((np.array(above) - np.array(below)) / (2 * width))
    by_block = np.array(expected)
    assert found == pytest.approx(by_block.mean(axis=1), rel=1e-3)
    assert errors == pytest.approx(by_block.std(axis=1, ddof=1) / math.sqrt(2), rel=0.02)


def test_a_descent_takes_slopes_where_it_stands_and_never_recommends_what_looks_worse() -> None:
    world = WORLD
    taken: list[tuple[float, ...]] = []

    def slopes(oracle: Oracle, params: Params, chunks: int) -> tuple[np.ndarray, np.ndarray]:
        taken.append(tuple(params.values()))
        return emulated_slopes(oracle, params, chunks)

    oracle = Oracle(world, seed=1)
    steps = list(Descent(rungs=(2, 6), slopes=slopes).run(oracle, 30_000))
    assert taken[0] == tuple(world.baseline.values())
    assert len(taken) > 1 and len(set(taken)) == len(taken)
    distances = [world.distance(dict(zip(world.names, one, strict=True))) for one in taken]
    assert distances[-1] < distances[0]
    assert all(world.regret(params) < 1.1 for _, params in steps)


def test_a_descent_that_has_arrived_leaves_it_to_the_model_of_moments() -> None:
    def flat(oracle: Oracle, params: Params, chunks: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(params)), np.ones(len(params))

    descent = Descent(rungs=(2, 6), slopes=flat)
    (*_, (_, last)) = descent.run(Oracle(WORLD, seed=1), 8_000)
    assert WORLD.regret(last) < 0.1


def test_moments_of_all_rungs_stand_on_the_untouched_network_s() -> None:
    oracle, rungs = Oracle(WORLD, seed=4), (2, 6)
    baselines = [oracle.score(WORLD.baseline, chunks) for chunks in rungs]
    differences = [
        {number: oracle.score(PARAMS, chunks).less(base).value for number in numbers}
        for chunks, base, numbers in zip(rungs, baselines, ((0, 1), (1,)), strict=True)
    ]
    shown = KnownMoments(oracle, rungs, [PARAMS, PARAMS], baselines, differences)
    untouched, low, high = (one.seen() for one in shown.known())
    assert untouched is not None and low is not None and high is not None
    rows = oracle.features(PARAMS, 0, 6).astype(np.float64)
    assert high.mean == pytest.approx(rows.mean(axis=0))
    assert high.covariance == pytest.approx(np.cov(rows.T))
    assert high.value == pytest.approx(oracle.score(PARAMS, 6).corrected)
    ours, base = (oracle.features(p, 0, 2).mean(axis=0) for p in (PARAMS, WORLD.baseline))
    assert low.mean - untouched.mean == pytest.approx(ours - base, abs=1e-5)
    assert low.value - untouched.value == pytest.approx(differences[0][0])


def test_a_pruned_trial_pays_for_what_was_sampled_alone() -> None:
    world = WORLD
    halving = Halving("successive halving", "successive-halving", 2, 18)
    assert halving.rungs == [2, 6, 18]
    oracle = Oracle(world, seed=2)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    list(halving.run(oracle, 20_000))
    paid = sorted({CHUNK * len(chunks) for chunks in oracle._sampled.values()})
    assert paid == [500, 1500, 4500]


def test_the_comparison_has_the_columns_that_it_names() -> None:
    names = [strategy.name for strategy in strategies(40)]
    assert {"random", "TPE", "GP", "CMA-ES", "Hyperband", "successive halving", "skiptune"} <= set(
        names
    )
    assert reference().dim == DIM
