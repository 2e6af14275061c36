"""The skips of a network: where a decoder block receives an encoder's output.

A skip is addressed by the decoder block that receives it, mostly concatenated behind the main path
on the channel dimension. That tensor goes through a group normalisation and, unnormalised, through
the block's 1x1 shortcut. A group that holds only skip channels undoes their scale, so the scale
acts through the shortcut alone, unless the cut between main path and skip lies inside a group. In
blocks without group normalisation (EDM2, U-ViT) the scale acts through everything.

A scale may act in one part of the block alone (`schedule.PARTS`). A convolution is linear in its
input channels, so scaling the skip's channels of its input is scaling the skip's columns of its
weight, which stays untouched. In EDM2's blocks, whose weights are normalised on every call, only
the former is possible.

Networks are known by their structure, family by family (`sampling.families`); a family of one's
own enters with `register_family`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiptune.errors import NetworkError
from skiptune.sampling.schedule import place_name

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Skip",
    "SkipFamily",
    "SkipPlace",
    "SkipSite",
    "decoder_blocks",
    "find_places",
    "find_skips",
    "is_mixed",
    "register_family",
    "skip_sites",
]

# Where networks hold the U-Net inside: EDM and EDM2; LDM holds it two levels down.
_HOLDERS = ("model", "unet", "diffusion_model")


@dataclass(frozen=True)
class Skip:
    """One skip.

    Arguments:
        address: The decoder block that receives it, e.g. ``16x16_block0``.
        index: Place in the order from the deepest, which is 0, to the shallowest.
        resolution: Height and width of the feature maps in pixels, e.g. 16; of tokens, their
            rows and columns; 0 where nothing says the images' size.
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
        argument: Place among its positional arguments, or the name of an argument, whether calls
            give it by name or by place; None for what the module returns.
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


@dataclass(frozen=True)
class SkipPlace:
    """A skip, where it is scaled, and the parts of the block that it feeds.

    Arguments:
        skip: The skip.
        site: Where it is scaled.
        shortcut: The convolution beside the branch; None where the block has none, or where it
            does not read main path and skip in the order of the site.
        residual: The branch's first convolution, of the same channels; None likewise.
        residual_shared: Whether that reads the block's input itself, as the shortcut does, not
            what a normalisation or an activation has made of it.
        norm: The group normalisation that reads the block's input before the branch, if any.
        joint: The one layer that reads main path and skip, concatenated in the order of their
            channels, where nothing else reads the skip (U-ViT's `skip_linear`).
    """

    skip: Skip
    site: SkipSite
    shortcut: nn.Module | None = None
    residual: nn.Module | None = None
    residual_shared: bool = False
    norm: nn.Module | None = None
    joint: nn.Module | None = None


@dataclass(frozen=True)
class SkipFamily:
    """A kind of networks, known by its structure.

    Arguments:
        name: Of the family, e.g. ``EDM family``.
        structure: What such a network has, in few words, for messages.
        find: From a network (or a U-Net held by one) and the size of its images in pixels (0
            where nothing says it) to its skips, deepest first; None for a network of another
            kind. It raises a NetworkError for one of this kind whose channels do not add up.
    """

    name: str
    structure: str
    find: Callable[[nn.Module, int], Sequence[SkipPlace] | None]


_registered: dict[str, SkipFamily] = {}


def register_family(family: SkipFamily) -> None:
    """Make networks of another kind known, for as long as the process lives.

    It is asked before skiptune's own families, the last one registered first; one of the same name
    takes the place of the earlier.
    """
    _registered.pop(family.name, None)
    _registered[family.name] = family


