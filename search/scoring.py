"""Scores: what the stored arrays of an evaluation say, at any later time, on any worker.

Every number is a pure function of the arrays in seed order. What the search decides on, and what
Optuna is told, is the paired difference to the baseline on the same seeds (bias-corrected where a
metric has a bias in N) plus the baseline's value at full size, so that all rungs share one scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skiptune.canonical import digest
from skiptune.errors import NetworkError
from skiptune.objectives.catalogue import LABEL, PROMPT
from skiptune.objectives.metrics import (
    Sample,
    Standard,
    Summary,
    difference,
    measure,
    standard_digest,
    title,
)
from skiptune.search.constraints import gap
from skiptune.search.events import Listener, Notice, Scored, silent
from skiptune.search.objective_section import Item
from skiptune.search.second import part_scores, second_score
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger, markers
from skiptune.storage.arrays import LostFileError
from skiptune.storage.records import Chunk, Evaluation, NewScore, Rung, Score

__all__ = [
    "DivergedError",
    "NotSampledError",
    "Stored",
    "refuse_lost_baseline",
    "score_ready",
    "scored_event",
    "stored_arrays",
    "summary_of",
    "teacher_of",
]


KEPT_BYTES: Final = 1 << 26
"""Stored arrays up to this size (64 MiB) are read once per score."""

KEPT_SUMMARIES: Final = 256
"""Rungs whose per-image influence a worker keeps: 1 MB at 500 images each, 16 MB at 8000."""


class DivergedError(Exception):
    """An image behind a score is not finite."""


class NotSampledError(Exception):
    """A chunk behind a score is still being sampled, perhaps by another worker."""


class Stored:
    """The stored arrays of an evaluation's first images.

    Small ones are kept in memory, large ones read again each time: a metric goes through them
    twice.

    Arguments:
        study: The open study.
        evaluation: Whose images.
        images: How many, whole chunks.

    Raises:
        NotSampledError: A chunk is missing.
    """

    def __init__(self, study: OpenStudy, evaluation: Evaluation, images: int) -> None:
        self._study = study
        self._evaluation = evaluation
        self._images = images
        self._chunks = ledger.chunks_of(study.database, evaluation.id, images)
        self._kept: dict[str, dict[str, NDArray[Any]]] = {}
        self._room = KEPT_BYTES
        for chunk in self._chunks:
            if chunk.array is None or chunk.state != "done":
                raise NotSampledError(f"the chunk from seed {chunk.first_seed} is not sampled yet")

    @property
    def sample(self) -> Sample:
        """The arrays as metrics read them.

        Reading raises `LostFileError` where a chunk's file is missing or damaged (the chunk is
        open again), and `StorageError` where the store itself is gone.
        """
        return Sample(
            self._images,
            self.read,
            self._chunks[0].nfe or 0.0,
            self._evaluation.first_seed,
            unit_array=LABEL if self._study.unit == PROMPT else None,
        )

    def read(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Yield the blocks of a named array in seed order."""
        for chunk in self._chunks:
            yield self._arrays(chunk)[name]

    def check_finite(self) -> None:
        """Refuse images that are not finite.

        Raises:
            DivergedError: There are some.
        """
        for chunk, finite in zip(self._chunks, self.read("finite"), strict=True):
            if not finite.all():
                raise DivergedError(
                    f"{int((finite == 0).sum())} of {chunk.images} images from seed "
                    f"{chunk.first_seed} on are not finite"
                )

    def _arrays(self, chunk: Chunk) -> dict[str, NDArray[Any]]:
        kept = self._kept.get(chunk.id)
        if kept is None:
            kept = stored_arrays(self._study, chunk)
            size = sum(array.nbytes for array in kept.values())
            if size <= self._room:
                self._room -= size
                self._kept[chunk.id] = kept
        return kept


def stored_arrays(study: OpenStudy, chunk: Chunk) -> dict[str, NDArray[Any]]:
    """Return the arrays of a chunk that is done.

    Raises:
        LostFileError: The file is missing or damaged; the chunk is open again.
        StorageError: The store itself is not there any more; nothing is sampled again.
    """
    try:
        return study.arrays.read(str(chunk.array))
    except LostFileError:
        # A share that was unmounted is not a thousand lost files.
        identity = ledger.database_id(study.database)
        markers.require(study.arrays, identity, database_name=study.database.name)
        ledger.reopen_chunks(study.database, str(chunk.array))
        raise


