"""Statistics of losses against formulas by hand, the jackknife and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.denoising import image_indices
from skiptune.objectives.losses import loss_score

Array = NDArray[np.float64]


def _pairs(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Losses of two schedules at three levels: skewed, and alike within a pair and a level."""
    pair = generator.gamma(2.0, size=(count, 1))
    level = np.array([0.01, 1.0, 30.0])
    base = level * pair * generator.gamma(4.0, 0.25, size=(count, 3))
    losses = base * np.array([0.9, 1.0, 1.2]) * generator.gamma(50.0, 0.02, size=(count, 3))
    return losses, base


WEIGHTS = np.array([1.0, 3.0, 2.0])
TRUTH = float(WEIGHTS @ [0.9, 1.0, 1.2] / WEIGHTS.sum())


def test_the_score_is_the_formula() -> None:
    losses, base = _pairs(np.random.default_rng(0), 17)
    score = loss_score(losses.astype(np.float32), base.astype(np.float32), WEIGHTS)
    expected = 0.0
    for s in range(3):
        mean = sum(losses[i, s] for i in range(17)) / 17
        base_mean = sum(base[i, s] for i in range(17)) / 17
        expected += WEIGHTS[s] / 6 * mean / base_mean
        level = score.levels[s]
        assert level.mean.value == pytest.approx(mean, rel=1e-6)
        assert level.difference.value == pytest.approx(mean - base_mean, rel=1e-5)
        gaps = [losses[i, s] - base[i, s] for i in range(17)]
        assert level.difference.standard_error == pytest.approx(
            np.std(gaps, ddof=1) / np.sqrt(17), rel=1e-5
        )
        assert level.ratio.value == pytest.approx(mean / base_mean, rel=1e-6)
    assert score.value.value == pytest.approx(expected, rel=1e-6)
    assert score.difference.value == pytest.approx(expected - 1, rel=1e-5)
    assert score.value.standard_error == score.difference.standard_error
    assert score.value.images == score.levels[0].mean.images == 17
    by_hand = [
        sum(
            WEIGHTS[s]
            / 6
            * (losses[i, s] - score.levels[s].ratio.value * base[i, s])
            / base[:, s].mean()
            for s in range(3)
        )
        for i in range(17)
    ]
    np.testing.assert_allclose(score.influence, by_hand, rtol=1e-4, atol=1e-6)
    assert score.difference.standard_error == pytest.approx(
        np.std(by_hand, ddof=1) / np.sqrt(17), rel=1e-5
    )


def test_the_error_is_the_jackknife_s_up_to_second_order() -> None:
    losses, base = _pairs(np.random.default_rng(1), 400)

    def value(kept: NDArray[np.bool_]) -> float:
        ratio = losses[kept].mean(axis=0) / base[kept].mean(axis=0)
        return float(WEIGHTS @ ratio / WEIGHTS.sum())

    left_out = np.array([value(np.arange(400) != place) for place in range(400)])
    jackknife = math.sqrt(399 / 400 * ((left_out - left_out.mean()) ** 2).sum())
    score = loss_score(losses, base, WEIGHTS)
    assert score.difference.standard_error == pytest.approx(jackknife, rel=0.01)


def test_the_errors_are_those_of_repeated_draws() -> None:
    generator = np.random.default_rng(2)
    scores = [loss_score(*_pairs(generator, 250), WEIGHTS) for _ in range(1500)]
    values = np.array([score.value.value for score in scores])
    errors = np.array([score.value.standard_error for score in scores])
    # The spread of 1500 draws is known to 1.8 %.
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.06)
    assert abs(values.mean() - TRUTH) < 0.1 * values.std(ddof=1)
    held = np.mean([low <= TRUTH <= high for low, high in (s.value.interval() for s in scores)])
    assert 0.93 <= held <= 0.97
    for s in range(3):
        gaps = np.array([score.levels[s].difference.value for score in scores])
        gap_errors = [score.levels[s].difference.standard_error for score in scores]
        assert np.mean(gap_errors) == pytest.approx(gaps.std(ddof=1), rel=0.06)


def test_pairs_that_share_an_image_count_as_one() -> None:
    """Each of 100 images with 4 noises: heeding that gives the true error, not heeding half."""
    generator = np.random.default_rng(3)
    index = image_indices(range(400), 100)

    def draw() -> tuple[Array, Array]:
        gain = generator.normal(1.0, 0.1, size=100)[index, None]
        base = generator.gamma(20.0, 0.05, size=(400, 2))
        return base * gain, base

    values, errors, naive = [], [], []
    for _ in range(600):
        losses, base = draw()
        score = loss_score(losses, base, images=index)
        values.append(score.difference.value)
        errors.append(score.difference.standard_error)
        naive.append(loss_score(losses, base).difference.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
    assert np.mean(naive) == pytest.approx(np.std(values) / 2, rel=0.1)
    assert score.influence.shape == (100,)
    assert score.influence.std(ddof=1) / 10 == pytest.approx(errors[-1], rel=1e-12)
    # Without shared images the two are one.
    losses, base = draw()
    alone = loss_score(losses, base, images=np.arange(400))
    assert alone.value.standard_error == pytest.approx(
        loss_score(losses, base).value.standard_error, rel=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
    st.floats(1e-3, 1e3),
)
def test_units_of_levels_and_weights_do_not_matter(
    seed: int, units: list[float], weight: float
) -> None:
    losses, base = _pairs(np.random.default_rng(seed), 30)
    plain = loss_score(losses, base, WEIGHTS)
    other = loss_score(losses * units, base * units, WEIGHTS * weight)
    assert other.value.value == pytest.approx(plain.value.value, rel=1e-9)
    assert other.value.standard_error == pytest.approx(plain.value.standard_error, rel=1e-9)


def test_the_baseline_s_own_score_is_exactly_one() -> None:
    _, base = _pairs(np.random.default_rng(4), 30)
    score = loss_score(base, base)
    assert (score.value.value, score.difference.value) == (1.0, 0.0)
    assert score.value.standard_error == 0.0
    assert [level.difference.value for level in score.levels] == [0.0] * 3


@pytest.mark.parametrize(
    ("losses", "baseline", "more", "words"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), {}, r"\[4, 2\]"),
        (np.ones((3, 2)), np.ones((3, 3)), {}, r"\[3, 3\]"),
        (np.ones((1, 2)), np.ones((1, 2)), {}, "at least 2 pairs"),
        (np.ones((3, 0)), np.ones((3, 0)), {}, "one noise level"),
        (np.ones(3), np.ones(3), {}, r"\[N, S\]"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), {}, "3 of 3 pairs"),
        (np.ones((3, 2)), np.array([[1, 1], [1, np.inf], [1, 1]]), {}, "row 1"),
        (-np.ones((3, 2)), np.ones((3, 2)), {}, "at least 0"),
        (np.ones((3, 2)), np.array([[1, 0], [1, 0], [1, 0]]), {}, "0 at level 1"),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": [1]}, "2 finite numbers"),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": [0, 0]}, "not all 0"),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": [1, -1]}, "at least 0"),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": [1, np.nan]}, "finite"),
        (np.ones((3, 2)), np.ones((3, 2)), {"images": [0, 1]}, "each of 3 pairs"),
        (np.ones((3, 2)), np.ones((3, 2)), {"images": [5, 5, 5]}, "1 distinct"),
    ],
)
def test_bad_losses_are_refused(
    losses: Array, baseline: Array, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ObjectiveError, match=words):
        loss_score(losses, baseline, **more)
