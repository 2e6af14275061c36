"""What a study will take on this machine before anything is spent, and what that can prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skiptune.sampling.prompts import SEARCH_SHARE, confirm_share
from skiptune.search.events import Listener, silent
from skiptune.search.overview import confirms
from skiptune.search.paired_errors import PairedError, stored_error
from skiptune.search.pilot import fewest_images, pilot_error
from skiptune.search.plan import Cost, confirm_cost, own_nfe, rung_counts, search_parts
from skiptune.search.power import POWER, images_for, smallest_gain
from skiptune.search.prompting import prompt_counts
from skiptune.search.resumption import check_unchanged
from skiptune.search.samplers import DESCENT
from skiptune.search.sloped import slopes_cost
from skiptune.search.spec import StudySpec
from skiptune.search.speed import measured_speed
from skiptune.search.stopping import Stop
from skiptune.search.strategy import resolved
from skiptune.search.study import check_study, study_meaning
from skiptune.search.warm_start import SPENT
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from skiptune.storage.location import sqlite_path

__all__ = ["Forecast", "Part", "confirm_parts", "forecast"]


@dataclass(frozen=True)
class Part:
    """A part of a study.

    Arguments:
        name: ``baseline``, ``rung 500``, ``slopes``, ``confirm A``, ...
        schedules: How many there are in it; None where they are no schedules.
        cost: Images, and evaluations of the network.
        seconds: What it takes on one device of this machine.
    """

    name: str
    schedules: int | None
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What a study will take, and what it can prove.

    Arguments:
        study: Its name.
        parts: In order.
        images_per_second: Of the study's own setting, measured.
        workers: How many shall work on it at once.
        confirm: Which confirm comes next, from 1 on.
        level: Its level, two-sided.
        min_gain: The least gain that counts, a fraction.
        images: Of each block of the confirm.
        error: How noisy a comparison is; None where nothing tells it yet.
        pilot_images: Of the smallest pilot.
        stored: Images of this study that are there already.
        prompts: How many prompts the search and the next confirm's halves draw from, by name;
            empty where errors count images.
    """

    study: str
    parts: tuple[Part, ...]
    images_per_second: float
    workers: int
    confirm: int
    level: float
    min_gain: float
    images: int
    error: PairedError | None
    pilot_images: int
    stored: int = 0
    prompts: Mapping[str, int] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """All parts together."""
        return sum((part.cost for part in self.parts), Cost())

    @property
    def seconds(self) -> float:
        """What all parts take on one device."""
        return sum(part.seconds for part in self.parts)

    @property
    def wall_seconds(self) -> float:
        """What all parts take with all workers, each on a device like this one."""
        return self.seconds / self.workers

    @property
    def smallest_gain(self) -> float | None:
        """The smallest gain that the confirm finds with `POWER`, a fraction of the baseline."""
        return self.smallest_gain_at(self.images)

    def smallest_gain_at(self, images: int) -> float | None:
        """Return `smallest_gain` of a confirm with another number of images."""
        if self.error is None:
            return None
        return smallest_gain(self.error.at(images), level=self.level, least=self.min_gain)

    def images_for(self, gain: float) -> int | None:
        """Return the images of a block that find a gain with `POWER`; None: nothing tells it.

        None as well where so many images of the block's prompts are not known to be enough.

        Arguments:
            gain: A fraction of the baseline's value, above `min_gain`.
        """
        if self.error is None:
            return None
        deviation = self.error.deviation / self.error.baseline
        needed = images_for(gain, deviation=deviation, level=self.level, least=self.min_gain)
        if needed is not None and self.error.floor > 0:
            smallest = self.smallest_gain_at(needed)
            return needed if smallest is not None and smallest <= gain else None
        return needed

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        error = self.error
        return {
            "study": self.study,
            "parts": [
                {
                    "part": part.name,
                    "schedules": part.schedules,
                    "images": part.cost.images,
                    "evaluations": round(part.cost.evaluations),
                    "seconds": part.seconds,
                }
                for part in self.parts
            ],
            "images": self.cost.images,
            "evaluations": round(self.cost.evaluations),
            "images_per_second": self.images_per_second,
            "device_hours": self.seconds / 3600,
            "workers": self.workers,
            "hours": self.wall_seconds / 3600,
            "stored_images": self.stored,
            "confirm": self.confirm,
            "level": self.level,
            "power": POWER,
            "min_gain": self.min_gain,
            "confirm_images": self.images,
            "smallest_gain": self.smallest_gain,
            **({"prompts": dict(self.prompts)} if self.prompts else {}),
            "paired_error": None
            if error is None
            else {
                "gain_error": error.at(self.images),
                "per_image": error.deviation,
                "per_image_range": [error.low, error.high],
                "schedules": error.schedules,
                "baseline": error.baseline,
                "source": error.source,
            },
        }


