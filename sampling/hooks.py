"""Installing a schedule on a network: forward pre-hooks, no edited or wrapped module.

One hook on the network reads the noise level and the labels of every call; one hook on each
module that receives a skip multiplies the skip in the module's arguments (`SkipSite`): in most
families, the last channels of a decoder block's input. The encoder's own output is never touched,
because it also flows on in the encoder. Where a scale acts in one part of the block alone, a hook
on the convolution in it does the same.

Where a scale is 1 nothing is multiplied, so the baseline is the untouched network bit for bit.
In inference mode the skip's channels are multiplied in place, in the concatenated tensor that the
network made for this block alone. Everywhere else they are multiplied out of place, because
gradients and checkpointing need the tensor as it was.

A schedule may act in one branch of classifier-free guidance alone. An image is in the conditional
branch where its row of labels is not zero, so both branches may be two calls or one batch; where a
network's calls carry no rows of labels, `Handle.evaluating` says which images have one. Where they
carry no noise level either, a `CallReader` says how both follow from what they carry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skiptune.errors import NetworkError
from skiptune.sampling.factors import Factors, Labelled, Scales
from skiptune.sampling.schedule import Schedule, place_of
from skiptune.sampling.skips import SkipSite, skip_sites

__all__ = [
    "CallReader",
    "Handle",
    "Scales",
    "apply",
    "check_effect",
    "effect",
    "refuse_compiled",
    "scaled",
]


class CallReader(Protocol):
    """How the noise level and the guidance branch of a call follow from its arguments."""

    def sigma(self, call: Mapping[str, Any]) -> Tensor | float:
        """Return the noise level of a call, one for all images or [B].

        Arguments:
            call: Its arguments by name.
        """

    def labelled(self, call: Mapping[str, Any]) -> Labelled:
        """Return which images are in the conditional branch, all or none or bool [B]."""


class Handle:
    """A schedule installed on a network; made by `apply`.

    It is taken off by `remove`, or at the end of a ``with`` block, which can be entered once.
    """

    def __init__(self, root: _NetworkHook, hooks: list[RemovableHandle], scales: Scales) -> None:
        self._root = root
        self._hooks = hooks
        self._scales = scales

    @property
    def schedule(self) -> Scales:
        """What is installed."""
        return self._scales

    def update(self, schedule: Scales) -> None:
        """Install another schedule in place; a compiled network sees it too.

        Raises:
            NetworkError: As `apply`; or after `remove`.
        """
        self._refuse_removed()
        self._root.factors.load(schedule)
        self._scales = schedule

    @contextmanager
    def evaluating(self, labelled: Labelled) -> Iterator[None]:
        """Say of the calls in a `with` block which images are in the conditional branch.

        Arguments:
            labelled: True or False for all images, or bool [B] where a batch holds both branches.
        """
        before, self._root.labelled = self._root.labelled, labelled
        try:
            yield
        finally:
            self._root.labelled = before

    def remove(self) -> None:
        """Take every hook off the network; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        self._refuse_removed()
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    def _refuse_removed(self) -> None:
        if not self._hooks:
            raise NetworkError(
                "handle",
                expected="a handle whose schedule is installed",
                found="a handle that was removed",
                hint="install the schedule with skiptune.apply(network, schedule)",
            )


