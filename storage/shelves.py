"""Where stored bytes lie: what a shelf is, and the folder, which may be a network share.

A shelf holds bytes by name; a name is a path with slashes below the shelf. Who reads a name gets
all bytes of one `put`, or learns that there are none. In a folder a file is written under a
temporary name beside its final one, flushed to the disk, renamed, and the folder flushed; so a
file under a final name is whole, whatever happened while it was made. `buckets` holds the other
shelf.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from skiptune.errors import DiskFullError, StorageError
from skiptune.storage.failpoints import fail_point

__all__ = [
    "FULL_HINT",
    "Entry",
    "FolderShelf",
    "Shelf",
    "is_temporary",
    "open_shelf",
    "without_password",
]

FULL_HINT: Final = "free some space, then run the same command again: nothing committed is lost"

_FILE_MODE: Final = 0o664
_FOLDER_MODE: Final = 0o2775  # setgid: what is made inside belongs to the folder's group

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

_TEMPORARY: Final = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Entry:
    """What a shelf knows of a name.

    Arguments:
        name: Path with slashes below the shelf.
        bytes: Size.
        modified: When it was last put: seconds since 1970 by the shelf's own clock.
    """

    name: str
    bytes: int
    modified: float


class Shelf(Protocol):
    """Bytes by name. Every method raises StorageError where the shelf cannot be used."""

    @property
    def kind(self) -> str:
        """What it is in a message: ``"folder"`` or ``"bucket"``."""

    @property
    def location(self) -> str:
        """Where it is, as it may be printed and opened again."""

    def place(self, name: str) -> str:
        """Return where a name lies or would lie, for messages."""

    def exists(self) -> bool:
        """Whether there is a folder; a bucket that is missing raises."""

    def find(self, name: str) -> Entry | None:
        """Return what is known of a name, None where there is none."""

    def get(self, name: str) -> bytes | None:
        """Return the bytes of a name, None where there is none."""

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name; what was there is replaced, and its age starts again.

        Raises:
            DiskFullError: There is no space.
            UnavailableError: A bucket cannot be reached now.
            StorageError: Anything else.
        """

    def remove(self, name: str) -> None:
        """Remove a name; it may be missing."""

    def entries(self, below: str = "") -> Iterator[Entry]:
        """Yield every name that begins with `below`, which is empty or ends with a slash."""

    def now(self) -> float:
        """Return the time by the clock of `Entry.modified`."""


def open_shelf(location: str | Path, *, group_writable: bool = False) -> Shelf:
    """Return the shelf at a location; a folder is made by the first `put`.

    Arguments:
        location: Path of a folder, or ``s3://bucket/prefix``.
        group_writable: Let the group of a folder write to it, whatever the umask says.

    Raises:
        StorageError: The location is neither; or a bucket is asked for what only a folder can.
    """
    text = str(location)
    # One slash, because a Path has already made one of two.
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    if not text.strip() or (scheme and not text.startswith("s3://")):
        raise StorageError(
            without_password(text).strip() or "the place of stored files",
            expected="the path of a folder, or s3://BUCKET/PREFIX",
            found=f"a location that begins with {scheme[0]}" if scheme else "an empty text",
            hint="name another place: --artifacts FOLDER, or --artifacts s3://BUCKET/PREFIX",
        )
    if scheme is None:
        return FolderShelf(Path(text), group_writable=group_writable)
    if group_writable:
        raise StorageError(
            without_password(text),
            expected="a folder, whose files and folders have a group",
            found="a bucket",
            hint="leave group-writable out: who may write to a bucket is said by its policy",
        )
    # Imported here: a bucket's shelf is made of the types of this module.
    from skiptune.storage.buckets import BucketShelf

    return BucketShelf(text)


def is_temporary(name: str) -> bool:
    """Whether a name is one under which a file is written before it gets its final one."""
    return _TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


