"""Every metric as one kind of thing: a value with its error, and a paired difference.

    measure(keys, sample, standard)     -> a Summary of each metric
    difference(summary, baseline)       -> Estimate, negative is better for every metric

A `Sample` gives the stored per-image arrays of an evaluation, block by block in seed order; a
`Standard` is what it is held against. So a finished study can be scored by another metric, or
against another reference, without sampling.

A summary carries an influence value for each image (for recall and coverage: for each block of
seeds, because their value is no mean over images; for denoising losses: for each real image). The
standard error of a paired difference is that of the mean difference of these values, so what two
schedules share cancels. Where images are told prompts a prompt counts once (`units`): recall and
coverage have no error then, because their blocks of seeds share prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skiptune.canonical import digest
from skiptune.errors import ObjectiveError
from skiptune.objectives import neighbours
from skiptune.objectives.catalogue import CATALOGUE, FEATURES, LABEL
from skiptune.objectives.denoising import image_indices
from skiptune.objectives.diversity import diversity
from skiptune.objectives.kid import KernelReference, kid_influence
from skiptune.objectives.losses import loss_score
from skiptune.objectives.names import count_text, metric_name
from skiptune.objectives.neighbours import (
    NEIGHBOURS,
    Measured,
    Neighbourhood,
    neighbour_metrics,
)
from skiptune.objectives.paired import Estimate, scored
from skiptune.objectives.teacher import teacher_losses
from skiptune.objectives.units import Units, standard_error

if TYPE_CHECKING:
    from skiptune.objectives.reference import Reference

__all__ = [
    "Sample",
    "Standard",
    "Summary",
    "difference",
    "measure",
    "standard_digest",
    "standard_error",
    "title",
    "without_units",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The images of one evaluation, as stored.

    Arguments:
        images: Images N.
        read: Yields blocks of a named array in seed order; may be asked again.
        nfe: Network evaluations per image, counted.
        first_seed: Of the consecutive image seeds; None where images came from elsewhere.
        unit_array: Name of the array [N] whose equal numbers mark images that count together;
            None where every image counts by itself.
    """

    images: int
    read: Callable[[str], Iterator[NDArray[np.float32]]]
    nfe: float = 0.0
    first_seed: int | None = None
    unit_array: str | None = None

    @classmethod
    def of(cls, **arrays: NDArray[np.float32]) -> Sample:
        """Return a sample of whole arrays [N, ...] by name."""
        images = len(next(iter(arrays.values())))
        return cls(images, lambda name: iter([arrays[name]]))

    def whole(self, name: str) -> NDArray[np.float32]:
        """Return a named array [N, ...]."""
        return np.concatenate(list(self.read(name)))

    def units(self) -> Units | None:
        """Return which images count together, None where each counts by itself.

        Raises:
            ObjectiveError: All images count as one.
        """
        return None if self.unit_array is None else Units.of_labels(self.whole(self.unit_array))


