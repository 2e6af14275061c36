from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError, OutputError
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import INCEPTION, INCEPTION_SHA256
from skiptune.objectives.reference import (
    Reference,
    feature_rows,
    load_reference,
    reference_of,
    save_reference,
)

Array = NDArray[np.float64]


@pytest.fixture
def extractor() -> Extractor:
    return Extractor("toy", 5, "a" * 64, "none", torch.nn.Linear(1, 1))


@pytest.fixture
def made(extractor: Extractor) -> Reference:
    rows = np.random.default_rng(0).standard_normal((200, 5)) + 1
    return reference_of(rows, extractor=extractor, name="made", header={"data": "noise"})


def write(path: Path, **changes: Any) -> Path:
    """Write a file in our format, with some arrays or header entries changed."""
    header: dict[str, Any] = {
        "format": 1,
        "name": "made",
        "extractor": "toy",
        "sha256": "a" * 64,
        "preprocess": "none",
        "dim": 5,
        "images": 200,
        "more": {},
    }
    arrays: dict[str, Any] = {"mean": np.zeros(5), "covariance": np.eye(5)}
    for key, value in changes.items():
        (arrays if key in arrays or key == "features" else header)[key] = value
    np.savez(path, header=np.array(json.dumps(header)), **arrays)
    return path


