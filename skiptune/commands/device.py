"""The torch device a command works on: tried before anything heavier is loaded."""

from __future__ import annotations

from skiptune.errors import SpecError

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use.

    Raises:
        SpecError: Naming the devices that are there.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise SpecError(
            f"--device {device}",
            expected=f"one of {', '.join(there)}",
            found=str(error).splitlines()[0],
            hint="leave --device out to work on the CPU",
        ) from None
