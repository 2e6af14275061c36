"""Markup in which everything is escaped that is not markup itself.

What a user has named (studies, files, prompts) goes through `escaped` because there is no other
way in: `tag` escapes every child that is not `Markup`, and every attribute.
"""

from __future__ import annotations

import html
import unicodedata
from typing import Final

__all__ = ["Markup", "escaped", "joined", "plain", "tag"]

VOID: Final = frozenset(
    {"br", "circle", "img", "input", "line", "meta", "path", "polygon", "rect"}
)
"""Elements without content, of HTML and of the SVG that is drawn here."""

REPLACED: Final = "\N{REPLACEMENT CHARACTER}"

# They turn the order of what is read around: a name could pass for another one.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markup(str):
    """Text that is markup, every part of it escaped where it was none."""

    __slots__ = ()


def plain(text: str) -> str:
    """Return a text without what cannot stand in a document or hides what it says."""
    return "".join(
        REPLACED
        if letter in _TURNING
        or (unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t")
        else letter
        for letter in text
    )


def escaped(text: str) -> Markup:
    """Return a text as markup; markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text), quote=True))


def joined(*parts: str, by: str = "") -> Markup:
    """Return parts one after the other, each escaped where it is no markup."""
    return Markup(by.join(escaped(part) for part in parts))


def tag(element: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Arguments:
        element: Its name.
        children: Its content; what is no `Markup` is escaped.
        attributes: By name; a trailing underscore is dropped (`class_`), others become hyphens.
            True is an attribute without a value, False and None are left out.
    """
    parts = [element]
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f'{key}="{escaped(text)}"')
    start = " ".join(parts)
    if element in VOID and not children:
        return (
            Markup(f"<{start}>")
            if element in ("br", "img", "input", "meta")
            else Markup(f"<{start}/>")
        )
    return Markup(f"<{start}>{joined(*children)}</{element}>")
