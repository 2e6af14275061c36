"""The `Unet` of lucidrains' denoising-diffusion-pytorch, and of the many copies of it.

Two skips per level and one of the first convolution, each concatenated behind the main path. A
block's first convolution reads them without a normalisation before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.sampling.families.structure import concatenated, count, described
from skiptune.sampling.skips import SkipFamily, SkipPlace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY"]

_STRUCTURE = "`init_conv`, `downs`, `ups` and `final_res_block`"


def _find(network: nn.Module, size: int) -> list[SkipPlace] | None:
    net: Any = network
    if not described(net, "init_conv", "downs", "mid_block2", "ups", "final_res_block"):
        return None
    left = [(count(net.init_conv, "out_channels", "init_conv", _STRUCTURE), size)]
    for level, down in enumerate(net.downs):
        for index in range(2):
            made = _made(down[index], f"downs.{level}.{index}")
            left.append((made, size >> level))
    receivers = [
        (f"ups.{level}.{index}", up[index]) for level, up in enumerate(net.ups) for index in (0, 1)
    ]
    main = _made(net.mid_block2, "mid_block2")
    places: list[SkipPlace] = []
    for address, block in [*receivers, ("final_res_block", net.final_res_block)]:
        skip, resolution = left.pop() if left else (0, 0)
        projection = block.block1.proj
        places.append(
            concatenated(
                block,
                address=address,
                index=len(places),
                resolution=resolution,
                main=main,
                skip=skip,
                received=count(projection, "in_channels", f"{address}.block1.proj", _STRUCTURE),
                groups=0,
                structure=_STRUCTURE,
                shortcut=block.res_conv,
                residual=projection,
                residual_shared=True,
            )
        )
        main = _made(block, address)
        if address.endswith(".1"):
            up = list(net.ups[int(address.split(".")[1])][-1].modules())
            convolutions = [module for module in up if hasattr(module, "out_channels")]
            main = count(convolutions[-1], "out_channels", address, _STRUCTURE)
    return places


def _made(block: Any, where: str) -> int:
    return count(block.block2.proj, "out_channels", f"{where}.block2.proj", _STRUCTURE)


FAMILY = SkipFamily("lucidrains", _STRUCTURE, _find)
