"""Numbers as a person reads them, the same way in every table and line."""

from __future__ import annotations

import math

__all__ = [
    "bare_gain",
    "change",
    "count",
    "duration",
    "gain",
    "interval",
    "nfe",
    "percent",
    "value",
]


def count(images: int) -> str:
    """Return ``2,000``."""
    return f"{images:,}"


def value(number: float) -> str:
    """Return a distance with four significant digits, ``5.812`` or ``0.1234``."""
    if not math.isfinite(number):
        return "not finite"
    if number == 0:
        return "0.000"
    decimals = max(0, 3 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(decimals, 6)}f}"


def interval(low: float, high: float) -> str:
    """Return ``[5.671, 5.953]`` with as many decimals for both ends."""
    size = max(abs(low), abs(high))
    decimals = 3 if size == 0 else max(0, 3 - math.floor(math.log10(size)))
    decimals = min(decimals, 6)
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def percent(fraction: float) -> str:
    """Return a fraction as ``+3.1``, in percent."""
    # Adding zero turns the minus zero of a rounded number into zero.
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def bare_gain(fraction: float, low: float, high: float) -> str:
    """Return ``+3.1 [+1.2, +5.0]``, in percent, for a column whose heading says so."""
    return f"{percent(fraction)} [{percent(low)}, {percent(high)}]"


def gain(fraction: float, low: float, high: float) -> str:
    """Return ``+3.1 % [+1.2, +5.0]`` for fractions of the baseline's value."""
    return f"{percent(fraction)} % [{percent(low)}, {percent(high)}]"


def change(scale: float) -> str:
    """Return by how much a scale differs from 1, ``+12.5 %``."""
    return "dropped" if scale == 0 else f"{100 * (scale - 1):+.1f} %"


def nfe(evaluations: float) -> str:
    """Return network evaluations per image, ``6`` or ``7.5``."""
    return f"{evaluations:g}"


def duration(seconds: float) -> str:
    """Return ``48 s``, ``5 min 12 s`` or ``3 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
