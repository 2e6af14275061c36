"""Several networks as one: their features, their identity, their distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import ObjectiveError
from skiptune.objectives.extractors import Extractor, load_extractor, register_extractor
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.names import (
    ASSETS,
    BUNDLED,
    REFERENCES,
    bundled_reference,
    joint_name,
    known_extractors,
    parts_of,
)
from skiptune.objectives.reference import Reference, load_reference

NAME = "fashion-cnn+random-patches:4"
PARTS = ("fashion-cnn", "random-patches")


def test_features_are_those_of_the_parts_times_their_factors() -> None:
    levels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    cnn, patches = (load_extractor(part)(levels) for part in PARTS)
    found = load_extractor(NAME)(levels)
    assert torch.equal(found, torch.cat([cnn, 4 * patches], dim=1))
    floats = ((levels.double() - 127.5) / 127.5).requires_grad_()
    same = load_extractor(NAME).of_floats(floats)
    assert torch.allclose(same, found, atol=1e-4)
    same.sum().backward()
    assert floats.grad is not None and bool((floats.grad != 0).any())


def test_what_it_is_called_and_known_by() -> None:
    one = load_extractor(NAME)
    again = load_extractor("fashion-cnn:1 + random-patches:4.0")
    assert one.describe() == again.describe()
    assert (one.name, one.dim) == (NAME, 128)
    others = (
        "fashion-cnn+random-patches",
        "random-patches:4+fashion-cnn",
        "fashion-cnn:4+random-patches",
        "fashion-cnn+dct:4",
    )
    assert len({load_extractor(name).sha256 for name in (NAME, *others)}) == 5
    for part in PARTS:
        assert load_extractor(part).preprocess in one.preprocess


@given(
    st.dictionaries(
        st.sampled_from(["a", "b-c", "d0"]), st.sampled_from([1, 0.5, 2, 4.25]), min_size=2
    )
)
def test_names_are_read_as_they_are_written(parts: dict[str, float]) -> None:
    assert parts_of(joint_name(tuple(parts.items()))) == tuple(parts.items())


def test_a_name_of_one_network_is_its_own_only_part() -> None:
    # A factor alone changes nothing that a search could see, so there is none to read.
    assert parts_of("fashion-cnn") == (("fashion-cnn", 1.0),)
    assert parts_of("fashion-cnn:4") == (("fashion-cnn:4", 1.0),)
    with pytest.raises(ObjectiveError, match="extractor fashion-cnn:4"):
        load_extractor("fashion-cnn:4")


def test_nobody_registers_a_name_that_reads_as_a_joint_one() -> None:
    def factory(*, weights: Path | None, sha256: str | None) -> Extractor:
        return load_extractor("dct")

    with pytest.raises(ObjectiveError, match="a name without"):
        register_extractor("mine+dct", factory)
    assert "mine+dct" not in known_extractors()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a+", "both sides of each"),
        ("a+a:2", "each extractor once"),
        ("a+b:", "a factor from 0.001 to 1000"),
        ("a+b:x", "a factor from 0.001 to 1000"),
        ("a+b:nan", "a factor from 0.001 to 1000"),
        ("a+b:0", "a factor from 0.001 to 1000"),
        ("a+b:-1", "a factor from 0.001 to 1000"),
    ],
)
def test_names_that_cannot_be_joined(name: str, expected: str) -> None:
    with pytest.raises(ObjectiveError, match=f"expected .*{expected}.*NAME.NAME:FACTOR"):
        load_extractor(name)


def test_parts_nobody_knows_and_weights_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="extractor nobody"):
        load_extractor("fashion-cnn+nobody")
    with pytest.raises(ObjectiveError, match="each part has its own"):
        load_extractor(NAME, weights=ASSETS / "fashion-cnn.safetensors")
    with pytest.raises(ObjectiveError, match="path of an exported program"):
        load_extractor("fashion-cnn+exported")


@pytest.mark.parametrize("name", [*BUNDLED, NAME])
def test_bundled_statistics_of_each_are_found_by_one_name(name: str) -> None:
    (reference,) = (load_reference(one, extractor=load_extractor(name)) for one in REFERENCES)
    assert (reference.extractor, reference.images) == (name, 60_000)


def test_bundled_statistics_of_the_joint_features_hold_those_of_the_parts() -> None:
    joint = load_reference("fashion-train", extractor=load_extractor(NAME))
    for part, rows, factor in zip(PARTS, (slice(64), slice(64, 128)), (1, 4), strict=True):
        alone = load_reference("fashion-train", extractor=load_extractor(part))
        # float32 features were multiplied, float64 moments are compared.
        np.testing.assert_allclose(joint.mean[rows], factor * alone.mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            joint.covariance[rows, rows], factor**2 * alone.covariance, rtol=1e-5, atol=1e-5
        )


def test_features_of_which_nothing_is_bundled_are_refused_by_name() -> None:
    other = load_extractor("fashion-cnn+dct")
    assert bundled_reference("fashion-train", other.name) == ASSETS / "fashion-train.npz"
    with pytest.raises(ObjectiveError, match=r"expected fashion-cnn.dct, found fashion-cnn "):
        load_reference("fashion-train", extractor=other)
    # The name of a file beside it is no name of a reference.
    with pytest.raises(ObjectiveError, match="a reference file, found no such file"):
        load_reference("fashion-train-dct", extractor=load_extractor("dct"))


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_the_distance_is_at_least_the_sum_of_the_parts(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    scale = np.diag([1.0] * 3 + [factor] * 2)

    def moments() -> tuple[np.ndarray, np.ndarray]:
        root = rng.normal(size=(5, 5))
        return scale @ rng.normal(size=5), scale @ root @ root.T @ scale

    (mean, covariance), (other_mean, other) = moments(), moments()

    def distance(rows: slice) -> float:
        real = Reference(
            name="made up",
            extractor="x",
            sha256="0" * 64,
            preprocess="none",
            dim=len(mean[rows]),
            images=1000,
            mean=other_mean[rows],
            covariance=other[rows, rows],
            header={},
        )
        return frechet_of_moments(mean[rows], covariance[rows, rows], real)

    whole = distance(slice(None))
    parts = distance(slice(3)) + distance(slice(3, 5))
    assert whole >= parts - 1e-6 * whole
