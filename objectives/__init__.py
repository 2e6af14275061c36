"""Objectives: images, or stored per-image arrays and a reference, become numbers with errors.

Feature networks (`extractors`), reference statistics (`reference`), the Frechet distance and its
derivative (`frechet`), bias-corrected and paired scores with standard errors (`paired`). May
import `skiptune.sampling`; only `extractors` and `fashion_cnn` import torch. Nothing is loaded
before it is used. The measure's description is `skiptune.objectives.describe.describe`: a
function named like its module cannot be offered here as well.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor, load_extractor, register_extractor
    from skiptune.objectives.frechet import frechet_distance, frechet_of_moments, influence
    from skiptune.objectives.names import EXTRACTORS, REFERENCES, metric_name
    from skiptune.objectives.paired import Estimate, corrected, paired_difference, raw
    from skiptune.objectives.reference import (
        Reference,
        load_reference,
        reference_of,
        save_reference,
    )

_HOME = {
    "EXTRACTORS": "names",
    "Estimate": "paired",
    "Extractor": "extractors",
    "REFERENCES": "names",
    "Reference": "reference",
    "corrected": "paired",
    "frechet_distance": "frechet",
    "frechet_of_moments": "frechet",
    "influence": "frechet",
    "load_extractor": "extractors",
    "load_reference": "reference",
    "metric_name": "names",
    "paired_difference": "paired",
    "raw": "paired",
    "reference_of": "reference",
    "register_extractor": "extractors",
    "save_reference": "reference",
}

__all__ = [
    "EXTRACTORS",
    "REFERENCES",
    "Estimate",
    "Extractor",
    "Reference",
    "corrected",
    "frechet_distance",
    "frechet_of_moments",
    "influence",
    "load_extractor",
    "load_reference",
    "metric_name",
    "paired_difference",
    "raw",
    "reference_of",
    "register_extractor",
    "save_reference",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
