"""EDM's U-Nets (DDPM++, NCSN++, ADM) and EDM2's: NVlabs/edm and edm2, and their descendants.

The blocks lie in the order of execution in two `ModuleDict`s, `enc` and `dec`; decoder blocks
named ``{res}x{res}_block{i}`` receive a skip, concatenated behind the main path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from skiptune.sampling.families.structure import concatenated, count, reads, refused
from skiptune.sampling.skips import SkipFamily, SkipPlace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILY"]

_STRUCTURE = "`enc` and `dec` with blocks like `16x16_block0`"
_BLOCK = re.compile(r"(\d+)x\1_block(\d+)")
# The convolutions of a block, as EDM's and EDM2's networks name them.
_SHORTCUTS = ("skip", "conv_skip")
_RESIDUALS = ("conv0", "conv_res0")


def _find(network: nn.Module, size: int) -> list[SkipPlace] | None:
    encoder: Any = getattr(network, "enc", None)
    decoder: Any = getattr(network, "dec", None)
    if not (hasattr(encoder, "items") and hasattr(decoder, "items")):
        return None
    outputs = [
        count(module, "out_channels", name, _STRUCTURE) for name, module in _main(encoder.items())
    ]
    places: list[SkipPlace] = []
    main = outputs[-1] if outputs else 0
    for name, module in _main(decoder.items()):
        match = _BLOCK.fullmatch(name)
        if match is not None:
            received = count(module, "in_channels", name, _STRUCTURE)
            places.append(
                concatenated(
                    module,
                    address=name,
                    index=len(places),
                    resolution=int(match[1]),
                    main=main,
                    skip=outputs.pop() if outputs else 0,
                    received=received,
                    groups=_groups(module, name),
                    structure=_STRUCTURE,
                    shortcut=_convolution(module, _SHORTCUTS, received),
                    residual=_convolution(module, _RESIDUALS, received),
                    norm=getattr(module, "norm0", None),
                )
            )
        main = count(module, "out_channels", name, _STRUCTURE)
    if not places:
        raise refused(_STRUCTURE, f"{type(network).__name__} with a decoder without such blocks")
    return places


def _main(modules: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    # The auxiliary modules of skip and residual architectures change features in place of a
    # block's output or make the image: they neither push nor receive a skip.
    return ((name, module) for name, module in modules if "_aux_" not in name)


def _groups(module: Any, name: str) -> int:
    if hasattr(module, "conv_res0"):  # EDM2's block
        return 0
    return count(getattr(module, "norm0", None), "num_groups", f"{name}.norm0", _STRUCTURE)


def _convolution(block: Any, names: tuple[str, ...], received: int) -> Any:
    """Return the block's convolution of one of these names that reads main path and skip."""
    modules = (reads(getattr(block, name, None), received) for name in names)
    return next((module for module in modules if module is not None), None)


FAMILY = SkipFamily("EDM family", _STRUCTURE, _find)
