"""U-ViT (Bao et al. 2023, arXiv 2209.12152): transformers with skips between their halves.

Every block of the second half receives its skip as an argument of its own, and joins it to the
main path in a linear layer over both, along the last dimension: the tokens' features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.sampling.families.structure import described, refused
from skiptune.sampling.skips import Skip, SkipFamily, SkipPlace, SkipSite

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY"]

_STRUCTURE = "`in_blocks`, `mid_block` and `out_blocks` with `skip_linear`"


def _find(network: nn.Module, size: int) -> list[SkipPlace] | None:
    net: Any = network
    if not described(net, "in_blocks", "mid_block", "out_blocks"):
        return None
    projection = getattr(getattr(net, "patch_embed", None), "proj", None)
    patch = getattr(projection, "kernel_size", (1,))[0]
    places = []
    for index, block in enumerate(net.out_blocks):
        address = f"out_blocks.{index}"
        linear = getattr(block, "skip_linear", None)
        if linear is None or linear.in_features != 2 * linear.out_features:
            raise refused(_STRUCTURE, f"`{address}` without a `skip_linear` of both paths")
        width = linear.out_features
        places.append(
            SkipPlace(
                # All that reads the skip is one linear layer: nothing normalises it.
                skip=Skip(address, index, size // patch, width, width, groups=0, mixed=True),
                site=SkipSite(block, "skip", dim=-1),
                joint=linear,
            )
        )
    return places


FAMILY = SkipFamily("U-ViT", _STRUCTURE, _find)
