"""Scores of given images without a study: which metrics of which networks, and their values.

A Frechet distance is given twice: corrected for its bias in N, which is an estimate of the
distance itself, and raw, which is what other programs print and can only be compared at the same
N. Below 4 images per feature nothing can be corrected, and raw differences favour whatever
spreads less (`paired`), so no difference is given then.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError, Problem, SpecError
from skiptune.objectives.catalogue import (
    ALIASES,
    CATALOGUE,
    FEATURES,
    IMAGE,
    PROMPT,
    Unit,
    resolved,
)
from skiptune.objectives.image_files import BLOCK
from skiptune.objectives.metrics import (
    Real,
    Sample,
    Standard,
    Summary,
    measure,
    title,
    without_units,
)
from skiptune.objectives.names import metric_name
from skiptune.objectives.neighbours import LEAST_BLOCKS
from skiptune.objectives.paired import LEAST_PER_FEATURE, Estimate, caution, raw
from skiptune.objectives.reference import Reference

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor

__all__ = ["Group", "Measure", "Pair", "Row", "compare", "metric_groups", "score"]

Features = NDArray[np.float32]

OF_IMAGES = tuple(
    key
    for key, entry in CATALOGUE.items()
    if entry.arrays == (FEATURES,) and not (entry.teacher or entry.labels)
)
"""Metrics that images alone decide."""

OF_SAMPLES = (*OF_IMAGES, "nfe")
"""Metrics of images that are sampled here."""


@dataclass(frozen=True)
class Group:
    """Metrics that share a feature network.

    Arguments:
        extractor: Its name.
        keys: Of `CATALOGUE`, in the order they were asked for.
    """

    extractor: str
    keys: tuple[str, ...]


def metric_groups(
    names: str,
    *,
    extractor: str | None,
    default: Callable[[], str],
    sampled: bool,
    stored: Collection[str] = (),
) -> list[Group]:
    """Return what a list of metrics asks for, by feature network.

    Arguments:
        names: Separated by commas: keys of `CATALOGUE`, `fid`, `fd_dinov2`, `fd:EXTRACTOR`.
        extractor: The feature network of all of them, where somebody named it.
        default: Gives the feature network of metrics that name none.
        sampled: Whether the images are sampled, so that their cost is known.
        stored: Names of per-image arrays that a study has stored, with its labels and prompts.

    Raises:
        SpecError: Naming every unknown metric with near names, metrics that need more than
            images, and metrics of another network than `extractor`.
    """
    offered = OF_SAMPLES if sampled else OF_IMAGES
    offered += tuple(
        k for k, e in CATALOGUE.items() if (e.model or e.labels) and set(e.arrays) <= set(stored)
    )
    choices = [*offered, *ALIASES, "fd:EXTRACTOR"]
    problems: list[Problem] = []
    groups: dict[str, list[str]] = {}
    for name in (part.strip() for part in names.split(",")):
        key, demanded = resolved(name)
        where = f"--metric {name}".rstrip()
        if key not in CATALOGUE:
            near = difflib.get_close_matches(name, [*CATALOGUE, *ALIASES], n=3, cutoff=0.5)
            meant = f" (did you mean {' or '.join(near)}?)" if near else ""
            problems.append(Problem(where, f"one of {', '.join(choices)}{meant}", repr(name)))
        elif key not in offered:
            problems.append(
                Problem(where, f"one of {', '.join(choices)}", f"{CATALOGUE[key].about}")
            )
        elif demanded and extractor and demanded != extractor:
            problems.append(Problem(f"--extractor with {name}", demanded, extractor))
        else:
            chosen = demanded or extractor or (default() if not problems else "")
            groups.setdefault(chosen, [])
            if key not in groups[chosen]:
                groups[chosen].append(key)
    if problems:
        hint = (
            "for example: skiptune score IMAGES --metric fd,kid; losses and scores of prompts are"
            " measured in a study"
        )
        error = SpecError.of(problems, hint=hint)
        assert isinstance(error, SpecError)
        raise error
    return [Group(name, tuple(keys)) for name, keys in groups.items()]


@dataclass(frozen=True, eq=False)
class Measure:
    """A feature network, real features, and the metrics taken with them.

    Arguments:
        extractor: The network.
        reference: Of its features.
        keys: Of `CATALOGUE`.
    """

    extractor: Extractor
    reference: Reference
    keys: tuple[str, ...]

    @cached_property
    def standard(self) -> Standard:
        """What images are held against."""
        return Standard(real=Real(self.reference))

    def check(self, images: int, *, unit: Unit = IMAGE) -> None:
        """Refuse what the reference or the count cannot serve, before any image is extracted.

        Arguments:
            images: Images N that will be scored.
            unit: What errors count.

        Raises:
            ObjectiveError: The reference keeps no features of single images, or the images are
                too few for error bars, or told prompts that those do not count.
        """
        by_blocks = [key for key in self.keys if CATALOGUE[key].blocks]
        if by_blocks and unit == PROMPT:
            raise without_units(by_blocks)
        if by_blocks and images < LEAST_BLOCKS * BLOCK:
            raise ObjectiveError(
                f"--metric {','.join(by_blocks)}",
                expected=f"at least {LEAST_BLOCKS * BLOCK:,} images, for error bars",
                found=f"{images:,}",
                hint=f"score more images, or leave {' and '.join(by_blocks)} out",
            )
        if any(CATALOGUE[key].reference == "features" for key in self.keys):
            self.reference.require_features(2)

    def cautions(self, images: int) -> list[str]:
        """Return what a person has to know of these scores, in sentences."""
        found = list(self.reference.cautions)
        few = caution(images, self.reference.dim) if "fd" in self.keys else None
        return [*found, f"{few[:1].upper()}{few[1:]}."] if few else found


@dataclass(frozen=True)
class Row:
    """One value.

    Arguments:
        key: Of `CATALOGUE`.
        name: With features, image count and correction.
        better: ``"lower"`` or ``"higher"``.
        estimate: The value; its standard error is NaN where it is not known.
    """

    key: str
    name: str
    better: str
    estimate: Estimate


@dataclass(frozen=True)
class Pair:
    """One metric of two schedules on the same seeds.

    Arguments:
        baseline: Of the untouched network.
        tuned: Of the tuned scales.
        difference: Tuned minus baseline; None where it would mislead.
    """

    baseline: Row
    tuned: Row
    difference: Estimate | None


def score(measure_: Measure, sample: Sample) -> list[Row]:
    """Return the scores of images.

    Arguments:
        measure_: What to take.
        sample: With the array `features`.

    Raises:
        ObjectiveError: The features do not fit, or the images are too few.
    """
    return [row for row, _ in _scored(measure_, sample)]


def compare(measure_: Measure, baseline: Sample, tuned: Sample) -> list[Pair]:
    """Return the scores of two schedules on the same seeds, with paired differences.

    Arguments:
        measure_: What to take.
        baseline: Images of the untouched network, with the array `features`.
        tuned: Images of the tuned scales from the same seeds.

    Raises:
        ObjectiveError: The features do not fit, or the images are too few.
    """
    pairs = zip(_scored(measure_, baseline), _scored(measure_, tuned), strict=True)
    return [
        Pair(base, ours, None if before is None or found is None else _minus(found, before))
        for (base, before), (ours, found) in pairs
    ]


def _scored(measure_: Measure, sample: Sample) -> list[tuple[Row, Summary | None]]:
    """Return the rows, and the summaries of those whose differences have an error."""
    name, images = measure_.extractor.name, sample.images
    few = images < LEAST_PER_FEATURE * measure_.reference.dim
    keys = [key for key in measure_.keys if not (few and key == "fd")]
    found = measure(keys, sample, measure_.standard)
    rows: list[tuple[Row, Summary | None]] = []
    for key in measure_.keys:
        better = CATALOGUE[key].better
        plain = metric_name(name, images, corrected=False)
        if key not in found:
            value = raw(sample.whole(FEATURES), measure_.reference)
            if sample.unit_array is not None:  # that error counts images
                value = replace(value, standard_error=float("nan"))
            rows.append((Row(key, plain, better, value), None))
            continue
        summary = found[key]
        rows.append((Row(key, title(key, name, images), better, summary.value), summary))
        if summary.raw is not None:
            estimate = Estimate(summary.raw, float("nan"), images)
            rows.append((Row(key, plain, better, estimate), None))
    return rows


def _minus(ours: Summary, baseline: Summary) -> Estimate:
    return Estimate(
        ours.value.value - baseline.value.value,
        ours.error_with(baseline),
        ours.value.images,
    )
