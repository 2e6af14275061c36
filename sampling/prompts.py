"""Prompts: what a network that reads text is told, one per line of a file.

The prompt of an image is drawn from the image's own stream as a class would be, so it is a
function of the image's seed. No label is the empty prompt, with which guidance compares.

This module costs no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from skiptune.errors import NetworkError, Problem

__all__ = ["MOST_PROMPTS", "Prompts", "read_prompts"]

MOST_PROMPTS = 10_000
"""Of Stable Diffusion's kind so many take 2.4 GB where the network is."""

_MOST_BYTES = 1 << 24
_SHOWN = 5


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file.

    Arguments:
        texts: In the order of the lines, each once, none empty.
        name: Of the file.
        sha256: Of the texts, one per line; how lines end in the file does not matter.
    """

    texts: tuple[str, ...]
    name: str
    sha256: str


def read_prompts(path: str | Path) -> Prompts:
    """Read a file of prompts: UTF-8, one per line, without spaces at the ends.

    Raises:
        NetworkError: For a file that cannot be read, is no text, has no or too many prompts; with
            every line that is empty or was there before, of which the first few are named.
    """
    path = Path(path)
    expected = "a text file (UTF-8) with one prompt per line"
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        found = error.strerror or str(error)
        hint = "check the path"
        raise NetworkError(str(path), expected=expected, found=found, hint=hint) from error
    except UnicodeDecodeError as error:
        found = f"bytes that are no UTF-8, at {error.start}"
        hint = f"convert it: `iconv -f LATIN1 -t UTF-8 {path.name}`"
        raise NetworkError(str(path), expected=expected, found=found, hint=hint) from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if not any(lines) or len(lines) > MOST_PROMPTS or len(data) > _MOST_BYTES:
        found = "none" if not any(lines) else f"{len(lines)} lines of {len(data)} bytes"
        raise NetworkError(
            str(path),
            expected=f"1 to {MOST_PROMPTS} prompts, of at most {_MOST_BYTES} bytes together",
            found=found,
            hint="write one prompt per line",
        )
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        if not line:
            problems.append(Problem(where, "a prompt", "an empty line"))
        elif line in seen:
            found = f"{line[:60]!r}, which is line {seen[line]} too"
            problems.append(Problem(where, "a prompt that is there once", found))
        seen.setdefault(line, number)
    if problems:
        more = len(problems) - _SHOWN
        hint = "delete the line" if len(problems) == 1 else f"delete the {len(problems)} lines"
        if more > 0:
            hint += f", of which the first {_SHOWN} are shown"
        raise NetworkError.of(problems[:_SHOWN], hint=hint)
    digest = hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
    return Prompts(tuple(lines), path.name, digest)