def forecast(
    spec: StudySpec,
    *,
    storage: str | None = None,
    device: str = "cpu",
    workers: int = 1,
    pilot: int | None = None,
    source: str = "spec",
    on_event: Listener = silent,
    stop: Stop | None = None,
) -> Forecast | None:
    """Return what a study will take and prove; nothing is written.

    One microbatch is sampled to see how fast this device is.

    Arguments:
        spec: The study.
        storage: URL of a database whose studies tell how noisy comparisons are; it need not be
            there.
        device: Torch device.
        workers: How many shall work at once, each on a device like this one, at least 1.
        pilot: Images of a pilot (`pilot_error`), or None: what is stored tells.
        source: What the spec came from, for messages.
        on_event: Who watches the pilot.
        stop: The wish to stop it.

    Returns:
        None where `stop` was requested.

    Raises:
        StudyChangedError: A study of this name exists with another meaning.
        SkiptuneError: Whatever is wrong with the spec, its files or the database.
    """
    checkpoint, objective, space = check_study(spec, device=device, source=source)
    stored = _stored(spec, study_meaning(spec, checkpoint, objective), storage, source)
    spec = resolved(spec, objective, space)
    speed = measured_speed(spec, checkpoint, objective.extractor, objective)
    candidates = min(spec.confirm.candidates, spec.search.evaluations)
    counts: dict[str, int] = {"baseline": 1, "confirm A": candidates + 1}
    counts["confirm B"] = 2
    counts |= {
        f"rung {size}": count
        for size, count in zip(spec.search.rungs, rung_counts(spec), strict=True)
    }
    costs = search_parts(spec, loss_nfe=objective.loss_nfe)
    if spec.search.sampler == DESCENT:
        costs["slopes"] = slopes_cost(spec, objective)
    costs |= confirm_parts(spec, loss_nfe=objective.loss_nfe)
    error = stored.error
    if pilot is not None:
        error = pilot_error(
            spec, pilot, device=device, source=source, on_event=on_event, stop=stop
        )
        if error is None:
            return None
    number = stored.confirms + 1
    prompts = prompt_counts(checkpoint, spec, block=stored.block)
    if prompts and error is not None:
        tested = prompts[confirm_share(stored.block, "B")]
        error = error.on_prompts(prompts[SEARCH_SHARE], max(tested, 1))
    return Forecast(
        study=spec.study,
        parts=tuple(
            Part(name, counts.get(name), cost, speed.seconds(cost)) for name, cost in costs.items()
        ),
        images_per_second=speed.rate(spec),
        workers=workers,
        confirm=number,
        level=spec.confirm.alpha / 2**number,
        min_gain=spec.confirm.min_gain,
        images=spec.confirm.images,
        error=error,
        pilot_images=fewest_images(spec),
        stored=stored.images,
        prompts=prompts,
    )


def confirm_parts(spec: StudySpec, *, loss_nfe: float = 0.0) -> dict[str, Cost]:
    """Return what a confirm costs: the candidates on block A, the chosen one on block B, controls.

    Baselines, and the images that a metric compares with, count with the candidates.

    Arguments:
        spec: The study.
        loss_nfe: Network evaluations that denoising losses take per image, 0 without such.
    """
    whole = confirm_cost(spec, loss_nfe=loss_nfe)
    bare = confirm_cost(spec.replaced("confirm.controls", False), loss_nfe=loss_nfe)
    images = spec.confirm.images
    test = Cost(2 * images, 2 * images * own_nfe(spec, loss_nfe))
    search = search_parts(spec, loss_nfe=loss_nfe)
    if "teacher" in search:
        teacher = search["teacher"]
        test += Cost(images, images * teacher.evaluations / teacher.images)
    parts = {"confirm A": _less(bare, test), "confirm B": test, "controls": _less(whole, bare)}
    return {name: cost for name, cost in parts.items() if cost.images}


@dataclass(frozen=True)
class _Stored:
    """What a database tells of a study: how often it was confirmed, its images, its errors."""

    confirms: int = 0
    block: int = 1  # of the next confirm's seeds
    images: int = 0
    error: PairedError | None = None


def _stored(spec: StudySpec, meaning: dict[str, Any], storage: str | None, source: str) -> _Stored:
    path = None if storage is None else sqlite_path(storage)
    if storage is None or (path is not None and not path.exists()):
        return _Stored()
    with open_database(storage) as database:
        error = stored_error(database, meaning, name=spec.study)
        row = ledger.find_study(database, spec.study)
        if row is None:
            return _Stored(error=error)
        check_unchanged(database, row, meaning, source=source)
        finished = sum(confirm.finished for confirm in confirms(database, spec.study))
        after = row.board.get(SPENT, 0)
        return _Stored(
            confirms=finished,
            block=ledger.block_of_confirm(database, row.id, finished + 1, after=after),
            images=ledger.spending(database, row.id).images,
            error=error,
        )


def _less(whole: Cost, part: Cost) -> Cost:
    return Cost(whole.images - part.images, whole.evaluations - part.evaluations)
