"""Looking at a study again and again until it is done: a page on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skiptune.errors import UnavailableError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skiptune.commands.options import Options
    from skiptune.search.overview import Overview
    from skiptune.storage.database import Database

__all__ = ["LOOK_SECONDS", "follow"]

LOOK_SECONDS = 5.0


def follow(options: Options, database: Database, name: str) -> None:
    """Show where a study stands until it is complete with its confirms, or stopped.

    A server that is away is asked again. Ctrl-C ends the looking, not the study.

    Raises:
        StorageError: There is no study of this name, or the database cannot be used.
    """
    from skiptune.commands.output import stdout_console

    console = stdout_console()
    if console.is_terminal and not options.no_progress:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        parts: tuple[RenderableType, ...] = ()
        with Live(console=console, auto_refresh=False) as live:
            for found in _looks(database, name):
                if isinstance(found, str):
                    live.update(Group(*parts, Text(found)), refresh=True)
                    continue
                parts = _page(found)
                live.update(Group(*parts), refresh=True)
        return
    told = ""
    for found in _looks(database, name):
        line = found if isinstance(found, str) else _line(found)
        if line != told:
            told = line
            print(line, flush=True)


def _looks(database: Database, name: str) -> Iterator[Overview | str]:
    """Yield where the study stands, or why that cannot be told now, up to its end."""
    from skiptune.search import overview

    while True:
        try:
            found = overview.overview(database, name)
        except UnavailableError as error:
            yield f"The database cannot be read: {error.problems[0].found}"
        else:
            yield found
            if found.is_over:
                return
        database.rest()
        time.sleep(LOOK_SECONDS)


def _page(study: Overview) -> tuple[RenderableType, ...]:
    from skiptune.views.study import overview_view

    return tuple(overview_view(study))


def _line(study: Overview) -> str:
    from skiptune.views.study import standing_line

    return f"{standing_line(study)}; workers: {len(study.workers)}"
