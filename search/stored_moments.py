"""Moments of a study's evaluations, from their stored features, each read once by a worker.

All moments stand on one footing: those of the baseline's images, as many as there are, plus what
a schedule changes on the seeds that it shares with the baseline. So evaluations of different
rungs go together, and what all share cancels.

Beyond `WHOLE` features moments are taken in the leading `DIRECTIONS` principal directions of
baseline and reference (`objectives.projection`), fixed by the baseline's lowest rung. An
evaluation then takes 131 kB of memory, and a new worker reads at most 64 MB of files for each that
a model is made of; with 64 features it is 33 kB and 2 MB.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.catalogue import FEATURES
from skiptune.objectives.moment_model import LeftOut, Seen, left_out
from skiptune.objectives.moments import Moments
from skiptune.objectives.projection import Projection
from skiptune.objectives.reference import Reference
from skiptune.search.scoring import NotSampledError, Stored
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.surrogate import MOST, Known, best, nearest
from skiptune.storage import ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.records import Evaluation

__all__ = ["DIRECTIONS", "MOST_IMAGES", "WHOLE", "StoredMoments"]

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # mean [k] and covariance [k, k]

WHOLE: Final = 256
"""Features up to which moments are taken as they are."""

DIRECTIONS: Final = 128
"""Principal directions that moments of more features are taken in."""

MOST_IMAGES: Final = 8000
"""First images of an evaluation that its moments are taken of, at most: 62 for each direction."""

KEPT: Final = 4 * MOST
"""Moments that a worker keeps: at most 210 MB with 256 features."""


class StoredMoments:
    """The moments of a study's evaluations, and what is kept of them between proposals.

    Arguments:
        study: The open study; its metric is the Frechet distance.
    """

    def __init__(self, study: OpenStudy) -> None:
        assert study.reference is not None  # the metric needs one
        self._study = study
        self._whole = study.reference
        self._kept: dict[tuple[str, int], Pair] = {}  # what was used last is last
        self._onto: Projection | None = None

    @property
    def reference(self) -> Reference:
        """The study's reference, of the features whose moments are read.

        Before there is a baseline to fix the directions, of all features.
        """
        self._fix_directions()
        return self._whole if self._onto is None else self._onto.reference(self._whole)

    def known(self) -> list[Known]:
        """Return the baseline and every proposal that has a score, by number.

        Nothing before the baseline has its score. Each has the score of its highest rung, except
        where the lowest one is a screen, which is another metric: then all have that.
        """
        study = self._study
        found = ledger.baseline_score(study.database, study.id)
        if found is None:
            return []
        baseline, full = found
        level = None if study.spec.screen is None else 0
        # By level, increasing: the last one stays.
        scores = {
            score.evaluation_id: score
            for score in ledger.scores(study.database, study.id, level=level)
        }
        names = study.space.scale_names
        whole = baseline, full.images
        origin = np.zeros(len(names))
        known = [Known(0, origin, full.value, partial(self._seen, origin, full.value, whole))]
        proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        for number, evaluation in enumerate(proposals, start=1):
            score = scores.get(evaluation.id)
            if score is None or score.difference is None:
                continue
            logs = np.log([evaluation.params[name] for name in names])
            value = full.value + score.difference
            change = (evaluation, score.images), (baseline, score.images)
            seen = partial(self._seen, logs, value, whole, change)
            known.append(Known(number, logs, value, seen))
        return known

    def left_out(self) -> LeftOut | None:
        """Return how well the evaluations near the best one are predicted, each from the others.

        Returns:
            None where fewer than three can be read.
        """
        known = self.known()
        if not known:
            return None
        seen = nearest(known, best(known))
        return None if len(seen) < 3 else left_out(seen, self.reference)

    def _seen(
        self,
        logs: Array,
        value: float,
        whole: tuple[Evaluation, int],
        change: tuple[tuple[Evaluation, int], tuple[Evaluation, int]] | None = None,
    ) -> Seen | None:
        """Return what an evaluation has shown, None where its images are being sampled again.

        Arguments:
            logs: float64 [p].
            value: Its corrected distance.
            whole: The baseline, and how many images it has.
            change: A proposal and the baseline, and how many images they share; None for the
                baseline itself.
        """
        try:
            mean, covariance = self._moments(*whole)
            if change is not None:
                ours, base = (self._moments(*one) for one in change)
                mean, covariance = mean + ours[0] - base[0], covariance + ours[1] - base[1]
        except (LostFileError, NotSampledError):
            return None
        return Seen(logs, mean, covariance, value)

    def _moments(self, evaluation: Evaluation, images: int) -> Pair:
        """Return mean and covariance of an evaluation's first images."""
        self._fix_directions()
        images = min(images, MOST_IMAGES)
        key = evaluation.id, images
        found = self._kept.pop(key, None) or self._read(evaluation, images)
        self._kept[key] = found
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _read(self, evaluation: Evaluation, images: int) -> Pair:
        onto = self._onto
        moments = Moments(self._whole.dim if onto is None else onto.matrix.shape[1])
        for rows in Stored(self._study, evaluation, images).read(FEATURES):
            moments.add(rows if onto is None else onto.project(rows))
        return moments.mean, moments.covariance

    def _fix_directions(self) -> None:
        """Make the projection where features are many, and the baseline is there."""
        study = self._study
        size = study.spec.screen or self._whole.dim
        size = size if size <= WHOLE else DIRECTIONS
        if self._onto is not None or size == self._whole.dim:
            return
        found = ledger.baseline_score(study.database, study.id)
        if found is not None:
            stored = Stored(study, found[0], study.rungs[0])
            self._onto = Projection.of_features(lambda: stored.read(FEATURES), self._whole, size)
