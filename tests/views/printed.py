"""What is printed of a view's parts, as text without colours."""

from __future__ import annotations

from rich.console import Console, RenderableType

__all__ = ["printed"]


def printed(*parts: RenderableType, width: int = 80) -> str:
    """Return parts one below the other, as the command line prints them: no line ends in blanks.

    Arguments:
        parts: What a view consists of.
        width: Columns.
    """
    console = Console(width=width, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