def apply(
    network: nn.Module,
    schedule: Scales,
    *,
    sites: Mapping[str, SkipSite] | None = None,
    parts: Iterable[str] = (),
    reader: CallReader | None = None,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
) -> Handle:
    """Install a schedule on a network until `Handle.remove`.

    Compile after this, never before: a compiled network ignores hooks that come later. A network
    that was compiled in place is refused; the wrapper that `torch.compile` returns is known to
    itself alone, so give `check_effect` what you will call.

    Arguments:
        network: A denoiser around a U-Net of a known family (`skips.find_places`), called as
            network(x, sigma, ...); or its bare U-Net where no window is used; or, with `sites`,
            any network.
        schedule: A `Schedule`; or one tensor per place (`schedule.place_name`), 0-dim, or [B] for
            one scale per image, acting at every noise level, through which gradients flow.
        sites: Where the skips of a network outside these families are scaled, by the addresses
            that its schedules use, deepest first; parts of them by the names of their places.
        parts: Parts of the blocks that later schedules will scale, beside those that this one
            does (`schedule.PARTS`). Others have no hooks, and cost nothing.
        reader: For a network that is not told sigma, or whose calls do not say which images have
            a label. It is asked where the schedule depends on it.
        watch: Told the arguments of every call by name, before it; but not by a compiled network.

    Raises:
        NetworkError: For an unknown address, or a part that the blocks do not have; a network
            of no known family, compiled, or with a schedule installed; windows on a network that
            is not told sigma; one branch of guidance on a network without labels.
    """
    refuse_compiled(network)
    if any(_is_hooked(module) for module in network.modules()):
        found = "one installed already"
        hint = "call handle.update(schedule), or handle.remove() first; copy networks before apply"
        raise NetworkError("network", expected="no schedule on it", found=found, hint=hint)
    names = list(inspect.signature(network.forward).parameters)
    if sites is None:
        sites = skip_sites(network, dict.fromkeys([*parts, *_parts(schedule)]))
    parameter = next(network.parameters(), None)
    # Weights that are brought layer by layer (offloading) are on the meta device between calls.
    device = torch.device("cpu")
    if parameter is not None and not parameter.is_meta:
        device = parameter.device
    factors = Factors(
        tuple(sites),
        has_sigma="sigma" in names or reader is not None,
        has_labels=getattr(network, "label_dim", None) != 0,
        device=device,
    )
    factors.load(schedule)
    root = _NetworkHook(factors, names, reader, watch)
    on_sites = _site_hooks(root, sites)
    hooks = [network.register_forward_pre_hook(root, with_kwargs=True)]
    for hook, site in on_sites:
        if site.argument is None:
            hooks.append(site.module.register_forward_hook(hook.on_output))
        else:
            hooks.append(site.module.register_forward_pre_hook(hook, with_kwargs=True))
    return Handle(root, hooks, schedule)


@contextmanager
def scaled(
    network: nn.Module,
    schedule: Scales,
    *,
    sites: Mapping[str, SkipSite] | None = None,
    parts: Iterable[str] = (),
) -> Iterator[Handle]:
    """Install a schedule on a network for the length of a `with` block; see `apply`."""
    handle = apply(network, schedule, sites=sites, parts=parts)
    try:
        yield handle
    finally:
        handle.remove()


def effect(
    network: nn.Module,
    schedule: Schedule,
    *,
    x: Tensor,
    sigma: Tensor | float,
    class_labels: Tensor | None = None,
) -> float:
    """Return the largest absolute change of the network's output that a schedule makes.

    Arguments:
        network: A denoiser without a schedule installed.
        schedule: The schedule.
        x: Noisy images [B, C, H, W].
        sigma: Noise level, one for all or [B].
        class_labels: One-hot rows [B, classes], or None.
    """
    level = torch.as_tensor(sigma, device=x.device)
    with torch.no_grad():
        before = network(x, level, class_labels)
        with scaled(network, schedule):
            after = network(x, level, class_labels)
    return float((after - before).abs().max())


def check_effect(
    network: nn.Module,
    schedule: Schedule,
    *,
    x: Tensor,
    sigma: float,
    class_labels: Tensor | None = None,
) -> float:
    """Return `effect`, and refuse a network on which the schedule does nothing.

    Arguments:
        network: A denoiser without a schedule installed.
        schedule: The schedule; one that scales nothing is never refused.
        x: Noisy images [B, C, H, W].
        sigma: A noise level at which the schedule acts.
        class_labels: One-hot rows [B, classes], or None; not looked at for a schedule that acts
            where there are none.

    Raises:
        NetworkError: If the output stays as it was, bit for bit.
    """
    if schedule.branches == "uncond":
        class_labels = None
    change = effect(network, schedule, x=x, sigma=sigma, class_labels=class_labels)
    if change != 0 or not schedule.terms:
        return change
    if schedule.branches == "cond" and class_labels is None:
        raise NetworkError(
            "class_labels",
            expected="one-hot rows, because the schedule acts where there are labels",
            found="none",
            hint="give the labels that sampling gives",
        )
    if not schedule.acts(sigma):
        raise NetworkError(
            "sigma",
            expected="a noise level at which the schedule acts",
            found=repr(sigma),
            hint="choose a noise level inside one of the schedule's windows",
        )
    raise NetworkError(
        "network",
        expected=f"an output that changes with {', '.join(schedule.addresses)}",
        found="the same output, bit for bit",
        hint="give the network itself, not something compiled or exported before",
    )


