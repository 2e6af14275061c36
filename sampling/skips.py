"""The skips of a network: where a decoder block receives an encoder's output.

A skip is addressed by the decoder block that receives it, concatenated behind the main path on the
channel dimension. That tensor goes through a group normalisation and, unnormalised, through the
block's 1x1 shortcut. A group that holds only skip channels undoes their scale, so the scale acts
through the shortcut alone, unless the cut between main path and skip lies inside a group. EDM2's
blocks have no group normalisation: there the scale acts through both branches.

A scale may act in one part of the block alone (`schedule.PARTS`). A convolution is linear in its
input channels, so scaling the skip's channels of its input is scaling the skip's columns of its
weight, which stays untouched. In EDM2's blocks, whose weights are normalised on every call, only
the former is possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiptune.errors import NetworkError
from skiptune.sampling.schedule import place_name

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Skip", "SkipSite", "decoder_blocks", "find_skips", "skip_sites"]

_BLOCK = re.compile(r"(\d+)x\1_block(\d+)")
_HOLDERS = ("model", "unet")
# The convolutions of a block, as EDM's and EDM2's networks name them.
_SHORTCUTS = ("skip", "conv_skip")
_RESIDUALS = ("conv0", "conv_res0")


@dataclass(frozen=True)
class Skip:
    """One skip.

    Arguments:
        address: The decoder block that receives it, e.g. ``16x16_block0``.
        index: Place in the order from the deepest, which is 0, to the shallowest.
        resolution: Height and width of the feature maps in pixels, e.g. 16.
        main_channels: Channels of the main path, the first ones of the block's input.
        skip_channels: Channels of the skip, the last ones of the block's input.
        groups: Groups of the normalisation that reads the block's input; 0 where none does.
        mixed: Whether one of these groups holds channels of both, or there is no normalisation,
            so that the skip's scale acts through the other branch too and cannot be folded into
            the shortcut exactly.
    """

    address: str
    index: int
    resolution: int
    main_channels: int
    skip_channels: int
    groups: int
    mixed: bool


@dataclass(frozen=True)
class SkipSite:
    """Where a skip can be scaled from outside: a slice of one argument of a module's call.

    Arguments:
        module: The module that receives the skip, once per call of the network.
        argument: Place among its positional arguments, or the name of a keyword argument; None
            for what the module returns.
        dim: The dimension of the channels; dimension 0 is the images'.
        start: First channel of the skip: of a concatenation, the main path's channels before it.
        length: Channels of the skip; None where the whole tensor is the skip.
        shared: Whether the tensor is read by others after the module: it then stays as it is, and
            the module gets a copy.
    """

    module: nn.Module
    argument: int | str | None = 0
    dim: int = 1
    start: int = 0
    length: int | None = None
    shared: bool = False


def find_skips(network: nn.Module) -> tuple[Skip, ...]:
    """Find the skips of a network of the EDM family, deepest first, by its structure.

    The network, its `model` or its `unet` must hold the blocks in the order of execution in two
    `ModuleDict`s, `enc` and `dec`; decoder blocks named ``{res}x{res}_block{i}`` receive a skip.
    No image goes through the network, so its parameters may be on the meta device.

    Raises:
        NetworkError: For a network without such skips, or whose channel counts do not add up.
    """
    encoder, decoder = _halves(network)
    outputs = [_channels(module, "out_channels", name) for name, module in _main(encoder.items())]
    skips: list[Skip] = []
    main = outputs[-1] if outputs else 0
    for name, module in _main(decoder.items()):
        match = _BLOCK.fullmatch(name)
        if match is not None:
            received = _channels(module, "in_channels", name)
            skip = outputs.pop() if outputs else 0
            if skip == 0 or main + skip != received:
                raise _unknown(f"`{name}` with {received} input channels, not {main} + {skip}")
            groups = _groups(module, name)
            skips.append(
                Skip(
                    address=name,
                    index=len(skips),
                    resolution=int(match[1]),
                    main_channels=main,
                    skip_channels=skip,
                    groups=groups,
                    mixed=groups == 0 or main % (received // groups) != 0,
                )
            )
        main = _channels(module, "out_channels", name)
    if not skips:
        raise _unknown(f"{type(network).__name__} with a decoder without such blocks")
    return tuple(skips)


def decoder_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder blocks that receive a skip, by address, deepest first.

    Raises:
        NetworkError: For a network outside the EDM family.
    """
    _, decoder = _halves(network)
    return {name: module for name, module in decoder.items() if _BLOCK.fullmatch(name)}


