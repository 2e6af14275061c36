"""What is told while a study runs: the best so far, lines for a log, bars for a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from skiptune.search.events import ChunkDone, Event, ImagesMade, Notice, Scored, Stage
from skiptune.views.progress import Lines, Standing, bars, scored_line


def scored(
    number: int, images: int, difference: float | None, *, kind: str = "proposal"
) -> Scored:
    return Scored(
        number=number,
        kind=kind,
        label=kind if kind == "baseline" else f"trial {number}",
        images=images,
        value=5.0 + (difference or 0.0),
        standard_error=0.08,
        difference=difference,
        difference_error=None if difference is None else 0.05,
        params={},
    )


BASELINE = scored(0, 2000, None, kind="baseline")
EVENTS: tuple[Event, ...] = (
    Stage("search", 31_500, 500),
    BASELINE,
    ImagesMade(50, 250, "trial 1"),
    ChunkDone(250, 2.5, 6.0, "trial 1"),
    scored(1, 500, -0.5),
    scored(2, 500, 0.25),
    scored(2, 2000, -0.1),
)


def test_the_best_is_the_one_with_most_images_then_the_largest_gain() -> None:
    standing = Standing(40, set())
    assert standing.text == "0/40 schedules; no gain measured yet"
    for event in EVENTS[:5]:
        standing.take(event)
    assert standing.text == (
        "best so far: gain +10.0 ± 1.0 % (trial 1, 500 images); 1/40 schedules"
    )
    for event in EVENTS[5:]:
        standing.take(event)
    assert "gain +2.0 ± 1.0 % (trial 2, 2,000 images); 2/40 schedules" in standing.text
    standing.take(scored(9, 2000, -2.0, kind="confirm"))
    assert standing.best is not None
    assert standing.best.number == 2


def test_a_log_gets_one_line_per_score_and_stage() -> None:
    lines: list[str] = []
    listen = Lines(lines.append, Standing(40, set()))
    for event in EVENTS:
        listen(event)
    stamp = re.compile(r"^\[I \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ")
    assert all(stamp.match(line) for line in lines)
    assert [stamp.sub("", line) for line in lines] == [
        "search: up to 31,500 images, 500 stored",
        "baseline  FD 5.000 ± 0.08 on 2,000 images",
        "trial 1  FD 4.500 ± 0.08 on 500 images  gain +10.0 ± 1.0 %",
        "trial 2  FD 5.250 ± 0.08 on 500 images  gain -5.0 ± 1.0 %",
        "trial 2  FD 4.900 ± 0.08 on 2,000 images  gain +2.0 ± 1.0 %",
    ]


def test_a_verbose_log_also_gets_chunks_with_their_speed() -> None:
    lines: list[str] = []
    listen = Lines(lines.append, Standing(40, set()), verbose=True)
    for event in EVENTS:
        listen(event)
    assert sum("trial 1: 250 images stored, 100.0 images/s" in line for line in lines) == 1


def test_a_notice_is_told_in_a_log_and_above_bars() -> None:
    lines: list[str] = []
    Lines(lines.append, Standing(40, set()))(Notice("the database is back"))
    assert re.fullmatch(r"\[W \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] the database is back", lines[0])
    file = io.StringIO()
    with bars(Console(file=file, force_terminal=True, width=80), Standing(40, set())) as listen:
        listen(Notice("the disk is full; waiting for space"))
    assert "waiting for space" in file.getvalue()


def test_a_diverged_schedule_is_said_to_be_one() -> None:
    event = Scored(
        3, "proposal", "trial 3", 500, float("nan"), float("nan"), None, None, {}, "diverged"
    )
    assert scored_line(event, 5.0) == "trial 3  diverged: an image is not finite"


@pytest.mark.parametrize("verbose", [False, True])
def test_bars_show_stage_chunk_and_best_and_leave_nothing_behind(verbose: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    with bars(console, Standing(40, set()), verbose=verbose) as listen:
        for event in EVENTS:
            listen(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "search" in text
    assert "/31,500 images" in text
    assert "best so far: gain +2.0 ± 1.0 %" in text
    assert ("trial 1  FD 4.500" in text) == verbose
    assert max(len(line) for line in text.replace("\r", "\n").splitlines()) <= 80
    assert file.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h"))