class Real:
    """A reference with what metrics compute of it once."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._kernel: KernelReference | None = None
        self._neighbourhood: Neighbourhood | None = None

    @property
    def kernel(self) -> KernelReference:
        """Of its features, for KID."""
        if self._kernel is None:
            self._kernel = KernelReference(self.reference.require_features(2))
        return self._kernel

    @property
    def neighbourhood(self) -> Neighbourhood:
        """Of its features, for precision, recall, density and coverage."""
        if self._neighbourhood is None:
            self._neighbourhood = Neighbourhood(self.reference.require_features(2))
        return self._neighbourhood


@dataclass(frozen=True)
class Standard:
    """What samples are held against.

    Arguments:
        real: The reference of real features; None where no metric needs it.
        real_images: How many real images are behind denoising losses.
        baseline: The baseline on the same seeds; None for the baseline itself.
        teacher: Images of many steps from the same noise, None where no metric needs them.
        projection: Dimensions of a principal subspace in which `fd` is taken as a screen.
    """

    real: Real | None = None
    real_images: int | None = None
    baseline: Sample | None = None
    teacher: Sample | None = None
    projection: int | None = None

    def require_real(self) -> Real:
        """Return the reference.

        Raises:
            ObjectiveError: There is none.
        """
        if self.real is None:
            raise ObjectiveError(
                "reference",
                expected="statistics of real images",
                found="none",
                hint="name one: `objective.reference` in a study, --reference on the command line",
            )
        return self.real


@dataclass(frozen=True, eq=False)
class Summary:
    """What a metric says of one evaluation.

    Arguments:
        key: The metric, of `CATALOGUE`.
        value: With its standard error.
        influence: float64 [K]: values whose mean has the error of the metric, independent unless
            `units` says otherwise; K is the number of images, or of blocks of seeds. What they
            sum to does not matter.
        raw: The value without its correction for N, where there is one.
        near: The nearest-neighbour metric behind it, whose errors are not those of plain means.
        units: Which of the images count together; None where each counts by itself.
    """

    key: str
    value: Estimate
    influence: Array
    raw: float | None = None
    near: Measured | None = None
    units: Units | None = None

    def counted_by(self, units: Units) -> Summary:
        """Return the same with an error that counts units instead of images."""
        if self.near is not None:
            near = replace(self.near, units=units)
            return replace(self, value=near.estimate(), near=near, units=units)
        error = standard_error(self.influence, units)
        value = Estimate(self.value.value, error, self.value.images)
        return replace(self, value=value, units=units)

    def error_with(self, other: Summary, share: float = 1.0) -> float:
        """Return the standard error of this value minus a share of another on the same seeds.

        Raises:
            ObjectiveError: They rest on different numbers of images, or on other prompts.
        """
        if len(self.influence) != len(other.influence):
            raise ObjectiveError(
                f"{self.key}: paired difference",
                expected=f"{other.value.images} images, as the baseline has",
                found=f"{self.value.images}",
                hint="compare evaluations over the same seeds",
            )
        if not (other.units is None if self.units is None else self.units.same_as(other.units)):
            raise ObjectiveError(
                f"{self.key}: paired difference",
                expected="the same prompt for each seed, as the baseline has",
                found="others",
                hint="compare evaluations over the same seeds and prompts",
            )
        parts = self.influence - share * other.influence
        if self.near is None or other.near is None:
            return standard_error(parts, self.units)
        if share == 1:
            return neighbours.difference(self.near, other.near).standard_error
        # Neither value is known better than to one image.
        least = math.hypot(1, share) * self.near.resolution
        return max(self.near.standard_error_of(parts), least)


def measure(keys: Iterable[str], sample: Sample, standard: Standard) -> dict[str, Summary]:
    """Return what metrics say of an evaluation, by key.

    Arguments:
        keys: Of `CATALOGUE`.
        sample: The evaluation's images.
        standard: What they are held against.

    Raises:
        ObjectiveError: The arrays do not fit the reference, are not finite, or are too few; or
            the reference lacks what a metric needs; or a metric whose error rests on blocks of
            seeds is asked of images that are told prompts.
    """
    wanted = tuple(dict.fromkeys(keys))
    units = sample.units()
    blocked = [key for key in wanted if CATALOGUE[key].blocks]
    if units is not None and blocked:
        raise without_units(blocked)
    found: dict[str, Summary] = {}
    near = tuple(key for key in wanted if key in NEIGHBOURS)
    if near:  # one pass over the distances
        around = standard.require_real().neighbourhood
        for key, part in neighbour_metrics(sample.whole(FEATURES), around, near).items():
            found[key] = Summary(key, part.estimate(), part.parts, near=part)
    for key in wanted:
        if key not in found:
            found[key] = _MEASURES[key](key, sample, standard)
    if units is not None:
        for key, one in found.items():
            if not CATALOGUE[key].real_images:  # whose own errors count real images
                found[key] = one.counted_by(units)
    return {key: found[key] for key in wanted}


def difference(summary: Summary, baseline: Summary) -> Estimate:
    """Return the paired difference to the baseline on the same seeds; negative is better.

    For a metric that is better when higher this is baseline minus value.

    Arguments:
        summary: Of the evaluation.
        baseline: Of the baseline, by the same metric.

    Raises:
        ObjectiveError: They rest on different numbers of images.
    """
    sign = 1.0 if CATALOGUE[summary.key].better == "lower" else -1.0
    return Estimate(
        sign * (summary.value.value - baseline.value.value),
        summary.error_with(baseline),
        summary.value.images,
    )


def title(
    key: str, extractor: str, images: int | None = None, *, projection: int | None = None
) -> str:
    """Return a metric's full name: features, image count and correction.

    Arguments:
        key: Of `CATALOGUE`.
        extractor: Name of the feature network; of the model that reads text for its metrics.
        images: Image count N; None leaves count and correction out.
        projection: As in `Standard`; of `fd` only.
    """
    entry = CATALOGUE[key]
    if projection is not None:
        extractor = f"{extractor},pca-{projection}"
    if key == "fd" and images is not None:
        return metric_name(extractor, images, corrected=True)
    name = entry.title if key in ("pixel_loss", "nfe") else f"{entry.title}({extractor})"
    return name if key == "nfe" or images is None else f"{name}-{count_text(images)}"


def standard_digest(key: str, standard: Standard, *, teacher: str = "", real: str = "") -> str:
    """Return a digest of what a metric holds samples against, apart from the baseline.

    Arguments:
        key: Of `CATALOGUE`.
        standard: What samples are held against.
        teacher: Identity of the teacher's images.
        real: Identity of the real images behind denoising losses.
    """
    entry = CATALOGUE[key]
    if entry.reference == "moments":
        return standard.require_real().reference.digest
    if entry.reference == "features":
        return digest({"features": standard.require_real().reference.features_digest})
    return digest(
        {"real": real if entry.real_images else "", "teacher": teacher if entry.teacher else ""}
    )


def without_units(keys: Iterable[str]) -> ObjectiveError:
    """Return the refusal of metrics whose errors cannot count prompts.

    Arguments:
        keys: Of `CATALOGUE`, whose errors rest on blocks of seeds.
    """
    return ObjectiveError(
        " and ".join(keys),
        expected="a metric whose error counts prompts",
        found="one whose error rests on blocks of seeds, which share prompts",
        hint="leave it out: precision, density and diversity have errors that count prompts",
    )


def _fd(key: str, sample: Sample, standard: Standard) -> Summary:
    reference = standard.require_real().reference
    if standard.projection is None:
        found = scored(lambda: sample.read(FEATURES), reference)
    else:
        from skiptune.objectives.projection import Projection

        base = sample if standard.baseline is None else standard.baseline
        onto = Projection.of_features(base.whole(FEATURES), reference, standard.projection)
        projected = onto.stream(lambda: sample.read(FEATURES))
        found = scored(projected, onto.reference(reference))
    return Summary(key, found.corrected, found.influence, raw=found.raw.value)


def _kid(key: str, sample: Sample, standard: Standard) -> Summary:
    value, psi = kid_influence(sample.whole(FEATURES), standard.require_real().kernel)
    return Summary(key, Estimate(value, standard_error(psi), sample.images), psi)


def _loss(key: str, sample: Sample, standard: Standard) -> Summary:
    losses = sample.whole(key)
    base = losses if standard.baseline is None else standard.baseline.whole(key)
    images = None
    if standard.real_images is not None and sample.first_seed is not None:
        seeds = range(sample.first_seed, sample.first_seed + sample.images)
        images = image_indices(seeds, standard.real_images)
    found = loss_score(losses, base, images=images)
    return Summary(key, found.value, found.influence)


def _teacher(key: str, sample: Sample, standard: Standard) -> Summary:
    if standard.teacher is None:
        raise ObjectiveError(
            "teacher loss",
            expected="images of many steps from the same noise",
            found="none",
            hint="measure it within a study: `objective.metric: teacher_loss`",
        )
    parts = teacher_losses(sample.whole(FEATURES), standard.teacher.whole(FEATURES))
    value = Estimate(float(parts.mean()), standard_error(parts), sample.images)
    return Summary(key, value, parts)


def _diversity(key: str, sample: Sample, standard: Standard) -> Summary:
    try:
        labels = sample.whole(LABEL)
    except KeyError:
        labels = None  # of a network without
    value, psi = diversity(lambda: sample.read(FEATURES), labels)
    return Summary(key, Estimate(value, standard_error(psi), sample.images), psi)


def _text(key: str, sample: Sample, standard: Standard) -> Summary:
    parts = sample.whole(key).astype(np.float64)
    return Summary(key, Estimate(float(parts.mean()), standard_error(parts), sample.images), parts)


def _nfe(key: str, sample: Sample, standard: Standard) -> Summary:
    return Summary(key, Estimate(sample.nfe, 0.0, sample.images), np.zeros(sample.images))


_MEASURES: dict[str, Callable[[str, Sample, Standard], Summary]] = {
    "fd": _fd,
    "kid": _kid,
    "feature_loss": _loss,
    "pixel_loss": _loss,
    "teacher_loss": _teacher,
    "diversity": _diversity,
    "clip_score": _text,
    "pick_score": _text,
    "nfe": _nfe,
}
