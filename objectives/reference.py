"""Reference statistics: mean and covariance of the features of real images, with a header.

A file is an `npz` without pickles: `mean` float64 [d], `covariance` float64 [d, d] (divisor
N - 1), `header`, JSON text that names the extractor, its weights and preprocessing, so that a
reference of other features is refused instead of scored, and perhaps `features` [M, d], rows of
single images, which the distances between neighbours need. Rows that float16 holds exactly are
stored so. What other programs write is read by `reference_files`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.canonical import digest as digest_of
from skiptune.errors import ObjectiveError, OutputError, quoted
from skiptune.objectives.names import REFERENCES, bundled_reference
from skiptune.objectives.reference_files import (
    NOT_RECORDED,
    Foreign,
    as_float64,
    as_rows,
    foreign_arrays,
    foreign_pickle,
    is_pickle,
    stored_arrays,
)

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = [
    "Reference",
    "feature_rows",
    "load_reference",
    "reference_of",
    "save_reference",
    "symmetric_root",
]

_FORMAT = 1
# Rounding of a float64 covariance stays far below this share of its largest eigenvalue.
_NEGATIVE = 1e-6
_REMAKE = "make it with `skiptune ref IMAGES -o FILE`, or name " + ", ".join(REFERENCES)


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
        features: float32 [M, d], the features of M of the images; None where there are none.
        cautions: What a file does not record and a person has to know, in sentences.

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
    features: NDArray[np.float32] | None = None
    cautions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"reference {self.name}"
        if self.mean.shape != (self.dim,) or self.covariance.shape != (self.dim, self.dim):
            raise ObjectiveError(
                where,
                expected=f"mean [{self.dim}] and covariance [{self.dim}, {self.dim}]",
                found=f"{list(self.mean.shape)} and {list(self.covariance.shape)}",
                hint=_REMAKE,
            )
        rows = self.features
        if rows is not None and (rows.ndim != 2 or rows.shape[1] != self.dim or not len(rows)):
            raise ObjectiveError(
                f"{where}: features",
                expected=f"[M, {self.dim}] with M >= 1",
                found=str(list(rows.shape)),
                hint=_REMAKE,
            )
        arrays = (self.mean, self.covariance, *(() if rows is None else (rows,)))
        if not all(np.isfinite(array).all() for array in arrays):
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
        """SHA-256 of what decides a distance: the features' identity and the two arrays."""
        return digest_of(
            {
                "extractor": self.extractor,
                "sha256": self.sha256,
                "preprocess": self.preprocess,
                "mean": _array_digest(self.mean),
                "covariance": _array_digest(self.covariance),
            }
        )

    @cached_property
    def features_digest(self) -> str | None:
        """SHA-256 of the rows and what they are features of; None where there are no rows."""
        if self.features is None:
            return None
        rows = np.ascontiguousarray(self.features, dtype="<f4")
        return digest_of(
            {
                "extractor": self.extractor,
                "sha256": self.sha256,
                "preprocess": self.preprocess,
                "shape": list(rows.shape),
                "features": hashlib.sha256(rows.tobytes()).hexdigest(),
            }
        )

    def require_images(self) -> int:
        """Return the number of images that the statistics were taken over.

        Raises:
            ObjectiveError: Where the file does not say.
        """
        if self.images is None:
            raise ObjectiveError(
                f"reference {self.name}: images",
                expected="the number of images that the statistics were taken over",
                found="a file that does not say",
                hint=_remake(self.extractor),
            )
        return self.images

    def require_features(self, least: int = 1) -> NDArray[np.float32]:
        """Return the features of single images, float32 [M, d].

        Arguments:
            least: Rows that are needed.

        Raises:
            ObjectiveError: Where there are none or fewer.
        """
        count = 0 if self.features is None else len(self.features)
        if self.features is None or count < least:
            raise ObjectiveError(
                f"reference {self.name}: features",
                expected=f"features of at least {least} single images: this metric compares"
                " neighbours, not moments",
                found=f"those of {count} images" if count else "mean and covariance only",
                hint=_remake(self.extractor, features=max(least, 5000)),
            )
        return self.features


