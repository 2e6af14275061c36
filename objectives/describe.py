"""The measure: what turns images into the per-image arrays that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skiptune.objectives.catalogue import FEATURES

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = ["FEATURES", "describe"]


def describe(
    extractor: Extractor, *, features: bool = True, losses: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the measure as plain data; its digest identifies stored arrays.

    References, image counts and corrections are not in it: any score can be taken later from
    arrays of the same measure.

    Arguments:
        extractor: The feature network.
        features: Images are sampled, and their features stored.
        losses: Denoising losses are stored: what `objectives.denoising.describe_losses` says.
    """
    arrays = [*([FEATURES] if features else []), *(losses or {}).get("arrays", ())]
    described = {"arrays": arrays, **extractor.describe()}
    return described if losses is None else {**described, "losses": dict(losses)}
