"""What can be measured: the metrics by name, and what each of them needs. No numpy, no torch.

A study file is checked against this list before anything heavy is imported. Three metrics are
another one under the name that papers use: `fid` is `fd` of the Inception network, `fd_dinov2` is
`fd` of DINOv2, and `fd:NAME` is `fd` of the extractor NAME.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from skiptune.objectives.names import DINOV2, INCEPTION

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "FEATURES",
    "FEATURE_LOSS",
    "IMAGE",
    "LABEL",
    "PIXEL_LOSS",
    "PROMPT",
    "Better",
    "Entry",
    "Unit",
    "resolved",
]

Better = Literal["lower", "higher"]

Unit = Literal["image", "prompt"]

IMAGE: Final = "image"
PROMPT: Final = "prompt"
"""What standard errors count: images, or where each image is told a prompt, prompts (`units`)."""

FEATURES: Final = "features"
"""Name of the float32 [N, d] array of extracted features among a chunk's stored arrays."""

LABEL: Final = "label"
"""Name of the float32 [N] array of the class or the prompt of each image."""

FEATURE_LOSS: Final = "feature_loss"
PIXEL_LOSS: Final = "pixel_loss"
"""Names of the float32 [N, S] arrays of denoising losses, S noise levels."""


@dataclass(frozen=True)
class Entry:
    """What a metric needs, and which way is better.

    Arguments:
        title: How its name begins in tables, e.g. ``KID``.
        better: ``"lower"`` or ``"higher"``.
        arrays: Stored per-image arrays that it is a function of.
        reference: ``"moments"`` or ``"features"`` of real images, or None.
        about: One line for people.
        real_images: It compares with real images themselves.
        teacher: It compares with images of many steps from the same noise.
        blocks: Its error bars rest on disjoint blocks of seeds.
        labels: It compares images of one prompt or class with each other.
        model: It compares an image with its prompt: the key of a study's objective that names
            the model which reads both.
    """

    title: str
    better: Better
    arrays: tuple[str, ...]
    reference: Literal["moments", "features"] | None
    about: str
    real_images: bool = False
    teacher: bool = False
    blocks: bool = False
    labels: bool = False
    model: str | None = None


CATALOGUE: Final[dict[str, Entry]] = {
    "fd": Entry("FD", "lower", (FEATURES,), "moments", "Frechet distance between features"),
    "kid": Entry("KID", "lower", (FEATURES,), "features", "kernel distance, unbiased in N"),
    "precision": Entry(
        "precision", "higher", (FEATURES,), "features", "share of images among the real ones"
    ),
    "recall": Entry(
        "recall",
        "higher",
        (FEATURES,),
        "features",
        "share of real images that are covered",
        blocks=True,
    ),
    "density": Entry(
        "density", "higher", (FEATURES,), "features", "precision that counts neighbours"
    ),
    "coverage": Entry(
        "coverage",
        "higher",
        (FEATURES,),
        "features",
        "share of real images with one near",
        blocks=True,
    ),
    "feature_loss": Entry(
        "feature loss",
        "lower",
        (FEATURE_LOSS,),
        None,
        "features of denoised against real images, relative to the baseline",
        real_images=True,
    ),
    "pixel_loss": Entry(
        "pixel loss",
        "lower",
        (PIXEL_LOSS,),
        None,
        "pixels of denoised against real images, relative to the baseline",
        real_images=True,
    ),
    "teacher_loss": Entry(
        "teacher loss",
        "lower",
        (FEATURES,),
        None,
        "features against those of many steps from the same noise",
        teacher=True,
    ),
    "diversity": Entry(
        "diversity",
        "higher",
        (FEATURES,),
        None,
        "squared distance between features of images of one prompt or class",
        labels=True,
    ),
    "clip_score": Entry(
        "CLIP score",
        "higher",
        ("clip_score",),
        None,
        "how alike a CLIP model finds an image and its prompt, 0 to 100",
        model="clip_model",
    ),
    "pick_score": Entry(
        "PickScore",
        "higher",
        ("pick_score",),
        None,
        "how much people would prefer the image, as a model has learnt it",
        model="pick_model",
    ),
    "nfe": Entry("NFE", "lower", (), None, "network evaluations per image, counted"),
}
"""Every metric by the name that a study gives it."""

ALIASES: Final[dict[str, tuple[str, str]]] = {
    "fid": ("fd", INCEPTION),
    "fd_dinov2": ("fd", DINOV2),
}
"""Metrics that name their extractor: metric and extractor by alias."""


def resolved(name: str) -> tuple[str, str | None]:
    """Return the key in `CATALOGUE` that a name stands for, and the extractor that it demands.

    Arguments:
        name: A key, an alias, or ``fd:EXTRACTOR``.

    Returns:
        The name itself and None where it is not known.
    """
    if name in ALIASES:
        return ALIASES[name]
    if name.startswith("fd:") and len(name) > 3:
        return "fd", name[3:]
    return name, None
