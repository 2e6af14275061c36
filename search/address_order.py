"""The order of skips by their addresses, where no network is at hand to ask."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from skiptune.sampling.schedule import PARTS, place_of

__all__ = ["deepest_first"]


def deepest_first(names: Iterable[str]) -> list[str]:
    """Return addresses, or parameters named after them, in the order of the decoder.

    Low resolutions come first, then the block: the order of `sampling.skips.find_skips`. Names of
    one part of the blocks stay together, as in `Space.scale_names`. An address without a number
    (`final_res_block`) is of a block behind all numbered ones.
    """

    def key(name: str) -> tuple[int, tuple[float, ...], str]:
        numbers = tuple(float(digits) for digits in re.findall(r"\d+", name)) or (math.inf,)
        return PARTS.index(place_of(name)[1]), numbers, name

    return sorted(names, key=key)
