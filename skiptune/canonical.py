"""Canonical text of plain data, and its hash: the identity of everything that skiptune stores.

Two descriptions are the same thing exactly when their canonical texts are equal. Floats are
written as C99 hexadecimal literals, so a value survives any JSON reader bit for bit; keys are
sorted; tuples and lists are the same thing; NaN and infinity are refused, and so is a string
that is the text of a float.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["canonical", "digest", "file_digest"]

# What float.hex writes for a finite number.
_FLOAT_TEXT = re.compile(r"-?0x[01]\.(?:0|[0-9a-f]{13})p[+-][0-9]{1,4}")


def canonical(value: Any) -> str:
    """Return the canonical JSON text of plain data.

    Arguments:
        value: Nested mappings with string keys, sequences, str, int, float, bool, None.

    Raises:
        TypeError: For anything that is not plain data.
        ValueError: For NaN or infinite floats, and for strings that would read as floats.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical text, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def file_digest(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        if _FLOAT_TEXT.fullmatch(value):
            raise ValueError(f"{value!r} is a string and the canonical text of a float")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical text")
        # -0.0 and 0.0 act alike everywhere in skiptune, so they are one value.
        return (value + 0.0).hex()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, found {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not plain data")
