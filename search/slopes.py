"""Slopes of the objective in every skip's scale: evaluations whose chunks hold derivatives.

The slopes of an evaluation are an evaluation of their own: the same schedule, series and seeds
under another measure. Their chunks are leased, stored and resumed like any others, so any number
of workers shares them and none is computed twice. Of each chunk only its first `IMAGES` images are
differentiated; their cotangents come from the features that are stored of the whole block. Of
denoising losses it is the first `IMAGES` pairs, and the levels are those of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.objectives.catalogue import FEATURES, LABEL, PROMPT
from skiptune.objectives.cotangents import (
    OF_PAIRS,
    block_images,
    cotangents,
    loss_cotangents,
)
from skiptune.objectives.denoising import denoising_losses
from skiptune.objectives.metrics import Sample, Standard
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.slopes import ImageSlopes, call_slopes, image_slopes
from skiptune.search.chunks import Sampled, check_series
from skiptune.search.scoring import NotSampledError, Stored, stored_arrays, teacher_of
from skiptune.search.slope_map import Slopes
from skiptune.search.sloped import BLOCKS, IMAGES, without_slopes
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.budgets import SLOPES_BLOCK
from skiptune.storage.leases import Claim
from skiptune.storage.records import CHUNK, Evaluation, Turn

__all__ = [
    "Slopes",
    "enter_slopes",
    "find_slopes",
    "refuse_slopes",
    "sloped_block",
    "sloped_chunk",
    "slopes_of",
]

OfSeeds = Callable[[range], ImageSlopes]


def refuse_slopes(study: OpenStudy, where: str) -> None:
    """Refuse a study whose objective has no slopes, before an image is sampled.

    Arguments:
        study: The open study.
        where: What asks for slopes.

    Raises:
        SpecError: With everything that stands in the way.
    """
    found = without_slopes(study.spec, study.objective)
    if found:
        raise SpecError.of(
            [replace(problem, where=f"{where}: {problem.where}") for problem in found],
            hint="slopes need one objective whose features have gradients",
        )


def find_slopes(study: OpenStudy, evaluation: Evaluation) -> Evaluation | None:
    """Return the slopes that were entered of an evaluation of the search, None where none were."""
    return ledger.find_evaluation(
        study.database, study.id, block=SLOPES_BLOCK, schedule=evaluation.schedule
    )


def enter_slopes(
    study: OpenStudy, evaluation: Evaluation, images: int, *, turn: Turn | None = None
) -> Evaluation:
    """Enter the slopes of an evaluation of the search, as many whole blocks as its images hold.

    Arguments:
        study: The open study.
        evaluation: A baseline or a proposal, all of whose first images are stored.
        images: How many that are, at least two blocks; more than `BLOCKS` blocks are left.
        turn: The turn in which it was decided.

    Raises:
        SpecError: It has fewer images than two blocks: there would be no error.
        TurnLostError: The turn went to another worker.
    """
    block = sloped_block(study)
    if images < 2 * block:
        raise SpecError(
            f"study {study.spec.study}: {evaluation.label}",
            expected=f"at least {2 * block} images, two blocks with an error between them",
            found=f"{images}",
            hint="take the slopes of the baseline, or of a schedule that came to a higher rung",
        )
    return ledger.add_evaluation(
        study.database,
        study.id,
        kind="slopes",
        label=f"slopes of {evaluation.label}",
        block=SLOPES_BLOCK,
        series=study.series,
        measure=_measure(study),
        schedule=evaluation.schedule_json,
        first_seed=SEARCH_SEED,
        images=min(images // block, BLOCKS) * block,
        params=evaluation.params,
        turn=turn,
    )


def sloped_chunk(
    study: OpenStudy, claim: Claim, *, on_images: Callable[[int], None] = lambda made: None
) -> Sampled:
    """Differentiate the first images of a claim's chunk.

    Arguments:
        study: The open study.
        claim: Of an evaluation that `enter_slopes` entered.
        on_images: Called after each microbatch with the images of the chunk so far; may raise.

    Returns:
        ``slopes`` [J, parts x skips x levels], ``finite`` [J], ``levels`` [1, levels], falling;
        where errors count prompts, ``label`` [J].

    Raises:
        StorageError: The claim's series is not one that this network and this version make.
        NotSampledError, LostFileError: The features have to be sampled again first.
    """
    setting = check_series(study, claim)
    of_pairs = study.spec.objective.keys[0] in OF_PAIRS
    slopes_of_seeds = _of_pairs(study, claim) if of_pairs else _of_images(study, claim, setting)
    size = study.spec.microbatch
    images = math.ceil(IMAGES / size) * size
    parts: list[NDArray[np.float64]] = []
    levels: tuple[float, ...] = ()
    calls = 0.0
    for first in range(claim.first_seed, claim.first_seed + images, size):
        found = slopes_of_seeds(range(first, first + size))
        falling = np.argsort(found.levels)[::-1]
        parts.append(found.values.numpy()[:, :, falling].reshape(size, -1))
        levels, calls = tuple(found.levels[place] for place in falling), found.nfe
        on_images((first + size - claim.first_seed) * CHUNK // images)
    slopes = np.concatenate(parts)
    arrays = {
        "slopes": np.asarray(slopes, dtype=np.float32),
        "finite": np.asarray(np.isfinite(slopes).all(axis=1), dtype=np.float32),
        "levels": np.array([levels], dtype=np.float32),
    }
    if study.unit == PROMPT:
        arrays[LABEL] = _labels(study, claim)[:images]
    return Sampled(arrays, calls * images / CHUNK)


def slopes_of(study: OpenStudy, entered: Evaluation) -> Slopes:
    """Return the slopes whose chunks are all there.

    Arguments:
        study: The open study.
        entered: From `enter_slopes` or `find_slopes`.

    Raises:
        NotSampledError: A chunk is not there yet.
        LostFileError: A chunk's file is missing or damaged; it is open again.
    """
    images = study.images_of(entered)
    stored = Stored(study, entered, images)
    stored.check_finite()
    chunks = ledger.chunks_of(study.database, entered.id, images)
    arrays = [stored_arrays(study, chunk) for chunk in chunks]
    nfe = sum((chunk.nfe or 0.0) * chunk.images for chunk in chunks)
    return Slopes.of_chunks(arrays, together=sloped_block(study) // CHUNK, nfe=nfe)


def sloped_block(study: OpenStudy) -> int:
    """Return the images of a block of slopes: whole chunks."""
    key = study.spec.objective.keys[0]
    return block_images(key, study.extractor.dim, CHUNK)


def _measure(study: OpenStudy) -> dict[str, Any]:
    """Return what turns seeds into these arrays, plain data."""
    key = study.spec.objective.keys[0]
    reference = study.reference
    teacher = study.objective.needs_teacher
    parts = study.space.parts
    return {
        "slopes of": key,
        "measure": digest(study.measure),
        "reference": None if reference is None else reference.digest,
        "teacher": digest(study.series_of(study.teacher_setting)) if teacher else None,
        "block": sloped_block(study),
        "images": IMAGES,
        **({} if parts == ("both",) else {"parts": list(parts)}),
    }


def _of_images(study: OpenStudy, claim: Claim, setting: Setting) -> OfSeeds:
    """Return what differentiates the images of some of a chunk's seeds."""
    rows = _cotangents(study, claim)

    def found(seeds: range) -> ImageSlopes:
        first = seeds[0] - claim.first_seed
        return image_slopes(
            study.checkpoint.network,
            setting,
            Schedule.from_json(claim.schedule),
            seeds,
            features=study.extractor.of_floats,
            cotangents=torch.from_numpy(rows[first : first + len(seeds)]),
            parts=study.space.parts,
            device=study.device,
            decoder=study.checkpoint.decoder,
        )

    return found


