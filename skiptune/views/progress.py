"""A running study as a person watches it: bars on a terminal, lines in a log.

Both are listeners of the engine's events. Gains are fractions of the baseline's value, positive
is better; what follows the sign ± is one standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from skiptune.search.events import ChunkDone, Event, ImagesMade, Listener, Notice, Scored, Stage
from skiptune.views import numbers

__all__ = ["Lines", "Standing", "bars", "scored_line"]


@dataclass
class Standing:
    """Where the search stands, kept up from events.

    Arguments:
        budget: Proposals that the search may make.
        scored: Proposals that have a score, by evaluation number.
        best: The best of them: most images first, then the largest gain.
        baseline: The baseline's value; None before it is scored.
    """

    budget: int
    scored: set[int]
    best: Scored | None = None
    baseline: float | None = None

    def take(self, event: Event) -> None:
        """Note a score of the search."""
        if not isinstance(event, Scored):
            return
        if event.kind == "baseline":
            self.baseline = event.value
        elif event.kind == "proposal":
            self.scored.add(event.number)
            if event.difference is not None and _rank(event) < _rank(self.best):
                self.best = event

    @property
    def text(self) -> str:
        """The line below the bars."""
        count = f"{len(self.scored)}/{self.budget} schedules"
        if self.best is None or self.baseline is None or self.baseline <= 0:
            return f"{count}; no gain measured yet"
        return (
            f"best so far: gain {_gain_text(self.best, self.baseline)} "
            f"({self.best.label}, {numbers.count(self.best.images)} images); {count}"
        )


class Lines:
    """Writes one line per score and per stage: what a log or a pipe gets.

    Arguments:
        write: Takes a line without its end.
        standing: Where the search stands.
        verbose: Also one line per chunk.
    """

    def __init__(
        self, write: Callable[[str], None], standing: Standing, *, verbose: bool = False
    ) -> None:
        self._write = write
        self._standing = standing
        self._verbose = verbose

    def __call__(self, event: Event) -> None:
        """Take an event of the engine."""
        self._standing.take(event)
        if isinstance(event, Stage):
            stored = f", {numbers.count(event.stored)} stored" if event.stored else ""
            self._line(f"{event.name}: up to {numbers.count(event.images)} images{stored}")
        elif isinstance(event, Scored):
            self._line(scored_line(event, self._standing.baseline))
        elif isinstance(event, Notice):
            self._write(f"[W {time.strftime('%Y-%m-%d %H:%M:%S')}] {event.text}")
        elif isinstance(event, ChunkDone) and self._verbose:
            rate = event.images / event.seconds if event.seconds > 0 else 0.0
            self._line(f"{event.label}: {event.images} images stored, {rate:.1f} images/s")

    def _line(self, text: str) -> None:
        # Optuna's shape of a log line, which these users know.
        self._write(f"[I {time.strftime('%Y-%m-%d %H:%M:%S')}] {text}")


def scored_line(event: Scored, baseline: float | None) -> str:
    """Return ``trial 12  FD 5.631 ± 0.080 on 500 images  gain +3.1 ± 0.9 %``."""
    if event.state == "diverged":
        return f"{event.label}  diverged: an image is not finite"
    text = (
        f"{event.label}  {event.metric} {numbers.value(event.value)} ± {event.standard_error:.2g} "
        f"on {numbers.count(event.images)} images"
    )
    if event.difference is None or baseline is None or baseline <= 0:
        return text
    return f"{text}  gain {_gain_text(event, baseline)}"


@contextmanager
def bars(console: Console, standing: Standing, *, verbose: bool = False) -> Iterator[Listener]:
    """Draw bars while the block runs: the stage's images, the chunk's images, the best so far.

    Arguments:
        console: A terminal.
        standing: Where the search stands.
        verbose: Also write a line per score above the bars.
    """
    view = _Bars(standing)
    lines = Lines(lambda text: console.print(text, style="dim"), standing, verbose=verbose)
    with Live(view, console=console, refresh_per_second=5, transient=True) as live:

        def listen(event: Event) -> None:
            view.take(event)
            if verbose or isinstance(event, Notice):
                lines(event)
            else:
                standing.take(event)
            if isinstance(event, Stage | Scored):
                live.refresh()

        yield listen


class _Bars:
    """Two bars and a line."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images", justify="right"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        self._stage: TaskID | None = None
        self._chunk: TaskID | None = None
        self._done = 0

    def __rich__(self) -> RenderableType:
        return Group(self._progress, Text(self._standing.text, no_wrap=True, overflow="ellipsis"))

    def take(self, event: Event) -> None:
        """Move the bars."""
        if isinstance(event, Stage):
            for task in self._progress.task_ids:
                self._progress.remove_task(task)
            self._stage = self._progress.add_task(
                event.name, total=max(event.images, event.stored), completed=event.stored
            )
            self._chunk = None
            self._done = event.stored
        elif isinstance(event, ImagesMade):
            if self._chunk is None:
                self._chunk = self._progress.add_task(event.label, total=event.of)
            self._progress.update(
                self._chunk, description=event.label, total=event.of, completed=event.images
            )
            self._at(self._done + event.images)
        elif isinstance(event, ChunkDone):
            self._done += event.images
            self._at(self._done)
            if self._chunk is not None:
                self._progress.reset(self._chunk)

    def _at(self, images: int) -> None:
        if self._stage is not None:
            self._progress.update(self._stage, completed=images)


def _gain_text(event: Scored, baseline: float) -> str:
    fraction = -(event.difference or 0.0) / baseline
    error = (event.difference_error or 0.0) / baseline
    return f"{numbers.percent(fraction)} ± {100 * error:.1f} %"


def _rank(event: Scored | None) -> tuple[float, float]:
    if event is None or event.difference is None:
        return (0.0, float("inf"))
    return (-event.images, event.difference)
