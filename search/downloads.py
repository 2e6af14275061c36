"""Downloads: checked, resumable, and never a part of a file under its name.

Nothing here is called unless somebody asked: a command that names an address, or a study file
with the address of a file that is missing.

The bytes go into ``.NAME.part`` beside their place, and are hashed, flushed to the disk and
renamed when all of them are there. A note beside the part holds what tells the server's file from
a later one (RFC 9110: ETag or Last-Modified). After an interruption the rest is asked for with
`Range` and `If-Range`; a server that cannot do that sends the whole file, which begins anew. What
has no such mark and no known SHA-256 begins anew as well: nothing could tell a patchwork.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from skiptune.canonical import file_digest
from skiptune.errors import DiskFullError, StorageError

__all__ = [
    "CACHE",
    "SCHEMES",
    "TIMEOUT",
    "DownloadError",
    "Fetched",
    "OnBytes",
    "alone",
    "bring",
    "cache_folder",
    "cached",
    "file_name",
    "forget",
    "without_secrets",
    "writable",
]

SCHEMES = ("http", "https", "file")
"""Addresses that a file is fetched from."""

TIMEOUT = 30.0
"""Seconds of silence after which a download is given up."""

CACHE = "SKIPTUNE_CACHE"

OnBytes = Callable[[int, int], None]
"""Is told the bytes of a file that have arrived, and all of them; 0 where nobody knows."""

_BLOCK = 1 << 18


class DownloadError(Exception):
    """An address that did not bring the file; the text says why.

    Arguments:
        text: What went wrong.
        broken_off: Whether it was under way: asking again may bring the rest.
    """

    def __init__(self, text: str, *, broken_off: bool = False) -> None:
        super().__init__(text)
        self.broken_off = broken_off


@dataclass(frozen=True)
class Fetched:
    """A file of the cache that came from an address.

    Arguments:
        path: Where it lies.
        sha256: Of its bytes, 64 hexadecimal digits.
        bytes: Its size.
        fresh: Whether it was downloaded now.
    """

    path: Path
    sha256: str
    bytes: int
    fresh: bool


def cache_folder() -> Path:
    """Return the folder of what was fetched; it need not exist.

    `SKIPTUNE_CACHE`, else ``skiptune`` in `XDG_CACHE_HOME`, else ``~/.cache/skiptune``.

    Raises:
        StorageError: None of them is set, and this user has no home.
    """
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(shared):  # the XDG specification has relative paths ignored
        shared = "~/.cache"
    folder = os.path.expanduser(os.environ.get(CACHE) or os.path.join(shared, "skiptune"))
    if folder.startswith("~"):
        raise StorageError(
            "the folder of fetched files",
            expected=f"a home folder, or a folder named by {CACHE}",
            found=f"neither ({folder})",
            hint=f"name a folder: `export {CACHE}=/folder/with/space`",
        )
    return Path(folder).absolute()


def cached(
    url: str,
    *,
    sha256: str | None = None,
    timeout: float = TIMEOUT,
    on_bytes: OnBytes | None = None,
) -> Fetched:
    """Return the file of an address from the cache, after downloading it there if need be.

    Its SHA-256 is recorded beside it. A later download of the same address must have the same.

    Arguments:
        url: Of http, https or file, without a password.
        sha256: What the file must hash to; None takes what was recorded, or any.
        timeout: Seconds of silence after which the download is given up.
        on_bytes: Called as bytes arrive.

    Raises:
        DownloadError: The address does not bring the file. What has arrived is kept, and the next
            call goes on from there.
        StorageError: The cache cannot be written.
        DiskFullError: The same, for want of space.
    """
    cache = cache_folder()
    folder = cache / "downloads" / _key(url)[:16]
    path = folder / file_name(url)
    record = folder / f"{path.name}.json"
    with writable(path.name):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f"{path.name}.lock", path.name):
        recorded = _read(record).get("sha256")
        expected = sha256 or recorded
        if path.is_file():
            found = file_digest(path)
            if expected in (None, found):
                return Fetched(path, found, path.stat().st_size, fresh=False)
            if found == recorded:
                raise DownloadError(f"another file (sha256 {found}) was fetched from there before")
        try:
            found = bring(url, path, sha256=expected, timeout=timeout, on_bytes=on_bytes)
        except DownloadError as error:
            if sha256 is None and recorded is not None and "another file" in str(error):
                raise DownloadError(
                    f"{error}, not the one that was fetched before; to take it, remove {record}"
                ) from error
            raise
        size = path.stat().st_size
        now = datetime.now(UTC).isoformat(timespec="seconds")
        note = {"url": without_secrets(url), "sha256": found, "bytes": size, "fetched": now}
        with writable(path.name):
            _write(record, note)
        return Fetched(path, found, size, fresh=True)


def forget(url: str) -> None:
    """Remove the file of an address from the cache, so that the next call downloads it anew."""
    path = cache_folder() / "downloads" / _key(url)[:16] / file_name(url)
    for each in (path, path.with_name(f"{path.name}.json")):
        with suppress(OSError):
            each.unlink(missing_ok=True)


def bring(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    timeout: float = TIMEOUT,
    on_bytes: OnBytes | None = None,
) -> str:
    """Download a file to a path, going on where an earlier call stopped, and return its SHA-256.

    The caller sees to it that one process at a time does this (`alone`).

    Arguments:
        url: The address.
        path: Where the file goes, in a folder that exists; a file that is there is replaced.
        sha256: What it must hash to, or None.
        size: The bytes it must have, or None.
        timeout: Seconds of silence after which the download is given up.
        on_bytes: Called as bytes arrive.

    Raises:
        DownloadError: The address does not bring the file.
        StorageError: The folder cannot be written.
        DiskFullError: The same, for want of space.
    """
    part = _Part(path, url, checked=sha256 is not None)
    while True:
        begun = part.offset
        _receive(part, size=size, timeout=timeout, on_bytes=on_bytes)
        with writable(path.name, size):
            found, bytes_ = file_digest(part.path), part.path.stat().st_size
        if sha256 in (None, found):
            break
        part.drop()
        # A patchwork of two versions gets one more chance, as a whole.
        if not begun:
            raise DownloadError(f"another file, of {bytes_} bytes (sha256 {found[:12]}...)")
    with writable(path.name, size):
        with open(part.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part.path, path)
        part.drop()
    return found


def file_name(url: str) -> str:
    """Return what a downloaded file is called: the last part of its address, made harmless."""
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:
        name = ""
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII).lstrip(".")[-100:] or "file"


def without_secrets(url: str) -> str:
    """Return an address without password and query: a signed one lets everybody in."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the url"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


