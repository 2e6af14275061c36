"""The measure: what turns images into the per-image arrays that are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = ["FEATURES", "describe"]

FEATURES = "features"
"""Name of the float32 [N, d] array among a chunk's stored arrays."""


def describe(extractor: Extractor) -> dict[str, Any]:
    """Return the measure as plain data; its digest identifies stored arrays.

    References, image counts and corrections are not in it: any score can be taken later from
    arrays of the same measure.
    """
    return {"arrays": [FEATURES], **extractor.describe()}
