"""The Frechet distance between Gaussians fitted to features, and its first-order expansion.

    FD = |m - m_r|^2 + tr S + tr S_r - 2 tr (S_r S)^(1/2)

(Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, equation 6). S_r S is not
symmetric, but with the root A of S_r the matrix A S A is, and has the same eigenvalues, so
`eigvalsh` gives the trace term without complex numbers or failures at rank deficiency. For
N <= d the nonzero eigenvalues come from the N x N Gram matrix instead (Mathiasen and Hvilshoj
2020, arXiv 2009.14075). All in float64, numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.reference import Reference
from skiptune.objectives.symmetric import congruence

__all__ = [
    "LEAST_PER_FEATURE",
    "VERDICT_PER_FEATURE",
    "Expansion",
    "Spectrum",
    "caution",
    "check_features",
    "check_shape",
    "expand",
    "frechet_distance",
    "frechet_of_moments",
    "influence",
    "spectrum",
]

Array = NDArray[np.float64]

# Eigenvalues of A S A below this share of the largest one are rounding: features that the
# reference or the sample does not move in. Their inverse root would be noise.
_RANK = 1e-12


LEAST_PER_FEATURE = 4
"""Images per feature below which no correction for the bias in N is made.

The correction extrapolates from halves of the sample. Below 2 d their covariances are singular,
and below 4 d differences between unequal spreads keep a bias that their errors do not show: of
schedules that are equally far, two in five are called different at N = 2.5 d and d = 256, and all
at 1.6 d; at 4 d what is left stays below a standard error (`bench/bias.py`).
"""

VERDICT_PER_FEATURE = 8
"""Images per feature from which a difference may be called one.

There the corrected value keeps less than a tenth of the raw bias, and paired intervals hold the
truth as often as they claim at equal and at unequal spread (`bench/bias.py`, `bench/coverage.py`).
"""

# Counts come in whole chunks: 500 images serve d = 64, whose 8 d are 512.
_ROUNDING = 0.975


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of the symmetric product M = A S A, whose root's trace is the distance's.

    Arguments:
        roots: Sum of the roots of its eigenvalues: tr M^(1/2).
        spanned: The same over the r directions that M spans: without rounding's share.
        half: float64 [d, r] with half half' = M^(-1/2), within the r directions that M spans.
    """

    roots: float
    spanned: float
    half: Array


@dataclass(frozen=True, eq=False)
class Expansion:
    """The distance and its derivative with respect to the sample's moments.

    Arguments:
        value: The Frechet distance.
        gradient: 2 (m - m_r), [d]: derivative in the mean.
        curvature: I - T, [d, d]: derivative in the covariance, with the optimal transport map
            T = A (A S A)^(-1/2) A of the sample's Gaussian to the reference's.
    """

    value: float
    gradient: Array
    curvature: Array


def check_features(features: ArrayLike, reference: Reference, *, least: int = 2) -> Array:
    """Return the features as a float64 array [N, d].

    Raises:
        ObjectiveError: When they are not [N, d] of the reference's dimension, fewer than
            `least`, or not finite.
    """
    rows = np.asarray(features, dtype=np.float64)
    check_shape(rows.shape, reference, least=least)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise ObjectiveError(
            "features",
            expected="finite numbers",
            found=f"NaN or infinity in {bad} of {len(rows)} rows",
            hint="images that are not finite have no score: leave their schedule out",
        )
    return rows


def check_shape(shape: tuple[int, ...], reference: Reference, *, least: int = 2) -> None:
    """Refuse features of any other shape than [N, d], N >= `least`, d as the reference's.

    Raises:
        ObjectiveError: When they are.
    """
    if len(shape) != 2 or shape[1] != reference.dim or shape[0] < least:
        raise ObjectiveError(
            "features",
            expected=f"[N, {reference.dim}] with N >= {least}, as reference {reference.name}",
            found=str(list(shape)),
            hint=f"extract features with {reference.extractor}",
        )


def caution(images: int, dim: int) -> str | None:
    """Return what a person has to know of a corrected distance of so few images, or None.

    Arguments:
        images: Image count N.
        dim: Features d.

    Returns:
        None from `VERDICT_PER_FEATURE` d on, less 2.5 % for counts in whole chunks; else one
        sentence without full stop, which names the number of images that would do.
    """
    verdict = VERDICT_PER_FEATURE * dim
    if images >= _ROUNDING * verdict:
        return None
    if images >= LEAST_PER_FEATURE * dim:
        return (
            f"{images} images are {images / dim:.3g} per feature: take the corrected distance as "
            f"a screen, for a verdict use {verdict} images ({VERDICT_PER_FEATURE} per feature)"
        )
    return (
        f"{images} images are {images / dim:.3g} per feature: the bias in N cannot be corrected "
        f"below {LEAST_PER_FEATURE * dim} images ({LEAST_PER_FEATURE} per feature)"
    )


