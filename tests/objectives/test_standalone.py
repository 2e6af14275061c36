"""Scores of given images: which metrics are offered, and that they are the library's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError, SpecError
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.kid import kid_difference
from skiptune.objectives.metrics import Sample
from skiptune.objectives.neighbours import neighbour_metrics
from skiptune.objectives.paired import corrected, paired_difference, raw
from skiptune.objectives.reference import Reference, reference_of
from skiptune.objectives.standalone import Group, Measure, compare, metric_groups, score

DIM = 6


def default() -> str:
    return "fashion-cnn"


def groups(names: str, extractor: str | None = None, *, sampled: bool = False) -> list[Group]:
    return metric_groups(names, extractor=extractor, default=default, sampled=sampled)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor("toy", DIM, "a" * 64, "none", torch.nn.Linear(1, 1))


@pytest.fixture(scope="module")
def reference(extractor: Extractor) -> Reference:
    return reference_of(drawn(4000, 1), extractor=extractor, name="real", keep=1500)


def drawn(count: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)) + shift
    return rows.astype(np.float32)


def sample(rows: NDArray[np.float32]) -> Sample:
    return Sample.of(features=rows)


def test_metrics_are_grouped_by_network_in_the_order_asked_for() -> None:
    assert groups("fd, kid,fd") == [Group("fashion-cnn", ("fd", "kid"))]
    assert groups("kid", "dinov2") == [Group("dinov2", ("kid",))]
    assert groups("fid,kid,fd_dinov2,fd:mine") == [
        Group("inception", ("fd",)),
        Group("fashion-cnn", ("kid",)),
        Group("dinov2", ("fd",)),
        Group("mine", ("fd",)),
    ]
    assert groups("nfe,fd", sampled=True) == [Group("fashion-cnn", ("nfe", "fd"))]


def test_the_default_is_asked_for_only_where_no_network_is_named() -> None:
    def never() -> str:
        raise AssertionError

    assert metric_groups("fid", extractor=None, default=never, sampled=False)
    assert metric_groups("kid", extractor="x", default=never, sampled=False)


def test_every_wrong_metric_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        groups("kdi,fd,pixel_loss,fid,teacher_loss,", "dinov2")
    found = {problem.where: problem for problem in caught.value.problems}
    assert set(found) == {
        "--metric kdi",
        "--metric pixel_loss",
        "--metric teacher_loss",
        "--metric",
        "--extractor with fid",
    }
    assert "did you mean kid?" in found["--metric kdi"].expected
    assert "nfe" not in found["--metric kdi"].expected


def test_scores_are_those_of_the_library(extractor: Extractor, reference: Reference) -> None:
    rows = drawn(1000, 2, 0.1)
    measure = Measure(extractor, reference, ("recall", "fd", "precision"))
    recall, fd, plain, precision = score(measure, sample(rows))
    real = reference.require_features()
    wanted = neighbour_metrics(rows, real, ("precision", "recall"))
    assert fd.name == "FD(toy)-1k-corrected" and plain.name == "FD(toy)-1k"
    assert fd.estimate == corrected(rows, reference)
    assert plain.estimate.value == raw(rows, reference).value
    assert math.isnan(plain.estimate.standard_error)
    assert recall.estimate == wanted["recall"].estimate()
    assert precision.estimate == wanted["precision"].estimate()
    assert (fd.better, recall.better) == ("lower", "higher")


def test_too_few_images_give_the_raw_distance_and_no_difference(
    extractor: Extractor, reference: Reference
) -> None:
    rows, other = drawn(20, 2), drawn(20, 3)
    measure = Measure(extractor, reference, ("fd",))
    (row,) = score(measure, sample(rows))
    assert row.name == "FD(toy)-20" and row.estimate == raw(rows, reference)
    (pair,) = compare(measure, sample(other), sample(rows))
    assert pair.difference is None
    (caution,) = measure.cautions(20)
    assert "cannot be corrected below 24 images" in caution and caution.endswith(".")
    assert measure.cautions(1000) == []


def test_differences_are_tuned_minus_baseline(extractor: Extractor, reference: Reference) -> None:
    base = drawn(1000, 2, 0.3)
    ours = (base * 0.95 - 0.05).astype(np.float32)
    measure = Measure(extractor, reference, ("fd", "kid", "coverage", "nfe"))
    fd, plain, kid, coverage, nfe = compare(
        measure, replace(sample(base), nfe=7.0), replace(sample(ours), nfe=5.0)
    )
    wanted = paired_difference(ours, base, reference)
    assert fd.difference is not None and kid.difference is not None
    assert fd.difference.value == pytest.approx(wanted.value, rel=1e-9)
    assert fd.difference.standard_error == pytest.approx(wanted.standard_error, rel=1e-9)
    assert fd.difference.value == fd.tuned.estimate.value - fd.baseline.estimate.value
    assert plain.difference is None
    kernel = kid_difference(ours, base, reference.require_features())
    assert kid.difference.value == pytest.approx(kernel.value, rel=1e-6)
    assert kid.difference.standard_error == pytest.approx(kernel.standard_error, rel=1e-6)
    # Not turned about where higher is better.
    assert coverage.difference is not None
    change = coverage.tuned.estimate.value - coverage.baseline.estimate.value
    assert coverage.difference.value == change
    assert nfe.difference is not None and nfe.difference.value == -2


def test_what_cannot_be_measured_is_refused_before_any_image(
    extractor: Extractor, reference: Reference
) -> None:
    bare = replace(reference, features=None)
    Measure(extractor, bare, ("fd",)).check(10)
    with pytest.raises(ObjectiveError, match="mean and covariance only"):
        Measure(extractor, bare, ("fd", "kid")).check(1000)
    Measure(extractor, reference, ("recall",)).check(1000)
    with pytest.raises(ObjectiveError, match="at least 1,000 images"):
        Measure(extractor, reference, ("recall", "coverage")).check(999)


def test_cautions_of_the_reference_come_first(extractor: Extractor, reference: Reference) -> None:
    told = replace(reference, cautions=("Who knows.",))
    first, second = Measure(extractor, told, ("fd",)).cautions(30)
    assert first == "Who knows." and "screen" in second
    assert Measure(extractor, told, ("kid",)).cautions(30) == ["Who knows."]
