"""Files that a person asked for: never half written, never over another one unasked."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from skiptune.errors import OutputError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file; it is there whole or not at all, also after a crash.

    Arguments:
        path: Where; the folder must exist.
        data: The file's content.
        force: Replace an existing file.

    Raises:
        OutputError: When the file exists and `force` is not set, or it cannot be written.
    """
    taken = OutputError(
        str(path),
        expected="a path where no file is yet",
        found="an existing file",
        hint="choose another path, or replace the file with --force",
    )
    if os.path.isdir(path):
        raise OutputError(str(path), expected="a file", found="a folder", hint="name a file in it")
    if not force and os.path.lexists(path):
        raise taken
    # A hidden name beside the target, so that the last step stays on one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if force:
            os.replace(temporary, path)
        else:
            # Unlike a rename, a link fails where a file has appeared in the meantime.
            os.link(temporary, path)
        _sync(path.parent)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a folder that exists and can be written to",
            found=error.strerror or str(error),
            hint="choose another folder, or free some space in this one",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