def skip_sites(network: nn.Module, parts: Iterable[str] = ()) -> dict[str, SkipSite]:
    """Return where the skips of a network of the EDM family are scaled, by the names of places.

    Arguments:
        network: As for `find_skips`.
        parts: Parts of the blocks that are wanted beside the skips themselves.

    Returns:
        The skips by address, deepest first; then part by part, by `schedule.place_name`.

    Raises:
        NetworkError: As `find_skips`; or for a block without such a part.
    """
    blocks = decoder_blocks(network)
    skips = find_skips(network)
    return {
        place_name(skip.address, part): _site(blocks[skip.address], skip, part)
        for part in ("both", *(part for part in parts if part != "both"))
        for skip in skips
    }


def _site(block: nn.Module, skip: Skip, part: str) -> SkipSite:
    start, length = skip.main_channels, skip.skip_channels
    if part == "both":
        return SkipSite(block, start=start, length=length)
    if part == "residual":
        # Its input is what the activation has just made.
        return SkipSite(_convolution(block, skip, _RESIDUALS), start=start, length=length)
    convolution = _convolution(block, skip, _SHORTCUTS)
    if part == "whole-shortcut":
        return SkipSite(convolution, argument=None)
    return SkipSite(convolution, start=start, length=length, shared=True)


def _convolution(block: nn.Module, skip: Skip, names: tuple[str, ...]) -> nn.Module:
    """Return the block's convolution of one of these names that reads main path and skip."""
    for name in names:
        module: Any = getattr(block, name, None)
        weight = getattr(module, "weight", None)
        if weight is not None and weight.shape[1] == skip.main_channels + skip.skip_channels:
            return module  # type: ignore[no-any-return]
    raise NetworkError(
        f"network: {skip.address}",
        expected=f"a convolution {' or '.join(names)} of the main path and the skip",
        found=f"{type(block).__name__} without one",
        hint="scale the skip itself: part both",
    )


def _halves(network: nn.Module) -> tuple[Any, Any]:
    for holder in (network, *(getattr(network, name, None) for name in _HOLDERS)):
        encoder, decoder = getattr(holder, "enc", None), getattr(holder, "dec", None)
        if hasattr(encoder, "items") and hasattr(decoder, "items"):
            return encoder, decoder
    raise _unknown(f"{type(network).__name__} without `enc` and `dec`")


def _main(modules: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    # The auxiliary modules of skip and residual architectures change features in place of a
    # block's output or make the image: they neither push nor receive a skip.
    return ((name, module) for name, module in modules if "_aux_" not in name)


def _groups(module: Any, name: str) -> int:
    if hasattr(module, "conv_res0"):  # EDM2's block
        return 0
    return _channels(getattr(module, "norm0", None), "num_groups", f"{name}.norm0")


def _channels(module: Any, attribute: str, name: str) -> int:
    value = getattr(module, attribute, None)
    if not isinstance(value, int) or value < 1:
        raise _unknown(f"`{name}` without a number `{attribute}`")
    return value


def _unknown(found: str) -> NetworkError:
    return NetworkError(
        "network",
        expected="a U-Net of the EDM family: `enc` and `dec` with blocks like `16x16_block0`",
        found=found,
        hint="load the network with skiptune.sampling.load_checkpoint",
    )
