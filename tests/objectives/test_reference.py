from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError, OutputError
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import INCEPTION, INCEPTION_SHA256
from skiptune.objectives.reference import (
    Reference,
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
        (arrays if key in arrays else header)[key] = value
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
