"""Reference statistics: mean and covariance of the features of real images, with a header.

A file is an `npz` without pickles: `mean` float64 [d], `covariance` float64 [d, d] (divisor
N - 1), and `header`, JSON text that names the extractor, its weights and preprocessing, so that
a reference of other features is refused instead of scored. Files that hold only `mu` and
`sigma` (EDM's and ADM's references) name no features; they are taken for Inception's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.canonical import digest as digest_of
from skiptune.errors import ObjectiveError, OutputError
from skiptune.objectives.names import ASSETS, INCEPTION, INCEPTION_SHA256, REFERENCES

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = ["Reference", "load_reference", "reference_of", "save_reference", "symmetric_root"]

_FORMAT = 1
_INCEPTION_DIM = 2048
# Rounding of a float64 covariance stays far below this share of its largest eigenvalue.
_NEGATIVE = 1e-6
_REMAKE = "make it with `skiptune.objectives.save_reference`, or name " + ", ".join(REFERENCES)


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean and covariance of real features, checked on construction.

    Arguments:
        name: What a person calls it.
        extractor: Name of the feature network.
        sha256: Of the feature network's weights.
        preprocess: The extractor's preprocessing.
        dim: Features d.
        images: Images the statistics were taken over; None where a file does not say.
        mean: float64 [d].
        covariance: float64 [d, d], divisor N - 1.
        header: Everything else that is known: data set, versions.

    Raises:
        ObjectiveError: When the arrays have another shape, are not finite, not symmetric or not
            positive semidefinite.
    """

    name: str
    extractor: str
    sha256: str
    preprocess: str
    dim: int
    images: int | None
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    header: dict[str, Any]

    def __post_init__(self) -> None:
        where = f"reference {self.name}"
        if self.mean.shape != (self.dim,) or self.covariance.shape != (self.dim, self.dim):
            raise ObjectiveError(
                where,
                expected=f"mean [{self.dim}] and covariance [{self.dim}, {self.dim}]",
                found=f"{list(self.mean.shape)} and {list(self.covariance.shape)}",
                hint=_REMAKE,
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ObjectiveError(
                where, expected="finite numbers", found="NaN or infinity", hint=_REMAKE
            )
        skew = float(np.abs(self.covariance - self.covariance.T).max())
        if skew > _NEGATIVE * float(np.abs(self.covariance).max()):
            raise ObjectiveError(
                where,
                expected="a symmetric covariance",
                found=f"entries that differ from their mirror by {skew:.3g}",
                hint=_REMAKE,
            )
        values = self._spectrum[0]
        if values[0] < -_NEGATIVE * max(float(values[-1]), 0.0) or values[-1] <= 0:
            raise ObjectiveError(
                where,
                expected="a positive semidefinite covariance",
                found=f"eigenvalues from {values[0]:.3g} to {values[-1]:.3g}",
                hint=_REMAKE,
            )

    @cached_property
    def _spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, vectors = np.linalg.eigh((self.covariance + self.covariance.T) / 2)
        return values, vectors

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """The symmetric positive semidefinite square root of the covariance, [d, d]."""
        values, vectors = self._spectrum
        return symmetric_root(values, vectors)

    @cached_property
    def trace(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self.covariance))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides a score: the features' identity and the two arrays."""
        return digest_of(
            {
                "extractor": self.extractor,
                "sha256": self.sha256,
                "preprocess": self.preprocess,
                "mean": _array_digest(self.mean),
                "covariance": _array_digest(self.covariance),
            }
        )


