"""Files of tensors, written so that the same tensors give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["save_tensors"]


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> None:
    """Write a safetensors file and wait until the disk has it.

    Arguments:
        path: Where; what is there is overwritten, and half a file is left after an error.
        tensors: By name, contiguous.
        metadata: Texts of the file's header by name, written in the order of the names; None for
            a header without.

    Raises:
        OSError: It cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(str(error)) from error
    os.chmod(path, mode)  # it makes files that nobody else may read
    _in_order(path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _in_order(path: Path) -> None:
    """Put the metadata of a safetensors file into the order of its keys.

    safetensors writes it in an order of chance, and a file's hash is what a study knows it by.
    """
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
        header = json.loads(text)
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= length
        file.seek(8)
        file.write(ordered.ljust(length))  # spaces fill it up, as the format has it
