"""Prompts: what a network that reads text is told, one per line of a file.

The prompt of an image is drawn from the image's own stream as a class would be, so it is a
function of the image's seed. No label is the empty prompt, with which guidance compares.

Which lines an image may be told follows from its seed as well, because a choice that was made on
some prompts has to be tested on others. The share of a line is written in its own hash: the number
of ones that its SHA-256 begins with is k; where k is 0 the line is the search's, else the k-th
confirm's, and the bit after the zero behind the ones says whether it is told where that confirm
chooses (block A: 0) or where it tests (block B: 1). So half of the lines are the search's, a
quarter the first confirm's, an eighth the second's, as the level of the tests halves, and a line
stays where it is when others join the file. Below the search's first seed all lines are told.

This module costs no torch.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skiptune.errors import NetworkError, Problem, quoted

__all__ = [
    "MOST_PROMPTS",
    "SEARCH_SHARE",
    "SHARES_RULE",
    "Prompts",
    "Shares",
    "confirm_share",
    "read_prompts",
    "share_of_line",
    "share_of_seed",
]

MOST_PROMPTS = 10_000
"""Of Stable Diffusion's kind so many take 2.4 GB where the network is."""

SEARCH_SHARE: Final = "search"
"""The share of the search; shares are called like the blocks of seeds that are told them."""

# As in storage and search, which this room does not know: a test holds them together.
_SEARCH_SEED = 1_000_000
_CONFIRM_SEED = 2_000_000
_CONFIRM_SEEDS = 100_000

SHARES_RULE: Final = (
    "by the bits of a line's SHA-256: 0, seeds from 1000000; k ones, 0 and the half (A 0, B 1), "
    "seeds from 2000000 + 100000 k, B 50000 later; seeds below 1000000: all lines"
)
"""Changes whenever a seed may be told other lines."""

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
        # What is cut here, possibly within a letter, is refused below.
        text = data.decode("utf-8-sig") if len(data) <= _MOST_BYTES else ""
    except OSError as error:
        found = error.strerror or str(error)
        hint = "check the path"
        raise NetworkError(str(path), expected=expected, found=found, hint=hint) from error
    except UnicodeDecodeError as error:
        found = f"bytes that are no UTF-8, at {error.start}"
        hint = f"convert it: `iconv -f LATIN1 -t UTF-8 {quoted(path)}`"
        raise NetworkError(str(path), expected=expected, found=found, hint=hint) from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    found = ""
    if len(data) > _MOST_BYTES:
        found = "more bytes"
    elif not any(lines):
        found = "none"
    elif len(lines) > MOST_PROMPTS:
        found = f"{len(lines)} lines"
    if found:
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


def confirm_share(number: int, half: str) -> str:
    """Return the name of the share of half ``A`` or ``B`` of a confirm, from 1 on."""
    return f"confirm-{number}/{half}"


def share_of_line(line: str) -> str:
    """Return whose share a line is: ``search``, ``confirm-1/A``, ``confirm-1/B``, ..."""
    digest = hashlib.sha256(line.encode("utf-8")).digest()
    bits = f"{int.from_bytes(digest, 'big'):0256b}"
    ones = len(bits) - len(bits.lstrip("1"))
    if ones == 0:
        return SEARCH_SHARE
    return confirm_share(ones, "B" if bits[ones + 1 : ones + 2] == "1" else "A")


def share_of_seed(seed: int) -> str | None:
    """Return the share that the image of a seed is told of; None for all lines."""
    if seed < _SEARCH_SEED:
        return None
    if seed < _CONFIRM_SEED + _CONFIRM_SEEDS:
        return SEARCH_SHARE
    number, place = divmod(seed - _CONFIRM_SEED, _CONFIRM_SEEDS)
    return confirm_share(number, "A" if place < _CONFIRM_SEEDS // 2 else "B")


class Shares:
    """Which lines of a file the image of a seed may be told.

    Arguments:
        texts: The lines, in the order of the file.
        name: Of the file, for messages.
    """

    def __init__(self, texts: Iterable[str], name: str) -> None:
        self.name = name
        lines: defaultdict[str, list[int]] = defaultdict(list)
        count = 0
        for place, text in enumerate(texts):
            lines[share_of_line(text)].append(place)
            count += 1
        self._all = tuple(range(count))
        self._lines = {share: tuple(places) for share, places in lines.items()}

    def __len__(self) -> int:
        return len(self._all)

    def count(self, share: str) -> int:
        """Return how many lines a share holds."""
        return len(self._lines.get(share, ()))

    def lines(self, seed: int) -> tuple[int, ...]:
        """Return the places in the file, rising, among which the seed's prompt is drawn.

        Raises:
            NetworkError: The share holds no line.
        """
        share = share_of_seed(seed)
        found = self._all if share is None else self._lines.get(share, ())
        if not found:
            raise NetworkError(
                f"{self.name}: prompts of {share}",
                expected=f"at least one, for the image of seed {seed}",
                found=f"none of {len(self)} lines",
                hint=f"take seeds below {_SEARCH_SEED:,}, which are told all lines, or add lines",
            )
        return found
