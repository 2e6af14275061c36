"""The regression of moments on log scales, in worlds whose moments are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import moment_model
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.moment_model import LeftOut, MomentModel, Seen, left_out
from skiptune.objectives.reference import Reference

Array = NDArray[np.float64]

SIZE, DIM = 5, 4


def spread(draw: np.random.Generator) -> Array:
    root = draw.normal(size=(DIM, DIM))
    matrix: Array = root @ root.T + 2 * np.eye(DIM)
    return matrix


def a_reference(seed: int = 0) -> Reference:
    draw = np.random.default_rng(seed)
    return Reference(
        "r", "made up", "0" * 64, "none", DIM, None, draw.normal(size=DIM), spread(draw), {}
    )


class Quadratic:
    """Moments that are what the model assumes: linear and squared in the log scales.

    Parameters matter unequally; `beyond` adds what no quadratic holds.
    """

    def __init__(self, *, seed: int = 1, beyond: float = 0.0, bias: float = 0.0) -> None:
        draw = np.random.default_rng(seed)
        self.reference = a_reference()
        self.mean, self.covariance = draw.normal(size=DIM) + 1, 4 * spread(draw)
        weight = np.array([3.0, 1.0, 0.3, 0.1, 0.03])
        self.of_mean = draw.normal(size=(2, SIZE, DIM)) * weight[:, None]
        root = draw.normal(size=(2, SIZE, DIM, DIM)) * weight[:, None, None]
        self.of_covariance = root + np.swapaxes(root, -1, -2)
        self.beyond, self.bias = beyond, bias

    def seen(self, logs: Array) -> Seen:
        powers = np.array([logs, np.square(logs)])
        mean = self.mean + np.einsum("ks,ksd->d", powers, self.of_mean)
        covariance = self.covariance + np.einsum("ks,ksde->de", powers, self.of_covariance)
        mean = mean + self.beyond * (5 * logs.sum()) ** 3 * np.ones(DIM)
        value = frechet_of_moments(mean, covariance, self.reference)
        # As a corrected distance: less the bias, which grows with the spread.
        return Seen(logs, mean, covariance, value - self.bias * float(np.trace(covariance)))

    def some(self, count: int, *, seed: int = 2, wide: float = 0.1) -> list[Seen]:
        draws = np.random.default_rng(seed).normal(0, wide, size=(count, SIZE))
        return [self.seen(np.zeros(SIZE)), *map(self.seen, draws)]


def values(seen: list[Seen]) -> Array:
    return np.array([one.value for one in seen])


def test_a_quadratic_is_learnt_and_predicted_anywhere() -> None:
    world = Quadratic(bias=0.01)
    model = MomentModel(world.some(40), world.reference)
    fresh = world.some(30, seed=3)
    predicted = np.array([model.value(one.logs) for one in fresh])
    assert np.abs(predicted - values(fresh)).max() < 0.02 * values(fresh).std()


@pytest.mark.parametrize("centre", [0, 3])
def test_predictions_pass_through_the_centre(centre: int) -> None:
    world = Quadratic(beyond=0.3, bias=0.01)
    seen = world.some(6)
    found = MomentModel(seen, world.reference, centre=centre).predict(seen[centre].logs)
    assert found.value == pytest.approx(seen[centre].value, abs=1e-12)
    assert found.variance == pytest.approx(0, abs=1e-12)


def test_of_fewer_schedules_than_parameters_it_says_more_than_the_distances_do() -> None:
    """Four of five parameters are told apart by what is shared between the moments' entries."""
    errors, plain = [], []
    for seed in range(8):
        world = Quadratic(seed=seed)
        seen, fresh = world.some(4, seed=seed), world.some(30, seed=99)
        model = MomentModel(seen, world.reference)
        predicted = np.array([model.value(one.logs) for one in fresh])
        errors.append(np.std(predicted - values(fresh)) / values(fresh).std())
        # The shortest fit of the distances themselves.
        moves = np.array([one.logs for one in seen[1:]])
        slope = np.linalg.pinv(moves) @ (values(seen)[1:] - seen[0].value)
        linear = seen[0].value + np.array([one.logs for one in fresh]) @ slope
        plain.append(np.std(linear - values(fresh)) / values(fresh).std())
    assert np.mean(errors) < 0.75 * np.mean(plain)


def test_it_learns_which_parameters_matter() -> None:
    world = Quadratic()
    variances = MomentModel(world.some(12), world.reference).variances
    assert list(np.argsort(-variances)[:2]) == [0, 1]
    assert variances[0] > 20 * variances[4] > 0


