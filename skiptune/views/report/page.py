"""A report as one HTML file: no request leaves it, and it reads without its script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skiptune.views.heat import heat_colours
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Figure,
    Fold,
    Headline,
    HeatMap,
    Listing,
    Pair,
    Paragraph,
    Report,
    Tile,
)
from skiptune.views.report.look import SCRIPT, policy, style
from skiptune.views.report.markup import Markup, joined, tag

__all__ = ["html_text"]

PIXELS = 96  # images below this size are shown pixel by pixel


def html_text(report: Report) -> str:
    """Return a report as an HTML document."""
    body = _Body()
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{report.study}: skiptune report"),
        Markup(f"<style>\n{style()}</style>"),
    )
    main = tag(
        "main",
        tag(
            "header",
            tag("p", "skiptune report", class_="over"),
            tag("h1", report.study),
            tag("p", report.subtitle, class_="lead"),
        ),
        _headline(report.headline),
        _contents(report),
        *(
            tag(
                "section",
                tag("h2", section.title),
                *(body.block(block) for block in section.blocks),
                id=section.key,
            )
            for section in report.sections
        ),
        tag("footer", report.made),
    )
    script = Markup(f"<script>{SCRIPT}</script>")
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n{tag("body", main, script)}\n</html>\n'


def _headline(headline: Headline) -> Markup:
    kind = {"win": "win", "no gain": "none", "open": "open"}[headline.standing]
    parts = [tag("p", headline.badge, class_="badge")]
    if headline.gain:
        number = tag("b", headline.gain)
        parts.append(tag("p", number, " ", tag("span", headline.interval), class_="gain"))
    parts.append(tag("p", headline.sentence))
    facts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in headline.facts)
    parts.append(tag("dl", *facts, class_="glance"))
    return tag("div", *parts, class_=f"verdict {kind}")


def _contents(report: Report) -> Markup:
    items = (
        tag("li", tag("a", section.title, href=f"#{section.key}")) for section in report.sections
    )
    return tag("nav", tag("ul", *items), aria_label="Contents")


class _Body:
    """Blocks as elements; tables are numbered, for their captions."""

    def __init__(self) -> None:
        self._tables = 0

    def block(self, block: Block) -> Markup:
        """Return a block as elements."""
        match block:
            case Paragraph():
                return tag("p", block.text, class_=block.tone or None)
            case Bullets():
                return tag("ul", *(tag("li", item) for item in block.items), class_="bullets")
            case Facts():
                rows = (joined(tag("dt", name), tag("dd", words)) for name, words in block.rows)
                return tag("dl", *rows, class_="facts")
            case Code():
                return tag("pre", tag("code", block.text), tabindex="0")
            case Listing():
                return self._listing(block)
            case HeatMap():
                return self._heat_map(block)
            case Figure():
                return _figure(block)
            case Pair():
                return _pair(block)
            case Fold():
                inside = tag("div", *(self.block(one) for one in block.blocks), class_="inside")
                return tag("details", tag("summary", block.title), inside)

    def _listing(self, table: Listing) -> Markup:
        classes = [
            "right" if column in table.right else "wraps" if column in table.wrapped else None
            for column in table.columns
        ]
        heads = [
            tag("th", column, scope="col", class_=class_)
            for column, class_ in zip(table.columns, classes, strict=True)
        ]
        rows = []
        for number, row in enumerate(table.rows):
            first, *rest = row
            cells = [tag("th", first, scope="row", class_=classes[0])]
            cells += [
                tag("td", cell, class_=class_)
                for cell, class_ in zip(rest, classes[1:], strict=True)
            ]
            rows.append(tag("tr", *cells, class_="stands" if number == table.strong else None))
        return self._table(table.caption, heads, rows)

    def _heat_map(self, table: HeatMap) -> Markup:
        heads = [tag("th", column, scope="col") for column in table.columns]
        rows = []
        for name, cells in table.rows:
            row = [tag("th", name, scope="row")]
            for text, share in cells:
                paper, ink = heat_colours(share)
                look = f"background:{_hex(paper)};color:{_hex(ink)}"
                row.append(tag("td", text, style=look))
            rows.append(tag("tr", *row))
        return self._table(table.caption, heads, rows, class_="heat")

    def _table(
        self,
        caption: str,
        heads: Sequence[Markup],
        rows: Sequence[Markup],
        *,
        class_: str | None = None,
    ) -> Markup:
        """Return a table in a container that it scrolls in; the caption stays where it is."""
        self._tables += 1
        name = f"table-{self._tables}"
        label = {"aria_labelledby": name} if caption else {"aria_label": "Table"}
        inside = tag(
            "table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_=class_, **label
        )
        # Whoever has no pointer scrolls it by keys, so it can be reached.
        table = tag("div", inside, class_="scroll", tabindex="0", role="region", **label)
        return joined(tag("p", caption, id=name, class_="caption"), table) if caption else table


def _figure(figure: Figure) -> Markup:
    parts = []
    if figure.keys:
        keys = (tag("li", key.mark, key.text) for key in figure.keys)
        parts.append(tag("ul", *keys, class_="keys"))
    parts += [tag("div", figure.svg, class_="drawn"), tag("figcaption", figure.caption)]
    return tag("figure", *parts)


def _pair(pair: Pair) -> Markup:
    before, after = pair.names
    class_ = f"tiles{' pixels' if max(pair.side) < PIXELS else ''}"
    slide = tag(
        "div",
        tag("span", before),
        tag(
            "input", type="range", min="0", max="100", value="50", step="1",
            aria_label=f"Where each image changes from {before}, on its left, to {after}",
        ),
        tag("span", after),
        class_="slide",
    )  # fmt: skip
    layers = tag(
        "div",
        tag("div", tag("h3", before), tag("div", *_tiles(pair, pair.before), class_=class_)),
        tag(
            "div",
            tag("h3", after),
            tag("div", *_tiles(pair, pair.after), class_=class_),
            class_="after",
        ),
        class_="layers",
    )
    return tag("figure", layers, slide, tag("figcaption", pair.caption), class_="pair")


def _tiles(pair: Pair, tiles: Sequence[Tile]) -> Iterator[Markup]:
    width, height = pair.side
    for tile in tiles:
        image = tag("img", src=tile.source, alt=tile.words, width=width, height=height)
        yield tag("span", image, class_="cell")


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
