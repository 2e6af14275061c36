"""Checkpoints: safetensors files that carry their network's configuration. No code is executed.

The metadata entry ``skiptune.network`` holds the JSON configuration for
`skiptune.sampling.networks.build_denoiser`. The tensors are the network's state, of any floating
dtype. A folder is a pipeline of diffusers, which `skiptune.sampling.pipelines` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.pipeline_files import hub_folder, hub_place, may_be_on_hub
from skiptune.sampling.skips import Skip, find_skips

if TYPE_CHECKING:
    from skiptune.sampling.decoder import Decoder

__all__ = [
    "CHECKPOINTS",
    "METADATA_KEY",
    "SOURCE_KEY",
    "Checkpoint",
    "differences",
    "is_pickle",
    "load_checkpoint",
    "refuse_other",
]

CHECKPOINTS = ("fashion",)
METADATA_KEY = "skiptune.network"
SOURCE_KEY = "skiptune.source"
"""Metadata entry of a converted file: name, size and SHA-256 of the original, as JSON."""

_ASSETS = Path(__file__).parent / "assets"
# torch.save writes zip files or, of old, bare pickles, which begin with protocol 2 or later.
_PICKLE_STARTS = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt")
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights and where they came from.

    Arguments:
        network: In evaluation mode, no gradients; as it is loaded float32, and on a CPU with the
            weights of its convolutions in `torch.channels_last` order.
        name: The bundled name, or the file's name without suffix.
        sha256: Of the file, 64 hexadecimal digits.
        path: The file.
        config: What the network was built from.
        skips: The network's skips, deepest first.
        decoder: What makes images of its latents; None where it makes pixels. `load_checkpoint`
            loads none.
        dtype: In which the network computes, one of `describe.MODES` (`numeric_mode.in_mode`).
    """

    network: nn.Module
    name: str
    sha256: str
    path: Path
    config: dict[str, Any]
    skips: tuple[Skip, ...]
    decoder: Decoder | None = None
    dtype: str = "float32"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images: the network's own, or the decoded ones."""
        network: Any = self.network
        channels, size = int(network.img_channels), int(network.img_resolution)
        if self.decoder is not None:
            channels, size = self.decoder.image_channels, size * self.decoder.factor
        return channels, size, size


def load_checkpoint(
    name_or_path: str | Path,
    *,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Load a network.

    Arguments:
        name_or_path: A bundled name (one of `CHECKPOINTS`), a safetensors file, the folder of a
            pipeline of diffusers, or the name of one on the hub (``OWNER/NAME``) that the hub's
            client has fetched to this host: no hub is asked.
        sha256: What the file's SHA-256 must be (of a folder that of
            `pipeline_files.content_digest`); None accepts any.
        device: Where the network goes.

    Raises:
        NetworkError: For a file that is missing, cut off, a pickle, of another hash, without a
            configuration, or whose tensors are not those of the network it describes.
    """
    bundled = isinstance(name_or_path, str) and name_or_path in CHECKPOINTS
    path = _ASSETS / f"{name_or_path}.safetensors" if bundled else Path(name_or_path)
    if not bundled:
        path = hub_folder(str(name_or_path)) or path
    if path.is_dir():
        from skiptune.sampling.pipelines import load_pipeline  # it reads checkpoints

        return load_pipeline(path, sha256=sha256, device=device)
    _refuse_unreadable(path)
    found = file_digest(path)
    refuse_other(path, found, sha256)
    config, tensors = _read(path)
    network = build_denoiser(config)
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.startswith(network.ignored)
    }
    _refuse_other_architecture(path, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False).to(device)
    if torch.device(device).type == "cpu":
        # Convolutions of few channels take a third less time with the channels innermost.
        network.to(memory_format=torch.channels_last)
    return Checkpoint(
        network=network,
        name=str(name_or_path) if bundled else path.stem,
        sha256=found,
        path=path,
        config=config,
        skips=find_skips(network),
    )


def refuse_other(path: Path, found: str, sha256: str | None) -> None:
    """Refuse a file or folder of another hash than the one that was asked for.

    Raises:
        NetworkError: `found` is not `sha256`, where that is not None.
    """
    if sha256 is not None and found != sha256.lower():
        raise NetworkError(
            f"{path}: sha256",
            expected=sha256,
            found=found,
            hint="fetch the file again, or correct `sha256` if this is the file you mean",
        )


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle by its name or its first bytes.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    return path.suffix in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS)


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return in what tensors differ by name and shape, in at most three short texts.

    Arguments:
        expected: Those of a network.
        found: Those of a file.
    """
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    shapes = [
        f"{key} {list(found[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    return [
        f"{what}: {_some(names)}"
        for what, names in (("missing", missing), ("unknown", surplus), ("shapes", shapes))
        if names
    ]


def _refuse_unreadable(path: Path) -> None:
    if not path.is_file():
        name = "/".join(path.parts[-2:])
        on_hub = may_be_on_hub(path)
        raise NetworkError(
            str(path),
            expected="a safetensors file, a folder of a diffusers pipeline, or a bundled name:"
            f" {', '.join(CHECKPOINTS)}",
            found=f"no such file, and no {name} of the hub in {hub_place(name)}"
            if on_hub
            else "no such file",
            hint=f"check the path; the hub is not asked: `hf download {name} --local-dir FOLDER`,"
            " then give FOLDER"
            if on_hub
            else "check the path, or use a bundled name: `skiptune skips fashion`",
        )
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise NetworkError(
            str(path),
            expected="a readable file",
            found=error.strerror or str(error),
            hint="check the file's permissions",
        ) from error
    if pickled:
        raise NetworkError(
            str(path),
            expected="a safetensors file, which holds no code",
            found="a pickle, which runs code when it is loaded",
            hint="EDM's and EDM2's: `skiptune convert NETWORK.pkl DIR`; of OpenAI's style and of"
            " U-ViT: `skiptune convert NETWORK.pt DIR --options FILE`; of others save the tensors"
            f" with safetensors and the metadata entry {METADATA_KEY}",
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise NetworkError(
            str(path),
            expected="a complete safetensors file",
            found=f"{path.stat().st_size} bytes that are none: {error}",
            hint="the file is cut off or of another format: fetch it again",
        ) from error
    where = f"{path}: metadata {METADATA_KEY}"
    hint = f"write the file with the network's configuration as JSON under {METADATA_KEY}"
    expected = "the network's configuration, a JSON object"
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise NetworkError(where, expected=expected, found="no such entry", hint=hint)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise NetworkError(where, expected=expected, found=str(error), hint=hint) from error
    if not isinstance(config, dict):
        raise NetworkError(where, expected=expected, found=text[:60], hint=hint)
    return config, tensors


def _refuse_other_architecture(
    path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    differing = differences(expected, found)
    if differing:
        raise NetworkError(
            str(path),
            expected=f"the {len(expected)} tensors of the network it describes",
            found="; ".join(differing),
            hint="the weights belong to another architecture: correct the configuration",
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
