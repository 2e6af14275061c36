"""A second opinion: the winner of a confirm in features that the search has not looked at.

A search may find what pleases one feature network and nobody else. So the images of block B,
those of the baseline and of the chosen schedule, go through another network as well, in the pass
that makes them, and its features are stored beside the study's own (`confirm.second_opinion`).
Their Frechet distance decides nothing: it is shown, and a disagreement is said. Where the study's
own features are joint ones, the distance in each of their parts is shown as well.

A network of many features needs more images than a block may have. Then the distance is taken in
as many principal directions of the baseline and the reference as images allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError, Problem, SpecError
from skiptune.objectives.catalogue import FEATURES
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.image_files import load_images, open_images
from skiptune.objectives.metrics import Real, Sample, Standard, difference, measure, title
from skiptune.objectives.names import BUNDLED, REFERENCES, parts_of
from skiptune.objectives.paired import VERDICT_PER_FEATURE
from skiptune.objectives.reference import Reference, load_reference, reference_of
from skiptune.search.objective import Objective
from skiptune.search.spec import StudySpec
from skiptune.storage.records import CHUNK, FIRST_PART, SECOND_PLACE, NewScore

__all__ = [
    "LEAST_REAL",
    "SECOND",
    "SecondOpinion",
    "part_scores",
    "second_score",
    "with_second",
]

SECOND: Final = "second"
"""Name of the stored array float32 [N, d] of the other features, and of their measure."""

LEAST_REAL: Final = 500
"""Real images that a second opinion is held against, at least."""

_IMAGES = "fashion-test"  # of the bundled reference, for features of which nothing is bundled


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """Other features, and what real images are like in them.

    Arguments:
        extractor: Images to the other features.
        source: A bundled reference, or the real images that they are made of.
    """

    extractor: Extractor
    source: str

    @cached_property
    def reference(self) -> Reference:
        """Statistics of the real images, made when they are asked for first.

        Raises:
            ObjectiveError: The images are too few, or cannot be read.
        """
        if self.source in REFERENCES:
            return load_reference(self.source, extractor=self.extractor)
        pixels, _ = load_images(self.source)
        features = self.extractor(torch.from_numpy(pixels)).cpu().numpy()
        return reference_of(features, extractor=self.extractor, name=self.source)

    @cached_property
    def real(self) -> Real:
        """The reference as metrics take it."""
        return Real(self.reference)

    def measure_with(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return the measure of images that are looked at twice, plain data.

        Arguments:
            own: The study's own measure.
        """
        return {**own, SECOND: self.extractor.describe()}

    def dimensions(self, images: int) -> int | None:
        """Return in how many principal directions so many images are compared; None for all."""
        real = self.reference.require_images()
        dim = self.extractor.dim
        # Half a chunk of slack, as for a study's own metric: 500 images serve d = 64.
        if min(images, real) + CHUNK // 2 >= VERDICT_PER_FEATURE * dim:
            return None
        return min(images, real) // VERDICT_PER_FEATURE


def with_second(
    objective: Objective, spec: StudySpec, *, shape: tuple[int, int, int], device: str
) -> Objective:
    """Return an objective with the second opinion that a study asks for, refusing what is none.

    Arguments:
        objective: What the search goes by.
        spec: The study.
        shape: Channels, height and width of the network's images.
        device: Torch device of the other extractor.

    Raises:
        SpecError: It is no second one, or there are no real images to compare with.
        ObjectiveError: Weights are missing, or it cannot read the network's images.
    """
    name = spec.confirm.second_opinion
    if name is None:
        return objective
    where = "confirm.second_opinion"
    if name in (part for part, _ in parts_of(objective.extractor.name)):
        raise SpecError(
            where,
            expected="features other than those of the search",
            found=name,
            hint="name another, or leave it out: -s confirm.second_opinion=null",
        )
    if not spec.objective.samples:
        raise SpecError(
            where,
            expected="null: a study of denoising losses samples no images",
            found=name,
            hint="leave it out: -s confirm.second_opinion=null",
        )
    bundled = spec.objective.reference if spec.objective.reference in REFERENCES else None
    source = spec.objective.images or (None if bundled is None else _IMAGES)
    if bundled is not None and name in BUNDLED:
        source = bundled
    if source is None:
        raise SpecError(
            where,
            expected="real images to compare with",
            found="none: `objective.images` is null",
            hint="name some: -s objective.images=IMAGES.npz",
        )
    extractor = load_extractor(name, device=device)
    extractor(torch.zeros(1, *shape, dtype=torch.uint8))
    if source == spec.objective.images:
        _check_images(source, shape=shape)
    return replace(objective, second=SecondOpinion(extractor, source))


