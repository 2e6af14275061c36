"""Schedules that somebody has written by hand, as the first proposals of a search.

What is read (JSON or YAML), on a network whose skips are known:

- a list of numbers, one per skip, deepest first;
- a mapping from addresses to numbers; skips that are not named stay as they are;
- ``stages: [0.9, 0.2]``: one number per resolution of the decoder, deepest first, as FreeU (Si et
  al. 2024, arXiv 2309.11497) counts its stages; and FreeU's own keys, ``s1: 0.9, s2: 0.2``.

FreeU's s multiplies the lowest frequencies of a skip alone; here the number multiplies the whole
skip. It is a place to begin from, nothing that stands for FreeU.

What is written, `start.json`, holds one row per skip, and is named in `search.warm_start`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from skiptune.errors import Problem, SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.search.document import Document, parse_plain, read_text, shown
from skiptune.search.json_file import check_format, model_of, read_json
from skiptune.search.output import write_whole
from skiptune.search.problems import refusal, suggestion
from skiptune.search.sections import Section

if TYPE_CHECKING:
    from skiptune.sampling.skips import Skip

__all__ = ["FORMAT", "HandMade", "StartFile", "StartSkip", "hand_made", "load_start"]

FORMAT = "skiptune.start"
SCHEMA_VERSION = 1
HINT = (
    "write a list of numbers, one per skip, deepest first; a mapping from addresses to numbers"
    " (`skiptune skips NETWORK` lists them); or stages: [0.9, 0.2]"
)
_AGAIN = "write it again with `skiptune import FILE --for STUDY.yaml -o start.json`"
_FREEU = ("s1", "s2", "b1", "b2")
_A_START = (
    "FreeU's s acts on the lowest frequencies of a skip, these numbers on the whole skip: they are"
    " a start, no equal"
)


class StartSkip(Section):
    """One skip and what it is multiplied by."""

    address: str = Field(min_length=1, description="the decoder block that receives the skip")
    scale: float = Field(ge=0, description="a factor of at least 0; 1 is untouched")


class StartFile(Section):
    """A hand-made schedule on a network: `start.json`."""

    format: Literal["skiptune.start"] = Field(default="skiptune.start", description=FORMAT)
    schema_version: Literal[1] = Field(default=1, description=f"{SCHEMA_VERSION}")
    source: str = Field(min_length=1, description="the name of the file it was read from")
    network: str = Field(min_length=1, description="the name of the checkpoint")
    skips: Annotated[tuple[StartSkip, ...], Field(strict=False, min_length=1)] = Field(
        description="every skip of the network, once, deepest first"
    )

    @field_validator("skips")
    @classmethod
    def _each_once(cls, skips: tuple[StartSkip, ...]) -> tuple[StartSkip, ...]:
        seen: set[str] = set()
        for place, skip in enumerate(skips):
            if skip.address in seen:
                raise refusal("an address that stands here once", at=(place, "address"))
            seen.add(skip.address)
        return skips

    @property
    def schedule(self) -> Schedule:
        """The schedule that the rows stand for."""
        return Schedule.uniform({skip.address: skip.scale for skip in self.skips})

    def write(self, path: Path | str, *, force: bool = False) -> None:
        """Write the file; it is there whole or not at all.

        Raises:
            OutputError: The file exists and `force` is not set, or it cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
        write_whole(Path(path), text.encode("utf-8"), force=force)


def load_start(path: Path | str) -> StartFile | None:
    """Read `start.json`; None for JSON of another format.

    Raises:
        SpecError: It is missing, cut short, of a newer schema, or edited to something wrong.
    """
    values = read_json(path, hint=_AGAIN)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    name = str(path)
    check_format(values, name=name, expected=FORMAT, version=SCHEMA_VERSION, hint=_AGAIN)
    return model_of(StartFile, values, source=name, hint=_AGAIN)


@dataclass(frozen=True)
class HandMade:
    """A schedule as it was read.

    Arguments:
        scales: One number per skip, by address, deepest first.
        notes: What to know about it, one clause each.
    """

    scales: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def schedule(self) -> Schedule:
        """The schedule that it is."""
        return Schedule.uniform(dict(self.scales))

    def start(self, *, source: str, network: str) -> StartFile:
        """Return it as what `start.json` holds."""
        rows = [{"address": name, "scale": scale} for name, scale in self.scales.items()]
        return StartFile.model_validate({"source": source, "network": network, "skips": rows})


