"""A report as Markdown, for issues and papers: the same words and numbers, pictures left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Figure,
    Fold,
    HeatMap,
    Listing,
    Pair,
    Paragraph,
    Report,
)
from skiptune.views.report.markup import plain

__all__ = ["markdown_text"]


def markdown_text(report: Report) -> str:
    """Return a report as Markdown (GitHub's, for its tables)."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    headline = report.headline
    yield f"# {words(report.study)}: skiptune report"
    yield words(report.subtitle)
    # The sentence tells the gain and its interval as well, and may begin with the badge's words.
    badge, rest = headline.badge, headline.sentence.removeprefix(headline.badge)
    said = rest != headline.sentence
    yield f"**{words(badge)}{'' if said else '.'}**{'' if said else ' '}{words(rest)}"
    yield "\n".join(f"- {words(name)}: {words(value)}" for name, value in headline.facts)
    for section in report.sections:
        yield f"## {words(section.title)}"
        for block in section.blocks:
            yield from _block(block)
    yield f"*{words(report.made)}*"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield f"> {words(block.text)}" if block.tone == "warning" else words(block.text)
        case Bullets():
            yield "\n".join(f"- {words(item)}" for item in block.items)
        case Facts():
            yield _table(("", ""), block.rows)
        case Listing():
            if block.caption:
                yield words(block.caption)
            yield _table(block.columns, block.rows, right=block.right)
        case HeatMap():
            yield words(block.caption)
            rows = [(name, *(text for text, _ in cells)) for name, cells in block.rows]
            yield _table(block.columns, rows, right=block.columns[1:])
        case Code():
            yield _fenced(block)
        case Figure() | Pair():
            yield f"*(In the HTML report: {words(block.caption)})*"
        case Fold():
            yield f"### {words(block.title)}"
            for one in block.blocks:
                yield from _block(one)


def words(text: str) -> str:
    """Return a text in which no letter is a mark of Markdown or HTML."""
    line = " ".join(plain(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    # An underscore within a word is none of Markdown's: addresses stay readable.
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)
    # At the beginning of a line these would make a heading, a list or a line.
    return re.sub(r"^([#+=-]|\d+[.)])(?=\s|$)", r"\\\1", line)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> str:
    rules = ["---:" if column in right else "---" for column in columns]
    lines = [[words(column) for column in columns], rules]
    lines += [[words(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(code: Code) -> str:
    text = plain(code.text).rstrip("\n")
    # A fence is longer than any within it.
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{code.language}\n{text}\n{fence}"
