"""Feature networks: uint8 images in, float32 features out, one identity for the numbers.

    fashion-cnn   comes with skiptune: 32x32 grey images, d = 64
    inception     the network of the original FID through torch-fidelity (TensorFlow's Inception
                  of 2015-12-05, TF1 resize inside), d = 2048; weights by path or download

Features are always computed in float32: TF32 is switched off on CUDA, because it shifts a
Frechet distance and would have to equal the reference's mode. A checkpoint is read as tensors
only; nothing in it is executed.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError
from skiptune.objectives import fashion_cnn
from skiptune.objectives.names import (
    ASSETS,
    FASHION_CNN,
    FASHION_CNN_SHA256,
    INCEPTION,
    INCEPTION_SHA256,
    remember_extractor,
)

__all__ = ["BLOCK", "Extractor", "Factory", "load_extractor", "register_extractor"]

BLOCK = 250
"""Images that go through the network at once: a chunk, so memory is bounded."""

_INCEPTION_CHANNELS = 3
_INCEPTION_DIM = 2048
_INCEPTION_PREPROCESS = "uint8 [N, 1 or 3, H, W], TF1 bilinear to 299x299, (x - 128) / 128"


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature network, ready to use.

    Arguments:
        name: What a study calls it.
        dim: Features d.
        sha256: Of the weights file.
        preprocess: What happens to the pixels before the network, in words.
        module: Maps uint8 [N, C, H, W] to float [N, d]; in eval mode.
    """

    name: str
    dim: int
    sha256: str
    preprocess: str
    module: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> Extractor:
        """Move the network, in place as torch does, and return this extractor."""
        return replace(self, module=self.module.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            images: uint8 [N, C, H, W] on any device, 0..255.

        Returns:
            float32 [N, d] on the network's device.

        Raises:
            ObjectiveError: When the images are not uint8 [N, C, H, W] or do not fit the network.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ObjectiveError(
                f"images for {self.name}",
                expected="uint8 [N, C, H, W]",
                found=f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}",
                hint="convert samples with skiptune.sampling.images.to_uint8",
            )
        device = self.device
        with torch.inference_mode(), _full_precision(device):
            parts = [self.module(block.to(device)).float() for block in images.split(BLOCK)]
        return torch.cat(parts) if parts else torch.empty(0, self.dim, device=device)

    def describe(self) -> dict[str, Any]:
        """Return what determines the features of given images, as plain data."""
        return {
            "extractor": self.name,
            "sha256": self.sha256,
            "preprocess": self.preprocess,
            "dim": self.dim,
            "precision": "float32",
        }


class Factory(Protocol):
    """What `register_extractor` takes."""

    def __call__(self, *, weights: Path | None, sha256: str | None) -> Extractor:
        """Build the extractor on the CPU; `weights` None means the default file."""


_FACTORIES: dict[str, Factory] = {}


def register_extractor(name: str, factory: Factory) -> None:
    """Make an extractor known under a name.

    Arguments:
        name: What studies call it.
        factory: Called with keyword arguments `weights` and `sha256`.

    Raises:
        ObjectiveError: When another factory has the name.
    """
    if _FACTORIES.get(name, factory) is not factory:
        raise ObjectiveError(
            f"extractor {name}",
            expected="a name that is free",
            found="a name that another extractor has",
            hint="register it under another name",
        )
    _FACTORIES[name] = factory
    remember_extractor(name)