def test_statistics_are_the_sample_s(extractor: Extractor) -> None:
    rows = np.random.default_rng(1).standard_normal((300, 5)).astype(np.float32)
    reference = reference_of(rows, extractor=extractor, name="r")
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(reference.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(reference.covariance, np.cov(wide, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(reference.root @ reference.root, reference.covariance, atol=1e-12)
    np.testing.assert_allclose(reference.root, reference.root.T, atol=1e-14)
    assert reference.trace == pytest.approx(float(np.var(wide, axis=0, ddof=1).sum()))


def test_a_file_gives_back_what_was_saved(
    tmp_path: Path, made: Reference, extractor: Extractor
) -> None:
    path = tmp_path / "made.npz"
    save_reference(path, made)
    save_reference(path, made)
    assert [file.name for file in tmp_path.iterdir()] == ["made.npz"]
    read = load_reference(path, extractor=extractor)
    np.testing.assert_array_equal(read.mean, made.mean)
    np.testing.assert_array_equal(read.covariance, made.covariance)
    assert (read.name, read.images, read.header) == (made.name, made.images, made.header)
    assert read.digest == made.digest


def test_the_digest_tells_arrays_and_features_apart(tmp_path: Path) -> None:
    digests = {
        load_reference(write(tmp_path / "a.npz", **change)).digest
        for change in (
            {},
            {"mean": np.full(5, 1e-12)},
            {"covariance": np.eye(5) * 2},
            {"sha256": "b" * 64},
            {"extractor": "other"},
        )
    }
    assert len(digests) == 5


def test_the_bundled_reference_belongs_to_the_bundled_extractor() -> None:
    reference = load_reference("fashion-train", extractor=load_extractor("fashion-cnn"))
    assert (reference.dim, reference.images) == (64, 60_000)
    # The extractor scales each feature to variance 1 over just these images.
    np.testing.assert_allclose(np.diag(reference.covariance), 1, rtol=1e-4)
    assert {"data", "images_sha256", "license", "torch", "versions"} <= reference.header.keys()


def test_the_bundled_reference_identifies_stored_studies() -> None:
    digest = "6ee8257c57f001ee13c6e59ed072facd177ca1a25717de46f1de39e457bd5ae7"
    assert load_reference("fashion-train").digest == digest


def test_the_bundled_features_are_those_of_single_training_images() -> None:
    reference = load_reference("fashion-train")
    rows = reference.require_features(5000)
    assert rows.shape == (5000, 64) and rows.dtype == np.float32
    # float16 holds the rows exactly: 640 kB.
    np.testing.assert_array_equal(rows.astype(np.float16).astype(np.float32), rows)
    # Every twelfth image: a sample of 5000 of the distribution with the stored moments.
    centred = (rows.mean(axis=0) - reference.mean) * np.sqrt(5000)
    assert np.abs(centred).max() < 4
    spread = np.cov(rows.astype(np.float64), rowvar=False)
    assert np.abs(np.diag(spread) - 1).max() < 0.15


def test_features_are_kept_in_order_and_digested(tmp_path: Path, extractor: Extractor) -> None:
    rows = np.random.default_rng(2).standard_normal((103, 5)).astype(np.float32)
    bare = reference_of(rows, extractor=extractor, name="r")
    kept = reference_of(rows, extractor=extractor, name="r", keep=10)
    assert (bare.features, bare.features_digest) == (None, None)
    assert kept.features is not None
    np.testing.assert_array_equal(kept.features, rows[[0, 10, 20, 30, 41, 51, 61, 72, 82, 92]])
    # What identifies stored scores does not depend on the rows.
    assert kept.digest == bare.digest
    save_reference(tmp_path / "r.npz", kept)
    read = load_reference(tmp_path / "r.npz", extractor=extractor)
    np.testing.assert_array_equal(read.require_features(), kept.features)
    assert read.features_digest == kept.features_digest
    swapped = replace(kept, features=kept.features[::-1].copy())
    assert swapped.features_digest != kept.features_digest


def test_rows_that_float16_holds_are_stored_so(tmp_path: Path, extractor: Extractor) -> None:
    rows = np.random.default_rng(2).integers(0, 9, (60, 5)) / 8
    reference = reference_of(rows, extractor=extractor, name="r", keep=20)
    assert reference.features is not None
    for scale, stored in ((1.0, np.float16), (1.1, np.float32)):
        changed = replace(reference, features=(reference.features * scale).astype(np.float32))
        save_reference(tmp_path / "r.npz", changed)
        with np.load(tmp_path / "r.npz") as arrays:
            assert arrays["features"].dtype == stored
        np.testing.assert_array_equal(
            load_reference(tmp_path / "r.npz").require_features(), changed.features
        )


@given(images=st.integers(1, 500), wanted=st.integers(1, 500))
def test_kept_rows_are_spread_evenly(images: int, wanted: int) -> None:
    rows = feature_rows(images, wanted)
    assert len(rows) == min(images, wanted)
    assert rows[0] == 0 and rows[-1] < images
    steps = np.diff(rows)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_what_a_metric_needs_and_a_reference_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edm.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    reference = load_reference(path)
    with pytest.raises(ObjectiveError, match="images") as caught:
        reference.require_images()
    assert "skiptune ref IMAGES --extractor inception -o" in caught.value.hint
    with pytest.raises(ObjectiveError, match="mean and covariance only") as caught:
        reference.require_features(4)
    assert "--features 5000" in caught.value.hint
    bundled = load_reference("fashion-train")
    assert bundled.require_images() == 60_000
    with pytest.raises(ObjectiveError, match="those of 5000 images"):
        bundled.require_features(6000)


def test_plain_statistics_are_taken_for_inception_only(tmp_path: Path, made: Reference) -> None:
    path = tmp_path / "edm.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    reference = load_reference(path)
    assert (reference.extractor, reference.sha256) == (INCEPTION, INCEPTION_SHA256)
    assert reference.images is None
    with pytest.raises(ObjectiveError, match="fashion-cnn"):
        load_reference(path, extractor=load_extractor("fashion-cnn"))
    np.savez(path, mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ObjectiveError, match=r"\[2048\]"):
        load_reference(path)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mean": np.full(5, np.nan)}, "NaN"),
        ({"covariance": np.full((5, 5), np.inf)}, "infinity"),
        ({"covariance": np.diag([1.0, 1, 1, 1, -0.1])}, "positive semidefinite"),
        ({"covariance": np.zeros((5, 5))}, "positive semidefinite"),
        ({"covariance": np.eye(5) + np.triu(np.ones((5, 5)), 1)}, "symmetric"),
        ({"covariance": np.eye(4)}, r"\[4, 4\]"),
        ({"mean": np.zeros(4)}, r"\[4\]"),
        ({"mean": np.zeros(5, dtype=np.int64)}, "int64"),
        ({"features": np.zeros((3, 4), np.float32)}, r"\[3, 4\]"),
        ({"features": np.zeros((0, 5), np.float32)}, r"\[0, 5\]"),
        ({"features": np.full((3, 5), np.nan, np.float32)}, "NaN"),
        ({"features": np.zeros((3, 5), np.int8)}, "int8"),
        ({"dim": 6}, r"mean \[6\]"),
        ({"dim": None}, "TypeError"),
        ({"format": 2}, "format 2"),
    ],
)
def test_impossible_statistics_are_refused(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    path = write(tmp_path / "bad.npz", **changes)
    with pytest.raises(ObjectiveError, match=found) as caught:
        load_reference(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("extractor", "what"),
    [
        (Extractor("other", 5, "a" * 64, "none", torch.nn.Linear(1, 1)), "extractor"),
        (Extractor("toy", 6, "a" * 64, "none", torch.nn.Linear(1, 1)), "dimension"),
        (Extractor("toy", 5, "b" * 64, "none", torch.nn.Linear(1, 1)), "weights sha256"),
        (Extractor("toy", 5, "a" * 64, "resized", torch.nn.Linear(1, 1)), "preprocess"),
    ],
)
def test_references_of_other_features_are_refused(
    tmp_path: Path, extractor: Extractor, what: str
) -> None:
    path = write(tmp_path / "made.npz")
    with pytest.raises(ObjectiveError, match=f"{path}: {what}"):
        load_reference(path, extractor=extractor)


def test_what_is_not_a_reference_file_is_refused(tmp_path: Path) -> None:
    missing, folder, text = tmp_path / "no.npz", tmp_path / "folder", tmp_path / "text.npz"
    folder.mkdir()
    text.write_text("mean: 1")
    pickled, single, other, cut = (tmp_path / f"{name}.npz" for name in ("p", "s", "o", "c"))
    np.savez(pickled, header=np.array([{}], dtype=object), mean=[1.0], covariance=[[1.0]])
    with open(single, "wb") as file:
        np.save(file, np.zeros(3))
    np.savez(other, values=np.zeros(3))
    cut.write_bytes(write(tmp_path / "whole.npz").read_bytes()[:300])
    for path, found in (
        (missing, "no such file"),
        (folder, "a folder"),
        (text, "npz"),
        (pickled, "npz"),
        (single, "npz"),
        (other, "values"),
        (cut, "npz"),
    ):
        with pytest.raises(ObjectiveError, match=found):
            load_reference(path)
    with pytest.raises(ObjectiveError, match="fashion-train"):
        load_reference("fashion-tran")


def test_features_of_another_dimension_make_no_reference(extractor: Extractor) -> None:
    for rows in (np.zeros((10, 4)), np.zeros((1, 5)), np.zeros(5)):
        with pytest.raises(ObjectiveError, match="N >= 2"):
            reference_of(rows, extractor=extractor, name="r")
    with pytest.raises(ObjectiveError, match="finite"):
        reference_of(np.full((10, 5), np.nan), extractor=extractor, name="r")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, made: Reference) -> None:
    path = tmp_path / "none" / "made.npz"
    with pytest.raises(OutputError, match=r"made\.npz"):
        save_reference(path, made)
