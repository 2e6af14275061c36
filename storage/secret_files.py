"""Files that hold one secret, which nobody but their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path

from skiptune.errors import StorageError, quoted

__all__ = ["read_secret"]


def read_secret(file: Path, *, where: str, what: str, example: str) -> str:
    """Return the one line of a file of mode 0600.

    Arguments:
        file: The file.
        where: How the user has named it, for messages.
        what: What it holds, e.g. ``"the URL of the database"``.
        example: What to do where it holds something else, a hint.

    Raises:
        StorageError: It is missing, readable by others, empty, or has more than one line.
    """
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        short = what.partition(" of ")[0]
        raise StorageError(
            where,
            expected=f"a file that holds {what}",
            found=found or str(error),
            hint=f"write {short} into it, then: chmod 600 FILE",
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StorageError(
            where,
            expected="a file that nobody but its owner may read (mode 0600)",
            found=f"mode {stat.S_IMODE(mode):04o}",
            hint=f"chmod 600 {quoted(file)}",
        )
    if not text or len(text.splitlines()) > 1:
        raise StorageError(
            where,
            expected=f"one line: {what}",
            found=f"{len(text.splitlines())} lines",
            hint=example,
        )
    return text
