"""What a study will take, as a person reads it before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.text import Text

from skiptune.search.forecast import Forecast
from skiptune.search.power import POWER
from skiptune.storage.records import CHUNK
from skiptune.views import numbers
from skiptune.views.tables import listing, paragraph

__all__ = ["forecast_hints", "forecast_view", "prompts_text"]

TIMES = (0.5, 1, 2, 4)  # sizes of a block whose smallest gains are shown, in the study's own


def forecast_view(found: Forecast, *, device: str) -> Iterator[RenderableType]:
    """Yield the parts of the page: a row per part, the whole, and what it can prove.

    Arguments:
        found: The forecast.
        device: What it was measured on, with its name.
    """
    yield Text(f"{found.study}: what it will take", style="bold")
    rows = [
        (
            part.name,
            "" if part.schedules is None else numbers.count(part.schedules),
            numbers.count(part.cost.images),
            numbers.count(round(part.cost.evaluations)),
            numbers.duration(part.seconds),
        )
        for part in found.parts
    ]
    whole = found.cost
    rows.append(
        (
            "together",
            "",
            numbers.count(whole.images),
            numbers.count(round(whole.evaluations)),
            numbers.duration(found.seconds),
        )
    )
    heads = ("part", "schedules", "images", "network evaluations", "time")
    yield listing(heads, rows, right=heads[1:])
    yield Text("")
    yield paragraph(_time_text(found, device))
    if found.stored:
        yield paragraph(
            f"{numbers.count(found.stored)} images of this study are stored: they are not made "
            "again."
        )
    if sum(part.name.startswith("rung ") for part in found.parts) > 1:
        yield paragraph(
            "Nobody waits for a whole rung, so a few more schedules than these may go on."
        )
    yield Text("")
    if found.prompts:
        yield paragraph(prompts_text(found.prompts))
    yield from _power_view(found)


def prompts_text(prompts: Mapping[str, int]) -> str:
    """Return how many prompts there are for the search and each half of a confirm, in words.

    Arguments:
        prompts: By name, as `search.prompting.prompt_counts` gives them.
    """
    counts = (f"{name} draws from {numbers.count(count)}" for name, count in prompts.items())
    return f"Errors count prompts: {', '.join(counts)}."


def _time_text(found: Forecast, device: str) -> str:
    hours = found.seconds / 3600
    text = (
        f"About {numbers.duration(found.seconds)} ({hours:.3g} device hours) on one {device}, at "
        f"{found.images_per_second:.3g} images/s, measured on one microbatch"
    )
    if found.workers > 1:
        text += (
            f"; {numbers.duration(found.wall_seconds)} with {found.workers} workers, each on a "
            "device like this one"
        )
    return f"{text}."


def forecast_hints(found: Forecast, *, source: str) -> Iterator[str]:
    """Yield what may be done about what cannot be proved, each with a command.

    Arguments:
        found: The forecast.
        source: The words of the command line that name the study.
    """
    if found.error is None:
        yield f"learn it from a pilot: skiptune plan {source} --pilot {found.pilot_images}"
        return
    wanted = 2 * found.min_gain
    needed = found.images_for(wanted) if found.min_gain > 0 else None
    if needed is not None and needed > found.images:
        yield (
            f"to prove {100 * wanted:g} % as surely: skiptune plan {source} "
            f"-s confirm.images={needed}"
        )


def _power_view(found: Forecast) -> Iterator[RenderableType]:
    smallest, error = found.smallest_gain, found.error
    if smallest is None or error is None:
        yield paragraph(
            "Smallest gain that can be proved: not known. It follows from the error of a paired "
            "difference, and no study of the same images and metric has one here."
        )
        return
    yield paragraph(
        f"Smallest gain that confirm {found.confirm} proves with {100 * POWER:g} % probability: "
        f"{100 * smallest:.2g} % of the untouched network's {numbers.value(error.baseline)} "
        f"(level {found.level:g}, {numbers.count(found.images)} images a block, standard error "
        f"{100 * error.at(found.images):.2g} %)",
        style="bold",
    )
    sizes = sorted({max(round(found.images * times / CHUNK), 1) * CHUNK for times in TIMES})
    gains = ((size, found.smallest_gain_at(size)) for size in sizes)
    yield paragraph(
        "With other blocks: "
        + ", ".join(
            f"{numbers.count(size)} images {100 * gain:.2g} %" for size, gain in gains if gain
        )
    )
    if error.floor > 0:
        floor = 100 * error.floor / error.baseline
        yield paragraph(
            f"No error below {floor:.2g} % is counted on: how much more images of the same "
            "prompts help is not known. More prompts do."
        )
    yield paragraph(
        f"Learnt from {_source_text(found)}. The search has to find such a gain first. A gain "
        f"below {100 * found.min_gain:g} % (confirm.min_gain) is no win, however sure it is."
    )


def _source_text(found: Forecast) -> str:
    error = found.error
    assert error is not None
    if error.schedules == 1:
        return f"{error.source}, one schedule"
    ratio = error.high / error.low
    return (
        f"{error.source}: the median of {error.schedules} schedules, whose errors differ by a "
        f"factor of {ratio:.2g}"
    )