class FolderShelf:
    """A folder, on a local disk or on a network share.

    Arguments:
        folder: Made on the first `put`, with the folders above it.
        group_writable: Give files the mode 664 and new folders 2775; without it the umask
            decides.
    """

    kind = "folder"

    def __init__(self, folder: Path | str, *, group_writable: bool = False) -> None:
        self.folder = Path(folder)
        self.group_writable = group_writable

    def __repr__(self) -> str:
        return f"FolderShelf({str(self.folder)!r})"

    @property
    def location(self) -> str:
        """The path of the folder."""
        return str(self.folder)

    def place(self, name: str) -> str:
        """Return the path of a name."""
        return str(self.folder / name)

    def exists(self) -> bool:
        """Whether there is such a folder."""
        try:
            return self.folder.is_dir()
        except OSError as error:
            raise _unread(self.location, error) from error

    def find(self, name: str) -> Entry | None:
        """Return what is known of a file, None where there is none."""
        try:
            found = os.stat(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unread(self.place(name), error) from error
        if not stat.S_ISREG(found.st_mode):
            return None
        return Entry(name, found.st_size, found.st_mtime)

    def get(self, name: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unread(self.place(name), error) from error

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole; one that has these bytes already stays, as if written now."""
        path = self.folder / name
        try:
            if not _renewed(path, data):
                self._make_folder(path.parent)
                self._write_whole(path, data)
        except OSError as error:
            found = error.strerror or str(error)
            if error.errno in _FULL:
                raise DiskFullError(
                    self.location,
                    expected=f"space for {len(data):,} bytes",
                    found=found,
                    hint=FULL_HINT,
                ) from error
            raise StorageError(
                self.location,
                expected="a folder that can be written, with space",
                found=found,
                hint="mend the mount or the permissions, then run the same command again:"
                " nothing committed is lost",
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file; it may be missing."""
        path = self.folder / name
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
        except OSError as error:
            raise StorageError(
                str(path),
                expected="a file that can be removed",
                found=error.strerror or str(error),
                hint="mend the mount or the permissions, then run the same command again",
            ) from error

    def entries(self, below: str = "") -> Iterator[Entry]:
        """Yield the files below a folder, ordered by name; links to folders are not followed."""
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self.folder / below) as items:
                for item in items:
                    kind = folders if item.is_dir(follow_symlinks=False) else files
                    kind.append(item.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unread(self.place(below), error) from error
        for name in sorted(files):
            # None: removed since it was listed.
            if (entry := self.find(below + name)) is not None:
                yield entry
        for name in sorted(folders):
            yield from self.entries(f"{below}{name}/")

    def now(self) -> float:
        """Return the time by the clock that dates the files: on a share, that of its server."""
        touched = _temporary(self.folder / "now")
        try:
            try:
                touched.touch(exist_ok=False)
                return touched.stat().st_mtime
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # Who wants to free a full disk asks for the time first; this needs no space.
                os.utime(self.folder)
                return self.folder.stat().st_mtime
            finally:
                touched.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                self.location,
                expected="an existing folder that can be written",
                found=error.strerror or str(error),
                hint="mend the path, the mount or the permissions, then run the same command"
                " again",
            ) from error

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if folder.is_dir():  # another process was faster
                return
            raise
        if self.group_writable:
            folder.chmod(_FOLDER_MODE)

    def _write_whole(self, path: Path, data: bytes) -> None:
        temporary = _temporary(path)
        try:
            with open(temporary, "xb") as file:
                if self.group_writable:
                    os.fchmod(file.fileno(), _FILE_MODE)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fail_point("store_file.before")
            temporary.rename(path)
        except BaseException:
            # The reason of the failure is the one to be told, not that of the removal.
            with suppress(OSError):
                temporary.unlink()
            raise
        fail_point("store_file.after")
        # A new subfolder is an entry of the folder above it.
        for folder in path.parents:
            _flush_folder(folder)
            if folder == self.folder:
                break


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _renewed(path: Path, data: bytes) -> bool:
    """Whether a file had these bytes already and is now as young as if it were just written.

    What no row names is removed by its age, and the row of this file is yet to come.
    """
    try:
        if path.read_bytes() != data:
            return False
        os.utime(path)
    except (FileNotFoundError, PermissionError):
        # Another user's file may not be touched; it is replaced by one with the same bytes.
        return False
    return True


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # So say file systems without a flush for folders, e.g. CIFS.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _unread(where: str, error: OSError) -> StorageError:
    return StorageError(
        where,
        expected="a stored file or folder that can be read",
        found=error.strerror or str(error),
        hint="mend the mount or the permissions, then run the same command again",
    )


def without_password(location: str) -> str:
    """Return a location as it may be printed, also one that is none."""
    return re.sub(r"(?<=/)[^/@]*@", "***@", location)
