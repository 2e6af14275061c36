"""Stored files for Optuna's dashboard: by digest from our store, shown as what their bytes are.

The dashboard serves a file under the media type that was noted with it, to every origin: an HTML
file would run its scripts as the dashboard. Here the bytes decide, among four types.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from functools import cache
from typing import BinaryIO, Final

from bottle import HTTPError, HTTPResponse
from PIL import Image, ImageDraw, ImageFont

from skiptune.errors import StorageError
from skiptune.storage.arrays import ArrayStore, LostFileError

__all__ = ["SUFFIXES", "StoredFiles", "media_type", "missing_picture"]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".json", ".txt")
"""Ends of the names of files that are shown; the usual one first, each look may be a request."""

MOST_BYTES: Final = 32 * 2**20
"""Larger files are not shown: a picture has some hundred kilobytes."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"  # PNG specification (third edition), section 5.2
_JPEG: Final = b"\xff\xd8\xff"  # ISO/IEC 10918-1, Annex B: start of image, then a marker
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class StoredFiles:
    """An artifact store of Optuna's that reads ours; it never writes or removes.

    The identity of an artifact is the SHA-256 of its bytes.

    Arguments:
        store: Where the files lie.
        say: Told of each file that is missing or cannot be read, each time.
    """

    def __init__(self, store: ArrayStore, say: Callable[[str], None]) -> None:
        self._store = store
        self._say = say
        self._suffixes: dict[str, str] = {}
        self._lock = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the bytes of a file; one that is missing is answered by a picture that says so.

        Raises:
            HTTPResponse: 404 with the picture; 503 where the store cannot be read now.
        """
        try:
            data = self._read(artifact_id)
        except LostFileError as error:
            self._say(f"A file is missing: {error.problems[0]}")
            data = None
        except StorageError as error:
            self._say(f"A file cannot be read now: {error.problems[0]}")
            raise HTTPResponse(body=b"cannot be read now", status=503) from error
        if data is None:
            raise HTTPResponse(body=missing_picture(), status=404)
        return io.BytesIO(data)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse.

        Raises:
            HTTPError: Always, 403.
        """
        raise HTTPError(403, "Files are stored by skiptune alone")

    def remove(self, artifact_id: str) -> None:
        """Keep the file, which other trials may show; what nobody names, `skiptune db gc` removes.

        Called where a study is deleted in the dashboard: its entries go, and it is made anew.
        """

    def _read(self, digest: str) -> bytes | None:
        if not _DIGEST.fullmatch(digest):
            return None
        with self._lock:
            known = self._suffixes.get(digest)
        for suffix in SUFFIXES if known is None else (known,):
            size = self._store.size(digest, suffix=suffix)
            if size is None:
                continue
            if size > MOST_BYTES:
                self._say(f"{digest}{suffix} has {size} bytes, which is too much to show")
                return None
            with self._lock:
                self._suffixes[digest] = suffix
            return self._store.read_bytes(digest, suffix)
        self._say(f"A file is missing: {self._store.place(digest, suffix=SUFFIXES[0])}")
        return None


def media_type(data: bytes) -> str | None:
    """Return the media type under which bytes are shown, None where they are not.

    PNG and JPEG are known by their first bytes; JSON and text have to be UTF-8 without control
    characters. HTML and SVG are text to us.
    """
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(_JPEG):
        return "image/jpeg"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if re.search(r"[\x00-\x08\x0b\x0e-\x1f\x7f]", text):
        return None
    try:
        whole = isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        whole = False
    return "application/json" if whole else "text/plain; charset=utf-8"


@cache
def missing_picture() -> bytes:
    """Return a PNG that stands in the place of a file that the store does not have."""
    picture = Image.new("RGB", (320, 96), (245, 245, 245))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 319, 95), outline=(160, 160, 160))
    for line, text in enumerate(("missing", "the artifact store does not have this file")):
        font = ImageFont.load_default(size=14 if line else 20)
        draw.text((160, 34 + 26 * line), text, fill=(60, 60, 60), font=font, anchor="mm")
    whole = io.BytesIO()
    picture.save(whole, "PNG")
    return whole.getvalue()
