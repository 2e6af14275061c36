"""What a report consists of, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skiptune.views.report.markup import Markup

__all__ = [
    "Block",
    "Bullets",
    "Code",
    "Facts",
    "Figure",
    "Fold",
    "Headline",
    "HeatMap",
    "Key",
    "Listing",
    "Pair",
    "Paragraph",
    "Report",
    "Section",
    "Tile",
]

Tone = Literal["", "quiet", "warning", "strong"]
Standing = Literal["win", "no gain", "open"]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """A table of texts; its first column names the row.

    Arguments:
        columns: Headings.
        rows: One text per column.
        right: Headings of the columns that are aligned to the right.
        caption: What it shows.
        strong: Number of the row that stands out, if any.
        wrapped: Headings of the columns whose text may take several lines.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    caption: str = ""
    strong: int | None = None
    wrapped: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Lines to be copied."""

    text: str
    language: Literal["console", "python", "yaml"]


@dataclass(frozen=True)
class Key:
    """An entry of a legend: the class of its colour, its mark, and what it stands for."""

    text: str
    colour: str
    mark: Markup


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Arguments:
        svg: An `svg` element.
        caption: What it shows.
        keys: Its legend.
    """

    svg: Markup
    caption: str
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class HeatMap:
    """A table of numbers on colours.

    Arguments:
        columns: Headings; the first is that of the rows' names.
        rows: A name, and for each column a text and a share from -1, blue, to 1, red.
        caption: What it shows.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]
    caption: str


@dataclass(frozen=True)
class Tile:
    """An image of one seed: its ``data:`` address, and what it shows in words."""

    source: str
    words: str


@dataclass(frozen=True)
class Pair:
    """The same seeds before and after.

    Arguments:
        before: Of the untouched network.
        after: Of the schedule, the same seeds in the same order.
        side: Width and height of a tile in pixels.
        caption: What is shown.
        names: What the two are called.
    """

    before: Sequence[Tile]
    after: Sequence[Tile]
    side: tuple[int, int]
    caption: str
    names: tuple[str, str]


@dataclass(frozen=True)
class Fold:
    """What is shown on demand; in print it is open."""

    title: str
    blocks: Sequence[Block]


Block = Paragraph | Bullets | Facts | Listing | Code | Figure | HeatMap | Pair | Fold


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading of its own."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Headline:
    """What is read first.

    Arguments:
        standing: Which way it went.
        badge: The verdict in two or three words.
        gain: The gain as a number, ``+16.4 %``; empty where there is none.
        interval: Its interval and level; empty where there is none.
        sentence: The verdict in one sentence, with interval and level.
        facts: Numbers to be seen at a glance.
    """

    standing: Standing
    badge: str
    gain: str
    interval: str
    sentence: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """The whole.

    Arguments:
        study: The study's name.
        subtitle: What was measured, and how images were made.
        headline: What is read first.
        sections: In order.
        made: When and by which version, one line.
    """

    study: str
    subtitle: str
    headline: Headline
    sections: Sequence[Section]
    made: str
