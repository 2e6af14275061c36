"""The sampler of moments: in a world of its own, and on a study's stored features."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.moment_model import Seen
from skiptune.objectives.reference import Reference
from skiptune.search.samplers import make_sampler
from skiptune.search.surrogate import (
    DESIGN_RADIUS,
    FIRST,
    LARGEST,
    LEAST,
    Known,
    MomentSampler,
    Question,
    design,
    half_width,
    startup,
)

Array = NDArray[np.float64]

SKIPS, FEATURES, IMAGES = 8, 6, 300
LOW, HIGH = 0.5, 2.0
NAMES = tuple(f"skip/{index}" for index in range(SKIPS))
RANGES: dict[str, BaseDistribution] = {
    name: FloatDistribution(LOW, HIGH, log=True) for name in NAMES
}


class World:
    """Features that are smooth in the scales of eight skips, and a reference made at others.

    Two passes through a network in which each skip's branch is scaled before a nonlinearity. The
    reference is of the same images at hidden scales, so there the distance is 0.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(5)
        width = 10
        size = SKIPS, width, width
        self.branches = draw.normal(size=size) / math.sqrt(width)
        self.returns = draw.normal(size=size) / math.sqrt(width)
        # Skips matter unequally.
        self.returns *= np.exp(0.6 * draw.normal(size=(SKIPS, 1, 1)))
        self.blocks = 1.5 * draw.normal(size=size) / math.sqrt(width)
        self.out = draw.normal(size=(width, FEATURES))
        self.noise = draw.normal(size=(IMAGES, width))
        self.best = np.clip(draw.normal(0, 0.25, SKIPS), -0.5, 0.5)
        real = self.features(self.best, self.noise)
        self.reference = Reference(
            "world", "made up", "0" * 64, "none", FEATURES, IMAGES, real.mean(axis=0),
            np.cov(real.T), {},
        )  # fmt: skip

    def features(self, logs: Array, noise: Array) -> Array:
        state = noise
        for _ in range(2):
            inner = state
            for skip in range(SKIPS):
                branch = np.tanh((noise + 0.5 * state) @ self.branches[skip]) @ self.returns[skip]
                inner = 0.9 * inner + 0.45 * math.exp(logs[skip]) * branch
                inner = inner + 0.25 * np.tanh(inner @ self.blocks[skip])
            state = inner / (1 + 0.02 * np.square(inner).mean(axis=1, keepdims=True))
        return state @ self.out

    def seen(self, logs: Array) -> Seen:
        rows = self.features(logs, self.noise)
        mean, covariance = rows.mean(axis=0), np.cov(rows.T)
        value = frechet_of_moments(mean, covariance, self.reference)
        return Seen(logs, mean, covariance, value)


@dataclass
class Memory:
    """What has been evaluated, kept by the test."""

    world: World
    evaluated: list[Seen] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)

    @property
    def reference(self) -> Reference:
        return self.world.reference

    def known(self) -> list[Known]:
        def read(number: int) -> Seen | None:
            return None if number in self.lost else self.evaluated[number]

        return [
            Known(number, seen.logs, seen.value, partial(read, number))
            for number, seen in enumerate(self.evaluated)
        ]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def a_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study()


def with_trial(logs: Array, state: TrialState) -> optuna.Study:
    study = a_study()
    params = dict(zip(NAMES, np.exp(logs).tolist(), strict=True))
    study.add_trial(create_trial(state=state, params=params, distributions=RANGES))
    return study


def proposal(
    source: Memory, number: int, study: optuna.Study | None = None, *, attempt: int = 0
) -> Array:
    study = study or a_study()
    study.sampler = MomentSampler(
        source, distributions=RANGES, question=Question(7, number, attempt)
    )
    trial = study.ask(RANGES)
    assert list(trial.params) == list(NAMES)
    assert all(LOW <= value <= HIGH for value in trial.params.values())
    study.tell(trial, state=TrialState.FAIL)  # so that it is not pending
    return np.log([trial.params[name] for name in NAMES])


def searched(world: World, count: int) -> Memory:
    """The baseline and so many proposals, each evaluated before the next is asked for."""
    source, study = Memory(world, [world.seen(np.zeros(SKIPS))]), a_study()
    for number in range(1, count + 1):
        source.evaluated.append(world.seen(proposal(source, number, study)))
    return source


@pytest.fixture(scope="module")
def after_twenty(world: World) -> Memory:
    return searched(world, 20)


