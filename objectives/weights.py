"""Weights files of feature networks: found, checked by their SHA-256, read as tensors only.

Nothing in a weights file is executed: files are read with `weights_only=True`, and whatever is
not a mapping of names to tensors is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError

__all__ = ["cached", "fill", "other_network", "read_tensors", "verified"]

_UNREADABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
)


def verified(path: Path, *, expected: str | None, name: str) -> str:
    """Return the SHA-256 of a file, 64 lower-case hexadecimal digits.

    Arguments:
        path: The file.
        expected: What it must hash to; None takes any file.
        name: Of the extractor, for messages.

    Raises:
        ObjectiveError: When there is no such file, or it has another hash.
    """
    if not path.is_file():
        raise ObjectiveError(
            f"weights of {name}",
            expected=f"a file {path}",
            found="a folder" if path.is_dir() else "no such file",
            hint="give the path of the weights file",
        )
    found = file_digest(path)
    if expected is not None and found != expected:
        raise ObjectiveError(
            f"{path}: sha256",
            expected=expected,
            found=found,
            hint="fetch the file again; for weights of your own give their sha256 as well",
        )
    return found


def cached(url: str, *, sha256: str, name: str) -> Path:
    """Return the file in torch's own cache, fetching it on the first use.

    Arguments:
        url: Where it is published; its last part is the file's name in
            `torch.hub.get_dir()/checkpoints`.
        sha256: Of the published file; a download with another hash is not kept.
        name: Of the extractor, for messages.

    Raises:
        ObjectiveError: When it is not there and cannot be fetched; says which file goes where.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
    except (URLError, OSError, RuntimeError) as error:
        raise ObjectiveError(
            f"weights of {name}",
            expected=f"{path}, or a download from {url}",
            found=f"no file, and {error}",
            hint=f"fetch the file elsewhere and put it at {path}, or give its path as weights",
        ) from error
    return path


def read_tensors(path: Path, *, name: str) -> dict[str, Tensor]:
    """Read a state dict: tensors by their name, on the CPU.

    Raises:
        ObjectiveError: When the file is something else, e.g. a pickled module.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise other_network(path, name, error) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise other_network(path, name, TypeError("no mapping of names to tensors"))
    return dict(state)


def fill(network: nn.Module, path: Path, *, name: str) -> None:
    """Load the tensors of a file into a network, which may be on the meta device.

    Raises:
        ObjectiveError: When names or shapes are not the network's.
    """
    state = read_tensors(path, name=name)
    try:
        # Assigned, because a network on the meta device has no memory to copy into; cast,
        # because assigned tensors would keep the file's dtype.
        network.load_state_dict(
            {key: v.float() if v.is_floating_point() else v for key, v in state.items()},
            assign=True,
        )
    except _UNREADABLE as error:
        raise other_network(path, name, error) from error


def other_network(path: Path, name: str, error: Exception) -> ObjectiveError:
    """Return the error for a file that holds something else than a network's weights."""
    first = (str(error) or type(error).__name__).strip().splitlines()[0]
    return ObjectiveError(
        str(path),
        expected=f"the weights of {name}",
        found=f"something else ({first})",
        hint=f"give a weights file of {name}",
    )
