"""Files named by the SHA-256 of their bytes: the stored truth behind every score.

A store lies on a shelf, in a folder or in a bucket, and each file is there whole or not at all.
Named arrays are safetensors files, whose bytes depend on the arrays alone. Beside the files lie
notes, small JSON documents that wait for the database: the database names files, never notes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from skiptune.errors import StorageError, UnavailableError
from skiptune.storage.shelves import Entry, FolderShelf, Shelf, is_temporary, open_shelf

__all__ = ["NOTES", "ArrayStore", "LostFileError", "StoredFile", "open_store", "plain_name"]

ARRAYS: Final = ".safetensors"

NOTES: Final = ".skiptune/"
"""Where in a store the notes and markers lie; no file's subfolder has this name."""

_SUFFIX: Final = re.compile(r"(?:\.[A-Za-z0-9_-]+)+")
_FILE: Final = re.compile(rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})({_SUFFIX.pattern})")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
# What lies elsewhere in the folder of a store is not ours.
_OURS: Final = re.compile(rf"(?:[0-9a-f]{{2}}/|{re.escape(NOTES)}(?:[^/]+/)?)?[^/]+")


class LostFileError(StorageError):
    """A stored file is missing or damaged: what it held has to be sampled again."""


@dataclass(frozen=True)
class StoredFile:
    """A file that lies in a store.

    Arguments:
        name: Path with slashes below the store.
        digest: SHA-256 that the name says; empty for a leftover.
        suffix: End of the name, e.g. ``".safetensors"``.
        bytes: Size.
        modified: When it was last written: seconds since 1970 by the store's own clock, see
            `ArrayStore.now`.
    """

    name: str
    digest: str
    suffix: str
    bytes: int
    modified: float