def find_places(network: nn.Module) -> tuple[SkipPlace, ...]:
    """Find the skips of a network with where they are scaled, deepest first, by its structure.

    No image goes through the network, so its parameters may be on the meta device.

    Arguments:
        network: A U-Net, or what holds it as `model`, `unet` or `diffusion_model`.

    Raises:
        NetworkError: For a network of no known family, or whose channel counts do not add up.
    """
    from skiptune.sampling.families import FAMILIES

    families = (*reversed(_registered.values()), *FAMILIES)
    size = 0
    for held in _held(network):
        size = size or _image_size(held)
        for family in families:
            places = family.find(held, size)
            if places is not None:
                return _checked(family, held, places)
    known = "; ".join(f"{family.structure} ({family.name})" for family in families)
    raise NetworkError(
        "network",
        expected=f"a U-Net of a known family: {known}",
        found=f"{type(network).__name__} without any of these",
        hint="load the network with skiptune.sampling.load_checkpoint; of a U-Net of another kind"
        " name the skips with skiptune.sampling.register_family, which `skiptune skips --trace`"
        " helps to find",
    )


def find_skips(network: nn.Module) -> tuple[Skip, ...]:
    """Find the skips of a network, deepest first; see `find_places`.

    Raises:
        NetworkError: As `find_places`.
    """
    return tuple(place.skip for place in find_places(network))


def decoder_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder blocks that receive a skip, by address, deepest first.

    Raises:
        NetworkError: As `find_places`.
    """
    return {place.skip.address: place.site.module for place in find_places(network)}


def skip_sites(network: nn.Module, parts: Iterable[str] = ()) -> dict[str, SkipSite]:
    """Return where the skips of a network are scaled, by the names of places.

    Arguments:
        network: As for `find_places`.
        parts: Parts of the blocks that are wanted beside the skips themselves.

    Returns:
        The skips by address, deepest first; then part by part, by `schedule.place_name`.

    Raises:
        NetworkError: As `find_places`; or for a block without such a part.
    """
    places = find_places(network)
    return {
        place_name(place.skip.address, part): _site(place, part)
        for part in ("both", *(part for part in parts if part != "both"))
        for place in places
    }


def is_mixed(main_channels: int, skip_channels: int, groups: int) -> bool:
    """Return whether a normalisation's group holds channels of both paths; True without groups."""
    return groups == 0 or main_channels % ((main_channels + skip_channels) // groups) != 0


def _site(place: SkipPlace, part: str) -> SkipSite:
    site = place.site
    if part == "both":
        return site
    name = "residual" if part == "residual" else "shortcut"
    module = place.residual if part == "residual" else place.shortcut
    if module is None:
        raise NetworkError(
            f"network: {place.skip.address}",
            expected=f"a {name} convolution of the main path and the skip",
            found=f"{type(site.module).__name__} without one",
            hint="scale the skip itself: part both",
        )
    if part == "whole-shortcut":
        return SkipSite(module, argument=None)
    # The residual's input is what the activation has just made; the shortcut's is the block's.
    shared = part == "shortcut" or place.residual_shared
    return SkipSite(module, dim=site.dim, start=site.start, length=site.length, shared=shared)


def _held(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the network and what it holds, from the outside to the inside."""
    waiting: list[Any] = [network]
    for _ in range(3):
        yield from waiting
        inner = [getattr(holder, name, None) for holder in waiting for name in _HOLDERS]
        waiting = [module for module in inner if hasattr(module, "named_modules")]


def _image_size(network: Any) -> int:
    config = getattr(network, "config", None)
    for value in (
        getattr(network, "img_resolution", None),
        getattr(network, "image_size", None),
        getattr(config, "sample_size", None),
    ):
        if isinstance(value, list | tuple) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _checked(
    family: SkipFamily, network: nn.Module, places: Sequence[SkipPlace]
) -> tuple[SkipPlace, ...]:
    """Return what a family has found, and refuse what the rest of skiptune cannot rely on."""
    found = ""
    addresses = [place.skip.address for place in places]
    if not places:
        found = f"{type(network).__name__} without a single one"
    elif len(set(addresses)) < len(addresses):
        found = f"addresses that are not different: {', '.join(addresses)}"
    elif [place.skip.index for place in places] != list(range(len(places))):
        found = "skips whose index is not their place in the order"
    if found:
        raise NetworkError(
            "network",
            expected=f"skips of the {family.name}: {family.structure}",
            found=found,
            hint="list the skips deepest first, each with an address of its own",
        )
    return tuple(places)
