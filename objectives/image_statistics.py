"""From image files to features, and to a reference: streaming, and resumable after any death.

Images are decoded, extracted and reduced block by block, so memory does not grow with their
number. What has been reduced is written to `FILE.part` now and then: moments, the kept rows, the
place, and what identifies the images and the features. A run that was stopped or killed goes on
there, to the same bits as one that was never stopped; a part of other images or another extractor
is refused. The part is gone when the reference is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from skiptune import __version__
from skiptune.errors import ObjectiveError, OutputError, Problem, quoted
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.image_files import BLOCK, ImageSource
from skiptune.objectives.moments import Moments
from skiptune.objectives.reference import Reference, feature_rows, save_reference

__all__ = ["PART", "SAVE_SECONDS", "features_of_images", "make_reference"]

PART = ".part"
"""Suffix of the file from which an interrupted run goes on."""

SAVE_SECONDS = 30.0
"""Seconds of work that a killed run loses at most."""

_NO_PART = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)

Progress = Callable[[int], None]
"""Takes how many images are done."""


def features_of_images(
    source: ImageSource, extractor: Extractor, *, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Return the features of images, in their order.

    Arguments:
        source: Images N.
        extractor: The network, on its device.
        progress: Told after each block.

    Returns:
        float32 [N, d].

    Raises:
        ObjectiveError: A file cannot be decoded, or the images do not fit the network.
    """
    features = np.empty((source.count, extractor.dim), dtype=np.float32)
    done = 0
    for block in source.blocks():
        features[done : done + len(block)] = _extracted(extractor, block)
        done += len(block)
        if progress is not None:
            progress(done)
    return features


