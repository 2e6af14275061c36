"""Feature networks: images in, float32 features out, one identity for the numbers.

    fashion-cnn        comes with skiptune: 32x32 grey images, d = 64
    inception          the network of the original FID through torch-fidelity (TensorFlow's
                       Inception of 2015-12-05, TF1 resize inside), d = 2048; weights by path or
                       download; inception-64, -192 and -768 are its earlier pooled layers
    efficientnet-lite0 an ImageNet classifier with weights in a package, d = 1280
    dinov2             ViT-L/14 with EDM2's preprocessing, d = 1024; weights by path or download
    random-patches     random filters, computed, not trained, d = 64
    dct                the lowest frequencies of the image, d = 64
    exported           the user's own TorchScript or torch.export file, given as weights
    NAME+NAME:FACTOR   the features of several of these side by side (`joint`)

Features are always computed in float32: TF32 is switched off on CUDA, because it shifts a
Frechet distance and would have to equal the reference's mode. A checkpoint is read as tensors
only; nothing in it is executed (`exported` says what differs for exported programs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from skiptune.errors import ObjectiveError
from skiptune.objectives import (
    dct,
    dinov2,
    efficientnet,
    exported,
    fashion_cnn,
    inception,
    joint,
    random_patches,
)
from skiptune.objectives.names import (
    ASSETS,
    DCT,
    DINOV2,
    DINOV2_SHA256,
    EFFICIENTNET,
    EFFICIENTNET_SHA256,
    EXPORTED,
    FASHION_CNN,
    FASHION_CNN_SHA256,
    INCEPTION_LAYERS,
    INCEPTION_SHA256,
    RANDOM_PATCHES,
    RANDOM_PATCHES_SHA256,
    joint_name,
    parts_of,
    remember_extractor,
)
from skiptune.objectives.pixels import levels_of
from skiptune.objectives.weights import fill, other_network, verified

__all__ = [
    "BLOCK",
    "Extractor",
    "Factory",
    "full_precision",
    "load_extractor",
    "register_extractor",
]

BLOCK = 250
"""Images that go through the network at once: a chunk, so memory is bounded."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature network, ready to use.

    Arguments:
        name: What a study calls it.
        dim: Features d.
        sha256: Of the weights file.
        preprocess: What happens to the pixels before the network, in words.
        module: Maps uint8 [N, C, H, W] to float [N, d]; in eval mode.
        floats: Whether the module takes float32 [N, C, H, W] in 0..255 as well, with gradients,
            and then gives the same features for whole numbers as for bytes.
        parts: The networks behind a joint extractor; empty for one network.
    """

    name: str
    dim: int
    sha256: str
    preprocess: str
    module: nn.Module
    floats: bool = False
    parts: tuple[joint.Part, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(chain(self.module.parameters(), self.module.buffers())).device

    def to(self, device: str | torch.device) -> Extractor:
        """Move the network, in place as torch does, and return this extractor."""
        return replace(self, module=self.module.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of bytes, without gradient.

        Arguments:
            images: uint8 [N, C, H, W] on any device, 0..255.

        Returns:
            float32 [N, d] on the network's device.

        Raises:
            ObjectiveError: When the images are not uint8 [N, C, H, W] or do not fit the network,
                and when a feature is NaN or infinite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ObjectiveError(
                f"images for {self.name}",
                expected="uint8 [N, C, H, W]",
                found=_shown(images),
                hint="convert samples with skiptune.sampling.images.to_uint8",
            )
        with torch.inference_mode():
            features = self._features(images)
            self._check(features, images)
        return features

    def of_floats(self, images: Tensor) -> Tensor:
        """Return the features of floats, without rounding them, with gradient to the images.

        What the network computes of an image x on the grid of bytes is what `__call__`
        computes of `to_uint8(x)`, up to float32 rounding. Memory grows with the batch wherever a
        gradient is wanted; the gradient itself is computed with the caller's TF32 settings.

        Arguments:
            images: Floats [N, C, H, W] on any device; clamped to [-1, 1], from the ends of
                which on the gradient is zero.

        Returns:
            float32 [N, d] on the network's device; not finite where the image is not.

        Raises:
            ObjectiveError: When the images are not such floats or do not fit the network, when
                the network takes bytes only or passes no gradient on, and when a finite image
                has a feature that is not.
        """
        if not self.floats:
            raise ObjectiveError(
                f"extractor {self.name}",
                expected="a network that takes floats, for losses without rounding",
                found="one that takes bytes only",
                hint="choose another extractor; an exported program takes floats when its "
                'skiptune.json says {"input": "float"}, a registered one when it is built with '
                "floats=True",
            )
        if not images.is_floating_point() or images.ndim != 4:
            raise ObjectiveError(
                f"images for {self.name}",
                expected="floats [N, C, H, W] in [-1, 1]",
                found=_shown(images),
                hint="give bytes to the extractor itself, extractor(images)",
            )
        features = self._features(levels_of(images))
        wanted = torch.is_grad_enabled() and images.requires_grad and len(images) > 0
        if wanted and not features.requires_grad:
            raise ObjectiveError(
                f"extractor {self.name}",
                expected="features with a gradient to the images",
                found="features without",
                hint="export the network outside of torch.no_grad()",
            )
        self._check(features.detach(), images.detach())
        return features

    def _features(self, levels: Tensor) -> Tensor:
        device = self.device
        with full_precision(device):
            parts = [self.module(block.to(device)).float() for block in levels.split(BLOCK)]
        if not len(levels):
            return torch.empty(0, self.dim, device=device)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check(self, features: Tensor, images: Tensor) -> None:
        """Refuse features that are not finite where the images are."""
        # One number tells, nearly always: a sum is finite only if all its terms are.
        if math.isfinite(float(features.sum())):
            return
        finite = images.isfinite().flatten(1).all(1).to(features.device)
        bad = int((~features.isfinite().all(1) & finite).sum())
        if bad:
            raise ObjectiveError(
                f"features of {self.name}",
                expected="finite numbers",
                found=f"NaN or infinity for {bad} of {len(features)} images",
                hint="the images are finite: check the extractor's weights",
            )

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
        name: What studies call it, without ``+``.
        factory: Called with keyword arguments `weights` and `sha256`.

    Raises:
        ObjectiveError: When another factory has the name, or it reads as a joint one.
    """
    if "+" in name:
        raise ObjectiveError(
            f"extractor {name}",
            expected="a name without +, which joins extractors",
            found=repr(name),
            hint="register it under another name",
        )
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
        name: One of `skiptune.objectives.EXTRACTORS`, a registered name, or several of them
            joined (`names.parts_of`).
        weights: A weights file in place of the default one; for `exported` the program.
        sha256: What the weights file must hash to; by default the published file's hash, and
            for `exported` any.
        device: Where the network goes.

    Raises:
        ObjectiveError: For an unknown name, and for weights that are missing, have another hash,
            or belong to another network; for weights of a joint extractor, whose parts have
            their own, and for names that cannot be joined.
    """
    if "+" in name:
        return _joint(name, weights=weights, sha256=sha256).to(device)
    if name not in _FACTORIES:
        raise ObjectiveError(
            f"extractor {name}",
            expected="one of " + ", ".join(sorted(_FACTORIES)),
            found=repr(name),
            hint="add your own with skiptune.objectives.register_extractor",
        )
    path = None if weights is None else Path(weights)
    return _FACTORIES[name](weights=path, sha256=sha256).to(device)


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
    found = verified(path, expected=sha256 or FASHION_CNN_SHA256, name=FASHION_CNN)
    network = fashion_cnn.FashionCNN()
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("skiptune.extractor", "{}"))
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise other_network(path, FASHION_CNN, error) from error
    if header.get("preprocess") != fashion_cnn.PREPROCESS:
        raise ObjectiveError(
            f"{path}: preprocess",
            expected=fashion_cnn.PREPROCESS,
            found=str(header.get("preprocess")),
            hint="make the file with `python -m training.classifier`",
        )
    module = _frozen(_Fashion(network))
    dim, preprocess = fashion_cnn.DIM, fashion_cnn.PREPROCESS
    return Extractor(FASHION_CNN, dim, found, preprocess, module, floats=True)


def _inception(dim: int, *, weights: Path | None, sha256: str | None) -> Extractor:
    name = INCEPTION_LAYERS[dim]
    path = weights or inception.default_weights(sha256=INCEPTION_SHA256)
    found = verified(path, expected=sha256 or INCEPTION_SHA256, name=name)
    module = _frozen(inception.load(path, dim))
    return Extractor(name, dim, found, inception.PREPROCESS, module, floats=True)


def _efficientnet(*, weights: Path | None, sha256: str | None) -> Extractor:
    path = weights or efficientnet.default_weights()
    found = verified(path, expected=sha256 or EFFICIENTNET_SHA256, name=EFFICIENTNET)
    network = efficientnet.build()
    fill(network, path, name=EFFICIENTNET)
    module = _frozen(network)
    dim, preprocess = efficientnet.DIM, efficientnet.PREPROCESS
    return Extractor(EFFICIENTNET, dim, found, preprocess, module, floats=True)


def _dinov2(*, weights: Path | None, sha256: str | None) -> Extractor:
    path = weights or dinov2.default_weights(sha256=DINOV2_SHA256)
    found = verified(path, expected=sha256 or DINOV2_SHA256, name=DINOV2)
    network = dinov2.build()
    fill(network, path, name=DINOV2)
    return Extractor(DINOV2, dinov2.DIM, found, dinov2.PREPROCESS, _frozen(network), floats=True)


def _random_patches(*, weights: Path | None, sha256: str | None) -> Extractor:
    network = random_patches.RandomPatches()
    found = random_patches.weights_sha256(network)
    expected = sha256 or RANDOM_PATCHES_SHA256
    if weights is not None or found != expected:
        raise ObjectiveError(
            f"weights of {RANDOM_PATCHES}",
            expected=f"no file, and filters of sha256 {expected}",
            found=f"{found} computed here" if weights is None else str(weights),
            hint="leave out weights and sha256: the filters are computed",
        )
    dim, preprocess = random_patches.DIM, random_patches.PREPROCESS
    return Extractor(RANDOM_PATCHES, dim, found, preprocess, _frozen(network), floats=True)


def _dct(*, weights: Path | None, sha256: str | None) -> Extractor:
    if weights is not None or sha256 not in (None, dct.SHA256):
        raise ObjectiveError(
            f"weights of {DCT}",
            expected="none: the features are computed",
            found=str(weights or sha256),
            hint="leave out weights and sha256",
        )
    module = _frozen(dct.LowFrequencies())
    return Extractor(DCT, dct.DIM, dct.SHA256, dct.PREPROCESS, module, floats=True)


def _joint(name: str, *, weights: Path | str | None, sha256: str | None) -> Extractor:
    try:
        parts = parts_of(name)
    except ValueError as error:
        raise ObjectiveError(
            f"extractor {name}",
            expected=str(error),
            found=repr(name),
            hint="write it as NAME+NAME:FACTOR, for example fashion-cnn+random-patches:4",
        ) from error
    if weights is not None or sha256 is not None:
        raise ObjectiveError(
            f"weights of {name}",
            expected="none: each part has its own, the published ones",
            found=str(weights or sha256),
            hint="export the networks as one program to use other weights: extractor exported",
        )
    each = [load_extractor(part) for part, _ in parts]
    joined = tuple(
        joint.Part(one.name, one.dim, one.sha256, one.preprocess, factor)
        for one, (_, factor) in zip(each, parts, strict=True)
    )
    network = joint.JointNetwork(
        (one.module, part.factor) for one, part in zip(each, joined, strict=True)
    )
    return Extractor(
        joint_name(parts),
        sum(part.dim for part in joined),
        joint.sha256_of(joined),
        "; ".join(f"{part.name} x {part.factor:g}: {part.preprocess}" for part in joined),
        _frozen(network),
        floats=all(one.floats for one in each),
        parts=joined,
    )


def _exported(*, weights: Path | None, sha256: str | None) -> Extractor:
    if weights is None:
        raise ObjectiveError(
            f"weights of {EXPORTED}",
            expected="the path of an exported program " + ", ".join(exported.SUFFIXES),
            found="nothing",
            hint="give the path as weights",
        )
    found = verified(weights, expected=sha256, name=EXPORTED)
    program = exported.load(weights, sha256=found)
    declared = program.declaration
    dim = exported.tried(program, weights)
    floats = declared.input == "float"
    return Extractor(declared.name, dim, found, declared.preprocess, program, floats=floats)


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def _shown(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products in float32 proper, whatever the process does."""
    flags: Callable[..., AbstractContextManager[None]] = torch.backends.cudnn.flags
    convolutions = (
        flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        if device.type == "cuda"
        else nullcontext()
    )
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with convolutions:
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


register_extractor(FASHION_CNN, _fashion_cnn)
for _dim, _name in INCEPTION_LAYERS.items():
    register_extractor(_name, partial(_inception, _dim))
register_extractor(EFFICIENTNET, _efficientnet)
register_extractor(DINOV2, _dinov2)
register_extractor(RANDOM_PATCHES, _random_patches)
register_extractor(DCT, _dct)
register_extractor(EXPORTED, _exported)