@contextmanager
def alone(lock: Path, name: str, size: int | None = None) -> Iterator[None]:
    """Let one process or thread of this host at a time fetch a file.

    Arguments:
        lock: A file that stands for it, in a folder that can be written.
        name: The file, for messages.
        size: Its bytes, where they are known.
    """
    with writable(name, size):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with writable(name, size):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would leave the lock with a child that was forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def writable(name: str, size: int | None = None) -> Iterator[None]:
    """Turn what the disk says into an error of the cache.

    Arguments:
        name: The file that is fetched.
        size: Its bytes, where they are known.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        bytes_ = "" if size is None else f" ({size} bytes)"
        raise (DiskFullError if full else StorageError)(
            f"the cache {cache_folder()}",
            expected=f"a folder that can be written, with space for {name}{bytes_}",
            found=error.strerror or str(error),
            hint=f"name another folder: `export {CACHE}=/folder/with/space`",
        ) from error


class _Part:
    """What has arrived of a file, and the note that says of which version it is.

    Arguments:
        path: Where the file goes.
        url: Its address; only its hash is noted, because a signed one is a key.
        checked: Whether the whole file's hash is known, so that a patchwork is found out.
    """

    def __init__(self, path: Path, url: str, *, checked: bool) -> None:
        self.name = path.name
        self.url = url
        self.path = path.with_name(f".{path.name}.part")
        self._note = path.with_name(f".{path.name}.part.json")
        self._checked = checked

    @property
    def validator(self) -> str | None:
        """The server's mark of the version that the part is of."""
        return _read(self._note).get("validator") or None

    @property
    def offset(self) -> int:
        """The bytes that need not be asked for again."""
        note = _read(self._note)
        if note.get("address") != _key(self.url) or not (note.get("validator") or self._checked):
            return 0
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def begin(self, validator: str | None) -> None:
        """Throw away what is there, and note what comes now."""
        # In this order: a kill in between leaves an empty part, never old bytes under a new note.
        self.path.write_bytes(b"")
        _write(self._note, {"address": _key(self.url), "validator": validator})

    def drop(self) -> None:
        """Remove part and note."""
        for path in (self.path, self._note):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _receive(part: _Part, *, size: int | None, timeout: float, on_bytes: OnBytes | None) -> None:
    """Ask for the bytes that are missing, and write them."""
    offset = part.offset
    while True:
        try:
            with _asked(part.url, offset, part.validator, timeout) as response:
                start, total = _range(response, offset)
                validator = _validator(response.headers)
                other = offset and validator is not None and validator != part.validator
                if start not in (0, offset) or (start and other):
                    # Another range than was asked for, or one of another version.
                    offset = 0
                    continue
                _take(part, response, start, total, size=size, on_bytes=on_bytes)
                return
        except HTTPError as error:
            error.close()
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
                raise DownloadError(f"HTTP status {error.code}") from error
            if error.headers.get("Content-Range", "").strip() == f"bytes */{offset}":
                return  # all of it was there already
            offset = 0
        except (ValueError, http.client.InvalidURL) as error:
            # The error's own text may quote a password.
            raise DownloadError("no valid address") from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            if isinstance(cause, TimeoutError):
                raise DownloadError(f"no bytes for {timeout:g} s", broken_off=True) from error
            text = getattr(cause, "strerror", None) or str(cause) or repr(cause)
            raise DownloadError(text, broken_off=part.offset > 0) from error