def feature_rows(images: int, wanted: int) -> NDArray[np.int64]:
    """Return which images' features a reference keeps: spread evenly, because files are sorted.

    Arguments:
        images: Images N.
        wanted: Rows M; all N where M is more.

    Returns:
        int64 [min(M, N)], floor(i N / M): increasing, each below N.
    """
    kept = min(images, wanted)
    rows: NDArray[np.int64] = np.arange(kept, dtype=np.int64) * images // max(kept, 1)
    return rows


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
    keep: int = 0,
) -> Reference:
    """Take the statistics of real images.

    Arguments:
        features: [N, d] of `extractor`, N > d wanted; reduced in float64.
        extractor: The network that made the features.
        name: What a person calls the reference.
        header: Plain data about the images (data set, hash, selection).
        keep: Rows M of the features to keep, those of `feature_rows`; 0 keeps none.

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
        features=rows[feature_rows(len(rows), keep)].astype(np.float32) if keep else None,
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
        "cautions": list(reference.cautions),
        "more": reference.header,
    }
    arrays: dict[str, NDArray[Any]] = {
        "header": np.array(json.dumps(header, sort_keys=True)),
        "mean": reference.mean,
        "covariance": reference.covariance,
    }
    if reference.features is not None:
        arrays["features"] = _shortest(reference.features)
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
            np.savez(file, allow_pickle=False, **arrays)
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
        name_or_path: `fashion-train`, which comes with skiptune in the features of `fashion-cnn`,
            `random-patches`, `dct` and the joint ones of the bundled study, or a file: ours,
            EDM's, ADM's, pytorch-fid's and clean-fid's `npz`, EDM2's `pkl`. What a foreign file
            does not record stands in `cautions`.
        extractor: The network whose features will be scored; None skips the comparison.

    Raises:
        ObjectiveError: When the file is missing, of no known kind, holds impossible numbers or
            code, or was made with another extractor, weights, preprocessing or dimension.
    """
    wanted = None if extractor is None else extractor.name
    path = Path(name_or_path)
    if str(name_or_path) in REFERENCES:
        path = bundled_reference(str(name_or_path), wanted)
    if not path.is_file():
        raise ObjectiveError(
            str(path),
            expected="a reference file",
            found="a folder" if path.is_dir() else "no such file",
            hint=_REMAKE,
        )
    if is_pickle(path):
        reference = _foreign(path, foreign_pickle(path, wanted), extractor)
    else:
        names, arrays = stored_arrays(path, hint=_REMAKE)
        if {"header", "mean", "covariance"} <= arrays.keys():
            reference = _own(path, arrays)
        elif {"mu", "sigma"} <= arrays.keys():
            reference = _foreign(path, foreign_arrays(path, arrays, names), extractor)
        else:
            raise ObjectiveError(
                str(path),
                expected="arrays header, mean, covariance, or mu and sigma",
                found=", ".join(names) or "no arrays",
                hint=_REMAKE,
            )
    if extractor is not None:
        _compare(path, reference, extractor)
    return reference


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
            mean=as_float64(path, "mean", arrays["mean"]),
            covariance=as_float64(path, "covariance", arrays["covariance"]),
            header=dict(header["more"]),
            features=as_rows(path, arrays.get("features")),
            cautions=tuple(map(str, header.get("cautions", ()))),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ObjectiveError(
            f"{path}: header",
            expected="JSON text with format, name, extractor, sha256, preprocess, dim, images",
            found=f"{type(error).__name__}: {error}",
            hint=_REMAKE,
        ) from error


def _foreign(path: Path, found: Foreign, extractor: Extractor | None) -> Reference:
    mean = as_float64(path, "mu", found.mean)
    if mean.shape != (found.dim,):
        raise ObjectiveError(
            f"{path}: mu",
            expected=f"[{found.dim}] of {found.extractor}, because the file names no features",
            found=str(list(mean.shape)),
            hint=_REMAKE,
        )
    if found.other_features and extractor is not None:
        raise ObjectiveError(
            f"{path}: preprocess",
            expected=f"that of {extractor.name}: {extractor.preprocess}",
            found=found.other_features,
            hint=_remake(extractor.name),
        )
    return Reference(
        name=path.stem,
        extractor=found.extractor,
        sha256=found.sha256,
        preprocess=NOT_RECORDED,
        dim=found.dim,
        images=found.images,
        mean=mean,
        covariance=as_float64(path, "sigma", found.covariance),
        header={"source": found.source},
        cautions=found.cautions,
    )


def _shortest(rows: NDArray[np.float32]) -> NDArray[Any]:
    """Return the rows as float16 where nothing is lost by it."""
    with np.errstate(over="ignore"):
        short = rows.astype(np.float16)
    return short if np.array_equal(short.astype(np.float32), rows) else rows


def _remake(extractor: str, *, features: int | None = None) -> str:
    rows = "" if features is None else f" --features {features}"
    words = f"--extractor {quoted(extractor)}{rows} -o stats.npz"
    return f"make it anew: skiptune ref IMAGES {words}"


def _compare(path: Path, reference: Reference, extractor: Extractor) -> None:
    pairs = (
        ("extractor", extractor.name, reference.extractor),
        ("dimension", str(extractor.dim), str(reference.dim)),
        ("weights sha256", extractor.sha256, reference.sha256),
        ("preprocess", extractor.preprocess, reference.preprocess),
    )
    for what, wanted, found in pairs:
        if wanted != found and found != NOT_RECORDED:
            raise ObjectiveError(
                f"{path}: {what}",
                expected=wanted,
                found=found,
                hint=f"use a reference made with {extractor.name}, or that reference's extractor",
            )


def _array_digest(array: NDArray[np.float64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<f8").tobytes()).hexdigest()
