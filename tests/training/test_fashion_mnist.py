"""Reading Fashion-MNIST: official files and npz give equal arrays; others are refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from training.fashion_mnist import CLASSES, load


@pytest.fixture(scope="module")
def arrays() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    images = np.zeros((70_000, 28, 28), np.uint8)
    images[:, 3] = rng.integers(0, 256, (70_000, 28), np.uint8)
    return images, rng.integers(0, len(CLASSES), 70_000).astype(np.uint8)


def idx(array: NDArray[np.uint8]) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_official(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], *, packed: bool
) -> None:
    for part, rows in (("train", slice(None, 60_000)), ("t10k", slice(60_000, None))):
        for name, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            path = folder / f"{part}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                path.write_bytes(idx(array))


@pytest.mark.parametrize("source", ["idx", "idx.gz", "npz"])
def test_every_source_gives_padded_images_and_labels(
    tmp_path: Path, arrays: tuple[NDArray[np.uint8], NDArray[np.uint8]], source: str
) -> None:
    images, labels = arrays
    path = tmp_path
    if source == "npz":
        path = tmp_path / "data.npz"
        np.savez(path, images=images, labels=labels)
    else:
        write_official(path, images, labels, packed=source == "idx.gz")
    found, classes = load(path)
    assert found.shape == (70_000, 1, 32, 32)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, labels)
    np.testing.assert_array_equal(found[:, 0, 2:30, 2:30], images)
    assert int(found.sum(dtype=np.int64)) == int(images.sum(dtype=np.int64))


def test_a_cut_file_is_refused(
    tmp_path: Path, arrays: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    write_official(tmp_path, *arrays, packed=False)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ObjectiveError, match="t10k-labels"):
        load(tmp_path)


def test_an_empty_folder_and_other_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="no such file"):
        load(tmp_path)
    np.savez(tmp_path / "other.npz", pixels=np.zeros(3))
    with pytest.raises(ObjectiveError, match="pixels"):
        load(tmp_path / "other.npz")
    np.savez(tmp_path / "few.npz", images=np.zeros((2, 28, 28), np.uint8), labels=np.zeros(2))
    with pytest.raises(ObjectiveError, match="70000"):
        load(tmp_path / "few.npz")