def hand_made(path: Path | str, skips: Sequence[Skip]) -> HandMade:
    """Read a hand-made schedule on a network.

    Arguments:
        path: A JSON or YAML file in one of the forms above.
        skips: All skips of the network.

    Raises:
        SpecError: With every problem at once: another form, a number that is none or below 0, an
            address that is no skip, too many or too few numbers, nothing but ones.
    """
    name = str(path)
    if Path(path).suffix == ".json":
        value, document = read_json(path, hint=HINT), Document(name, {})
    else:
        value, document = parse_plain(read_text(Path(path), hint=HINT), name=name)
    problems = list(document.problems)
    if problems:  # what could not be read says nothing about the rest
        raise SpecError.of(problems, hint=HINT)
    skips = sorted(skips, key=lambda skip: skip.index)
    addresses = [skip.address for skip in skips]
    scales: dict[str, float] = dict.fromkeys(addresses, 1.0)
    notes: tuple[str, ...] = ()
    if isinstance(value, list):
        problems += _listed(value, document, count=len(skips))
        scales = dict(zip(addresses, value, strict=False))
    elif isinstance(value, dict) and "format" in value:
        raise SpecError(
            f"{name}: format",
            expected="scales written by hand",
            found=shown(value["format"]),
            hint=f"name it in the study as it is: `search: {{warm_start: {name}}}`",
        )
    elif isinstance(value, dict) and value and value.keys() <= {"stages"}:
        found, notes, wrong = _stages(value["stages"], skips, document, ("stages",))
        scales, problems = scales | found, problems + wrong
    elif isinstance(value, dict) and value and value.keys() <= set(_FREEU):
        scales, notes, wrong = _freeu(value, skips, document)
        problems += wrong
    elif isinstance(value, dict) and value:
        problems += _mapped(value, addresses, document)
        scales |= value
    else:
        problems.append(Problem(name, "scales", "an empty file" if not value else shown(value)))
    if not problems and all(scale == 1 for scale in scales.values()):
        problems.append(Problem(name, "a scale other than 1", "the untouched network"))
    if problems:
        raise SpecError.of(problems, hint=HINT)
    return HandMade({address: float(scale) for address, scale in scales.items()}, notes)


def _listed(value: Any, document: Document, *, count: int) -> Iterator[Problem]:
    if len(value) != count:
        expected = f"{count} numbers, one per skip, deepest first"
        yield Problem(document.where(()), expected, f"{len(value)}")
    for place, scale in enumerate(value):
        yield from _wrong(scale, document.where((place,)))


def _mapped(
    value: Mapping[str, Any], addresses: Sequence[str], document: Document
) -> Iterator[Problem]:
    for key, scale in value.items():
        if key not in addresses:
            near = suggestion(str(key), addresses)
            expected = f"an address of the network{near}: {', '.join(addresses)}"
            yield Problem(document.where((key,)), expected, "no such skip")
        yield from _wrong(scale, document.where((key,)))


def _stages(
    value: Any, skips: Sequence[Skip], document: Document, path: tuple[str, ...]
) -> tuple[dict[str, float], tuple[str, ...], list[Problem]]:
    """Return the scales of the skips of each stage, what they are, and what is wrong."""
    levels = [list(group) for _, group in groupby(skips, key=lambda skip: skip.resolution)]
    if not isinstance(value, list) or not 1 <= len(value) <= len(levels):
        found = f"{len(value)} numbers" if isinstance(value, list) else shown(value)
        sizes = ", ".join(str(level[0].resolution) for level in levels)
        expected = f"a list of 1 to {len(levels)} numbers, one per resolution ({sizes})"
        return {}, (), [Problem(document.where(path), expected, found)]
    wrong = [
        problem
        for place, scale in enumerate(value)
        for problem in _wrong(scale, document.where((*path, place)))
    ]
    scales: dict[str, float] = {}
    notes = []
    for number, (scale, level) in enumerate(zip(value, levels, strict=False), start=1):
        scales |= {skip.address: scale for skip in level}
        size, skip = level[0].resolution, "skip" if len(level) == 1 else "skips"
        notes.append(f"stage {number}, {size}x{size}: {scale} for {len(level)} {skip}")
    return scales, (*notes, _A_START), wrong


def _freeu(
    value: Mapping[str, Any], skips: Sequence[Skip], document: Document
) -> tuple[dict[str, float], tuple[str, ...], list[Problem]]:
    """Return the same for FreeU's own keys: s1 of the deepest stage, s2 of the next."""
    wrong = [p for key, number in value.items() for p in _wrong(number, document.where((key,)))]
    if wrong:
        return {}, (), wrong
    stages = [value.get("s1", 1.0), *([value["s2"]] if "s2" in value else [])]
    scales, notes, wrong = _stages(stages, skips, document, ("s2",))
    left = [key for key in ("b1", "b2") if value.get(key, 1) != 1]
    if left:
        notes = (*notes, f"{', '.join(left)} left out: they scale the main path")
    return {skip.address: 1.0 for skip in skips} | scales, notes, wrong


def _wrong(value: Any, where: str) -> Iterator[Problem]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max:  # whole numbers have any length
        yield Problem(where, "a factor of at least 0; 1 is untouched", shown(value))
