"""The families of U-Nets whose skips are found by structure: one small module each.

A network is never asked for its class, so that copies and descendants of a published network are
known too. No module here loads torch or another library: a structure is attributes and shapes.
"""

from __future__ import annotations

from skiptune.sampling.families import diffusers, edm, lucidrains, openai, uvit
from skiptune.sampling.skips import SkipFamily

__all__ = ["FAMILIES"]

FAMILIES: tuple[SkipFamily, ...] = (
    edm.FAMILY,
    openai.FAMILY,
    diffusers.FAMILY,
    uvit.FAMILY,
    lucidrains.FAMILY,
)
"""In the order in which a network is held against them."""
