"""OpenAI-style U-Nets: guided-diffusion, consistency models, latent diffusion, Stable Diffusion.

`input_blocks` and `output_blocks` are lists of sequences; every output block begins with a
residual block that reads the main path and one skip, concatenated in this order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.sampling.families.structure import concatenated, count, described, refused
from skiptune.sampling.skips import SkipFamily, SkipPlace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY"]

_STRUCTURE = "`input_blocks`, `middle_block` and `output_blocks`"


def _find(network: nn.Module, size: int) -> list[SkipPlace] | None:
    net: Any = network
    if not described(net, "input_blocks", "middle_block", "output_blocks"):
        return None
    left: list[tuple[int, int]] = []
    resolution = size
    for index, block in enumerate(net.input_blocks):
        if _halves(block):
            resolution //= 2
        left.append((_made(block, f"input_blocks.{index}"), resolution))
    main = _made(net.middle_block, "middle_block")
    places: list[SkipPlace] = []
    for index, block in enumerate(net.output_blocks):
        address = f"output_blocks.{index}"
        first: Any = next(iter(block), None)
        if not described(first, "in_layers", "skip_connection"):
            raise refused(_STRUCTURE, f"`{address}` that does not begin with a residual block")
        norm, *_, conv = first.in_layers
        skip, resolution = left.pop() if left else (0, 0)
        places.append(
            concatenated(
                block,
                address=address,
                index=index,
                resolution=resolution,
                main=main,
                skip=skip,
                received=count(norm, "num_channels", f"{address}.0.in_layers.0", _STRUCTURE),
                groups=count(norm, "num_groups", f"{address}.0.in_layers.0", _STRUCTURE),
                structure=_STRUCTURE,
                shortcut=first.skip_connection,
                residual=conv,
                norm=norm,
            )
        )
        main = _made(block, address)
    return places


def _made(block: Any, where: str) -> int:
    """Return the channels that a sequence makes: attention keeps those before it."""
    makers = [layer for layer in block if isinstance(getattr(layer, "out_channels", None), int)]
    return count(makers[-1] if makers else None, "out_channels", where, _STRUCTURE)


def _halves(block: Any) -> bool:
    """Return whether a sequence halves the resolution, by a layer or in a residual block."""
    return any(
        hasattr(layer, "op") or hasattr(getattr(layer, "h_upd", None), "op") for layer in block
    )


FAMILY = SkipFamily("OpenAI-style", _STRUCTURE, _find)
