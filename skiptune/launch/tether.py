"""Run a program that is asked to leave when the process that started it dies, however it dies.

    python -m skiptune.launch.tether PARENT PROGRAM ARGUMENTS...

The kernel sends the signal, so a parent that is killed leaves nobody behind. prctl(2),
PR_SET_PDEATHSIG: it is kept across execve, and sent when the thread ends that started the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["tethered"]

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def tethered(words: Sequence[str]) -> list[str]:
    """Return the command line that runs a program tied to this process.

    Arguments:
        words: The program's absolute path and its arguments.
    """
    return [sys.executable, "-m", __name__, str(os.getpid()), *words]


def _main(parent: str, *words: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it has died before the kernel was told
        sys.exit(128 + signal.SIGTERM)
    os.execv(words[0], words)


if __name__ == "__main__":
    _main(*sys.argv[1:])
