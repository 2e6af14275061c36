"""Programs of a cluster: found on the PATH, asked, and waited for with an end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from skiptune.errors import LaunchError

__all__ = ["SECONDS", "asked"]

SECONDS: Final = 60.0  # that a busy server may take for an answer


def asked(
    words: Sequence[str],
    *,
    missing: LaunchError,
    refused: Callable[[Sequence[str], str], LaunchError],
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it says, whatever its exit code.

    Arguments:
        words: Its name and arguments.
        missing: The error where it is not installed here.
        refused: Makes the error where it cannot be run, or does not answer in time.

    Raises:
        LaunchError: One of these.
    """
    path = shutil.which(words[0])
    if path is None:
        raise missing
    try:
        return subprocess.run(
            [path, *words[1:]],
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # what a site's own wrapper says may be in any encoding
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise refused(words, f"no answer for {SECONDS:.0f} s") from None
    except OSError as error:
        raise refused(words, str(error)) from None
