"""Measure what FD(fashion-cnn) sees, and write its card.

    python -m training.metric_card DATA --out objectives/assets/fashion-cnn.md

Held-out images, damaged with rising strength, are scored against the 60000 training images.
Exits 1 when a curve does not rise with every step.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import ASSETS, FASHION_CNN
from skiptune.objectives.paired import Estimate, corrected, raw
from skiptune.objectives.reference import Reference, load_reference
from training.distortions import blur, contrast, noise, without_class
from training.fashion_mnist import CLASSES, TRAINING_IMAGES, load
from training.reference import features_of

__all__ = ["Curve", "card", "curves", "main", "rises"]

DROPPED = 8  # Bag: unlike every other class
COMMAND = "python -m training.metric_card DATA --out objectives/assets/fashion-cnn.md"


@dataclass(frozen=True)
class Curve:
    """Scores of one kind of damage, by rising strength.

    Arguments:
        title: The damage and the unit of its strength.
        strengths: Five strengths, rising damage.
        plain: FD of each, uncorrected.
        limit: Corrected FD of each; None where images repeat, which the correction cannot know.
    """

    title: str
    strengths: tuple[str, ...]
    plain: tuple[Estimate, ...]
    limit: tuple[Estimate, ...] | None


def rises(curve: Curve, floor: Estimate) -> bool:
    """Tell whether each strength scores worse than the one before, and the first than none."""
    values = [floor.value, *(estimate.value for estimate in curve.plain)]
    return all(left < right for left, right in pairwise(values))


def curves(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    extractor: Extractor,
    reference: Reference,
) -> list[Curve]:
    """Score five strengths of each kind of damage."""

    def scored(
        title: str, strengths: tuple[float, ...], damage: Callable[[float], NDArray[np.uint8]]
    ) -> Curve:
        rows = [features_of(extractor, damage(strength)) for strength in strengths]
        return Curve(
            title,
            tuple(f"{strength:g}" for strength in strengths),
            tuple(raw(row, reference) for row in rows),
            tuple(corrected(row, reference) for row in rows),
        )

    clean = features_of(extractor, images)
    distinct = (5000, 2500, 1250, 625, 313)
    repeated = [np.resize(clean[:count], clean.shape) for count in distinct]
    return [
        scored(
            "blur, sigma in pixels",
            (0.4, 0.6, 0.8, 1.0, 1.5),
            lambda sigma: blur(images, sigma=sigma),
        ),
        scored(
            "noise, deviation in grey levels",
            (4, 8, 16, 32, 64),
            lambda deviation: noise(images, deviation=deviation, seed=0),
        ),
        scored(
            "contrast, factor",
            (0.9, 0.8, 0.7, 0.6, 0.5),
            lambda factor: contrast(images, factor=factor),
        ),
        scored(
            f"class {CLASSES[DROPPED]!r} dropped, share of it",
            (0.2, 0.4, 0.6, 0.8, 1.0),
            lambda share: images[without_class(labels, label=DROPPED, share=share)],
        ),
        Curve(
            "duplicates, distinct images among 10000",
            tuple(map(str, distinct)),
            tuple(raw(row, reference) for row in repeated),
            None,
        ),
    ]


def card(
    floor: Estimate,
    floor_limit: Estimate,
    found: list[Curve],
    *,
    extractor: Extractor,
    reference: Reference,
) -> str:
    """Return the card, Markdown."""
    with safe_open(ASSETS / f"{FASHION_CNN}.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["skiptune.extractor"])
    values = np.linalg.eigvalsh(reference.covariance)
    lines = [
        "# FD(fashion-cnn)",
        "",
        "The Frechet distance between the features of generated images and those of the 60000",
        "training images of Fashion-MNIST. It shows that machinery, statistics and search work;",
        "it says nothing about sizes or signs of effects on natural images.",
        "",
        f"- Network: five convolutions, mean-pooled, d = {extractor.dim}, each feature of",
        "  standard deviation 1 over the training images. Test accuracy of its classifier:",
        f"  {header['test_accuracy']:.2%}. {header['epochs']} epochs, seed {header['seed']}, "
        f"torch {header['torch']}.",
        "- Made by:",
        "  `python -m training.classifier DATA objectives/assets/fashion-cnn.safetensors`",
        f"- Weights sha256: `{extractor.sha256}`",
        f"- Input: {extractor.preprocess}; images padded with black from 28x28.",
        f"- Data: {header['data']}; MIT licence. Weights: {header['license']}.",
        f"- Reference `{reference.name}`: {reference.images} images, eigenvalues of the",
        f"  covariance {values[0]:.2g} to {values[-1]:.3g}, trace {reference.trace:.3f}; digest",
        f"  `{reference.digest}`",
        "- Made by: `python -m training.reference DATA objectives/assets/fashion-train.npz`",
        "",
        "## What it sees",
        "",
        f"The 10000 held-out images score {_text(floor)}, corrected {_text(floor_limit)}: the",
        "floor, which a perfect model of the training images would share. Damage to these",
        "images, by strength (value +- standard error):",
        "",
    ]
    for curve in found:
        lines += [f"### {curve.title}", "", "| strength | FD | corrected |", "| --- | --- | --- |"]
        limits = curve.limit or (None,) * len(curve.strengths)
        for strength, plain, limit in zip(curve.strengths, curve.plain, limits, strict=True):
            lines.append(f"| {strength} | {_text(plain)} | {_text(limit)} |")
        lines.append("")
    lines += [
        "The correction takes images to be independent, so it has no value for duplicates; the",
        "standard errors of that table are those of independent images too.",
        "",
        f"Printed by `{COMMAND}`, which exits 1",
        "unless every FD curve rises at each step from the floor on",
        f"(python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}).",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the card, write it if asked, and judge the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, labels = load(options.data)
    images, labels = images[TRAINING_IMAGES:], labels[TRAINING_IMAGES:]
    extractor = load_extractor(FASHION_CNN)
    reference = load_reference("fashion-train", extractor=extractor)
    clean = features_of(extractor, images)
    floor = raw(clean, reference)
    found = curves(images, labels, extractor, reference)
    text = card(
        floor, corrected(clean, reference), found, extractor=extractor, reference=reference
    )
    print(text, end="")
    fallen = [curve.title for curve in found if not rises(curve, floor)]
    for title in fallen:
        print(f"not rising: {title}", file=sys.stderr)
    if fallen:
        return 1
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    return 0


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f} +- {estimate.standard_error:.3f}"


if __name__ == "__main__":
    sys.exit(main())