def test_what_lies_far_away_does_not_spoil_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Quadratic(beyond=0.03)
    seen = world.some(15, wide=0.03) + world.some(30, seed=8, wide=0.2)[1:]
    fresh = world.some(30, seed=5, wide=0.03)

    def error() -> float:
        model = MomentModel(seen, world.reference)
        return float(np.std([model.value(one.logs) - one.value for one in fresh]))

    near = error()
    assert near < 0.2 * values(fresh).std()
    # A quadratic that fits all alike bends to what is far away.
    monkeypatch.setattr(moment_model, "NEAR", 1e6)
    assert error() > 3 * near


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), pending=st.integers(0, 2))
def test_derivatives_are_those_of_the_values(seed: int, count: int, pending: int) -> None:
    world = Quadratic(seed=seed, beyond=0.1, bias=0.02)
    seen = world.some(count, seed=seed)
    model = MomentModel(seen, world.reference, centre=seed % len(seen))
    draw = np.random.default_rng(seed)
    here = draw.normal(0, 0.1, SIZE)
    running = list(draw.normal(0, 0.1, (pending, SIZE)))
    found = model.predict(here, pending=running)
    assert model.value(here) == pytest.approx(found.value, abs=1e-9)
    for place, step in enumerate(1e-5 * np.eye(SIZE)):
        ahead, behind = (model.predict(x, pending=running) for x in (here + step, here - step))
        slope = (ahead.value - behind.value) / 2e-5
        bend = (ahead.variance - behind.variance) / 2e-5
        assert found.gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-4)
        assert found.variance_gradient[place] == pytest.approx(bend, rel=1e-4, abs=1e-4)


def test_the_variance_falls_where_something_was_or_will_be_seen() -> None:
    world = Quadratic(beyond=0.3)
    model = MomentModel(world.some(4), world.reference)
    there = np.array([0.1, -0.1, 0.1, 0.0, 0.2])
    before = model.predict(there)
    after = model.predict(there, pending=[there])
    assert after.value == before.value
    assert after.variance < 0.5 * before.variance
    assert model.predict(2 * there).variance > before.variance


def test_left_out_is_a_model_made_without() -> None:
    world = Quadratic(beyond=0.3)
    seen = world.some(9)
    found = left_out(seen, world.reference, centre=2)
    others = [place for place in range(10) if place != 2]
    for index, place in enumerate(others):
        rest = [one for number, one in enumerate(seen) if number not in (2, place)]
        model = MomentModel([seen[2], *rest], world.reference)
        assert found.predicted[index] == pytest.approx(model.value(seen[place].logs), abs=1e-9)
    assert np.array_equal(found.values, values(seen)[others])
    error = np.sqrt(np.mean((found.predicted - found.values) ** 2))
    assert found.error == pytest.approx(error)
    # A few folds see less, and are wrong by about as much.
    folded = left_out(seen, world.reference, centre=2, folds=3)
    assert 0.5 * error < folded.error < 4 * error
    assert left_out(seen, world.reference, centre=2, folds=99).error == found.error


def test_the_scale_makes_errors_standard() -> None:
    found = LeftOut(np.array([1.0, 2.0]), np.array([2.0, 0.0]), np.array([0.25, 4.0]))
    assert found.error == pytest.approx(np.sqrt(2.5))
    assert found.scale == pytest.approx(np.sqrt((4 + 1) / 2))


def test_schedules_that_move_nothing_are_no_trouble() -> None:
    world = Quadratic()
    still = world.seen(np.zeros(SIZE))
    seen = [Seen(x, still.mean, still.covariance, still.value) for x in np.eye(3, SIZE)]
    assert MomentModel(seen, world.reference).value(np.ones(SIZE)) == pytest.approx(still.value)


def test_what_does_not_fit_together_is_refused() -> None:
    world = Quadratic()
    seen = world.some(2)
    short = Seen(np.zeros(SIZE - 1), seen[0].mean, seen[0].covariance, 1.0)
    other = Seen(np.zeros(SIZE), np.zeros(3), np.zeros((3, 3)), 1.0)
    for given_ in (seen[:1], [*seen, short], [*seen, other], [other, other], []):
        with pytest.raises(ObjectiveError) as caught:
            MomentModel(given_, world.reference)
        assert f"[{DIM}]" in caught.value.problems[0].expected