def frechet_distance(features: ArrayLike, reference: Reference) -> float:
    """Return the Frechet distance of a sample to the reference, biased upwards by about C / N.

    Arguments:
        features: [N, d] of the reference's extractor, N >= 2.
        reference: Statistics of real features.

    Returns:
        The distance, in squared feature units; -1e-12 may stand for 0.
    """
    rows = check_features(features, reference)
    if len(rows) > reference.dim:
        return frechet_of_moments(*_moments(rows), reference)
    mean = rows.mean(axis=0)
    centred = rows - mean
    values = np.linalg.eigvalsh(_gram(centred, reference))
    shift = mean - reference.mean
    spread = float((centred * centred).sum()) / (len(rows) - 1)
    return float(shift @ shift) + spread + reference.trace - 2 * _sum_of_roots(values)


def frechet_of_moments(mean: Array, covariance: Array, reference: Reference) -> float:
    """Return the Frechet distance of given moments.

    Arguments:
        mean: float64 [d].
        covariance: float64 [d, d], symmetric.
        reference: Statistics of real features.
    """
    shift = mean - reference.mean
    values = np.linalg.eigvalsh(congruence(reference.root, covariance))
    trace = float(np.trace(covariance)) + reference.trace
    return float(shift @ shift) + trace - 2 * _sum_of_roots(values)


def expand(mean: Array, covariance: Array, reference: Reference) -> Expansion:
    """Return the distance of given moments with its derivative.

    Where A S A is singular the derivative does not exist; T is then taken with the
    pseudo-inverse, i.e. within the directions that the sample spans.
    """
    found = spectrum(congruence(reference.root, covariance))
    shift = mean - reference.mean
    trace = float(np.trace(covariance)) + reference.trace
    half = reference.root @ found.half
    return Expansion(
        value=float(shift @ shift) + trace - 2 * found.roots,
        gradient=2 * shift,
        curvature=np.eye(reference.dim) - half @ half.T,
    )


def spectrum(product: Array) -> Spectrum:
    """Return what the distance and its derivative need of A S A, float64 [d, d], symmetric."""
    values, vectors = np.linalg.eigh(product)
    roots = np.sqrt(np.clip(values, 0, None))
    kept = values > _RANK * max(float(values[-1]), 0.0)
    return Spectrum(
        roots=float(roots.sum()),
        spanned=float(roots[kept].sum()),
        half=vectors[:, kept] / np.sqrt(roots[kept]),
    )


def influence(features: ArrayLike, reference: Reference) -> Array:
    """Return how much each image moves the distance.

    psi_i = 2 (m - m_r)'(x_i - m) + (x_i - m)'(I - T)(x_i - m), minus its mean: the derivative
    of the distance when image i gains weight (the influence function of Hampel 1974, with the
    derivative of the Bures metric). The standard error of the distance is std(psi) / sqrt(N).

    Arguments:
        features: [N, d], N >= 2.
        reference: Statistics of real features.

    Returns:
        float64 [N], mean 0.
    """
    rows = check_features(features, reference)
    count = len(rows)
    if count > reference.dim:
        mean, covariance = _moments(rows)
        slope = expand(mean, covariance, reference)
        centred = rows - mean
        psi = centred @ slope.gradient + np.einsum("nd,nd->n", centred @ slope.curvature, centred)
    else:
        mean = rows.mean(axis=0)
        centred = rows - mean
        values, vectors = np.linalg.eigh(_gram(centred, reference))
        # y_i' (Y'Y / (N - 1))^(-1/2) y_i is sqrt(N - 1) times the diagonal of (Y Y')^(1/2), and
        # the Gram matrix here is already divided by N - 1.
        transported = (count - 1) * (vectors**2 @ np.sqrt(np.clip(values, 0, None)))
        psi = (
            centred @ (2 * (mean - reference.mean)) + (centred * centred).sum(axis=1) - transported
        )
    centred_psi: Array = psi - psi.mean()
    return centred_psi


def _moments(rows: Array) -> tuple[Array, Array]:
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def _gram(centred: Array, reference: Reference) -> Array:
    mapped = centred @ reference.root
    gram: Array = mapped @ mapped.T / (len(centred) - 1)
    return gram


def _sum_of_roots(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.clip(values, 0, None)).sum())