def make_reference(
    source: ImageSource,
    path: Path | str,
    *,
    extractor: Extractor,
    keep: int = 0,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    save_seconds: float = SAVE_SECONDS,
) -> Reference | None:
    """Take the statistics of images and write the reference file; go on where a run was stopped.

    Arguments:
        source: Images N, N >= 2.
        path: The file to write; an older one is replaced.
        extractor: The network, on its device.
        keep: Rows M of single images' features to keep, those of `feature_rows`.
        progress: Told how many images are done, at the start too.
        stopped: Asked after each block of `BLOCK` images whether to stop.
        save_seconds: After how much work the part is written.

    Returns:
        The reference; None where it was stopped and the part waits beside `path`.

    Raises:
        ObjectiveError: The images cannot be read or do not fit, or the part is of another run.
        OutputError: The part or the reference cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + PART)
    if source.count < 2:
        raise ObjectiveError(
            source.name,
            expected="at least 2 images, for a covariance",
            found=f"{source.count}",
            hint="give the folder that holds all images",
        )
    identity = _identity(source, extractor, keep)
    run = _resumed(part, identity, extractor.dim) or _Run(Moments(extractor.dim))
    rows = feature_rows(source.count, keep)
    saved = time.monotonic()
    if progress is not None:
        progress(run.done)
    if run.done < source.count:
        for block in source.blocks(run.done):
            run.take(block, _extracted(extractor, block), rows)
            if progress is not None:
                progress(run.done)
            stop = stopped() and run.done < source.count
            if stop or time.monotonic() - saved >= save_seconds:
                _save(part, run, identity)
                saved = time.monotonic()
            if stop:
                return None
    reference = _finished(run, source, path, extractor, keep)
    save_reference(path, reference)
    part.unlink(missing_ok=True)
    return reference


@dataclass
class _Run:
    """How far a run has come.

    Arguments:
        moments: Of the images so far.
        kept: Rows of single images so far, float32 [m, d] each.
        done: Images so far, a multiple of `BLOCK` until the end.
        pixels: Chained SHA-256 of the blocks so far.
    """

    moments: Moments
    kept: list[NDArray[np.float32]] = field(default_factory=list)
    done: int = 0
    pixels: str = ""

    def take(
        self, block: NDArray[np.uint8], features: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> None:
        """Take in the next block and its features."""
        self.moments.add(features)
        first, last = np.searchsorted(rows, (self.done, self.done + len(block)))
        self.kept.append(features[rows[first:last] - self.done])
        self.pixels = hashlib.sha256(self.pixels.encode() + block.tobytes()).hexdigest()
        self.done += len(block)

    def rows(self, dim: int) -> NDArray[np.float32]:
        """Return the kept rows, [m, d]."""
        return np.concatenate([np.empty((0, dim), np.float32), *self.kept])


def _extracted(extractor: Extractor, block: NDArray[np.uint8]) -> NDArray[np.float32]:
    features: NDArray[np.float32] = extractor(torch.from_numpy(block)).cpu().numpy()
    return features


def _identity(source: ImageSource, extractor: Extractor, keep: int) -> dict[str, Any]:
    """Return everything that a part must agree on with the run that goes on with it."""
    return {
        **extractor.describe(),
        "images": source.count,
        "shape": list(source.shape),
        "files": source.listing,
        "features kept": keep,
        "device": extractor.device.type,
        "torch": torch.__version__,
        "block": BLOCK,
    }


def _save(part: Path, run: _Run, identity: Mapping[str, Any]) -> None:
    header = {"identity": identity, "done": run.done, "pixels": run.pixels}
    writing = part.with_name(part.name + "-writing")
    try:
        with open(writing, "wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                header=np.array(json.dumps(header, sort_keys=True)),
                kept=run.rows(run.moments.dim),
                **run.moments.to_arrays(),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, part)
    except OSError as error:
        with suppress(OSError):
            writing.unlink(missing_ok=True)
        raise OutputError(
            str(part),
            expected="a file that can be written",
            found=error.strerror or str(error),
            hint="free some space and run the command again: what was saved before is kept",
        ) from error


def _resumed(part: Path, identity: Mapping[str, Any], dim: int) -> _Run | None:
    """Return where an interrupted run stood; None where there was none.

    Raises:
        ObjectiveError: The part is damaged or belongs to another run.
    """
    if not part.is_file():
        return None
    begin_anew = f"begin anew: rm {quoted(part)}"
    try:
        # Opened here because numpy leaves a file open when its zip directory is damaged.
        with open(part, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        kept = arrays.pop("kept")
        before = dict(header["identity"])
        moments = Moments.from_arrays(arrays)
        run = _Run(moments, [kept], int(header["done"]), str(header["pixels"]))
    except _NO_PART as error:
        raise ObjectiveError(
            str(part),
            expected="what an interrupted run of `skiptune ref` has left",
            found=f"something else ({type(error).__name__}: {error})",
            hint=begin_anew,
        ) from None
    problems = [
        Problem(f"{part}: {key}", f"{identity.get(key)}", f"{before.get(key)}")
        for key in {**identity, **before}
        if identity.get(key) != before.get(key)
    ]
    if run.moments.count != run.done or kept.shape[1:] != (dim,) or kept.dtype != np.float32:
        problems.append(Problem(str(part), f"the moments of {run.done} images", "others"))
    if problems:
        hint = f"it was begun with these: go on with them, choose another -o, or {begin_anew}"
        refused = ObjectiveError.of(problems, hint=hint)
        assert isinstance(refused, ObjectiveError)
        raise refused
    return run


def _finished(
    run: _Run, source: ImageSource, path: Path, extractor: Extractor, keep: int
) -> Reference:
    kept = run.rows(extractor.dim)
    return Reference(
        name=path.name.removesuffix(".npz"),
        extractor=extractor.name,
        sha256=extractor.sha256,
        preprocess=extractor.preprocess,
        dim=extractor.dim,
        images=run.done,
        mean=run.moments.mean,
        covariance=run.moments.covariance,
        header={
            "data": Path(source.name).name,
            "kind": source.kind,
            "shape": list(source.shape),
            "pixels_sha256": run.pixels,
            "pixels_block": BLOCK,
            "features": f"rows floor(i {run.done} / {len(kept)})" if keep else "none",
            "precision": "float32, TF32 off; moments float64",
            "device": extractor.device.type,
            "skiptune": __version__,
            "torch": torch.__version__,
            "versions": {
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "python": platform.python_version(),
            },
        },
        features=kept if keep else None,
    )