def second_score(opinion: SecondOpinion, sample: Sample, baseline: Sample | None) -> NewScore:
    """Return the score of images in the other features.

    Arguments:
        opinion: The other features.
        sample: The images, with the array `SECOND`.
        baseline: Those of the baseline on the same seeds; None for the baseline itself.

    Raises:
        ObjectiveError: They cannot be scored.
    """
    return _score(
        opinion.real,
        _columns(sample, SECOND),
        None if baseline is None else _columns(baseline, SECOND),
        place=SECOND_PLACE,
        projection=opinion.dimensions(sample.images),
    )


def part_scores(
    objective: Objective, sample: Sample, baseline: Sample | None
) -> Iterator[NewScore]:
    """Yield the scores of images in each part of joint features, in the part's own units.

    Arguments:
        objective: Of the study.
        sample: The images.
        baseline: Those of the baseline on the same seeds; None for the baseline itself.
    """
    for index, (part, columns, real) in enumerate(objective.parts):
        of_part = partial(_columns, array=FEATURES, columns=columns, factor=part.factor)
        base = None if baseline is None else of_part(baseline)
        yield _score(real, of_part(sample), base, place=FIRST_PART + index)


def _columns(
    sample: Sample, array: str, columns: slice = slice(None), factor: float = 1.0
) -> Sample:
    """Return a sample whose features are columns of a stored array, divided by a factor."""

    def read(name: str) -> Iterator[NDArray[np.float32]]:
        if name != FEATURES:
            yield from sample.read(name)
            return
        for rows in sample.read(array):
            yield rows[:, columns] / np.float32(factor)

    return replace(sample, read=read)


def _score(
    real: Real,
    sample: Sample,
    baseline: Sample | None,
    *,
    place: int,
    projection: int | None = None,
) -> NewScore:
    """Return the Frechet distance of a sample, and its difference to the baseline's."""
    standard = Standard(real=real, baseline=baseline, projection=projection)
    found = measure(["fd"], sample, standard)["fd"]
    change = None
    if baseline is not None:
        own = Standard(real=real, projection=projection)
        change = difference(found, measure(["fd"], baseline, own)["fd"])
    name = real.reference.extractor
    return NewScore(
        metric=title("fd", name, sample.images, projection=projection),
        reference=real.reference.digest,
        images=sample.images,
        value=found.value.value,
        standard_error=found.value.standard_error,
        raw=found.raw,
        difference=None if change is None else change.value,
        difference_error=None if change is None else change.standard_error,
        place=place,
    )


def _check_images(source: str, *, shape: tuple[int, int, int]) -> None:
    """Refuse too few real images, and some that the network could not have made."""
    found = open_images(source)
    problems = []
    if found.count < LEAST_REAL:
        expected = f"at least {LEAST_REAL} real images, for confirm.second_opinion"
        problems.append(Problem(f"{source}: images", expected, f"{found.count}"))
    if found.shape != shape:
        expected = f"{list(shape)}, as the network makes them"
        problems.append(Problem(f"{source}: images", expected, f"{list(found.shape)}"))
    if problems:
        hint = "give others, or leave it out: -s confirm.second_opinion=null"
        raise ObjectiveError.of(problems, hint=hint)