def test_in_twenty_evaluations_it_is_nearer_than_tpe_in_sixty(
    world: World, after_twenty: Memory
) -> None:
    assert abs(world.seen(world.best).value) < 1e-9
    ours = np.array([seen.value for seen in after_twenty.evaluated])
    study = a_study()
    study.sampler = make_sampler("tpe", seed=7)
    for _ in range(60):
        trial = study.ask(RANGES)
        study.tell(trial, world.seen(np.log([trial.params[name] for name in NAMES])).value)
    theirs = np.array([trial.value for trial in study.trials])
    regret = 0.05 * ours[0]
    assert ours.min() < regret < theirs.min()


def test_the_same_rows_give_the_same_proposal_and_another_number_another(
    after_twenty: Memory,
) -> None:
    again = Memory(after_twenty.world, list(after_twenty.evaluated))
    first = proposal(after_twenty, 21)
    assert np.array_equal(first, proposal(again, 21))
    for other in (proposal(after_twenty, 22), proposal(after_twenty, 21, attempt=1)):
        assert np.abs(other - first).max() > 1e-4


def test_what_is_on_its_way_is_not_proposed_again(world: World, after_twenty: Memory) -> None:
    source = Memory(world, after_twenty.evaluated[:12])
    first = proposal(source, 13)
    second = proposal(source, 13, with_trial(first, TrialState.RUNNING))
    assert np.abs(second - first).max() > 0.02


def test_the_box_stays_away_from_what_diverged(world: World, after_twenty: Memory) -> None:
    source = Memory(world, after_twenty.evaluated[:12])
    centre = min(source.evaluated, key=lambda one: one.value).logs
    free = proposal(source, 13)
    reach = float(np.abs(free - centre).max())
    diverged = with_trial(centre + 0.5 * (free - centre), TrialState.PRUNED)
    shy = proposal(source, 13, diverged)
    assert float(np.abs(shy - centre).max()) <= 0.7 * 0.5 * reach + 1e-12


def test_moments_that_cannot_be_read_are_done_without(world: World, after_twenty: Memory) -> None:
    every = after_twenty.evaluated[:12]
    worst = max(range(12), key=lambda number: every[number].value)
    centre = min(range(12), key=lambda number: every[number].value)
    whole = proposal(Memory(world, every), 13)
    assert np.abs(proposal(Memory(world, every, {worst}), 13) - whole).max() > 1e-6
    # Nothing can be predicted about a centre that is not there.
    alone = proposal(Memory(world, every, {centre}), 13)
    np.testing.assert_allclose(alone, design(Question(7, 13), SKIPS), atol=1e-12)


def test_before_enough_has_ended_proposals_are_the_design(world: World) -> None:
    few = Memory(world, [world.seen(np.zeros(SKIPS))])
    for number in (1, startup(SKIPS), 40):
        np.testing.assert_allclose(
            proposal(few, number), design(Question(7, number), SKIPS), atol=1e-12
        )
    np.testing.assert_allclose(
        proposal(Memory(world), 2), design(Question(7, 2), SKIPS), atol=1e-12
    )


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_design_is_orthogonal_and_of_one_radius(size: int) -> None:
    points = np.array([design(Question(3, number), size) for number in range(1, 2 * size + 1)])
    for block in (points[:size], points[size:]):
        gram = block @ block.T
        np.testing.assert_allclose(gram, DESIGN_RADIUS**2 * size * np.eye(size), atol=1e-12)
    if size > 1:
        assert np.abs(points[:size] - points[size:]).max() > 0.01
    assert not np.array_equal(design(Question(3, 1, 1), size), points[0]) or size == 1


def test_the_box_grows_with_successes_and_shrinks_with_failures() -> None:
    def known(*values: float) -> list[Known]:
        return [
            Known(number, np.zeros(2), value, lambda: None) for number, value in enumerate(values)
        ]

    begin = [5.0] + [6.0] * startup(2)
    assert half_width(known(*begin), startup(2)) == FIRST
    assert half_width(known(*begin, 4.0), startup(2)) == pytest.approx(1.5 * FIRST)
    # Not better than the best so far is a failure, and four of them undo a success.
    assert half_width(known(*begin, 4.0, 4.5, 4.0, 5.0, 4.1), startup(2)) == pytest.approx(FIRST)
    assert half_width(known(*begin, *range(4, -9, -1)), startup(2)) == LARGEST
    assert half_width(known(*begin, *[9.0] * 99), startup(2)) == LEAST


def test_a_parameter_that_is_not_searched_is_drawn_at_random(world: World) -> None:
    study = a_study()
    source = Memory(world, [world.seen(np.zeros(SKIPS))])
    study.sampler = MomentSampler(source, distributions=RANGES, question=Question(7, 1))
    trial = study.ask({**RANGES, "other": IntDistribution(0, 9)})
    assert trial.params["other"] in range(10)
