"""The torch device a command works on: tried before anything heavier is loaded."""

from __future__ import annotations

import ctypes
import platform

from skiptune.errors import SpecError

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use, and make the CPU's memory ready.

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
    if torch.device(device).type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep what a forward pass frees for the next one.

    By default glibc maps each large tensor anew and gives it back, and the page faults cost a
    small network a fifth of its time on a CPU. Same switches as the environment's
    MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ (mallopt(3)).
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
