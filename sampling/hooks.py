"""Installing a schedule on a network: forward pre-hooks, no edited or wrapped module.

One hook on the network reads the noise level of every call; one hook on each decoder block that
receives a skip multiplies the last channels of the block's input. The encoder's own output is
never touched, because it also flows on in the encoder.

Where a scale is 1 nothing is multiplied, so the baseline is the untouched network bit for bit.
In inference mode the skip's channels are multiplied in place, in the concatenated tensor that the
network made for this block alone. Everywhere else they are multiplied out of place, because
gradients and checkpointing need the tensor as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skiptune.errors import NetworkError
from skiptune.sampling.factors import Factors, Scales
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import decoder_blocks, find_skips

__all__ = ["Handle", "Scales", "apply", "check_effect", "effect", "scaled"]


class Handle:
    """A schedule installed on a network; made by `apply`."""

    def __init__(self, factors: Factors, hooks: list[RemovableHandle], scales: Scales) -> None:
        self._factors = factors
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
        if not self._hooks:
            raise NetworkError(
                "handle",
                expected="a handle whose schedule is installed",
                found="a handle that was removed",
                hint="install the schedule with skiptune.apply(network, schedule)",
            )
        self._factors.load(schedule)
        self._scales = schedule

    def remove(self) -> None:
        """Take every hook off the network; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def apply(network: nn.Module, schedule: Scales) -> Handle:
    """Install a schedule on a network until `Handle.remove`.

    Compile after this, never before: a compiled network ignores hooks that come later. A network
    that was compiled in place is refused; the wrapper that `torch.compile` returns is known to
    itself alone, so give `check_effect` what you will call.

    Arguments:
        network: A denoiser of the EDM family, called as network(x, sigma, ...); or its bare U-Net
            where no window is used.
        schedule: A `Schedule`; or one tensor per address, 0-dim, or [B] for one scale per image,
            acting at every noise level, through which gradients flow.

    Raises:
        NetworkError: For an unknown address; a network outside the family, compiled, or with a
            schedule installed; windows on a network that is not told sigma.
    """
    _refuse_compiled(network)
    if any(isinstance(hook, _NetworkHook) for hook in network._forward_pre_hooks.values()):
        raise NetworkError(
            "network",
            expected="no schedule installed",
            found="a schedule installed already",
            hint="change it with handle.update(schedule), or call handle.remove() first",
        )
    names = list(inspect.signature(network.forward).parameters)
    position = names.index("sigma") if "sigma" in names else None
    skips = find_skips(network)
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    factors = Factors(skips, has_sigma=position is not None, device=device)
    factors.load(schedule)
    root = _NetworkHook(factors, position)
    hooks = [network.register_forward_pre_hook(root, with_kwargs=True)]
    blocks = decoder_blocks(network)
    for skip in skips:
        hook = _BlockHook(root, skip.index, skip.main_channels)
        hooks.append(blocks[skip.address].register_forward_pre_hook(hook))
    return Handle(factors, hooks, schedule)


@contextmanager
def scaled(network: nn.Module, schedule: Scales) -> Iterator[Handle]:
    """Install a schedule on a network for the length of a `with` block; see `apply`."""
    handle = apply(network, schedule)
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
        schedule: The schedule; the baseline is never refused.
        x: Noisy images [B, C, H, W].
        sigma: A noise level at which the schedule acts.
        class_labels: One-hot rows [B, classes], or None.

    Raises:
        NetworkError: If the output stays as it was, bit for bit.
    """
    change = effect(network, schedule, x=x, sigma=sigma, class_labels=class_labels)
    if change != 0 or schedule.is_baseline:
        return change
    if all(schedule.scale(address, sigma) == 1 for address in schedule.addresses):
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
    """Reads the noise level of every call of the network.

    An object, not a closure: a deep copy of the network then has hooks of its own.
    """

    def __init__(self, factors: Factors, position: int | None) -> None:
        self.factors = factors
        self.position = position
        self.entered_in = -1  # the backward pass in which the last call began, -1 for none

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sigma = kwargs.get("sigma")
        if self.position is not None and self.position < len(args):
            sigma = args[self.position]
        self.factors.enter(sigma)
        if not torch.compiler.is_compiling():
            self.entered_in = _backward_pass()


class _BlockHook:
    """Multiplies the skip's channels of a decoder block's input."""

    def __init__(self, root: _NetworkHook, row: int, main_channels: int) -> None:
        self.root = root
        self.row = row
        self.main_channels = main_channels

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x: Tensor = args[0]
        factor = self._factor(x)
        if isinstance(factor, float) and factor == 1:
            return None
        return (self._scaled(x, factor), *args[1:])

    def _factor(self, x: Tensor) -> float | Tensor:
        factors = self.root.factors
        if torch.compiler.is_compiling() or x.is_inference() or not factors.depends_on_sigma:
            return factors.of(self.row)
        # Checkpointing runs a block again during the backward pass, when the network's last call
        # may have been at another noise level. What the first run used stays with the input's
        # storage, which both kinds of checkpointing hand to the second run.
        storage: Any = x.untyped_storage()
        backward = _backward_pass()
        if backward == -1 or backward == self.root.entered_in:
            storage.skiptune_factor = factors.of(self.row)
        elif not hasattr(storage, "skiptune_factor"):
            raise NetworkError(
                "network",
                expected="checkpointing that keeps a block's input, because windows are used",
                found="a block run again in the backward pass on a copy of its input",
                hint="checkpoint the call of the whole network",
            )
        factor: float | Tensor = storage.skiptune_factor
        return factor

    def _scaled(self, x: Tensor, factor: float | Tensor) -> Tensor:
        main, skip = x[:, : self.main_channels], x[:, self.main_channels :]
        if isinstance(factor, Tensor):
            if factor.dim() == 1 and factor.shape[0] not in (1, x.shape[0]):
                raise NetworkError(
                    "scales",
                    expected=f"one scale per image: [{x.shape[0]}]",
                    found=str(list(factor.shape)),
                    hint="give one scale for all images, or as many as there are images",
                )
            # A wider dtype would promote everything after it.
            factor = factor.to(x.device, x.dtype).reshape(-1, 1, 1, 1)
        if not torch.compiler.is_compiling() and x.is_inference():
            # Copying the whole input costs 6 to 8 % of a small network's time on a CPU.
            skip.mul_(factor)
            return x
        return torch.cat([main, skip * factor], dim=1)


def _backward_pass() -> int:
    """Return the number of the backward pass under way, -1 outside: as checkpointing asks it."""
    number: int = torch._C._current_graph_task_id()
    return number


def _refuse_compiled(network: nn.Module) -> None:
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