class _NetworkHook:
    """Reads the noise level and the labels of every call of the network.

    An object, not a closure: a deep copy of the network then has hooks of its own.
    """

    def __init__(
        self,
        factors: Factors,
        names: list[str],
        reader: CallReader | None,
        watch: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self.factors = factors
        self.names = names  # the arguments of the network's forward
        self.reader = reader
        self.watch = watch
        self.labelled: Labelled | None = None  # as told; None reads it off the labels
        self.entered_in = -1  # the backward pass in which the last call began, -1 for none
        self.parts: tuple[int, ...] = ()  # rows of the factors of all parts of blocks
        self.held: dict[int, float | Tensor] = {}  # their factors, in the block that runs

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self.names, args, strict=False)) | kwargs
        if self.watch is not None and not torch.compiler.is_compiling():
            self.watch(given)
        self.factors.enter(self._sigma(given), self._labelled(given))
        if not torch.compiler.is_compiling():
            self.entered_in = _backward_pass()
            if self.factors.depends_on_call:
                self.held = {row: self.factors.of(row) for row in self.parts}

    def _sigma(self, given: dict[str, Any]) -> Tensor | float | None:
        if self.reader is None:
            return given.get("sigma")
        return self.reader.sigma(given) if self.factors.depends_on_sigma else None

    def _labelled(self, given: dict[str, Any]) -> Labelled | None:
        if self.labelled is not None:
            return self.labelled
        if self.reader is not None:
            return self.reader.labelled(given) if self.factors.depends_on_branch else None
        if "class_labels" not in self.names or "encoder_hidden_states" in self.names:
            if not self.factors.depends_on_branch:
                return None
            text = "`class_labels`" if "class_labels" not in self.names else "that says so"
            raise NetworkError(
                "network",
                expected="to be told which images have labels: with handle.evaluating(...)",
                found=f"a network without an argument {text}",
                hint="say it around each call, or let the schedule act in both branches",
            )
        if not (torch.compiler.is_compiling() or self.factors.depends_on_branch):
            return None
        labels: Tensor | None = given.get("class_labels")
        return False if labels is None else (labels != 0).any(dim=-1)


