"""Fashion-MNIST as skiptune uses it: 70000 images, padded with black to 32x32.

Two sources are read: a folder with the four official IDX files (Xiao et al. 2017,
arXiv 1708.07747; gzipped or not; the 60000 training images come first, then the 10000 test
images), or one ``npz`` with the arrays ``images`` uint8 [70000, 28, 28] and ``labels``.
Images 0-59999 are for training, 60000-69999 are held out, whichever the source.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError

__all__ = ["CLASSES", "TRAINING_IMAGES", "load"]

TRAINING_IMAGES = 60_000

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_IDX_UINT8 = 0x08
_IDX_FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_HINT = "download the four files of github.com/zalandoresearch/fashion-mnist into one folder"


def load(path: Path | str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the data set.

    Arguments:
        path: A folder with the official IDX files, or an ``npz`` file.

    Returns:
        Images, uint8 [70000, 1, 32, 32] with two black pixels added on each side, and labels,
        int64 [70000] in 0..9.

    Raises:
        ObjectiveError: When files are missing or hold something else.
    """
    path = Path(path)
    images, labels = _read_npz(path) if path.is_file() else _read_folder(path)
    if images.dtype != np.uint8 or images.shape != (70_000, 28, 28):
        raise ObjectiveError(
            str(path),
            expected="images uint8 [70000, 28, 28]",
            found=f"{images.dtype} {list(images.shape)}",
            hint=_HINT,
        )
    if labels.shape != (70_000,) or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ObjectiveError(
            str(path),
            expected="70000 labels in 0..9",
            found=f"shape {list(labels.shape)}, {labels.min()}..{labels.max()}",
            hint=_HINT,
        )
    padded = np.pad(images[:, None], ((0, 0), (0, 0), (2, 2), (2, 2)))
    return padded, labels.astype(np.int64)


def _read_npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    with np.load(path, allow_pickle=False) as arrays:
        if not {"images", "labels"} <= set(arrays.files):
            raise ObjectiveError(
                str(path),
                expected="arrays `images` and `labels`",
                found=", ".join(arrays.files) or "no arrays",
                hint=_HINT,
            )
        return arrays["images"], arrays["labels"]


def _read_folder(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    parts = [
        (_read_idx(folder, images), _read_idx(folder, labels)) for images, labels in _IDX_FILES
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read one IDX file: two zero bytes, type code, rank, big-endian sizes, then the values."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        raw = plain.read_bytes()
    elif packed.is_file():
        raw = gzip.decompress(packed.read_bytes())
    else:
        raise ObjectiveError(
            str(plain), expected="an IDX file, gzipped or not", found="no such file", hint=_HINT
        )
    zeros, kind, rank = struct.unpack(">HBB", raw[:4]) if len(raw) >= 4 else (1, 0, 0)
    body = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", raw[4:body]) if len(raw) >= body else ()
    if zeros or kind != _IDX_UINT8 or len(raw) != body + math.prod(shape):
        raise ObjectiveError(
            str(plain), expected="a complete IDX file of bytes", found="something else", hint=_HINT
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=body).reshape(shape)
