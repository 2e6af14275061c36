"""Reference statistics as other programs write them, and what their files do not record.

    EDM           npz   mu, sigma of the whole training set; Inception
    pytorch-fid   npz   mu, sigma: nothing tells it from EDM's
    clean-fid     npz   mu, sigma; the name of the file encodes how images were resized
    ADM           npz   mu, sigma, mu_s, sigma_s and images (`VIRTUAL_*`); TensorFlow's Inception
    EDM2          pkl   {num_images, fid: {mu, sigma}, fd_dinov2: {mu, sigma}}

A pickle is a program. Nothing of EDM2's is executed: of what it names, only numpy's words for an
array of numbers are known here, and they are read by classes of this module that call nothing.
Sources: github.com/NVlabs/edm (fid.py), NVlabs/edm2 (calculate_metrics.py), mseitzer/pytorch-fid,
GaParmar/clean-fid (features.py), openai/guided-diffusion (evaluations). No torch.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.names import DINOV2, DINOV2_SHA256, INCEPTION, INCEPTION_SHA256

__all__ = [
    "NOT_RECORDED",
    "Foreign",
    "as_float64",
    "as_rows",
    "foreign_arrays",
    "foreign_pickle",
    "is_pickle",
    "stored_arrays",
]

NOT_RECORDED = "not recorded in the file"

_ARRAYS = ("header", "mean", "covariance", "features", "mu", "sigma")
_REMAKE = "make statistics with `skiptune ref IMAGES -o FILE`"
_PICKLE_SUFFIXES = (".pkl", ".pickle")
_MOST_BYTES = 1 << 30  # EDM2's files have 42 MB

# clean-fid writes ffhq_clean_train_256.npz today and wrote FFHQ_256_CleanFID_0.npz before.
_CLEAN_FID = (
    (re.compile(r"legacy_?(tf|tensorflow)", re.IGNORECASE), "legacy_tensorflow", ""),
    (
        re.compile(r"legacy_?(pyt|pytorch)", re.IGNORECASE),
        "legacy_pytorch",
        "clean-fid's mode legacy_pytorch, by the file's name: torch's bilinear resize",
    ),
    (
        re.compile(r"(^|_)clean(fid)?(_|$)", re.IGNORECASE),
        "clean",
        "clean-fid's mode clean, by the file's name: PIL's bicubic resize with antialiasing",
    ),
)


@dataclass(frozen=True)
class Foreign:
    """Statistics of a foreign file, as they stand there.

    Arguments:
        extractor: Name of the feature network that they are taken for.
        sha256: Of its published weights.
        dim: Features d that this network has.
        images: Images they were taken over; None where the file does not say.
        mean: [d] of any dtype, not checked yet.
        covariance: [d, d] of any dtype, not checked yet.
        source: What kind of file it is.
        cautions: What the file does not record, in sentences.
        other_features: In words, what makes these the features of another preprocessing than
            ours; empty where nothing does.
    """

    extractor: str
    sha256: str
    dim: int
    images: int | None
    mean: NDArray[Any]
    covariance: NDArray[Any]
    source: str
    cautions: tuple[str, ...]
    other_features: str = ""


def stored_arrays(path: Path, *, hint: str) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Read an `npz` of statistics.

    Arguments:
        path: The file.
        hint: What to do where it is none.

    Returns:
        The names of all arrays in the file, and those arrays that hold statistics.

    Raises:
        ObjectiveError: When the file is no `npz`, or holds pickled objects.
    """
    try:
        # Opened here because numpy leaves a file open when its zip directory is damaged.
        with open(path, "rb") as file:
            # numpy takes anything else for a pickle, and says how to load that.
            if not file.read(6).startswith((b"PK", b"\x93NUMPY")):
                raise ValueError("no file of numpy's")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("a single array")
            # Not the others: ADM's files hold ten thousand images as well.
            return loaded.files, {name: loaded[name] for name in loaded.files if name in _ARRAYS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ObjectiveError(
            str(path),
            expected="an npz file without pickled objects",
            found=f"something else ({error or type(error).__name__})",
            hint=hint,
        ) from error


def as_float64(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.float64]:
    """Return an array of floats as float64.

    Raises:
        ObjectiveError: When it holds anything else.
    """
    if array.dtype.kind != "f":
        raise ObjectiveError(
            f"{path}: {key}",
            expected="floating-point numbers",
            found=str(array.dtype),
            hint=_REMAKE,
        )
    return np.ascontiguousarray(array, dtype=np.float64)


def as_rows(path: Path, array: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """Return stored features as float32; None where there are none.

    Raises:
        ObjectiveError: When they are of another type.
    """
    if array is None:
        return None
    if array.dtype not in (np.float16, np.float32):
        raise ObjectiveError(
            f"{path}: features",
            expected="float16 or float32",
            found=str(array.dtype),
            hint=_REMAKE,
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def foreign_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> Foreign:
    """Return the statistics of an `npz` with `mu` and `sigma`, taken for Inception's.

    Arguments:
        path: The file, whose name may say more.
        arrays: With `mu` and `sigma`.
        names: Of all arrays in the file.
    """
    cautions = [
        "The file records neither the number of images nor the feature network: taken for the"
        " Inception network of the original FID."
    ]
    other = ""
    if "mu_s" in names or "arr_0" in names:
        source = "ADM: mu, sigma (of mu_s, sigma_s and arr_0 nothing is used)"
        cautions.append(
            "ADM took its statistics with TensorFlow's own copy of the network, over the whole"
            " data set; its images in arr_0 are only a part of it."
        )
    else:
        source = "mu and sigma without header (EDM, pytorch-fid or clean-fid)"
        mode = ""
        for pattern, name, features in _CLEAN_FID:
            if pattern.search(path.stem):
                mode, other = name, features
                break
        if mode:
            source = f"clean-fid, mode {mode} by the file's name"
            cautions.append(f"How images were resized is taken from the file's name: {mode}.")
        else:
            cautions.append(
                "How images were resized is not recorded: EDM's files fit (TF1 bilinear);"
                " pytorch-fid resizes with torch and loads other Inception weights, and its"
                " numbers must not be compared."
            )
    if other:
        cautions.append(f"Scores against it are not comparable with FID: {other}.")
    return Foreign(
        extractor=INCEPTION,
        sha256=INCEPTION_SHA256,
        dim=2048,
        images=None,
        mean=arrays["mu"],
        covariance=arrays["sigma"],
        source=source,
        cautions=tuple(cautions),
        other_features=other,
    )


def is_pickle(path: Path) -> bool:
    """Whether a file is named as a pickle, or begins as one does since protocol 2."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError:
        return False  # whoever reads it says why it cannot be read
    return path.suffix.lower() in _PICKLE_SUFFIXES or (
        start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )


def foreign_pickle(path: Path, extractor: str | None) -> Foreign:
    """Return the statistics of one feature network from a file of EDM2's; nothing is executed.

    Arguments:
        path: The file.
        extractor: Name of the network whose statistics are wanted; None where the file has one.

    Raises:
        ObjectiveError: When the file is no pickle, names anything but plain data and arrays, or
            holds no statistics of this network.
    """
    kinds = {
        "fid": (INCEPTION, INCEPTION_SHA256, 2048),
        "fd_dinov2": (DINOV2, DINOV2_SHA256, 1024),
    }
    content = _unpickled(path)
    there = [key for key in kinds if isinstance(content, dict) and key in content]
    wanted = [key for key in there if extractor in (None, kinds[key][0])]
    if not isinstance(content, dict) or len(wanted) != 1:
        names = ", ".join(f"{key} ({kinds[key][0]})" for key in there)
        raise ObjectiveError(
            str(path),
            expected="EDM2's statistics, a dict with fid or fd_dinov2"
            + (f", of {extractor}" if extractor else ""),
            found=names or "none of them",
            hint="say whose statistics to take with --extractor" if there else _REMAKE,
        )
    name, sha256, dim = kinds[wanted[0]]
    block = content[wanted[0]]
    arrays = [block.get(key) if isinstance(block, dict) else None for key in ("mu", "sigma")]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise ObjectiveError(
            f"{path}: {wanted[0]}",
            expected="a dict with the arrays mu and sigma",
            found=", ".join(map(str, block)) if isinstance(block, dict) else type(block).__name__,
            hint=_REMAKE,
        )
    count = content.get("num_images")
    known = isinstance(count, int) and not isinstance(count, bool) and count > 1
    cautions = [
        "The file records neither the network's weights nor how images were resized: taken for"
        f" EDM2's own {wanted[0]}."
    ]
    if not known:
        cautions.append("The file does not record the number of images.")
    return Foreign(
        extractor=name,
        sha256=sha256,
        dim=dim,
        images=int(count) if known and count is not None else None,
        mean=np.asarray(arrays[0]),
        covariance=np.asarray(arrays[1]),
        source=f"EDM2: {wanted[0]} of a pickle, read as plain arrays",
        cautions=tuple(cautions),
    )


def _unpickled(path: Path) -> Any:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ObjectiveError(
            str(path),
            expected=f"a file of statistics, at most {_MOST_BYTES:,} bytes",
            found=f"{size:,} bytes",
            hint=_REMAKE,
        )
    try:
        return _plain(_Reader(io.BytesIO(path.read_bytes())).load(), depth=0)
    except _ForbiddenError as forbidden:
        raise ObjectiveError(
            str(path),
            expected="a pickle of numbers, text, dicts and numpy arrays",
            found=f"one that would run {forbidden}",
            hint="do not load this file with anything; fetch EDM2's dataset-refs anew",
        ) from None
    # A damaged or hostile stream ends in almost any exception, none of them ours.
    except Exception as error:
        raise ObjectiveError(
            str(path),
            expected="a pickle of numbers, text, dicts and numpy arrays",
            found=f"something else ({type(error).__name__}: {error})",
            hint="fetch the file again",
        ) from None


class _ForbiddenError(Exception):
    """A pickle names something that is no plain data."""


class _Inert:
    """Takes any arguments and any state, and does nothing with them but keep them."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Inert):
    """`numpy.ndarray`, and the function that makes an empty one to be filled by its state."""


class _Type(_Inert):
    """`numpy.dtype`: a code such as f8, and a state that begins with version and byte order."""


class _Scalar(_Inert):
    """A numpy number: its type and its bytes."""


class _Buffer(_Inert):
    """An array since protocol 5: bytes, type, shape, order."""


class _Encoded(_Inert):
    """Bytes as protocol 2 writes them: text and the word latin1."""


_KNOWN: dict[tuple[str, str], type[_Inert]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encoded,
}
# numpy 2 has moved its core.
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"{_core}.multiarray", "scalar"] = _Scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _Buffer


class _Reader(pickle.Unpickler):
    """Knows numpy's words for arrays, as inert classes, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _ForbiddenError(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenError("a reference to something outside of the file")


def _plain(value: Any, *, depth: int) -> Any:
    """Return what was read with its arrays made, two dicts deep."""
    if isinstance(value, dict) and depth <= 1:
        return {str(key): _plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, _Array):
        # State of numpy.ndarray: version, shape, type, whether columns come first, bytes.
        _, shape, kind, columns_first, data = value.state
        return _made(data, kind, shape, "F" if columns_first else "C")
    if isinstance(value, _Buffer):
        data, kind, shape, order = value.arguments
        return _made(data, kind, shape, order)
    if isinstance(value, _Scalar):
        kind, data = value.arguments
        return _made(data, kind, (), "C").item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a {type(value).__name__.strip('_').lower()} where plain data belongs")


def _made(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(data, _Encoded):
        text, code = data.arguments
        if code != "latin1" or not isinstance(text, str):
            raise ValueError(f"bytes encoded as {code}")
        data = text.encode("latin1")
    if not isinstance(kind, _Type) or kind.arguments[0] not in ("f4", "f8", "i4", "i8"):
        raise ValueError("an array of something that is no number")
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise ValueError("an array without bytes")
    sizes = tuple(int(size) for size in shape)
    byte_order = "<" if kind.state is None else kind.state[1]
    flat = np.frombuffer(
        data, dtype=np.dtype(("<" if byte_order == "|" else byte_order) + kind.arguments[0])
    )
    if flat.size != math.prod(sizes):
        raise ValueError(f"{flat.size} numbers for an array of shape {list(sizes)}")
    return flat.reshape(sizes, order=order)
