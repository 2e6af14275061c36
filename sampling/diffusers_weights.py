"""Weights of diffusers' models: safetensors read by today's names, held against a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import differences

__all__ = ["read_tensors", "refuse_misfit"]

# Names of before diffusers 0.15: those of `stabilityai/sd-vae-ft-mse`, which EDM2 uses.
_OLD_NAME = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_tensors(
    path: Path, *, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """Read a safetensors file by the names that diffusers gives its tensors today.

    Arguments:
        path: The file.
        wanted: Which of them, by such a name.

    Raises:
        NetworkError: The file is none or cut off.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = {_current(name): name for name in file.keys()}
            return {name: file.get_tensor(old) for name, old in names.items() if wanted(name)}
    except (SafetensorError, OSError, ValueError) as error:
        raise NetworkError(
            str(path),
            expected="a complete safetensors file",
            found=f"{path.stat().st_size} bytes that are none: {error}",
            hint="the file is cut off or of another format: fetch it again",
        ) from error


def refuse_misfit(
    where: Path, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, of: str, hint: str
) -> None:
    """Refuse tensors that are not those of a network, or not of real numbers.

    Arguments:
        where: The file or folder that they are from.
        state: The network's own, by name; only names and shapes count.
        tensors: What was read.
        of: What the network's tensors are, in words, behind their number.
        hint: What mends it.

    Raises:
        NetworkError: Naming what is missing, superfluous, of another shape or of whole numbers.
    """
    found = differences(state, tensors)
    found += [
        f"{name} of whole numbers" for name, t in tensors.items() if not t.dtype.is_floating_point
    ]
    if found:
        raise NetworkError(
            str(where),
            expected=f"the {len(state)} tensors {of}",
            found="; ".join(found),
            hint=hint,
        )


def _current(name: str) -> str:
    """Return what diffusers calls a tensor today that was named before its release 0.15."""
    return _OLD_NAME.sub(lambda match: f"{match[1]}{_NEW_NAMES[match[2]]}.", name)
