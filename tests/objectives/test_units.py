"""Units: the clustered formula by brute force, its limits, and how often its interval covers."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import metrics
from skiptune.objectives.catalogue import CATALOGUE, LABEL
from skiptune.objectives.metrics import Real, Sample, Standard, difference, measure
from skiptune.objectives.reference import Reference
from skiptune.objectives.units import Units, standard_error

Array = NDArray[np.float64]

D = 4


def brute_force(influence: Any, labels: Any) -> float:
    """The formula, written out in Python's own numbers."""
    psi = [float(value) for value in influence]
    mean = math.fsum(psi) / len(psi)
    sums: defaultdict[float, list[float]] = defaultdict(list)
    for value, label in zip(psi, labels, strict=True):
        sums[float(label)].append(value - mean)
    clusters = len(sums)
    squares = math.fsum(math.fsum(part) ** 2 for part in sums.values())
    return math.sqrt(clusters / (clusters - 1) * squares) / len(psi)


@pytest.fixture(scope="module")
def real() -> Real:
    rows = np.random.default_rng(0).standard_normal((300, D)).astype(np.float32)
    wide = rows.astype(np.float64)
    mean, covariance = wide.mean(axis=0), np.cov(wide.T)
    described: Any = {"sha256": "0" * 64, "preprocess": "none", "header": {}, "features": rows}
    return Real(Reference("made up", "made-up", dim=D, images=300, mean=mean,
                          covariance=covariance, **described))  # fmt: skip


def prompted(features: Array, labels: Any, **arrays: Any) -> Sample:
    rows = {"features": features.astype(np.float32), LABEL: np.asarray(labels, np.float32)}
    whole = Sample.of(**rows, **arrays)
    return Sample(whole.images, whole.read, nfe=5.0, unit_array=LABEL)


