"""How large the error of a paired difference is, learnt from images that are there already.

The error of a difference between a schedule and the baseline falls with the root of the images,
and depends on the network, the setting, the metric and on how far the schedule is from the
baseline. Studies of the same series and metric therefore tell it of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import Score, Study

__all__ = ["PairedError", "same_images", "stored_error"]

# Parts of a study's meaning on which neither images nor what is measured of them depends.
FREE = ("space.", "search.", "confirm.", "objective.beside", "objective.constraints")


@dataclass(frozen=True)
class PairedError:
    """The error of paired differences of one image, and where it was learnt.

    Arguments:
        deviation: Standard error of a paired difference times the root of its images, in the
            metric's unit: the median over schedules.
        low: The smallest one.
        high: The largest one.
        schedules: How many there are.
        baseline: The baseline's value: gains are parts of it.
        source: Where they were measured.
        error: The standard errors themselves, as they were measured: the median.
        floor: What more images of the same prompts are not known to bring a standard error below;
            0 where errors count images.
    """

    deviation: float
    low: float
    high: float
    schedules: int
    baseline: float
    source: str
    error: float = 0.0
    floor: float = 0.0

    def at(self, images: int) -> float:
        """Return the standard error of a gain on so many images, as a part of the baseline."""
        return max(self.deviation / math.sqrt(images), self.floor) / self.baseline

    def on_prompts(self, measured: int, wanted: int) -> PairedError:
        """Return the same for images of other prompts, where errors count prompts.

        How much of an error is the prompts' and how much the images' own is not known. It falls
        with the root of the prompts at least, and with that of the images at most; the larger of
        the two is taken. It was learnt on no more prompts than images.

        Arguments:
            measured: Prompts that it was learnt on are drawn from so many.
            wanted: Those of the images to come are drawn from so many.
        """
        seen = float(measured)
        if self.error > 0:
            seen = min(seen, (self.deviation / self.error) ** 2)
        return replace(self, floor=self.error * math.sqrt(seen / wanted))


def stored_error(
    database: Database, meaning: Mapping[str, Any], *, name: str
) -> PairedError | None:
    """Return what the studies of a database tell of a study's paired errors.

    The study itself goes first, then the newest of the same images and metric.

    Arguments:
        database: Where studies live.
        meaning: Of the study, from `study_meaning`.
        name: Its name.

    Returns:
        None where no schedule of such a study has a score, or the baseline's value is no unit.
    """
    alike = [study for study in ledger.list_studies(database) if same_images(study, meaning)]
    alike.sort(key=lambda study: (study.name == name, study.created), reverse=True)
    for study in alike:
        found = error_of(database, study)
        if found is not None:
            return found
    return None


def same_images(study: Study, meaning: Mapping[str, Any]) -> bool:
    """Return whether a stored study makes the images of a meaning and measures the same of them.

    Its space, budget and confirm may differ.
    """

    def fixed(whole: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in whole.items() if not key.startswith(FREE)}

    ours, theirs = fixed(meaning), fixed(study.meaning)
    # Several metrics are a list whose first one is decided on; the first alone matters here.
    for one in (ours, theirs):
        metric = one["objective.metric"]
        one["objective.metric"] = metric if isinstance(metric, str) else next(iter(metric))
    return ours == theirs


def error_of(database: Database, study: Study) -> PairedError | None:
    """Return what a study tells of paired errors, None where it has no scores yet.

    Of the schedules that are better than the baseline, which are those that a confirm tests, or
    of all where none is.
    """
    found = ledger.baseline_score(database, study.id)
    if found is None or found[1].value <= 0:
        return None
    screened = (
        study.meaning.get("objective.projection") is not None
        and len(study.meaning["search.rungs"]) > 1
    )
    asked = {
        one.id: one
        for one in ledger.evaluations(database, study.id)
        if one.kind in ("proposal", "confirm")
    }
    last: dict[str, Score] = {}
    for score in ledger.scores(database, study.id):  # by level, increasing: the last one stays
        one = asked.get(score.evaluation_id)
        # The first of several rungs of a screened study is measured in other features.
        other = one is not None and one.kind == "proposal" and score.level == 0 and screened
        if one is not None and not other and score.difference_error:
            last[one.id] = score
    better = [score for score in last.values() if (score.difference or 0.0) < 0]
    chosen = better or list(last.values())
    errors = [(score.difference_error or 0.0) * math.sqrt(score.images) for score in chosen]
    if not errors:
        return None
    return PairedError(
        deviation=median(errors),
        low=min(errors),
        high=max(errors),
        schedules=len(errors),
        baseline=found[1].value,
        source=f"study {study.name}",
        error=median(score.difference_error or 0.0 for score in chosen),
    )
