"""Images in numpy's files: one uint8 array in an npz or npy, read block by block.

The array is the one called `images` or `arr_0` (as ADM's sample files), or the only one with
three or four axes. [N, H, W] is gray. Of four axes, the one of length 1 or 3 at the end or in
the second place holds the channels; where both fit, or none does, nothing is guessed. Labels
are the whole numbers called `labels`, `label`, `y` or `arr_1`. Nothing pickled is read. No torch.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError

__all__ = ["ArrayImages", "open_arrays"]

_IMAGES = ("images", "arr_0")
_LABELS = ("labels", "label", "y", "arr_1")
_CHANNELS = (1, 3)
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # zipfile's word for a password
    zipfile.BadZipFile,
    zlib.error,
)

Read = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in an array file; fields as those of `image_files.ImageSource`."""

    count: int
    shape: tuple[int, int, int]
    listing: str
    labels: NDArray[np.int64] | None
    reading: Callable[[], AbstractContextManager[Read]]


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[np.generic]


def open_arrays(path: Path) -> ArrayImages:
    """Look at the images of an npz or npy; none is read yet.

    Arguments:
        path: The file.

    Raises:
        ObjectiveError: When it holds no array of images, or one that is not uint8.
    """
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                headers = {"": _header(file)}
            about = path.stat()
            mark = f"{about.st_size} {about.st_mtime_ns}"
            key, labels = "", None
        else:
            headers, marks = _members(path)
            key = _images_key(path, headers)
            mark, labels = marks[key], _labels(path, headers, headers[key].shape[0])
    except _UNREADABLE as error:
        raise ObjectiveError(
            str(path),
            expected="a numpy file of images",
            found=f"something else ({error or type(error).__name__})",
            hint="write it with np.savez(FILE, images=ARRAY)",
        ) from None
    header = headers[key]
    where = f"{path}: {key}" if key else str(path)
    shape, last = _layout(where, header)
    listing = hashlib.sha256(f"{key} {header.shape} {header.dtype} {mark}".encode()).hexdigest()

    @contextmanager
    def reading() -> Iterator[Read]:
        with _opened(path, key) as file:
            begin = file.tell()

            def read(start: int, stop: int) -> NDArray[np.uint8]:
                size = math.prod(shape)
                try:
                    file.seek(begin + start * size)
                    data = file.read((stop - start) * size)
                except _UNREADABLE as error:
                    raise _cut_off(where, str(error)) from None
                if len(data) < (stop - start) * size:
                    raise _cut_off(where, f"the end of the file after image {start}")
                stored = header.shape[1:] if last else shape
                block = np.frombuffer(data, dtype=np.uint8).reshape(-1, *stored)
                # Copied: torch does not like arrays that cannot be written.
                return np.array(block.transpose(0, 3, 1, 2) if last else block, order="C")

            yield read

    return ArrayImages(header.shape[0], shape, listing, labels, reading)


def _members(path: Path) -> tuple[dict[str, _Header], dict[str, str]]:
    """Return the header of each array of an npz, and what identifies its content."""
    headers, marks = {}, {}
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.filename.endswith(".npy"):
                name = member.filename.removesuffix(".npy")
                with file.open(member) as opened:
                    headers[name] = _header(opened)
                marks[name] = f"{member.file_size} {member.CRC}"
    return headers, marks


def _header(file: IO[bytes]) -> _Header:
    version = npy.read_magic(file)
    if version == (1, 0):
        return _Header(*npy.read_array_header_1_0(file))
    if version == (2, 0):
        return _Header(*npy.read_array_header_2_0(file))
    raise ValueError(f"numpy format {version}")


def _images_key(path: Path, headers: dict[str, _Header]) -> str:
    found = [name for name in _IMAGES if name in headers]
    found = found or [name for name, header in headers.items() if len(header.shape) in (3, 4)]
    if not found or (len(found) > 1 and found[0] not in _IMAGES):
        arrays = ", ".join(f"{name} {list(header.shape)}" for name, header in headers.items())
        raise ObjectiveError(
            str(path),
            expected="an array `images` or `arr_0`, or just one array with 3 or 4 axes",
            found=arrays or "no arrays",
            hint="write it with np.savez(FILE, images=ARRAY)",
        )
    return found[0]


def _layout(where: str, header: _Header) -> tuple[tuple[int, int, int], bool]:
    """Return channels, height and width, and whether the channels come last."""
    shape = header.shape
    if header.dtype != np.uint8:
        wide = header.dtype.kind in "iu"
        raise ObjectiveError(
            where,
            expected="uint8, 0..255",
            found=f"{header.dtype}" + (" (16 bits or more)" if wide else ""),
            hint="convert the images to 8 bits first: how to scale them would be a guess",
        )
    if header.columns_first and len(shape) > 1:
        raise ObjectiveError(
            where,
            expected="an array in C order",
            found="one in Fortran order",
            hint="write it again with np.ascontiguousarray(ARRAY)",
        )
    if len(shape) not in (3, 4) or 0 in shape:
        raise ObjectiveError(
            where,
            expected="images [N, H, W, C], [N, C, H, W] or [N, H, W], N >= 1",
            found=str(list(shape)),
            hint="write it with np.savez(FILE, images=ARRAY)",
        )
    if len(shape) == 3:
        return (1, shape[1], shape[2]), False
    second, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if second == last:
        alpha = not second and (shape[1] in (2, 4) or shape[3] in (2, 4))
        raise ObjectiveError(
            where,
            expected="1 or 3 channels, either last or in the second place",
            found=f"{list(shape)}" + (": an alpha channel?" if alpha else ""),
            hint="put transparent images on a background first"
            if alpha
            else "reshape the array so that only one axis can hold the channels",
        )
    if last:
        return (shape[3], shape[1], shape[2]), True
    return (shape[1], shape[2], shape[3]), False


def _labels(path: Path, headers: dict[str, _Header], count: int) -> NDArray[np.int64] | None:
    for name in _LABELS:
        header = headers.get(name)
        if header is not None and header.shape == (count,) and header.dtype.kind in "iu":
            with np.load(path, allow_pickle=False) as arrays:
                labels: NDArray[np.int64] = arrays[name].astype(np.int64)
                return labels
    return None


@contextmanager
def _opened(path: Path, key: str) -> Iterator[IO[bytes]]:
    """Open an array's bytes, behind its header; seeking forward reads on."""
    if not key:
        with open(path, "rb") as file:
            _header(file)
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
        _header(member)
        yield member


def _cut_off(where: str, found: str) -> ObjectiveError:
    return ObjectiveError(
        where,
        expected="an array that can be read whole",
        found=found,
        hint="write or fetch the file again",
    )