def _asked(url: str, offset: int, validator: str | None, timeout: float) -> Any:
    parts = urlsplit(url)
    # urllib would take a password for a part of the host, and ask the name server for it.
    if parts.scheme not in SCHEMES or "@" in parts.netloc:
        raise DownloadError(f"no address with {', '.join(SCHEMES)}, without password")
    headers = {"User-Agent": "skiptune"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator is not None:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.urlopen(request, timeout=timeout)


def _range(response: Any, offset: int) -> tuple[int, int]:
    """Return the first byte that comes, and the size of the whole file, 0 where it is not told."""
    if getattr(response, "status", None) == http.client.PARTIAL_CONTENT:
        told = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        if told is None or not offset:
            return -1, 0
        return int(told[1]), 0 if told[2] == "*" else int(told[2])
    promised = response.headers.get("Content-Length") or ""
    return 0, int(promised) if promised.isdecimal() else 0


def _validator(headers: Any) -> str | None:
    """Return the server's mark of this version: a strong ETag, else the time it was changed."""
    tag = (headers.get("ETag") or "").strip()
    if tag.startswith('"'):
        return str(tag)
    return headers.get("Last-Modified") or None


def _take(
    part: _Part,
    response: Any,
    start: int,
    total: int,
    *,
    size: int | None,
    on_bytes: OnBytes | None,
) -> None:
    if size is not None and total and total != size:
        part.drop()
        raise DownloadError(f"another file, of {total} bytes")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError("encoded bytes, which were not asked for")
    page = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if page == "text/html" and not part.name.endswith((".html", ".htm")):
        # A log-in page, or that of a hotel's network: it must not pass for the file.
        raise DownloadError("a web page instead of the file")
    with writable(part.name, size):
        if not start:
            part.begin(_validator(response.headers))
        file = open(part.path, "ab")
    done, whole = start, size if size is not None else total
    with file:
        while block := response.read(_BLOCK):
            done += len(block)
            if size is not None and done > size:
                part.drop()
                raise DownloadError(f"another file, of more than {size} bytes")
            with writable(part.name, size):
                file.write(block)
                file.flush()
            if on_bytes is not None:
                on_bytes(done, whole)
    # A reader in blocks is not told that the connection broke.
    if whole and done < whole:
        raise DownloadError(f"cut off after {done} of {whole} bytes", broken_off=True)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """Return a note; a missing or damaged one says nothing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, note: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(note), indent=2) + "\n", encoding="utf-8")
