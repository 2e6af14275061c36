"""Whether a study's objective has slopes: known before an image is sampled."""

from __future__ import annotations

import math

from skiptune.errors import Problem
from skiptune.objectives.cotangents import OF_PAIRS, SLOPED, block_images
from skiptune.sampling.slopes import PASSES
from skiptune.search.objective import Objective
from skiptune.search.plan import Cost, own_nfe, rung_counts
from skiptune.search.spec import StudySpec
from skiptune.storage.records import CHUNK

__all__ = ["BLOCKS", "IMAGES", "LEAST_BLOCKS", "origin_level", "slopes_cost", "without_slopes"]

IMAGES = 50
"""Images of a chunk that are differentiated, rounded up to whole microbatches."""

BLOCKS = 8
"""Most blocks of seeds behind slopes: errors with 7 degrees of freedom."""

LEAST_BLOCKS = 4
"""Blocks of seeds from which on a schedule may be an origin, where the rungs allow it."""


def origin_level(spec: StudySpec, block: int) -> int:
    """Return the first rung whose images bear slopes, else the last one.

    Arguments:
        spec: The study.
        block: Images of a block.
    """
    rungs = spec.search.rungs
    levels = [level for level, images in enumerate(rungs) if images >= LEAST_BLOCKS * block]
    return levels[0] if levels else len(rungs) - 1


def slopes_cost(spec: StudySpec, objective: Objective) -> Cost:
    """Return the most that the slopes of a descent cost, with all evaluations entered.

    They are taken of the baseline and of whatever leads the rung that bears them, which are at
    most the evaluations that come there.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.
    """
    block = block_images(spec.objective.keys[0], objective.extractor.dim, CHUNK)
    level = origin_level(spec, block)
    entered = rung_counts(spec)[level]
    images = 0
    for rung, times in ((spec.search.rungs[-1], 1), (spec.search.rungs[level], entered)):
        chunks = min(rung // block, BLOCKS) * block // CHUNK
        images += times * chunks * math.ceil(IMAGES / spec.microbatch) * spec.microbatch
    of_pairs = spec.objective.keys[0] in OF_PAIRS
    nfe = objective.loss_nfe if of_pairs else own_nfe(spec)
    return Cost(images, images * PASSES * nfe)


def without_slopes(spec: StudySpec, objective: Objective) -> list[Problem]:
    """Return what stands between a study and the slopes of its objective.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.

    Returns:
        One problem for each key; none where the objective can be differentiated.
    """
    keys, extractor = spec.objective.keys, objective.extractor
    problems = []
    if len(keys) != 1 or keys[0] not in SLOPED:
        expected = f"one of {', '.join(SLOPED)}, which have slopes"
        problems.append(Problem("objective.metric", expected, ", ".join(keys)))
    if not extractor.floats:
        found = f"{extractor.name}, which takes bytes only"
        problems.append(Problem("objective.extractor", "one that passes gradients on", found))
    if spec.space.branches != "both":
        problems.append(Problem("space.branches", "both", spec.space.branches))
    if spec.space.setting is not None:
        ranges = ", ".join(spec.space.setting.named())
        problems.append(Problem("space.setting", "null: slopes are those of scales", ranges))
    windows = spec.space.window is not None or spec.space.intervals > 1
    sampled = any(key not in OF_PAIRS for key in keys)  # pairs go through no solver
    if windows and sampled and spec.setting.history == "restart":
        problems.append(
            Problem(
                "setting.history",
                "keep, because of space.window or space.intervals: a path that does not jump",
                "restart",
            )
        )
    if len(keys) == 1:
        least = 2 * block_images(keys[0], extractor.dim, CHUNK)
        if spec.search.rungs[-1] < least:
            expected = f"at least {least} images, two blocks with an error between them"
            problems.append(
                Problem(
                    f"search.rungs[{len(spec.search.rungs) - 1}]",
                    expected,
                    str(spec.search.rungs[-1]),
                )
            )
    return problems
