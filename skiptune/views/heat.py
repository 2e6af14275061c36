"""Numbers on a map of colours: blue below nothing, grey at it, red above."""

from __future__ import annotations

from rich.color import Color
from rich.style import Style
from rich.text import Text

__all__ = ["heat", "heat_colours", "luminance", "spread_out"]

MOST_LEVELS = 8  # columns of noise levels that fit beside an address in 80 columns
LOW, EVEN, HIGH = (59, 76, 192), (221, 221, 221), (180, 4, 38)


def heat(text: str, share: float) -> Text:
    """Return a number on its colour; where colours cannot be shown it stands alone.

    Arguments:
        text: The number, padded.
        share: From -1, full blue, to 1, full red; beyond these it is cut off.
    """
    colour, (red, _, _) = heat_colours(share)
    ink = "white" if red else "black"
    return Text(text, style=Style(color=ink, bgcolor=Color.from_rgb(*colour)))


def heat_colours(
    share: float,
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the colour of a share, as `heat` shows it, and black or white to write on it.

    Whichever of the two is further from the colour, by WCAG's contrast ratio: at least 4.5.
    """
    share = max(-1.0, min(1.0, share))
    end = HIGH if share > 0 else LOW
    red, green, blue = (
        round(even + abs(share) * (full - even)) for even, full in zip(EVEN, end, strict=True)
    )
    light = luminance((red, green, blue))
    white = 1.05 / (light + 0.05) > (light + 0.05) / 0.05
    return (red, green, blue), ((255,) * 3 if white else (0,) * 3)


def luminance(colour: tuple[int, int, int]) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (one / 255 for one in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def spread_out(count: int, most: int = MOST_LEVELS) -> list[int]:
    """Return which of many columns are shown: evenly spread, both ends among them.

    Arguments:
        count: How many there are.
        most: How many fit, at least 2.
    """
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]