def load_extractor(
    name: str,
    *,
    weights: Path | str | None = None,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Load a feature network.

    Arguments:
        name: `fashion-cnn`, `inception`, or a registered name.
        weights: A weights file in place of the default one.
        sha256: What the weights file must hash to; by default the published file's hash.
        device: Where the network goes.

    Raises:
        ObjectiveError: For an unknown name, and for weights that are missing, have another hash,
            or belong to another network.
    """
    if name not in _FACTORIES:
        raise ObjectiveError(
            f"extractor {name}",
            expected="one of " + ", ".join(sorted(_FACTORIES)),
            found=repr(name),
            hint="add your own with skiptune.objectives.register_extractor",
        )
    path = None if weights is None else Path(weights)
    return _FACTORIES[name](weights=path, sha256=sha256).to(device)


class _Inception(nn.Module):
    """torch-fidelity's Inception with grey images repeated to three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1:
            images = images.expand(-1, _INCEPTION_CHANNELS, -1, -1)
        if images.shape[1] != _INCEPTION_CHANNELS:
            raise ObjectiveError(
                f"images for {INCEPTION}",
                expected="1 or 3 channels",
                found=f"{images.shape[1]} channels",
                hint="score latents after decoding them",
            )
        features: Tensor = self.network(images)[0]
        return features


class _Fashion(nn.Module):
    """`fashion-cnn` with its input's shape checked."""

    def __init__(self, network: fashion_cnn.FashionCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (1, 32, 32):
            raise ObjectiveError(
                f"images for {FASHION_CNN}",
                expected="[N, 1, 32, 32]",
                found=str(list(images.shape)),
                hint="fashion-cnn scores Fashion-MNIST only; take inception for other images",
            )
        features: Tensor = self.network(images)
        return features


def _fashion_cnn(*, weights: Path | None, sha256: str | None) -> Extractor:
    path = weights or ASSETS / f"{FASHION_CNN}.safetensors"
    found = _verified(path, expected=sha256 or FASHION_CNN_SHA256, name=FASHION_CNN)
    network = fashion_cnn.FashionCNN()
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("skiptune.extractor", "{}"))
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise _other_network(path, FASHION_CNN, error) from error
    if header.get("preprocess") != fashion_cnn.PREPROCESS:
        raise ObjectiveError(
            f"{path}: preprocess",
            expected=fashion_cnn.PREPROCESS,
            found=str(header.get("preprocess")),
            hint="make the file with `python -m training.classifier`",
        )
    module = _Fashion(network).eval().requires_grad_(False)
    return Extractor(FASHION_CNN, fashion_cnn.DIM, found, fashion_cnn.PREPROCESS, module)


def _inception(*, weights: Path | None, sha256: str | None) -> Extractor:
    # torch-fidelity pulls in torchvision and costs a second: only its users pay.
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    path = weights or _downloaded(URL_INCEPTION_V3)
    found = _verified(path, expected=sha256 or INCEPTION_SHA256, name=INCEPTION)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # torch-fidelity unpickles what it is given without restriction, so it gets the tensors
        # in a file of our own.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        network = FeatureExtractorInceptionV3(
            INCEPTION, [str(_INCEPTION_DIM)], feature_extractor_weights_path=buffer
        )
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise _other_network(path, INCEPTION, error) from error
    module = _Inception(network).eval().requires_grad_(False)
    return Extractor(INCEPTION, _INCEPTION_DIM, found, _INCEPTION_PREPROCESS, module)


def _downloaded(url: str) -> Path:
    """Return the file in torch's own cache, fetching it on the first use."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256)
    except (URLError, OSError, RuntimeError) as error:
        raise ObjectiveError(
            f"weights of {INCEPTION}",
            expected=f"{path}, or a download from {url}",
            found=f"no file, and {error}",
            hint=f"fetch the file elsewhere and put it at {path}, or give its path as weights",
        ) from error
    return path


def _verified(path: Path, *, expected: str, name: str) -> str:
    if not path.is_file():
        raise ObjectiveError(
            f"weights of {name}",
            expected=f"a file {path}",
            found="a folder" if path.is_dir() else "no such file",
            hint="give the path of the weights file",
        )
    found = file_digest(path)
    if found != expected:
        raise ObjectiveError(
            f"{path}: sha256",
            expected=expected,
            found=found,
            hint="fetch the file again; for weights of your own give their sha256 as well",
        )
    return found


def _other_network(path: Path, name: str, error: Exception) -> ObjectiveError:
    first = (str(error) or type(error).__name__).strip().splitlines()[0]
    return ObjectiveError(
        str(path),
        expected=f"the weights of {name}",
        found=f"something else ({first})",
        hint=f"give a weights file of {name}",
    )


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    flags: Callable[..., AbstractContextManager[None]] = torch.backends.cudnn.flags
    return flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


register_extractor(FASHION_CNN, _fashion_cnn)
register_extractor(INCEPTION, _inception)
