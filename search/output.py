"""Files and folders that a person asked for: never half written, never over others unasked."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from skiptune.errors import OutputError

__all__ = ["check_folder_free", "check_no_device", "whole_folder", "write_whole"]


def write_whole(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file; it is there whole or not at all, also after a crash.

    Arguments:
        path: Where; the folder must exist.
        data: The file's content.
        force: Replace an existing file; of a link the file that it names.

    Raises:
        OutputError: When the file exists and `force` is not set, it cannot be written, or it is
            something else, e.g. a device.
    """
    check_no_device(path, where=str(path))
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
    if force:
        path = Path(os.path.realpath(path))
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


def check_no_device(path: Path, *, where: str) -> None:
    """Refuse what is neither a file nor a folder: replacing it would take it from everybody.

    Arguments:
        path: The file to be written; nothing may be there.
        where: What the user asked for, for the message.

    Raises:
        OutputError: It is a device, a pipe or a socket, or a link to one.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OutputError(
            where,
            expected="the path of a file",
            found="a device, a pipe or a socket, which is never replaced",
            hint="name a file",
        )


def check_folder_free(path: Path, *, marker: str, force: bool = False) -> None:
    """Refuse a folder that `whole_folder` would not write, before any work is done for it.

    Raises:
        OutputError: Something is there and `force` is not set, or it has no file `marker`, so
            that it is not a folder of this kind.
    """
    if not os.path.lexists(path):
        return
    ours = path.is_dir() and not path.is_symlink() and (path / marker).is_file()
    if not ours:
        raise OutputError(
            str(path),
            expected="a path where nothing is yet",
            found="a folder" if path.is_dir() else "a file",
            hint=f"choose another path: --force only replaces folders with a {marker}",
        )
    if not force:
        raise OutputError(
            str(path),
            expected="a path where nothing is yet",
            found=f"a folder with a {marker}",
            hint="choose another path, or replace the folder with --force",
        )


@contextlib.contextmanager
def whole_folder(path: Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """Yield a new folder to write into, which becomes `path` when the block ends without error.

    Arguments:
        path: Where; the folder above it must exist.
        marker: The file by which such a folder is known; the block writes it.
        force: Replace a folder that has one.

    Raises:
        OutputError: As `check_folder_free`; or the folder cannot be written, and nothing is left.
    """
    check_folder_free(path, marker=marker, force=force)
    # Hidden names beside the target, so that the last step stays on one file system.
    temporary, before = (
        path.with_name(f".{path.name}.{uuid.uuid4().hex}{end}") for end in ("", ".old")
    )
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, files in os.walk(temporary):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        check_folder_free(path, marker=marker, force=force)
        if path.exists():
            os.rename(path, before)
        try:
            os.rename(temporary, path)
        except OSError:
            if before.exists():
                os.rename(before, path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a folder that exists and can be written to, with room for the files",
            found=error.strerror or str(error),
            hint="choose another folder, or free some space in this one",
        ) from None
    finally:
        for left in (temporary, before):
            shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