def score_ready(study: OpenStudy, *, on_event: Listener = silent) -> int:
    """Score every rung whose chunks are all there; return how many.

    A baseline is scored before whatever is compared with it: its chunks are claimed first.
    """
    done = 0
    for rung in ledger.ready_rungs(study.database, study.id):
        evaluation = ledger.evaluation(study.database, rung.evaluation_id)
        if evaluation.kind == "slopes":
            _end_slopes(study, evaluation, rung)
            done += 1
            continue
        try:
            score = _score(study, evaluation, rung)
        except NotSampledError:
            # What it is compared with is on its way, or will never come.
            for other in (_baseline_of(study, evaluation), teacher_of(study, evaluation)):
                if other is not None:
                    refuse_lost_baseline(study, other)
            continue
        except LostFileError as lost:
            problem = lost.problems[0]
            on_event(Notice(f"{problem.where}: {problem.found}; its chunk is sampled again"))
            continue
        except DivergedError as reason:
            ledger.finish_evaluation(
                study.database, evaluation.id, state="diverged", reason=str(reason)
            )
            on_event(scored_event(evaluation, rung.images, None))
        else:
            on_event(scored_event(evaluation, rung.images, score))
        done += 1
    return done


def _end_slopes(study: OpenStudy, evaluation: Evaluation, rung: Rung) -> None:
    """End an evaluation that has no score: its derivatives are all there."""
    try:
        Stored(study, evaluation, rung.images).check_finite()
    except LostFileError:
        return  # its chunk is open again
    except DivergedError as reason:
        ledger.finish_evaluation(
            study.database, evaluation.id, state="diverged", reason=str(reason)
        )
    else:
        ledger.finish_evaluation(study.database, evaluation.id, state="complete")


def _score(study: OpenStudy, evaluation: Evaluation, rung: Rung) -> Score:
    stored = Stored(study, evaluation, rung.images)
    stored.check_finite()
    keys = study.objective.keys
    baseline = _baseline_of(study, evaluation)
    paired = baseline is not None and baseline.id != evaluation.id
    base = Stored(study, baseline, rung.images) if baseline is not None and paired else None
    standard = _standard(study, evaluation, base, rung)
    projection = standard.projection
    found = measure(keys, stored.sample, standard)
    if evaluation.kind == "proposal":
        _keep(study, rung, found[keys[0]])
    base_found = found
    if baseline is not None and base is not None:
        # Of the baseline once for all that are compared with it here.
        kept, key = study.baseline_summaries, (baseline.id, rung.images, projection)
        if key not in kept:
            kept[key] = measure(keys, base.sample, replace(standard, baseline=None))
        base_found = kept[key]
    new = [
        _new_score(study, item, found, base_found, standard, paired=paired)
        for item in study.objective.items
    ]
    if evaluation.kind in ("baseline", "confirm"):
        new += _second_scores(study, evaluation, stored, base)
        if keys[0] == "fd" and projection is None:
            baseline_sample = None if base is None else base.sample
            new += part_scores(study.objective, stored.sample, baseline_sample)
    return ledger.put_scores(study.database, evaluation.id, new, level=rung.level)[0]


def summary_of(study: OpenStudy, rung: Rung) -> Summary:
    """Return what the metric that decides says of a proposal's rung, as its score was computed.

    The newest ones are kept.

    Arguments:
        study: The open study.
        rung: One that has its score.

    Raises:
        NotSampledError, LostFileError: Arrays behind it are not there.
    """
    found = study.summaries.get((rung.evaluation_id, rung.level))
    if found is None:
        evaluation = ledger.evaluation(study.database, rung.evaluation_id)
        baseline = _baseline_of(study, evaluation)
        base = None if baseline is None else Stored(study, baseline, rung.images)
        standard = _standard(study, evaluation, base, rung)
        key = study.objective.keys[0]
        found = measure([key], Stored(study, evaluation, rung.images).sample, standard)[key]
    _keep(study, rung, found)
    return found


def _keep(study: OpenStudy, rung: Rung, summary: Summary) -> None:
    kept, key = study.summaries, (rung.evaluation_id, rung.level)
    kept.pop(key, None)
    kept[key] = summary  # what was used last is last
    if len(kept) > KEPT_SUMMARIES:
        del kept[next(iter(kept))]