def drawn(prompts: int, images: int, seed: int, within: float) -> tuple[Array, NDArray[np.int64]]:
    """Features of images that share `within` of their variance with those of their prompt."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(prompts, size=images)
    shared = rng.standard_normal((prompts, D))[labels]
    own = rng.standard_normal((images, D))
    return math.sqrt(within) * shared + math.sqrt(1 - within) * own + 0.2, labels


# Standard errors of images alone; the losses' own tests hold theirs.
COUNTED = ("fd", "kid", "precision", "density", "teacher_loss")


@pytest.mark.parametrize("key", COUNTED)
def test_every_error_is_the_formula_over_the_images_influences(real: Real, key: str) -> None:
    base, labels = drawn(30, 240, 1, 0.7)
    base *= 1.7  # so that some images are among the real ones and some are not
    ours = 0.9 * base + 0.02 * np.random.default_rng(2).standard_normal(base.shape)
    teacher = Sample.of(features=np.zeros((240, D), np.float32))
    standard = Standard(real=real, teacher=teacher)
    found = [measure([key], prompted(rows, labels), standard)[key] for rows in (ours, base)]
    plain = [
        measure([key], Sample.of(features=rows.astype(np.float32)), standard)[key]
        for rows in (ours, base)
    ]
    for one, other in zip(found, plain, strict=True):
        assert one.value.value == other.value.value
        assert one.raw == other.raw
        assert one.value.images == 240
        expected = brute_force(other.influence, labels)
        assert one.value.standard_error == pytest.approx(expected, rel=1e-10)
        assert one.value.standard_error > 1.2 * other.value.standard_error
    apart = difference(*found)
    assert apart.value == difference(*plain).value
    psi = plain[0].influence - plain[1].influence
    assert apart.standard_error == pytest.approx(brute_force(psi, labels), rel=1e-10)
    # A part of the baseline, as in a constraint.
    psi = plain[0].influence - 0.95 * plain[1].influence
    assert found[0].error_with(found[1], 0.95) == pytest.approx(brute_force(psi, labels))


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_image_each_is_the_plain_formula(values: list[float], seed: int) -> None:
    influence = np.array(values)
    labels = np.random.default_rng(seed).permutation(len(values))
    units = Units.of_labels(labels)
    assert units.count == len(values)
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert standard_error(influence, units) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert standard_error(influence) == float(influence.std(ddof=1)) / math.sqrt(len(influence))


@given(data=st.data(), images=st.integers(3, 60), prompts=st.integers(2, 12))
def test_neither_the_order_nor_the_names_of_prompts_matter(
    data: st.DataObject, images: int, prompts: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(prompts, size=images)
    labels[:2] = 0, 1
    influence = rng.standard_normal(images) * 10.0 ** rng.integers(-3, 4)
    found = standard_error(influence, Units.of_labels(labels))
    assert found == pytest.approx(brute_force(influence, labels), rel=1e-9, abs=1e-12)
    order = rng.permutation(images)
    names = rng.permutation(1000)[:prompts]
    again = standard_error(influence[order], Units.of_labels(names[labels[order]]))
    assert again == pytest.approx(found, rel=1e-9, abs=1e-12)
    shifted = standard_error(influence + 7.0, Units.of_labels(labels))
    assert shifted == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_the_interval_covers_where_images_of_a_prompt_are_alike() -> None:
    """A mean over 60 prompts of unequal numbers of images, with truth 0; 2000 repetitions."""
    rng = np.random.default_rng(3)
    repetitions, images, prompts = 2000, 300, 60
    covered = {"prompts": 0, "images": 0}
    for _ in range(repetitions):
        labels = rng.integers(prompts, size=images)
        values = 0.9 * rng.standard_normal(prompts)[labels] + 0.4 * rng.standard_normal(images)
        mean = abs(values.mean())
        covered["prompts"] += mean < 1.96 * standard_error(values, Units.of_labels(labels))
        covered["images"] += mean < 1.96 * standard_error(values)
    # Binomial errors of 2000 are 0.5 points; Student's t of 59 degrees covers 94.5 %.
    assert 0.925 < covered["prompts"] / repetitions < 0.96
    assert covered["images"] / repetitions < 0.75


def test_paired_kernel_differences_cover_as_well(real: Real) -> None:
    """Two schedules of one distribution: their paired difference is 0 in truth."""
    standard = Standard(real=real)
    repetitions, covered, plain = 300, 0, 0
    for seed in range(repetitions):
        base, labels = drawn(40, 200, 10 + seed, 0.5)
        # The schedule moves all images of a prompt alike, in a direction of the prompt's own.
        moves = 0.3 * np.random.default_rng(seed).standard_normal((40, D))[labels]
        found = [
            measure(["kid"], prompted(rows, labels), standard)["kid"]
            for rows in (base + moves, base - moves)
        ]
        change = difference(*found)
        covered += abs(change.value) < 1.96 * change.standard_error
        images = metrics.standard_error(found[0].influence - found[1].influence)
        plain += abs(change.value) < 1.96 * images
    # Influences of U-statistics are never too small on average (`kid`): 98 % are covered here.
    assert 0.92 < covered / repetitions < 0.995
    assert plain / repetitions < 0.8


def test_where_images_share_nothing_the_error_is_that_of_images() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal(20_000)
    units = Units.of_labels(rng.integers(500, size=20_000))
    assert standard_error(values, units) == pytest.approx(standard_error(values), rel=0.1)


def test_images_of_other_prompts_are_no_pair(real: Real) -> None:
    base, labels = drawn(30, 240, 1, 0.7)
    standard = Standard(real=real)
    found = measure(["kid"], prompted(base, labels), standard)["kid"]
    other = measure(["kid"], prompted(base, np.roll(labels, 1)), standard)["kid"]
    images = measure(["kid"], Sample.of(features=base.astype(np.float32)), standard)["kid"]
    for one, two in ((found, other), (found, images), (images, found)):
        with pytest.raises(ObjectiveError, match="same prompt for each seed"):
            one.error_with(two)
    assert found.error_with(found) == 0


def test_what_cannot_be_counted_is_refused(real: Real) -> None:
    base, labels = drawn(30, 1200, 1, 0.7)
    with pytest.raises(
        ObjectiveError, match=r"recall and coverage: .*blocks of seeds, which share"
    ):
        measure(["kid", "recall", "coverage"], prompted(base, labels), Standard(real=real))
    with pytest.raises(ObjectiveError, match="several prompts"):
        measure(["kid"], prompted(base[:4], [3] * 4), Standard(real=real))
    with pytest.raises(ObjectiveError, match="one for each image"):
        Units.of_labels(np.zeros((4, 2)))
    with pytest.raises(ObjectiveError, match="4 values"):
        Units.of_labels(np.array([0, 1, 1, 0])).sums(np.zeros(3))


def test_losses_count_real_images_and_evaluations_have_no_error(real: Real) -> None:
    losses = np.random.default_rng(6).random((40, 2)).astype(np.float32)
    base, labels = drawn(30, 40, 1, 0.7)
    keys = [key for key, entry in CATALOGUE.items() if entry.real_images] + ["nfe"]
    arrays = {key: losses for key in keys[:-1]}
    found = measure(keys, prompted(base, labels, **arrays), Standard(real=real))
    plain = measure(keys, Sample.of(**arrays), Standard(real=real))
    for key in keys[:-1]:
        assert found[key].value == plain[key].value
        assert found[key].units is None
    assert found["nfe"].value.standard_error == 0
