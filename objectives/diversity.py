"""How different images of one prompt, or of one class, are from each other.

    D = mean over pairs of images with one label of ||phi(x_i) - phi(x_j)||^2

of features phi. With n_p images of label p, whose features have the mean m_p,

    D = 2 sum_p sum_i ||phi(x_i) - m_p||^2 / sum_p (n_p - 1),

because the squares of a label's pairs sum to n_p times its sum of squares around the mean: twice
the pooled variance within labels, which has no bias in N. Labels weigh as many pairs as are
independent, n_p - 1; one with a single image says nothing. Without labels all images are of one.

The influence of an image is that of the ratio, linearised: its sums over labels have the error of
D where labels are the units, and its values where images are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError

__all__ = ["diversity"]

Array = NDArray[np.float64]


def diversity(
    blocks: Callable[[], Iterator[NDArray[np.float32]]], labels: ArrayLike | None = None
) -> tuple[float, Array]:
    """Return the mean squared distance of features between images of one label.

    Arguments:
        blocks: Yields features [n, d] in the order of the labels; asked twice.
        labels: Whole numbers [N]; None where all images are of one kind.

    Returns:
        The value, and float64 [N] the influence of every image, of mean 0.

    Raises:
        ObjectiveError: No label has two images.
    """
    count = sum(len(rows) for rows in blocks()) if labels is None else len(np.asarray(labels))
    given = np.zeros(count) if labels is None else np.asarray(labels)
    _, kind, sizes = np.unique(given, return_inverse=True, return_counts=True)
    pairs = int((sizes - 1).sum())
    if pairs < 1:
        raise ObjectiveError(
            "diversity",
            expected="two images of one prompt or class",
            found=f"{count} images of {len(sizes)}",
            hint="take more images at the first rung, or fewer prompts",
        )
    sums: Array | None = None
    done = 0
    for rows in blocks():
        here = kind[done : done + len(rows)]
        order = np.argsort(here, kind="stable")
        names, begins = np.unique(here[order], return_index=True)
        if sums is None:
            sums = np.zeros((len(sizes), rows.shape[1]))
        sums[names] += np.add.reduceat(rows[order].astype(np.float64), begins, axis=0)
        done += len(rows)
    assert sums is not None  # there are two images
    means = sums / sizes[:, None]
    squares = np.empty(count)
    done = 0
    for rows in blocks():
        part = slice(done, done + len(rows))
        squares[part] = np.square(rows - means[kind[part]]).sum(axis=1)
        done += len(rows)
    value = 2 * float(squares.sum()) / pairs
    expected = value * ((sizes - 1) / sizes)[kind]
    return value, (2 * squares - expected) * (count / pairs)
