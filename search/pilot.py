"""A pilot: a few images of the baseline and of one schedule, to learn how noisy a comparison is.

It is a study of one schedule in a folder that is thrown away, worked on by the same worker and
scored by the same metric as the study itself: what it tells is what the study would measure.
Nothing of it is kept, and nothing is decided on it.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skiptune.errors import NetworkError, SpecError
from skiptune.search.events import Listener, silent
from skiptune.search.paired_errors import PairedError, error_of
from skiptune.search.scoring import refuse_lost_baseline, score_ready
from skiptune.search.spec import StudySpec
from skiptune.search.stopping import Stop
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy, open_study
from skiptune.search.worker import Limits, Worker
from skiptune.storage import ledger
from skiptune.storage.records import CHUNK

if TYPE_CHECKING:
    from skiptune.search.course import Course, Step
    from skiptune.search.projection import Board
    from skiptune.search.space import Space
    from skiptune.storage.records import Turn

__all__ = ["OFF", "fewest_images", "pilot_error", "pilot_params"]

OFF: Final = 0.12
"""Logarithm by which the pilot's scales are off, up and down in turn: how far good schedules of a
trained network are from the baseline (root mean square; `docs/landscape.md`)."""


def fewest_images(spec: StudySpec) -> int:
    """Return the images of the smallest pilot: those of the first rung that is no screen."""
    rungs = spec.search.rungs
    return rungs[0] if spec.screen is None else rungs[1]


def pilot_params(space: Space) -> dict[str, float]:
    """Return the pilot's parameters: every scale off by `OFF` up or down, within the range."""
    params = space.baseline_params()
    for place, name in enumerate(space.scale_names):
        scale = math.exp(-OFF if place % 2 else OFF)
        params[name] = min(max(scale, space.low), space.high)
    return params


def pilot_error(
    spec: StudySpec,
    images: int,
    *,
    device: str = "cpu",
    source: str = "spec",
    on_event: Listener = silent,
    stop: Stop | None = None,
) -> PairedError | None:
    """Sample a pilot and return what it tells of paired errors.

    Arguments:
        spec: The study.
        images: Of each of the two, whole chunks and at least `fewest_images`.
        device: Torch device.
        source: What the spec came from, for messages.
        on_event: Who watches.
        stop: The wish to stop.

    Returns:
        None where `stop` was requested.

    Raises:
        SpecError: Too few images, or no whole chunks.
        NetworkError: Images are not finite.
        SkiptuneError: Whatever is wrong with the spec or its files.
    """
    least = fewest_images(spec)
    if images < least or images % CHUNK:
        raise SpecError(
            f"--pilot {images}",
            expected=f"whole chunks of {CHUNK} images, at least {least}",
            found=f"{images}",
            hint=f"give the smallest one: --pilot {math.ceil(least / CHUNK) * CHUNK}",
        )
    alone = spec.replaced("search.rungs", (images,)).replaced("search.sampler", "random")
    for key in ("search.images", "search.seconds", "objective.projection"):
        alone = alone.replaced(key, None)
    with tempfile.TemporaryDirectory(prefix="skiptune-pilot-") as folder:
        place = Path(folder)
        study = open_study(
            alone,
            storage=f"sqlite:///{place / 'pilot.db'}",
            artifacts=place / "arrays",
            device=device,
            source=source,
        )
        try:
            worker = Worker(
                study,
                _course(study, images, on_event),
                limits=Limits(until_done=True),
                on_event=on_event,
                stop=stop,
            )
            if worker.run() != "complete":
                return None
            found = error_of(study.database, study.row)
        finally:
            study.database.close()
    if found is None:
        raise NetworkError(
            f"{source}: pilot",
            expected=f"a baseline whose value is above zero, and finite images of scales that are"
            f" off by {OFF:.0%}",
            found="none of these",
            hint="look at the setting first: more steps, or another solver",
        )
    return replace(found, schedules=1, source=f"pilot of {images:,} images")


def _course(study: OpenStudy, images: int, on_event: Listener) -> Course:
    def step(board: Board, turn: Turn) -> Step:
        before = ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        baseline = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=images)
        refuse_lost_baseline(study, baseline)
        params = pilot_params(study.space)
        study.evaluate(
            study.space.schedule(params),
            kind="proposal",
            label="pilot",
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=images,
            params=params,
            turn=turn,
        )
        score_ready(study, on_event=on_event)
        if not before:
            return "entered"
        waiting = ledger.open_rungs(study.database, study.id, block=SEARCH)
        return "waiting" if waiting else "complete"

    return step
