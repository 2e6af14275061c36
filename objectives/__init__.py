"""Objectives: images, or stored per-image arrays and a reference, become numbers with errors.

Feature networks (`extractors`), reference statistics (`reference`), the Frechet distance and its
derivative (`frechet`), bias-corrected and paired scores with standard errors (`paired`), kernel
and nearest-neighbour metrics (`kid`, `neighbours`), losses of the denoiser and against a teacher
(`denoising`, `teacher`), scores of images and their prompts (`text_scores`); `catalogue` lists all
metrics, and `metrics` makes one kind of thing of them. May import `skiptune.sampling`; statistics
import no torch. Nothing is loaded before it is used. The measure's description is
`skiptune.objectives.describe.describe`: a function named like its module cannot be offered here as
well.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.objectives.catalogue import CATALOGUE
    from skiptune.objectives.denoising import denoising_losses
    from skiptune.objectives.extractors import Extractor, load_extractor, register_extractor
    from skiptune.objectives.frechet import frechet_distance, frechet_of_moments, influence
    from skiptune.objectives.image_files import load_images, open_images
    from skiptune.objectives.kid import kid_difference, kid_influence
    from skiptune.objectives.losses import loss_score
    from skiptune.objectives.metrics import Sample, Standard, Summary, measure
    from skiptune.objectives.names import EXTRACTORS, REFERENCES, metric_name
    from skiptune.objectives.neighbours import neighbour_metrics
    from skiptune.objectives.paired import Estimate, corrected, paired_difference, raw, scored
    from skiptune.objectives.projection import Projection
    from skiptune.objectives.reference import (
        Reference,
        load_reference,
        reference_of,
        save_reference,
    )
    from skiptune.objectives.teacher import teacher_losses, teacher_score

_HOME = {
    "CATALOGUE": "catalogue",
    "EXTRACTORS": "names",
    "Estimate": "paired",
    "Extractor": "extractors",
    "Projection": "projection",
    "REFERENCES": "names",
    "Reference": "reference",
    "Sample": "metrics",
    "Standard": "metrics",
    "Summary": "metrics",
    "corrected": "paired",
    "denoising_losses": "denoising",
    "frechet_distance": "frechet",
    "frechet_of_moments": "frechet",
    "influence": "frechet",
    "kid_difference": "kid",
    "kid_influence": "kid",
    "load_extractor": "extractors",
    "load_images": "image_files",
    "load_reference": "reference",
    "loss_score": "losses",
    "measure": "metrics",
    "metric_name": "names",
    "neighbour_metrics": "neighbours",
    "open_images": "image_files",
    "paired_difference": "paired",
    "raw": "paired",
    "reference_of": "reference",
    "register_extractor": "extractors",
    "save_reference": "reference",
    "scored": "paired",
    "teacher_losses": "teacher",
    "teacher_score": "teacher",
}

__all__ = [
    "CATALOGUE",
    "EXTRACTORS",
    "REFERENCES",
    "Estimate",
    "Extractor",
    "Projection",
    "Reference",
    "Sample",
    "Standard",
    "Summary",
    "corrected",
    "denoising_losses",
    "frechet_distance",
    "frechet_of_moments",
    "influence",
    "kid_difference",
    "kid_influence",
    "load_extractor",
    "load_images",
    "load_reference",
    "loss_score",
    "measure",
    "metric_name",
    "neighbour_metrics",
    "open_images",
    "paired_difference",
    "raw",
    "reference_of",
    "register_extractor",
    "save_reference",
    "scored",
    "teacher_losses",
    "teacher_score",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
