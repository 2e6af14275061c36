"""Numbers on a map of colours: blue below nothing, grey at it, red above."""

from __future__ import annotations

from rich.color import Color
from rich.style import Style
from rich.text import Text

__all__ = ["heat", "spread_out"]

MOST_LEVELS = 8  # columns of noise levels that fit beside an address in 80 columns
LOW, EVEN, HIGH = (59, 76, 192), (221, 221, 221), (180, 4, 38)


def heat(text: str, share: float) -> Text:
    """Return a number on its colour; where colours cannot be shown it stands alone.

    Arguments:
        text: The number, padded.
        share: From -1, full blue, to 1, full red; beyond these it is cut off.
    """
    share = max(-1.0, min(1.0, share))
    end = HIGH if share > 0 else LOW
    red, green, blue = (
        round(even + abs(share) * (full - even)) for even, full in zip(EVEN, end, strict=True)
    )
    ink = "black" if abs(share) < 0.6 else "white"
    return Text(text, style=Style(color=ink, bgcolor=Color.from_rgb(red, green, blue)))


def spread_out(count: int, most: int = MOST_LEVELS) -> list[int]:
    """Return which of many columns are shown: evenly spread, both ends among them.

    Arguments:
        count: How many there are.
        most: How many fit, at least 2.
    """
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]
