"""A study scored by another metric or reference, from what is stored: nothing is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skiptune.errors import ObjectiveError, StorageError
from skiptune.objectives.catalogue import CATALOGUE, IMAGE, PROMPT, Unit
from skiptune.objectives.metrics import Real, Standard, Summary, difference, measure, title
from skiptune.objectives.paired import Estimate
from skiptune.objectives.reference import Reference
from skiptune.search.overview import leaders
from skiptune.search.scoring import NotSampledError, Stored
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation

__all__ = ["Rescored", "rescored"]


@dataclass(frozen=True)
class Rescored:
    """One metric of one evaluation.

    Arguments:
        label: Of the evaluation, e.g. ``baseline``, ``proposal 7``, ``tuned``.
        block: Of seeds: ``search``, or a half of a confirm.
        metric: Full name of the metric.
        images: Images behind it.
        value: The metric.
        standard_error: Of the value.
        difference: Paired difference to the baseline of the block, negative is better; None of
            the baseline itself.
        difference_error: Its standard error.
        raw: The value without its correction for N, where there is one.
        unit: What the errors count: ``image``, or ``prompt`` where each image is told one.
    """

    label: str
    block: str
    metric: str
    images: int
    value: float
    standard_error: float
    difference: float | None
    difference_error: float | None
    raw: float | None
    unit: Unit = IMAGE

    @property
    def estimate(self) -> Estimate:
        """The value with its error."""
        return Estimate(self.value, self.standard_error, self.images)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return asdict(self)


def rescored(
    study: OpenStudy,
    keys: Sequence[str],
    *,
    reference: Reference | None = None,
    top: int = 3,
) -> tuple[Rescored, ...]:
    """Return metrics of the best evaluations and of the last confirm, beside their baselines.

    Arguments:
        study: The open study.
        keys: Of `CATALOGUE`, functions of the study's stored features.
        reference: Of the study's own extractor; None takes the study's own reference.
        top: How many evaluations of the search.

    Raises:
        ObjectiveError: A metric is no function of what the study has stored, the reference is of
            other features, or there is none.
        StorageError: The arrays behind a score were dropped to save space, or nothing is scored.
    """
    stored = set(study.measure["arrays"])
    for key in keys:
        needed = set(CATALOGUE[key].arrays) - stored
        if needed or CATALOGUE[key].teacher or CATALOGUE[key].real_images:
            raise ObjectiveError(
                f"--metric {key}",
                expected=f"a metric of what the study has stored: {', '.join(sorted(stored))}",
                found=f"one that needs {', '.join(sorted(needed)) or 'a study made for it'}",
                hint="name it in a new study's `objective.beside`",
            )
    held = Real(reference) if reference is not None else study.real
    rows: list[Rescored] = []
    for block, evaluations in _chosen(study, top):
        base = next((e for e in evaluations if e.kind == "baseline"), None)
        if base is None:
            continue
        at_base: dict[int, dict[str, Summary]] = {}  # by images: measured once
        for evaluation in evaluations:
            images = study.images_of(evaluation)
            if images not in at_base:
                at_base[images] = _measured(study, keys, held, base, images)
            found = at_base[images]
            if evaluation.id != base.id:
                found = _measured(study, keys, held, evaluation, images)
            rows += _rows(study, block, evaluation, found, at_base[images])
    if not rows:
        raise StorageError(
            f"study {study.row.name}",
            expected="evaluations that are scored",
            found="none",
            hint=f"go on with: skiptune tune {study.row.name}",
        )
    return tuple(rows)


def _measured(
    study: OpenStudy, keys: Sequence[str], held: Real | None, evaluation: Evaluation, images: int
) -> dict[str, Summary]:
    try:
        sample = Stored(study, evaluation, images).sample
    except NotSampledError as error:
        raise StorageError(
            f"{evaluation.label}: stored features",
            expected="all chunks",
            found=str(error),
            hint="its arrays were dropped to save space, or are being sampled: go on with"
            f" `skiptune tune {study.row.name}`",
        ) from error
    return measure(keys, sample, Standard(real=held))


def _rows(
    study: OpenStudy,
    block: str,
    evaluation: Evaluation,
    found: Mapping[str, Summary],
    at_base: Mapping[str, Summary],
) -> list[Rescored]:
    rows = []
    for key, summary in found.items():
        change = None if found is at_base else difference(summary, at_base[key])
        rows.append(
            Rescored(
                label=evaluation.label,
                block=block,
                metric=title(key, study.objective.reader(key), summary.value.images),
                images=summary.value.images,
                value=summary.value.value,
                standard_error=summary.value.standard_error,
                difference=None if change is None else change.value,
                difference_error=None if change is None else change.standard_error,
                raw=summary.raw,
                unit=IMAGE if summary.units is None else PROMPT,
            )
        )
    return rows


def _chosen(study: OpenStudy, top: int) -> list[tuple[str, list[Evaluation]]]:
    """Return baseline and best of the search, and all of the last confirm's deciding block."""
    every = ledger.evaluations(study.database, study.id)
    scored = {score.evaluation_id for score in ledger.scores(study.database, study.id)}
    ended = [e for e in every if e.id in scored and e.state not in ("diverged", "failed")]
    by_number = {e.number: e for e in ended}
    best = [by_number[leader.number] for leader in leaders(study.database, study.row.name, top)]
    base = [e for e in ended if e.block == SEARCH and e.kind == "baseline"]
    blocks = [(SEARCH, [*base, *best])]
    spent = ledger.spent_blocks(study.database, study.id)
    if spent:
        name = f"{spent[-1].block}/B"
        blocks.append((name, [e for e in ended if e.block == name and e.kind != "teacher"]))
    return blocks
