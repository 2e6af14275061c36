"""A screen for few images: the distance in the leading principal directions.

Below 4 images per feature the Frechet distance cannot be corrected for its bias in N; in k << d
directions it can, with 4 k images. The directions are the principal ones of baseline and
reference pooled, so that what either moves in is seen, and they are fixed by the baseline: all
schedules of a study are projected alike. A linear map P takes a Gaussian's moments to P'm and
P'SP, so statistics of all d features serve, and no real image is needed.

A projection never lengthens: the screen is a lower bound of the distance, up to sampling error.
It does not see what the dropped directions do. `ranks.rank_correlation` says how well a screen
has ordered schedules whose full distance is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.moments import Moments, Rows, in_blocks
from skiptune.objectives.reference import Reference
from skiptune.objectives.symmetric import congruence

__all__ = ["Projection", "projected_name"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Projection:
    """Orthonormal directions of a feature space.

    Arguments:
        matrix: P, float64 [d, k]; the column of the largest variance first, the entry of
            largest size in each column positive.
        explained: Share of the pooled variance within the directions, 0..1.
    """

    matrix: Array
    explained: float

    @classmethod
    def of(
        cls, baseline_mean: Array, baseline_covariance: Array, reference: Reference, dims: int
    ) -> Projection:
        """Return the leading principal directions of baseline and reference in equal parts.

        The covariance of the mixture is (S + S_r) / 2 + (m - m_r)(m - m_r)' / 4.

        Arguments:
            baseline_mean: float64 [d], of the baseline's features.
            baseline_covariance: float64 [d, d].
            reference: Statistics of real features.
            dims: Directions k, 1 <= k <= d.

        Raises:
            ObjectiveError: When `dims` is out of range or the shapes do not fit.
        """
        dim = reference.dim
        shapes = (np.shape(baseline_mean), np.shape(baseline_covariance))
        if shapes != ((dim,), (dim, dim)) or not 1 <= dims <= dim:
            raise ObjectiveError(
                "projection",
                expected=f"moments [{dim}] and [{dim}, {dim}], and 1 to {dim} dimensions",
                found=f"{list(shapes[0])} and {list(shapes[1])}, and {dims} dimensions",
                hint=f"use features of {reference.extractor}, and fewer dimensions than it has",
            )
        shift = baseline_mean - reference.mean
        pooled = (baseline_covariance + reference.covariance) / 2 + np.outer(shift, shift) / 4
        values, vectors = np.linalg.eigh(pooled)
        matrix = vectors[:, ::-1][:, :dims]
        # An eigenvector's sign is the library's whim.
        largest = np.take_along_axis(matrix, np.abs(matrix).argmax(axis=0)[None], axis=0)
        return cls(
            matrix=np.ascontiguousarray(matrix * np.sign(largest)),
            explained=float(values[dim - dims :].sum() / values.sum()),
        )

    @classmethod
    def of_features(
        cls, baseline_features: ArrayLike | Rows, reference: Reference, dims: int
    ) -> Projection:
        """Return `of` the moments of the baseline's features.

        Arguments:
            baseline_features: [N, d], or a function that yields its pieces; N >= 2.
            reference: Statistics of real features.
            dims: Directions k, 1 <= k <= d.

        Raises:
            ObjectiveError: As `of`, or when the features do not fit or are not finite.
        """
        moments = Moments(reference.dim)
        for piece in baseline_features() if callable(baseline_features) else [baseline_features]:
            moments.add(piece)
        return cls.of(moments.mean, moments.covariance, reference, dims)

    @property
    def name(self) -> str:
        """What stands in a metric's name: `pca-256`."""
        return f"pca-{self.matrix.shape[1]}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the directions."""
        return hashlib.sha256(np.ascontiguousarray(self.matrix, "<f8").tobytes()).hexdigest()

    def project(self, features: ArrayLike) -> Array:
        """Return features in the directions.

        Arguments:
            features: [N, d].

        Returns:
            float64 [N, k].

        Raises:
            ObjectiveError: When they are not [N, d].
        """
        rows = np.asarray(features)
        dim = len(self.matrix)
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise ObjectiveError(
                "features to project",
                expected=f"[N, {dim}]",
                found=str(list(rows.shape)),
                hint="use features of the extractor that the projection was made for",
            )
        projected: Array = rows.astype(np.float64, copy=False) @ self.matrix
        return projected

    def stream(self, rows: Rows) -> Rows:
        """Return a source of the projected rows whose bits do not depend on the pieces of `rows`.

        The bits of a matrix product may depend on its height, so the rows are projected in whole
        blocks.
        """

        def pieces() -> Iterator[Array]:
            for block in in_blocks(rows, dim=len(self.matrix)):
                yield self.project(block)

        return pieces

    def reference(self, reference: Reference) -> Reference:
        """Return the reference in the directions: P'm and P'SP.

        Arguments:
            reference: Of all d features.

        Returns:
            Statistics of an extractor `NAME,pca-k`; its preprocessing names the directions.

        Raises:
            ObjectiveError: When the reference has other features.
        """
        dim, size = self.matrix.shape
        if reference.dim != dim:
            raise ObjectiveError(
                f"reference {reference.name}",
                expected=f"{dim} features, as the projection",
                found=f"{reference.dim}",
                hint="use the reference that the projection was made for",
            )
        return Reference(
            name=f"{reference.name},{self.name}",
            extractor=projected_name(reference.extractor, size),
            sha256=reference.sha256,
            preprocess=f"{reference.preprocess}; projection {self.digest}",
            dim=size,
            images=reference.images,
            mean=reference.mean @ self.matrix,
            covariance=congruence(self.matrix, reference.covariance),
            header={**reference.header, "projection": {"from": dim, "sha256": self.digest}},
        )


def projected_name(extractor: str, dims: int) -> str:
    """Return how features in `dims` directions are called: `inception,pca-256`.

    The metric is then `FD(inception,pca-256)-2k-corrected` (`names.metric_name`).
    """
    return f"{extractor},pca-{dims}"
