"""Metrics as one kind of thing: each equals its own module's answer, paired ones cancel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import denoising, kid, losses, neighbours, paired
from skiptune.objectives.catalogue import CATALOGUE
from skiptune.objectives.metrics import (
    Real,
    Sample,
    Standard,
    difference,
    measure,
    standard_digest,
    title,
)
from skiptune.objectives.reference import Reference

D, N = 8, 1000
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def real() -> Real:
    rows = np.random.default_rng(0).standard_normal((1200, D)).astype(np.float32)
    wide = rows.astype(np.float64)
    return Real(
        Reference(
            name="made up",
            extractor="made-up",
            sha256="0" * 64,
            preprocess="none",
            dim=D,
            images=len(rows),
            mean=wide.mean(axis=0),
            covariance=np.cov(wide.T),
            header={},
            features=rows,
        )
    )


@pytest.fixture(scope="module")
def both() -> tuple[Rows, Rows]:
    """Features of a schedule and of the baseline on the same seeds: nearly the same."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((N, D)) * 1.1 + 0.3
    ours = base * 0.97 + 0.05 * rng.standard_normal((N, D))
    return ours.astype(np.float32), base.astype(np.float32)


ALL = ("fd", "kid", "precision", "recall", "density", "coverage")


@pytest.mark.parametrize("key", ALL)
def test_values_and_differences_are_those_of_the_metrics_own_modules(
    real: Real, both: tuple[Rows, Rows], key: str
) -> None:
    standard = Standard(real=real)
    ours, base = (measure([key], Sample.of(features=x), standard)[key] for x in both)
    change = difference(ours, base)
    reference = real.reference
    if key == "fd":
        value: Any = paired.corrected(both[0], reference)
        expected = paired.paired_difference(*both, reference)
        assert ours.raw == pytest.approx(paired.raw(both[0], reference).value)
    elif key == "kid":
        value = kid.kid(both[0], real.kernel)
        expected = kid.kid_difference(*both, real.kernel)
    else:
        found = [neighbours.neighbour_metric(key, x, real.neighbourhood) for x in both]
        value, expected = found[0].estimate(), neighbours.difference(*found)
    assert ours.value.value == pytest.approx(value.value)
    assert ours.value.standard_error == pytest.approx(value.standard_error)
    assert change.value == pytest.approx(expected.value, abs=1e-12)
    assert change.standard_error == pytest.approx(expected.standard_error)
    if not CATALOGUE[key].blocks:  # four blocks say too little about their own error
        assert change.standard_error < ours.value.standard_error  # what both share cancels


def test_one_call_measures_what_single_calls_do(real: Real, both: tuple[Rows, Rows]) -> None:
    sample, standard = Sample.of(features=both[0]), Standard(real=real)
    together = measure(ALL, sample, standard)
    assert tuple(together) == ALL
    for key in ALL:
        assert measure([key], sample, standard)[key].value == together[key].value


def test_blocks_may_be_cut_anywhere(real: Real, both: tuple[Rows, Rows]) -> None:
    def read(name: str) -> Iterator[Rows]:
        assert name == "features"
        for first in range(0, N, 7):
            yield both[0][first : first + 7]

    found = measure(ALL, Sample(N, read), Standard(real=real))
    whole = measure(ALL, Sample.of(features=both[0]), Standard(real=real))
    for key in ALL:
        assert found[key].value == whole[key].value
        np.testing.assert_array_equal(found[key].influence, whole[key].influence)


def test_losses_are_relative_to_the_baseline_and_share_images() -> None:
    rng = np.random.default_rng(2)
    base = rng.exponential(1.0, (600, 3)).astype(np.float32)
    ours = (base * [0.9, 1.0, 1.05]).astype(np.float32)
    samples = [
        Sample(600, lambda name, x=x: iter([x]), nfe=3, first_seed=1_000_000)  # type: ignore[misc]
        for x in (ours, base)
    ]
    standard = Standard(real_images=200, baseline=samples[1])
    found = measure(["feature_loss"], samples[0], standard)["feature_loss"]
    at_base = measure(["feature_loss"], samples[1], Standard(real_images=200))["feature_loss"]
    assert at_base.value.value == 1.0
    change = difference(found, at_base)
    assert change.value == pytest.approx((0.9 + 1.0 + 1.05) / 3 - 1, rel=1e-5)
    images = denoising.image_indices(range(1_000_000, 1_000_600), 200)
    expected = losses.loss_score(ours, base, images=images)
    assert change.standard_error == pytest.approx(expected.difference.standard_error)
    assert len(found.influence) == 200


def test_teacher_and_nfe() -> None:
    rows, teacher = np.zeros((4, 2), np.float32), np.array([[1, 1]] * 4, np.float32)
    sample = Sample(4, lambda name: iter([rows]), nfe=6.0)
    standard = Standard(teacher=Sample.of(features=teacher))
    found = measure(["teacher_loss", "nfe"], sample, standard)
    assert found["teacher_loss"].value.value == 1.0
    assert found["teacher_loss"].value.standard_error == 0.0
    assert (found["nfe"].value.value, found["nfe"].value.standard_error) == (6.0, 0.0)
    with pytest.raises(ObjectiveError, match="many steps"):
        measure(["teacher_loss"], sample, Standard())


def test_what_is_missing_or_unequal_is_refused(real: Real, both: tuple[Rows, Rows]) -> None:
    sample = Sample.of(features=both[0])
    with pytest.raises(ObjectiveError, match="statistics of real images"):
        measure(["fd"], sample, Standard())
    one = measure(["kid"], sample, Standard(real=real))["kid"]
    few = measure(["kid"], Sample.of(features=both[1][:500]), Standard(real=real))["kid"]
    with pytest.raises(ObjectiveError, match="same seeds"):
        difference(one, few)


@pytest.mark.parametrize(
    ("key", "images", "projection", "expected"),
    [
        ("fd", 2000, None, "FD(inception)-2k-corrected"),
        ("fd", 2000, 256, "FD(inception,pca-256)-2k-corrected"),
        ("fd", None, None, "FD(inception)"),
        ("kid", 2000, None, "KID(inception)-2k"),
        ("recall", 1250, None, "recall(inception)-1250"),
        ("pixel_loss", 500, None, "pixel loss-500"),
        ("feature_loss", 500, None, "feature loss(inception)-500"),
        ("nfe", 500, None, "NFE"),
    ],
)
def test_titles(key: str, images: int | None, projection: int | None, expected: str) -> None:
    assert title(key, "inception", images, projection=projection) == expected


def test_digests_tell_apart_what_is_compared_with(real: Real) -> None:
    standard = Standard(real=real)
    fd, near = (standard_digest(key, standard) for key in ("fd", "kid"))
    assert fd == real.reference.digest != near
    losses = {
        standard_digest("pixel_loss", standard, real=hashlib.sha256(b).hexdigest())
        for b in (b"1", b"2")
    }
    teachers = {standard_digest("teacher_loss", standard, teacher=t) for t in ("a", "b")}
    assert len({fd, near} | losses | teachers) == 6
