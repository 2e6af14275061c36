"""Scores: what the stored arrays of an evaluation say, at any later time, on any worker.

Every number is a pure function of the arrays in seed order. What the search decides on, and what
Optuna is told, is the bias-corrected paired difference to the baseline on the same seeds plus
the baseline's value at full size, so that all rungs share one scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import NetworkError
from skiptune.objectives.paired import corrected, metric_name, paired_difference, raw
from skiptune.search.events import Listener, Notice, Scored, silent
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger, markers
from skiptune.storage.arrays import LostFileError
from skiptune.storage.records import Chunk, Evaluation, Rung, Score

__all__ = [
    "DivergedError",
    "NotSampledError",
    "features_of",
    "refuse_lost_baseline",
    "score_ready",
    "scored_event",
    "stored_arrays",
    "told_value",
]


class DivergedError(Exception):
    """An image behind a score is not finite."""


class NotSampledError(Exception):
    """A chunk behind a score is still being sampled, perhaps by another worker."""


def features_of(study: OpenStudy, evaluation: Evaluation, images: int) -> NDArray[np.float32]:
    """Return the features of an evaluation's first images.

    Arguments:
        study: The open study.
        evaluation: Whose images.
        images: How many, whole chunks.

    Returns:
        float32 array of shape [images, dim], in seed order.

    Raises:
        DivergedError: An image among them is not finite.
        NotSampledError: A chunk is missing.
        LostFileError: A chunk's file is missing or damaged; the chunk is open again.
        StorageError: The store itself is not there any more; nothing is sampled again.
    """
    parts = []
    for chunk in ledger.chunks_of(study.database, evaluation.id, images):
        if chunk.array is None or chunk.state != "done":
            raise NotSampledError(f"the chunk from seed {chunk.first_seed} is not sampled yet")
        arrays = stored_arrays(study, chunk)
        if not arrays["finite"].all():
            raise DivergedError(
                f"{int((arrays['finite'] == 0).sum())} of {chunk.images} images from seed "
                f"{chunk.first_seed} on are not finite"
            )
        parts.append(arrays["features"])
    return np.concatenate(parts)


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
        try:
            score = _score(study, evaluation, rung)
        except NotSampledError:
            baseline = _baseline_of(study, evaluation)
            if baseline is not None:
                refuse_lost_baseline(study, baseline)
            continue  # its baseline is on its way
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


def told_value(score: Score, baseline: Score) -> float:
    """Return what Optuna is told: the baseline's value at full size plus the difference.

    Arguments:
        score: Of the evaluation, at any rung.
        baseline: Of the search's baseline, at full size.
    """
    return baseline.value + (score.difference or 0.0)


def _score(study: OpenStudy, evaluation: Evaluation, rung: Rung) -> Score:
    features = features_of(study, evaluation, rung.images)
    value = corrected(features, study.reference)
    plain = raw(features, study.reference)
    difference = None
    baseline = _baseline_of(study, evaluation)
    if baseline is not None and baseline.id != evaluation.id:
        difference = paired_difference(
            features, features_of(study, baseline, rung.images), study.reference
        )
    return ledger.put_score(
        study.database,
        evaluation.id,
        level=rung.level,
        metric=metric_name(study.extractor.name, rung.images, corrected=True),
        reference=study.reference.digest,
        images=rung.images,
        value=value.value,
        standard_error=value.standard_error,
        raw=plain.value,
        difference=None if difference is None else difference.value,
        difference_error=None if difference is None else difference.standard_error,
    )


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
            f"study {study.spec.study}: baseline",
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
    )