def symmetric_root(
    values: NDArray[np.float64], vectors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return V diag(sqrt(max(values, 0))) V' for an eigendecomposition of a symmetric matrix."""
    root: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def reference_of(
    features: ArrayLike,
    *,
    extractor: Extractor,
    name: str,
    header: Mapping[str, Any] | None = None,
) -> Reference:
    """Take the statistics of real images.

    Arguments:
        features: [N, d] of `extractor`, N > d wanted; reduced in float64.
        extractor: The network that made the features.
        name: What a person calls the reference.
        header: Plain data about the images (data set, hash, selection).

    Raises:
        ObjectiveError: When the features are not finite or of another dimension.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != extractor.dim or len(rows) < 2:
        raise ObjectiveError(
            f"features of reference {name}",
            expected=f"[N, {extractor.dim}] with N >= 2",
            found=str(list(rows.shape)),
            hint=f"extract them with {extractor.name}",
        )
    mean = rows.mean(axis=0)
    centred = rows - mean
    return Reference(
        name=name,
        extractor=extractor.name,
        sha256=extractor.sha256,
        preprocess=extractor.preprocess,
        dim=extractor.dim,
        images=len(rows),
        mean=mean,
        covariance=centred.T @ centred / (len(rows) - 1),
        header={
            **(header or {}),
            "versions": {"numpy": np.__version__, "python": platform.python_version()},
        },
    )


def save_reference(path: Path | str, reference: Reference) -> None:
    """Write the file under a temporary name and rename it, replacing an older one.

    Raises:
        OutputError: When the folder cannot be written.
    """
    path = Path(path)
    header = {
        "format": _FORMAT,
        "name": reference.name,
        "extractor": reference.extractor,
        "sha256": reference.sha256,
        "preprocess": reference.preprocess,
        "dim": reference.dim,
        "images": reference.images,
        "more": reference.header,
    }
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a folder that can be written",
            found=error.strerror or str(error),
            hint="name a file in a folder of yours",
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                header=np.array(json.dumps(header, sort_keys=True)),
                mean=reference.mean,
                covariance=reference.covariance,
            )
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_reference(name_or_path: str | Path, *, extractor: Extractor | None = None) -> Reference:
    """Read reference statistics and refuse those of other features.

    Arguments:
        name_or_path: `fashion-train`, which comes with skiptune, or an `npz` file.
        extractor: The network whose features will be scored; None skips the comparison.

    Raises:
        ObjectiveError: When the file is missing, not such an `npz`, holds impossible numbers,
            or was made with another extractor, other weights or another dimension.
    """
    bundled = str(name_or_path) in REFERENCES
    path = ASSETS / f"{name_or_path}.npz" if bundled else Path(name_or_path)
    arrays = _read(path)
    if {"header", "mean", "covariance"} <= arrays.keys():
        reference = _own(path, arrays)
    elif {"mu", "sigma"} <= arrays.keys():
        reference = _plain(path, arrays)
    else:
        raise ObjectiveError(
            str(path),
            expected="arrays header, mean, covariance (or mu, sigma of Inception)",
            found=", ".join(arrays) or "no arrays",
            hint=_REMAKE,
        )
    if extractor is not None:
        _compare(path, reference, extractor)
    return reference


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ObjectiveError(
            str(path),
            expected="a reference file",
            found="a folder" if path.is_dir() else "no such file",
            hint=_REMAKE,
        )
    try:
        # Opened here because numpy leaves a file open when its zip directory is damaged.
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("a single array")
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ObjectiveError(
            str(path),
            expected="an npz file without pickled objects",
            found=f"something else ({error or type(error).__name__})",
            hint=_REMAKE,
        ) from error


def _own(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Reference:
    try:
        header = json.loads(str(arrays["header"]))
        if header["format"] != _FORMAT:
            raise ObjectiveError(
                str(path),
                expected=f"format {_FORMAT}",
                found=f"format {header['format']}",
                hint="update skiptune",
            )
        return Reference(
            name=str(header["name"]),
            extractor=str(header["extractor"]),
            sha256=str(header["sha256"]),
            preprocess=str(header["preprocess"]),
            dim=int(header["dim"]),
            images=None if header["images"] is None else int(header["images"]),
            mean=_float64(path, "mean", arrays["mean"]),
            covariance=_float64(path, "covariance", arrays["covariance"]),
            header=dict(header["more"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ObjectiveError(
            f"{path}: header",
            expected="JSON text with format, name, extractor, sha256, preprocess, dim, images",
            found=f"{type(error).__name__}: {error}",
            hint=_REMAKE,
        ) from error


def _plain(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Reference:
    mean = _float64(path, "mu", arrays["mu"])
    covariance = _float64(path, "sigma", arrays["sigma"])
    if mean.shape != (_INCEPTION_DIM,):
        raise ObjectiveError(
            f"{path}: mu",
            expected=f"[{_INCEPTION_DIM}] of Inception: a file without header names no features",
            found=str(list(mean.shape)),
            hint=_REMAKE,
        )
    return Reference(
        name=path.stem,
        extractor=INCEPTION,
        sha256=INCEPTION_SHA256,
        preprocess="not recorded in the file",
        dim=_INCEPTION_DIM,
        images=None,
        mean=mean,
        covariance=covariance,
        header={"source": "mu and sigma without header; taken for Inception's"},
    )


def _float64(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind != "f":
        raise ObjectiveError(
            f"{path}: {key}",
            expected="floating-point numbers",
            found=str(array.dtype),
            hint=_REMAKE,
        )
    return np.ascontiguousarray(array, dtype=np.float64)


def _compare(path: Path, reference: Reference, extractor: Extractor) -> None:
    pairs = (
        ("extractor", extractor.name, reference.extractor),
        ("dimension", str(extractor.dim), str(reference.dim)),
        ("weights sha256", extractor.sha256, reference.sha256),
    )
    for what, wanted, found in pairs:
        if wanted != found:
            raise ObjectiveError(
                f"{path}: {what}",
                expected=wanted,
                found=found,
                hint=f"use a reference made with {extractor.name}, or that reference's extractor",
            )


def _array_digest(array: NDArray[np.float64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<f8").tobytes()).hexdigest()
