"""Units of a standard error: images that are no independent draws count together.

Images of one prompt are alike in what the prompt asks for, so N images of C prompts tell less of
other prompts than N images of as many prompts would. With psi_i the influence of image i, centred,
the variance of the mean then rests on the sums over units (Liang and Zeger 1986, Biometrika 73,
equation 5, for a mean; C / (C - 1) is the factor for finitely many clusters, Cameron and Miller
2015, Journal of Human Resources 50, section II.B):

    var = C / (C - 1) sum_c (sum_{i in c} psi_i)^2 / N^2

Influences of a difference are differences of influences, so what two schedules have in common on
the same seeds cancels before anything is summed. With one image in each unit this is the plain
variance of a mean, std(psi)^2 / N. Units may differ in size.

Where an error is not that of a plain mean but is known for independent images, `design_effect`
says how much larger it is for units: the root of Kish's design effect (Kish 1965, Survey Sampling,
section 8.2), the ratio of both errors of a mean that moves alike.

The interval is a normal one. Student's with C - 1 degrees of freedom, which Cameron and Miller
recommend (section VI.D), is 7 % wider at 20 units and 2 % at 60.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError

__all__ = ["LEAST_UNITS", "Units", "design_effect", "standard_error"]

Array = NDArray[np.float64]

LEAST_UNITS: Final = 20
"""Units below which a standard error of their sums is not to be relied on: it is too small more
often than not, and normal intervals of level 0.95 cover less than 93.5 % (Student's t, 19 degrees
of freedom)."""


@dataclass(frozen=True, eq=False)
class Units:
    """Which images count together.

    Arguments:
        index: int32 [N], the unit of each image, from 0 to `count` - 1.
        count: Units C, at least 2, each with an image.
    """

    index: NDArray[np.int32]
    count: int

    @classmethod
    def of_labels(cls, labels: ArrayLike) -> Units:
        """Return the units of images whose labels are equal.

        Arguments:
            labels: Numbers [N], one for each image.

        Raises:
            ObjectiveError: Not one number for each image, or all are equal.
        """
        rows = np.asarray(labels)
        if rows.ndim != 1:
            raise ObjectiveError(
                "labels",
                expected="one for each image",
                found=str(list(rows.shape)),
                hint="score images that skiptune has sampled",
            )
        distinct, index = np.unique(rows, return_inverse=True)
        if len(distinct) < 2:
            raise ObjectiveError(
                "standard error",
                expected=f"images of several prompts, best of {LEAST_UNITS} or more: a prompt"
                " counts once",
                found=f"{len(rows)} images of {len(distinct)}",
                hint="score more images, or give more prompts",
            )
        return cls(index.astype(np.int32), len(distinct))

    def sums(self, influence: Array) -> Array:
        """Return independent values whose mean has the error of the mean of an influence.

        Arguments:
            influence: float64 [N]; its mean does not matter.

        Returns:
            float64 [C] of mean 0 but for rounding: the centred sums over units times C / N.

        Raises:
            ObjectiveError: Of another number of images.
        """
        if len(influence) != len(self.index):
            raise ObjectiveError(
                "influence",
                expected=f"{len(self.index)} values, one for each image that has a label",
                found=str(len(influence)),
                hint="compare evaluations over the same seeds",
            )
        centred = influence - influence.mean()
        sums = np.bincount(self.index, weights=centred, minlength=self.count)
        return np.asarray(sums * (self.count / len(influence)), dtype=np.float64)

    def same_as(self, other: Units | None) -> bool:
        """Return whether the same images count together in the same order."""
        return other is not None and np.array_equal(self.index, other.index)


def standard_error(influence: Array, units: Units | None = None) -> float:
    """Return the standard error of the mean of an influence.

    Arguments:
        influence: float64 [N].
        units: Which of its values go together; None says that all are independent.

    Raises:
        ObjectiveError: The units are of another number of images.
    """
    parts = influence if units is None else units.sums(influence)
    return float(parts.std(ddof=1)) / math.sqrt(len(parts))


def design_effect(influence: Array, units: Units) -> Array:
    """Return how many times an error that counts images becomes one that counts units.

    Arguments:
        influence: float64 [N, ...]: of each image on each of some means.
        units: Which of the images go together.

    Returns:
        float64 [...], at least 1: that an error seems smaller is chance, or images that repel each
        other, of which an error of images knows nothing.

    Raises:
        ObjectiveError: The units are of another number of images.
    """
    shape = influence.shape[1:]
    columns = influence.reshape(len(influence), -1).T
    found = np.ones(len(columns))
    for place, column in enumerate(columns):
        plain = standard_error(column)
        if plain > 0:
            found[place] = max(1.0, standard_error(column, units) / plain)
    return found.reshape(shape)
