"""Finding the skips of a network of any kind, by watching one forward pass.

Every concatenation of two feature maps along their channels is looked at: it joins a skip where
one of the two was made, then used by what the other was made of. What a network does with its
input, with constants or with tokens beside others is none. The module that is first given the
result is where a hook can scale the skip (`SkipSite`).

What is found holds for the network and the call that were watched; skips that are added instead
of concatenated are not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skiptune.errors import NetworkError
from skiptune.sampling.skips import Skip, SkipFamily, SkipPlace, SkipSite, is_mixed

__all__ = ["family_of", "trace_skips"]

# Functions whose result is still the same feature map, multiplied or copied.
_SAME = {
    "mul",
    "__mul__",
    "__rmul__",
    "div",
    "__truediv__",
    "to",
    "type",
    "float",
    "half",
    "bfloat16",
    "clone",
    "contiguous",
    "detach",
    "dropout",
}
_FEWEST_DIMS = 3  # tokens, images and volumes; not the embeddings of a noise level


def trace_skips(network: nn.Module, *args: Any, **kwargs: Any) -> tuple[SkipPlace, ...]:
    """Find the skips of a network by one call of it, deepest first.

    Arguments:
        network: In evaluation mode, not compiled.
        args: What it is called with; small images on the meta device will do.
        kwargs: The same by name.

    Returns:
        The skips in the order in which the decoder receives them, by the full names of the modules
        that receive them; with the shortcut and the residual convolution where they are seen.

    Raises:
        NetworkError: For a network without such skips, with the reason; or one that receives them
            where no hook can scale them.
    """
    watch = _Watch()
    with torch.no_grad(), _hooked(network, watch), watch:
        for value in _tensors((args, kwargs)):
            watch.enter(value)
        network(*args, **kwargs)
    return _places(network, watch)


def family_of(name: str, network: nn.Module, places: tuple[SkipPlace, ...]) -> SkipFamily:
    """Return a family for `register_family` of networks built as a traced one.

    A network belongs to it if it has modules of the same names and classes.

    Arguments:
        name: Of the family.
        network: The one that was traced.
        places: What was found in it, of which the addresses are names of its modules.
    """
    names = {id(module): name for name, module in network.named_modules()}
    classes = {names[id(p.site.module)]: type(p.site.module) for p in places}

    def find(other: nn.Module, size: int) -> list[SkipPlace] | None:
        modules = dict(other.named_modules())
        if any(type(modules.get(name)) is not kind for name, kind in classes.items()):
            return None

        def there(module: nn.Module | None) -> Any:
            return None if module is None else modules[names[id(module)]]

        return [
            SkipPlace(
                p.skip,
                SkipSite(
                    there(p.site.module), p.site.argument, p.site.dim, p.site.start, p.site.length
                ),
                there(p.shortcut),
                there(p.residual),
            )
            for p in places
        ]

    return SkipFamily(name, f"modules {', '.join(classes)}", find)


@dataclass
class _Made:
    """A feature map's history.

    Arguments:
        when: When it was made, as a count of functions.
        used: When something else was first made of it; infinity for never.
        given: Whether the network was given it.
    """

    when: int
    used: float = math.inf
    given: bool = False


@dataclass
class _Joined:
    """A concatenation of main path and skip.

    Arguments:
        result: What was made.
        dim: Along which dimension, counted from the front.
        start: First channel of the skip.
        length: Its channels.
        module: That was first given the result, if any.
        argument: As what.
        readers: The convolutions inside that read the very result.
        residual: The first other one of as many channels.
        groups: Of the normalisation inside that reads the very result.
        running: Whether the module runs.
        elsewhere: Whether the result is also read outside of the module.
    """

    result: Tensor
    dim: int
    start: int
    length: int
    module: nn.Module | None = None
    argument: int | str = 0
    readers: list[nn.Module] = field(default_factory=list)
    residual: nn.Module | None = None
    groups: int = 0
    running: bool = False
    elsewhere: bool = False

    @property
    def parts(self) -> tuple[nn.Module | None, nn.Module | None]:
        """The shortcut and the residual convolution, where it is clear which is which."""
        if len(self.readers) != 1 or self.readers[0] is self.module:
            return None, None
        return self.readers[0], self.residual


class _Watch(TorchFunctionMode):
    """Sees every function and the modules around it, and keeps what joins a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: list[_Joined] = []
        self.other = 0  # concatenations of two feature maps that join no skip
        self._count = 0
        self._made: dict[int, _Made] = {}
        self._kept: list[Tensor] = []  # or a later tensor takes the id of one

    def enter(self, value: Tensor) -> None:
        """Remember a tensor that the network is given."""
        self._made[id(value)] = _Made(0, given=True)
        self._kept.append(value)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self._count += 1
        read = [tensor for tensor in _tensors((args, kwargs)) if id(tensor) in self._made]
        name = getattr(func, "__name__", "")
        maps = [tensor for tensor in _tensors((args, kwargs)) if tensor.numel() > 1]
        if name in _SAME and len(maps) == 1 and id(maps[0]) in self._made:
            self._keep(made, self._made[id(maps[0])])
            return made
        if isinstance(made, Tensor) and name != "__get__":
            for join in self.joined:
                if not join.running and any(tensor is join.result for tensor in read):
                    join.elsewhere = True
        if name in ("cat", "concat", "concatenate"):
            self._look(made, args, kwargs)
        for tensor in read:
            history = self._made[id(tensor)]
            history.used = min(history.used, self._count)
        for tensor in _tensors(made):
            self._keep(tensor, _Made(self._count))
        return made

    def receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the arguments of a module that is about to run."""
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for join in self.joined:
            for place, value in given:
                if value is join.result and join.module is None:
                    join.module, join.argument, join.running = module, place, True
                elif join.module is not None and place == 0:
                    self._part(join, module, value)

    def leave(self, module: nn.Module, args: tuple[Any, ...], made: Any) -> None:
        """Remember that a module has run."""
        for join in self.joined:
            join.running = join.running and join.module is not module

    def _part(self, join: _Joined, module: nn.Module, value: Any) -> None:
        """Keep what stands in the receiving module: normalisation and convolutions."""
        assert join.module is not None
        if not any(inner is module for inner in join.module.modules()):
            return
        groups = getattr(module, "num_groups", None)
        if value is join.result and isinstance(groups, int) and not join.groups:
            join.groups = groups
        weight = getattr(module, "weight", None)
        channels = join.result.shape[join.dim]
        if isinstance(weight, Tensor) and weight.dim() > 1 and weight.shape[1] == channels:
            if value is join.result:
                join.readers.append(module)
            elif join.residual is None and value.shape == join.result.shape:
                join.residual = module

    def _keep(self, value: Any, history: _Made) -> None:
        if isinstance(value, Tensor):
            self._made[id(value)] = history
            self._kept.append(value)

    def _look(self, made: Tensor, args: Any, kwargs: dict[str, Any]) -> None:
        parts = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        dim %= made.dim()
        # Of three dimensions the last are features: beside each other are tokens of two kinds.
        channels = 1 if made.dim() != _FEWEST_DIMS else made.dim() - 1
        alike = len(parts) == 2 and parts[0].dim() == parts[1].dim() >= _FEWEST_DIMS
        if not alike or dim != channels:
            return
        histories = [self._made.get(id(part)) for part in parts]
        if any(history is None or history.given for history in histories):
            self.other += 1
            return
        first, second = (history for history in histories if history is not None)
        older, newer = (first, second) if first.when < second.when else (second, first)
        if older.used > newer.when:
            self.other += 1
            return
        sizes = [part.shape[dim] for part in parts]
        # The skip is what was made first, on whichever side it stands.
        start, length = (0, sizes[0]) if older is first else (sizes[0], sizes[1])
        self.joined.append(_Joined(made, dim, start, length))


@contextmanager
def _hooked(network: nn.Module, watch: _Watch) -> Iterator[None]:
    hooks = [
        module.register_forward_pre_hook(watch.receive, with_kwargs=True)
        for module in network.modules()
    ]
    hooks += [module.register_forward_hook(watch.leave) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _places(network: nn.Module, watch: _Watch) -> tuple[SkipPlace, ...]:
    names = {id(module): name for name, module in network.named_modules()}
    places: list[SkipPlace] = []
    for join in watch.joined:
        total = join.result.shape[join.dim]
        shape = " x ".join(map(str, join.result.shape))
        if join.module is None:
            raise _none(network, f"one joined to a tensor {shape} that no module is given")
        address = names[id(join.module)]
        if join.elsewhere:
            raise _none(network, f"one given to {address} and read outside of it too")
        if any(place.skip.address == address for place in places):
            raise _none(network, f"several given to the same module, {address}")
        main = total - join.length
        groups = join.groups if total % max(join.groups, 1) == 0 else 0
        mixed = is_mixed(join.start or join.length, total - (join.start or join.length), groups)
        skip = Skip(
            address=address,
            index=len(places),
            resolution=_side(join.result, join.dim),
            main_channels=main,
            skip_channels=join.length,
            groups=groups,
            mixed=mixed,
        )
        # Counted from the back where tokens end in their features.
        dim = -1 if join.dim == join.result.dim() - 1 else join.dim
        site = SkipSite(join.module, join.argument, dim, join.start, join.length)
        places.append(SkipPlace(skip, site, *join.parts))
    if not places:
        seen = (
            f"{watch.other} concatenations of two feature maps, of which none joins one made"
            " earlier, and used since, to what became of it"
            if watch.other
            else "no concatenation of two feature maps along their channels"
        )
        raise _none(network, seen)
    return tuple(places)


def _none(network: nn.Module, found: str) -> NetworkError:
    return NetworkError(
        "network",
        expected="skips that one call of the network concatenates to the main path, each given to"
        " a module of its own",
        found=f"in {type(network).__name__}: {found}",
        hint="without skips there is nothing to tune; where there are some, name them with"
        " skiptune.sampling.register_family",
    )


def _side(x: Tensor, dim: int) -> int:
    """Return the height of feature maps; of tokens, the side of the square they fill."""
    return math.isqrt(x.shape[1]) if dim == x.dim() - 1 else int(x.shape[-2:][0])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
