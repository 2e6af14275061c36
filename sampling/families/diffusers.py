"""diffusers' `UNet2DModel` and `UNet2DConditionModel`: every resnet of an up block has a skip.

An up block receives its skips as a tuple; each of its resnets then reads the main path and one of
them, concatenated in this order, which is the same number of places one level deeper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.sampling.families.structure import concatenated, count, described
from skiptune.sampling.skips import SkipFamily, SkipPlace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY"]

_STRUCTURE = "`conv_in`, `down_blocks` and `up_blocks` with `resnets`"


def _find(network: nn.Module, size: int) -> list[SkipPlace] | None:
    net: Any = network
    if not described(net, "conv_in", "down_blocks", "up_blocks"):
        return None
    blocks = [*net.down_blocks, *net.up_blocks]
    if not blocks or not all(described(block, "resnets") for block in blocks):
        return None
    left = [(count(net.conv_in, "out_channels", "conv_in", _STRUCTURE), size)]
    resolution = size
    for index, block in enumerate(net.down_blocks):
        where = f"down_blocks.{index}"
        for resnet in block.resnets:
            left.append(
                (count(resnet, "out_channels", f"{where}.resnets", _STRUCTURE), resolution)
            )
        for down in getattr(block, "downsamplers", None) or ():
            resolution //= 2
            channels = count(down, "out_channels", f"{where}.downsamplers", _STRUCTURE)
            left.append((channels, resolution))
    # The middle keeps the channels; a network may do without it.
    main = left[-1][0]
    places: list[SkipPlace] = []
    for number, block in enumerate(net.up_blocks):
        for index, resnet in enumerate(block.resnets):
            address = f"up_blocks.{number}.resnets.{index}"
            skip, resolution = left.pop() if left else (0, 0)
            places.append(
                concatenated(
                    resnet,
                    address=address,
                    index=len(places),
                    resolution=resolution,
                    main=main,
                    skip=skip,
                    received=count(resnet, "in_channels", address, _STRUCTURE),
                    groups=count(
                        getattr(resnet, "norm1", None),
                        "num_groups",
                        f"{address}.norm1",
                        _STRUCTURE,
                    ),
                    structure=_STRUCTURE,
                    shortcut=getattr(resnet, "conv_shortcut", None),
                    residual=getattr(resnet, "conv1", None),
                    norm=getattr(resnet, "norm1", None),
                )
            )
            main = count(resnet, "out_channels", address, _STRUCTURE)
    return places


FAMILY = SkipFamily("diffusers", _STRUCTURE, _find)