def _standard(
    study: OpenStudy, evaluation: Evaluation, base: Stored | None, rung: Rung
) -> Standard:
    """Return what an evaluation's rung is held against; `base` is its baseline, if another."""
    return Standard(
        real=study.real,
        real_images=None if study.objective.real is None else len(study.objective.real.images),
        baseline=None if base is None else base.sample,
        teacher=_teacher_sample(study, evaluation, rung.images),
        projection=_projection(study, evaluation, rung),
    )


def _second_scores(
    study: OpenStudy, evaluation: Evaluation, stored: Stored, base: Stored | None
) -> list[NewScore]:
    """Return the second opinion of images that were looked at twice, else nothing."""
    opinion = study.objective.second
    if opinion is None:
        return []
    if ledger.description(study.database, evaluation.measure) != opinion.measure_with(
        study.measure
    ):
        return []
    return [second_score(opinion, stored.sample, None if base is None else base.sample)]


def _new_score(
    study: OpenStudy,
    item: Item,
    found: Mapping[str, Summary],
    base: Mapping[str, Summary],
    standard: Standard,
    *,
    paired: bool,
) -> NewScore:
    summary = found[item.key]
    name = study.objective.reader(item.key)
    projection = standard.projection if item.key == "fd" else None
    full_name = title(item.key, name, summary.value.images, projection=projection)
    reference = standard_digest(
        item.key,
        standard,
        teacher=digest(study.series_of(study.teacher_setting)),
        real=str(study.measure.get("losses", {}).get("images_sha256", "")),
    )
    if item.constraint is not None:
        missed = gap(item.constraint, summary, base[item.key])
        return NewScore(
            metric=str(item.constraint),
            reference=reference,
            images=missed.images,
            value=missed.value,
            standard_error=missed.standard_error,
            place=item.place,
        )
    change = difference(summary, base[item.key]) if paired else None
    return NewScore(
        metric=full_name,
        reference=reference,
        images=summary.value.images,
        value=summary.value.value,
        standard_error=summary.value.standard_error,
        raw=summary.raw,
        difference=None if change is None else change.value,
        difference_error=None if change is None else change.standard_error,
        place=item.place,
    )


def _projection(study: OpenStudy, evaluation: Evaluation, rung: Rung) -> int | None:
    """Return the dimensions of the screen, where this rung is one: the first of several."""
    return study.spec.screen if evaluation.kind == "proposal" and rung.level == 0 else None


def _teacher_sample(study: OpenStudy, evaluation: Evaluation, images: int) -> Sample | None:
    if not study.objective.needs_teacher:
        return None
    teacher = teacher_of(study, evaluation)
    if teacher is None:
        raise NotSampledError("the teacher is not entered yet: whoever was about to has died")
    stored = Stored(study, teacher, images)
    stored.check_finite()
    return stored.sample


def teacher_of(study: OpenStudy, evaluation: Evaluation) -> Evaluation | None:
    """Return the images of many steps on an evaluation's block, where a metric needs them."""
    if not study.objective.needs_teacher:
        return None
    found = ledger.evaluations(study.database, study.id, kind="teacher", block=evaluation.block)
    return found[0] if found else None


def _baseline_of(study: OpenStudy, evaluation: Evaluation) -> Evaluation | None:
    found = ledger.evaluations(study.database, study.id, kind="baseline", block=evaluation.block)
    return found[0] if found else None


def refuse_lost_baseline(study: OpenStudy, baseline: Evaluation) -> None:
    """Refuse to go on where the untouched network itself gives no finite images.

    Raises:
        NetworkError: With the reason for which the baseline has ended.
    """
    if baseline.state in ("diverged", "failed"):
        raise NetworkError(
            f"study {study.spec.study}: {baseline.kind}",
            expected="finite images of the untouched network",
            found=baseline.reason or baseline.state,
            hint=f"mend what lost its chunks, then: skiptune resume {study.spec.study} --retry"
            if baseline.state == "failed"
            else "try more steps or another solver under a new study name: the setting itself "
            "does not work",
        )


def scored_event(evaluation: Evaluation, images: int, score: Score | None) -> Scored:
    """Return what a watcher is told of a rung; no score means that the evaluation diverged."""
    return Scored(
        number=evaluation.number,
        kind=evaluation.kind,
        label=evaluation.label,
        images=images,
        value=math.nan if score is None else score.value,
        standard_error=math.nan if score is None else score.standard_error,
        difference=None if score is None else score.difference,
        difference_error=None if score is None else score.difference_error,
        params=evaluation.params,
        state="diverged" if score is None else "complete",
        metric="" if score is None else re.split(r"[(-]", score.metric)[0],
    )
