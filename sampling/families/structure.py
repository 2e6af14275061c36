"""Reading channel counts off modules of any class, and adding a decoder's up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.errors import NetworkError
from skiptune.sampling.skips import Skip, SkipPlace, SkipSite, is_mixed

if TYPE_CHECKING:
    from torch import nn

__all__ = ["concatenated", "count", "described", "reads", "refused"]


def described(module: Any, *names: str) -> bool:
    """Return whether a module has all attributes of these names."""
    return all(getattr(module, name, None) is not None for name in names)


def count(module: Any, attribute: str, where: str, structure: str) -> int:
    """Return a number above 0 that a module knows of itself, e.g. its ``out_channels``.

    Raises:
        NetworkError: It knows none.
    """
    value = getattr(module, attribute, None)
    if value is None:
        # An adapter (LoRA of peft) in the layer's place keeps the layer under this name.
        value = getattr(getattr(module, "base_layer", None), attribute, None)
    if not isinstance(value, int) or value < 1:
        raise refused(structure, f"`{where}` without a number `{attribute}`")
    return value


def reads(module: Any, channels: int) -> nn.Module | None:
    """Return a convolution or linear layer if it reads so many channels, else None."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() < 2 or weight.shape[1] != channels:
        return None
    return module  # type: ignore[no-any-return]


def concatenated(
    module: nn.Module,
    *,
    address: str,
    index: int,
    resolution: int,
    main: int,
    skip: int,
    received: int,
    groups: int,
    structure: str,
    shortcut: Any = None,
    residual: Any = None,
    residual_shared: bool = False,
    norm: nn.Module | None = None,
) -> SkipPlace:
    """Return the place of a skip concatenated behind the main path, in a block's argument 0.

    Arguments:
        module: The block.
        address: Of the skip.
        index: Of the skip, 0 for the deepest.
        resolution: Of the skip in pixels.
        main: Channels that the main path has made.
        skip: Channels that the encoder has left, 0 where nothing is left.
        received: Channels that the block reads.
        groups: Of the normalisation that reads the block's input; 0 where none does.
        structure: Of the family, for messages.
        shortcut: The block's shortcut, if it may be a convolution.
        residual: The first convolution of its branch.
        residual_shared: See `SkipPlace`.
        norm: See `SkipPlace`.

    Raises:
        NetworkError: The channels do not add up.
    """
    if skip == 0 or main + skip != received:
        raise refused(
            structure, f"`{address}` with {received} input channels, not {main} + {skip}"
        )
    return SkipPlace(
        skip=Skip(
            address=address,
            index=index,
            resolution=resolution,
            main_channels=main,
            skip_channels=skip,
            groups=groups,
            mixed=is_mixed(main, skip, groups),
        ),
        site=SkipSite(module, start=main, length=skip),
        shortcut=reads(shortcut, received),
        residual=reads(residual, received),
        residual_shared=residual_shared,
        norm=norm,
    )


def refused(structure: str, found: str) -> NetworkError:
    """Return the error of a network that looks like one of a family and is none."""
    return NetworkError(
        "network",
        expected=f"a U-Net with {structure}",
        found=found,
        hint="name its skips with skiptune.sampling.register_family, or load a published network"
        " with skiptune.sampling.load_checkpoint",
    )
