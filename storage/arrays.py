"""Files named by the SHA-256 of their bytes: the stored truth behind every score.

A file is written under a temporary name in its final folder, flushed to the disk, renamed, and
the folder flushed; so a file under a final name is whole, whatever happened while it was made.
Named arrays are safetensors files, whose bytes depend on the arrays alone.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from skiptune.errors import StorageError
from skiptune.storage.failpoints import fail_point

__all__ = ["ArrayStore"]

ARRAYS = ".safetensors"


class ArrayStore:
    """A folder of files that are named by their content.

    Arguments:
        folder: Made on the first write; two hexadecimal digits of the digest name a subfolder,
            which keeps listings short.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"ArrayStore({str(self.folder)!r})"

    def path(self, digest: str, *, suffix: str = ARRAYS) -> Path:
        """Return where a file lies or would lie."""
        return self.folder / digest[:2] / f"{digest}{suffix}"

    def exists(self, digest: str, *, suffix: str = ARRAYS) -> bool:
        """Whether there is a file of this digest; `read` tells whether it is undamaged."""
        return self.path(digest, suffix=suffix).is_file()

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Store named arrays and return their digest; equal arrays are stored once.

        Arguments:
            arrays: Any shapes and memory orders; bool, integer and float dtypes.

        Raises:
            StorageError: The folder cannot be written.
        """
        # safetensors reads memory as it lies: a transposed view would be stored untransposed.
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        return self.write_bytes(save(whole), suffix=ARRAYS)

    def write_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes and return their digest; equal bytes are stored once.

        A file that is there and damaged is replaced.

        Raises:
            StorageError: The folder cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest, suffix=suffix)
        try:
            if path.is_file() and path.read_bytes() == data:
                return digest
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, data)
        except OSError as error:
            raise StorageError(
                str(self.folder),
                expected="a folder that can be written, with space",
                found=error.strerror or str(error),
                hint="free some space or mend the permissions, then run the same command again:"
                " nothing committed is lost",
            ) from error
        return digest

    def read(self, digest: str) -> dict[str, NDArray[Any]]:
        """Return stored arrays by name; their hash is verified.

        Raises:
            StorageError: The file is missing, cannot be read, or is damaged.
        """
        data = self.read_bytes(digest, suffix=ARRAYS)
        try:
            return load(data)
        except SafetensorError as error:
            raise StorageError(
                str(self.path(digest)),
                expected="named arrays (safetensors)",
                found=str(error),
                hint="this file was not written by skiptune; remove it",
            ) from error

    def read_bytes(self, digest: str, suffix: str) -> bytes:
        """Return stored bytes; their hash is verified.

        Raises:
            StorageError: The file is missing, cannot be read, or is damaged.
        """
        path = self.path(digest, suffix=suffix)
        hint = "run the same command again: what is missing is sampled again"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(
                str(path),
                expected="the stored file that the database names",
                found=error.strerror or str(error),
                hint=hint,
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StorageError(
                str(path),
                expected=f"bytes with SHA-256 {digest[:16]}...",
                found=f"{len(data)} bytes with SHA-256 {found[:16]}... (damaged)",
                hint=hint,
            )
        return data


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fail_point("store_file.before")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fail_point("store_file.after")
    _flush_folder(path.parent)
    # A new subfolder is an entry of the folder above it.
    _flush_folder(path.parent.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