def _of_pairs(study: OpenStudy, claim: Claim) -> OfSeeds:
    """Return what differentiates the denoising losses of some of a chunk's pairs."""
    key, real = study.spec.objective.keys[0], study.objective.real
    assert real is not None  # the objective's own check
    first, block = _block_at(study, claim)
    baseline = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)[0]
    weights = loss_cotangents(_block_of(study, baseline, first, block, name=key).whole(key))

    def found(seeds: range) -> ImageSlopes:
        def total(denoiser: nn.Module) -> Tensor:
            losses = denoising_losses(
                denoiser,
                study.extractor,
                real.images,
                real.labels,
                seeds,
                microbatch=len(seeds),
            )[key]
            return (losses.double() * torch.from_numpy(weights).to(losses.device)).sum()

        schedule = Schedule.from_json(claim.schedule)
        network, parts = study.checkpoint.network, study.space.parts
        return call_slopes(network, schedule, len(seeds), total, parts=parts)

    return found


def _block_at(study: OpenStudy, claim: Claim) -> tuple[int, int]:
    """Return the first seed of a claim's block, and the block's images."""
    block = sloped_block(study)
    return claim.first_seed - (claim.first_seed - SEARCH_SEED) % block, block


def _cotangents(study: OpenStudy, claim: Claim) -> NDArray[np.float32]:
    """Return the cotangents of a chunk's images, from the stored features of its block."""
    of = _evaluation_of(study, claim)
    first, block = _block_at(study, claim)
    inside = slice(claim.first_seed - first, claim.first_seed - first + CHUNK)
    teacher = teacher_of(study, of)
    standard = Standard(
        real=study.real,
        teacher=None if teacher is None else _block_of(study, teacher, first, block),
    )
    key = study.spec.objective.keys[0]
    return cotangents(key, _block_of(study, of, first, block), standard)[inside]


def _labels(study: OpenStudy, claim: Claim) -> NDArray[np.float32]:
    """Return the prompts of a chunk's images, as they are stored."""
    evaluation = _evaluation_of(study, claim)
    return _block_of(study, evaluation, claim.first_seed, CHUNK, name=LABEL).whole(LABEL)


def _evaluation_of(study: OpenStudy, claim: Claim) -> Evaluation:
    """Return the evaluation whose slopes a claim is of."""
    of = ledger.find_evaluation(
        study.database, study.id, block=SEARCH, schedule=digest(claim.schedule)
    )
    if of is None:
        raise AssertionError("slopes are entered of evaluations only")
    return of


def _block_of(
    study: OpenStudy, evaluation: Evaluation, first: int, images: int, *, name: str = FEATURES
) -> Sample:
    """Return a stored array of some consecutive images of an evaluation of the search."""
    chunks = ledger.chunks_of(study.database, evaluation.id, first - SEARCH_SEED + images)
    parts = []
    for chunk in chunks[-images // CHUNK :]:
        if chunk.array is None or chunk.state != "done":
            raise NotSampledError(f"the chunk from seed {chunk.first_seed} is not sampled yet")
        parts.append(stored_arrays(study, chunk)[name])
    return Sample.of(**{name: np.concatenate(parts)})
