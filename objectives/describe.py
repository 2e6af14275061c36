"""The measure: what turns images into the per-image arrays that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skiptune.objectives.catalogue import FEATURES

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = ["FEATURES", "describe"]


def describe(
    extractor: Extractor,
    *,
    features: bool = True,
    losses: Mapping[str, Any] | None = None,
    texts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the measure as plain data; its digest identifies stored arrays.

    References, image counts and corrections are not in it: any score can be taken later from
    arrays of the same measure.

    Arguments:
        extractor: The feature network.
        features: Images are sampled, and their features stored.
        losses: Denoising losses are stored: what `objectives.denoising.describe_losses` says.
        texts: Scores of images and their prompts are stored: what `TextScore.describe` says of
            each, by the name of its array.
    """
    arrays = [*([FEATURES] if features else []), *(losses or {}).get("arrays", ()), *(texts or ())]
    described = {"arrays": arrays, **extractor.describe()}
    if losses is not None:
        described["losses"] = dict(losses)
    if texts:
        described["texts"] = {name: dict(each) for name, each in texts.items()}
    return described