class _SiteHook:
    """Multiplies the skip in the arguments of a module, or in what it returns.

    It keeps the site's numbers, not the site: the module would else refer to itself.

    Arguments:
        root: The network's hook.
        row: Of the factor.
        site: What is multiplied.
        parts: Rows of the parts of this block; None for a part itself.
    """

    def __init__(
        self, root: _NetworkHook, row: int, site: SkipSite, parts: tuple[int, ...] | None
    ) -> None:
        self.root = root
        self.row = row
        self.parts = parts
        self.argument = site.argument
        self.places: dict[str, int] = {}  # of the module's arguments, by name
        if isinstance(site.argument, str):
            names = inspect.signature(site.module.forward).parameters
            self.places = {name: place for place, name in enumerate(names)}
        self.dim, self.start, self.length = site.dim, site.start, site.length
        self.in_place = not site.shared and site.argument is not None

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        argument = self.argument
        assert argument is not None
        if isinstance(argument, str) and argument not in kwargs:
            argument = self.places.get(argument, argument)  # this call gives it by its place
        given: Any = args if isinstance(argument, int) else kwargs
        try:
            x: Tensor = given[argument]
        except (IndexError, KeyError):
            raise NetworkError(
                "network",
                expected=f"a skip in argument {self.argument!r} of {type(module).__name__}",
                found=f"{len(args)} arguments and the keywords {', '.join(kwargs) or 'none'}",
                hint="name the argument in `sites` as the network's calls give it",
            ) from None
        factor = self._factor(x)
        if isinstance(factor, float) and factor == 1:
            return None
        x = self._scaled(x, factor)
        if isinstance(argument, int):
            return (*args[:argument], x, *args[argument + 1 :]), kwargs
        return args, {**kwargs, argument: x}

    def on_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Multiply what the module returns."""
        factor = self._factor(output)
        if isinstance(factor, float) and factor == 1:
            return None
        return self._scaled(output, factor)

    def _factor(self, x: Tensor) -> float | Tensor:
        factors = self.root.factors
        if torch.compiler.is_compiling() or not factors.depends_on_call:
            return factors.of(self.row)
        if self.parts is None:
            return self.root.held[self.row]
        if x.is_inference():
            return factors.of(self.row)
        # Checkpointing runs a block again during the backward pass, when the network's last call
        # may have been at another noise level. What the first run used stays with the input's
        # storage, which both kinds of checkpointing hand to the second run.
        kept = vars(x.untyped_storage()).setdefault("skiptune_factors", {})
        backward = _backward_pass()
        if backward == -1 or backward == self.root.entered_in:
            kept.update({row: factors.of(row) for row in (self.row, *self.parts)})
        elif self.row not in kept:
            raise NetworkError(
                "network",
                expected="checkpointing that keeps a block's input, because windows are used",
                found="a block run again in the backward pass on a copy of its input",
                hint="checkpoint the call of the whole network",
            )
        self.root.held.update({row: kept[row] for row in self.parts})
        factor: float | Tensor = kept[self.row]
        return factor

    def _scaled(self, x: Tensor, factor: float | Tensor) -> Tensor:
        if isinstance(factor, Tensor):
            if factor.dim() == 1 and factor.shape[0] not in (1, x.shape[0]):
                raise NetworkError(
                    "scales",
                    expected=f"one scale per image: [{x.shape[0]}]",
                    found=str(list(factor.shape)),
                    hint="give one scale for all images, or as many as there are images",
                )
            # A wider dtype would promote everything after it.
            factor = factor.to(x.device, x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        if self.length is None:
            # The encoder's own output: it may also be the input of what follows in the encoder.
            return x * factor
        sizes = [self.start, self.length, x.shape[self.dim] - self.start - self.length]
        before, skip, after = x.split(sizes, dim=self.dim)
        if self.in_place and not torch.compiler.is_compiling() and x.is_inference():
            # Copying the whole input costs 6 to 8 % of a small network's time on a CPU.
            skip.mul_(factor)
            return x
        parts = zip(sizes, (before, skip * factor, after), strict=True)
        return torch.cat([part for size, part in parts if size], dim=self.dim)


def _is_hooked(module: nn.Module) -> bool:
    """Return whether a schedule is installed on a module, or on a network that it is part of."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(isinstance(getattr(h, "__self__", h), _NetworkHook | _SiteHook) for h in hooks)


def _parts(scales: Scales) -> Iterable[str]:
    if isinstance(scales, Schedule):
        return scales.parts
    return [place_of(name)[1] for name in scales]


def _site_hooks(
    root: _NetworkHook, sites: Mapping[str, SkipSite]
) -> list[tuple[_SiteHook, SkipSite]]:
    """Return the hook of each site; that of a whole skip knows the rows of its block's parts."""
    rows: dict[str, list[int]] = {name: [] for name in sites if place_of(name)[1] == "both"}
    for row, name in enumerate(sites):
        address, part = place_of(name)
        if address not in rows:
            raise NetworkError(
                f"sites: {name}",
                expected=f"a site {address} as well: the block whose part it is",
                found="none",
                hint="name the place where the block receives the skip",
            )
        if part != "both":
            rows[address].append(row)
    root.parts = tuple(row for parts in rows.values() for row in parts)
    return [
        (_SiteHook(root, row, site, tuple(rows[name]) if name in rows else None), site)
        for row, (name, site) in enumerate(sites.items())
    ]


def _backward_pass() -> int:
    """Return the number of the backward pass under way, -1 outside: as checkpointing asks it."""
    number: int = torch._C._current_graph_task_id()
    return number


def refuse_compiled(network: nn.Module) -> None:
    """Refuse a network that was compiled, or a part of which was.

    Raises:
        NetworkError: It was.
    """
    for name, module in [("", network), *network.named_modules()]:
        # The wrapper that torch.compile returns forwards attributes, so its type is asked.
        wrapped = type(module).__name__ == "OptimizedModule"
        if wrapped or getattr(module, "_compiled_call_impl", None) is not None:
            raise NetworkError(
                f"network.{name}" if name else "network",
                expected="a network not yet compiled, because hooks added later are ignored",
                found="a compiled module",
                hint="apply the schedule first, then call torch.compile",
            )