class ArrayStore:
    """Files that are named by their content, and notes beside them.

    Arguments:
        place: Path of a folder, which is made on the first write; or ``s3://bucket/prefix``; or
            a shelf. Two hexadecimal digits of the digest name a subfolder, which keeps listings
            short.

    Raises:
        StorageError: The place is neither of them.
    """

    def __init__(self, place: Path | str | Shelf) -> None:
        self.shelf: Shelf = open_shelf(place) if isinstance(place, str | Path) else place

    def __repr__(self) -> str:
        return f"ArrayStore({self.location!r})"

    @property
    def location(self) -> str:
        """The path of the folder or the URL of the bucket, as it may be printed."""
        return self.shelf.location

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            StorageError: The store lies in a bucket.
        """
        if not isinstance(self.shelf, FolderShelf):
            raise StorageError(
                self.location,
                expected="a store in a folder",
                found=f"a store in a {self.shelf.kind}",
                hint="name a folder: --artifacts FOLDER",
            )
        return self.shelf.folder

    def path(self, digest: str, *, suffix: str = ARRAYS) -> Path:
        """Return where a file lies or would lie in the folder.

        Raises:
            StorageError: The store lies in a bucket.
        """
        return self.folder / _name(digest, suffix)

    def exists(self, digest: str, *, suffix: str = ARRAYS) -> bool:
        """Whether there is a file of this digest; `read` tells whether it is undamaged."""
        return self.shelf.find(_name(digest, suffix)) is not None

    def place(self, digest: str, *, suffix: str = ARRAYS) -> str:
        """Return the path or the URL of a file as it may be printed, also where there is none."""
        return self.shelf.place(_name(digest, suffix))

    def size(self, digest: str, *, suffix: str = ARRAYS) -> int | None:
        """Return the bytes of a file, None where there is none; it is not read.

        Raises:
            UnavailableError: A bucket cannot be reached now.
            StorageError: The store cannot be read.
        """
        entry = self.shelf.find(_name(digest, suffix))
        return None if entry is None else entry.bytes

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Store named arrays and return their digest; equal arrays are stored once.

        Arguments:
            arrays: Any shapes and memory orders; bool, integer and float dtypes.

        Raises:
            StorageError: As `write_bytes`.
        """
        # safetensors reads memory as it lies: a transposed view would be stored untransposed.
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        return self.write_bytes(save(whole), suffix=ARRAYS)

    def write_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes and return their digest; equal bytes are stored once.

        A file that is there and damaged is replaced; one that is whole is as young as if it were
        written now, so that no removal by age comes before the row that will name it.

        Raises:
            DiskFullError: There is no space; nothing is left behind.
            UnavailableError: A bucket cannot be reached now.
            StorageError: The store cannot be written.
        """
        if not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"{suffix!r} is no end of a file's name")
        digest = hashlib.sha256(data).hexdigest()
        self.shelf.put(_name(digest, suffix), data)
        return digest

    def read(self, digest: str) -> dict[str, NDArray[Any]]:
        """Return stored arrays by name; their hash is verified.

        Raises:
            StorageError: As `read_bytes`, or the file holds no arrays.
        """
        data = self.read_bytes(digest, suffix=ARRAYS)
        try:
            return load(data)
        except SafetensorError as error:
            raise StorageError(
                self.shelf.place(_name(digest, ARRAYS)),
                expected="named arrays (safetensors)",
                found=str(error),
                hint="this file was not written by skiptune; remove it",
            ) from error

    def read_bytes(self, digest: str, suffix: str) -> bytes:
        """Return stored bytes; their hash is verified.

        Raises:
            LostFileError: The file is missing or damaged.
            UnavailableError: A bucket cannot be reached now.
            StorageError: The store cannot be read; the file may well be there.
        """
        name = _name(digest, suffix)
        hint = "run the same command again: what is missing is sampled again"
        data = self.shelf.get(name)
        if data is None:
            raise LostFileError(
                self.shelf.place(name),
                expected="the stored file that the database names",
                found="No such file",
                hint=hint,
            )
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise LostFileError(
                self.shelf.place(name),
                expected=f"bytes with SHA-256 {digest[:16]}...",
                found=f"{len(data)} bytes with SHA-256 {found[:16]}... (damaged)",
                hint=hint,
            )
        return data

    def files(self) -> Iterator[StoredFile]:
        """Yield every file, whoever names it; what else lies in the folder is passed over.

        Raises:
            StorageError: The store cannot be listed.
        """
        for entry in self.shelf.entries():
            if found := _FILE.fullmatch(entry.name):
                yield StoredFile(entry.name, found[2], found[3], entry.bytes, entry.modified)

    def leftovers(self) -> Iterator[StoredFile]:
        """Yield the temporary files: of writers that were killed, and of those now at work.

        Raises:
            StorageError: The store cannot be listed.
        """
        for entry in self.shelf.entries():
            if _is_leftover(entry.name):
                yield StoredFile(entry.name, "", ".tmp", entry.bytes, entry.modified)

    def now(self) -> float:
        """Return the time, in seconds since 1970, by the clock that dates the files.

        On a network share that is the clock of its server: neither a worker nor whoever asks for
        the age of a file needs a clock that is right.

        Raises:
            StorageError: There is no folder, or it cannot be written.
        """
        return self.shelf.now()

    def remove(
        self, digest: str, *, suffix: str = ARRAYS, written_before: float | None = None
    ) -> bool:
        """Remove a file and return whether it was there; said again, nothing happens.

        Arguments:
            digest: Its SHA-256.
            suffix: End of its name.
            written_before: Leave it if it was written since this time by `now`: a worker may
                have stored it again after it was listed.

        Raises:
            StorageError: It cannot be removed.
        """
        return self._remove(_name(digest, suffix), written_before)

    def remove_leftover(self, name: str, *, written_before: float | None = None) -> bool:
        """Remove a temporary file and return whether it was there.

        Arguments:
            name: `StoredFile.name` of a leftover.
            written_before: Leave it if it was written since this time by `now`.

        Raises:
            ValueError: This is not the name of a leftover.
            StorageError: It cannot be removed.
        """
        if not _is_leftover(name):
            raise ValueError(f"{name!r} is not the name of a temporary file")
        return self._remove(name, written_before)

    def put_note(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        """Store a note; one of the same kind and name is replaced.

        Arguments:
            kind: Which notes it belongs to, e.g. ``"results"``.
            name: Its name among them; letters, digits and ``._-``, not a dot first.
            value: Plain data (JSON) without NaN and infinity.

        Raises:
            StorageError: As `write_bytes`.
            ValueError: The kind, the name or the value is another.
        """
        text = json.dumps(dict(value), sort_keys=True, indent=2, allow_nan=False)
        self.shelf.put(_note(kind, name), (text + "\n").encode())

    def notes(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return the names and values of all notes of a kind, by name; no kind has none.

        What cannot be read as a note is passed over.

        Raises:
            UnavailableError: A bucket cannot be reached now.
            StorageError: The notes cannot be listed.
        """
        below = f"{NOTES}{plain_name(kind)}/"
        found = {}
        for entry in self.shelf.entries(below):
            name = entry.name.removeprefix(below).removesuffix(".json")
            if _PLAIN.fullmatch(name) and entry.name == _note(kind, name):
                value = self._value(entry)
                if value is not None:
                    found[name] = value
        return tuple(sorted(found.items()))

    def remove_note(self, kind: str, name: str) -> None:
        """Remove a note; it may be missing.

        Raises:
            StorageError: It cannot be removed.
        """
        self.shelf.remove(_note(kind, name))

    def _remove(self, name: str, written_before: float | None) -> bool:
        found = self.shelf.find(name)
        if found is None or (written_before is not None and found.modified >= written_before):
            return False
        self.shelf.remove(name)
        return True

    def _value(self, entry: Entry) -> dict[str, Any] | None:
        try:
            value = json.loads(self.shelf.get(entry.name) or b"")
        except UnavailableError:
            raise
        except (StorageError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def open_store(location: str | Path, *, group_writable: bool = False) -> ArrayStore:
    """Return the store at a location; a folder is made on the first write.

    Arguments:
        location: Path of a folder, or ``s3://bucket/prefix``.
        group_writable: Let the group of a folder write to it, whatever the umask says: files
            have the mode 664 and new folders 2775.

    Raises:
        StorageError: The location is neither; or a bucket was asked to be group-writable; or
            the extra `s3` is missing.
    """
    return ArrayStore(open_shelf(location, group_writable=group_writable))


def plain_name(text: str) -> str:
    """Return a text that may be part of a file's name.

    Raises:
        ValueError: It is empty, too long, begins with a dot, or has other characters than
            letters, digits and ``._-``.
    """
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} cannot be part of a file's name")
    return text


def _name(digest: str, suffix: str) -> str:
    return f"{digest[:2]}/{digest}{suffix}"


def _note(kind: str, name: str) -> str:
    return f"{NOTES}{plain_name(kind)}/{plain_name(name)}.json"


def _is_leftover(name: str) -> bool:
    return is_temporary(name) and _OURS.fullmatch(name) is not None
