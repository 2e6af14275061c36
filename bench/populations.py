"""Pairs of feature distributions with a known Frechet distance to a reference.

Each population draws what two schedules would give on common seeds: two feature arrays whose
rows belong together. Used by `bench/coverage.py` and by the tests of `skiptune.objectives`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.reference import Reference

__all__ = [
    "Population",
    "gaussian",
    "rectified",
    "resampled",
    "spread_null",
    "spread_null_of",
    "spread_trap",
]

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]

# The spectrum of features falls over two orders of magnitude, as that of real networks does.
_DECAY = 4.0


@dataclass(frozen=True, eq=False)
class Population:
    """Two schedules' features on common seeds.

    Arguments:
        name: Printed in tables.
        reference: Statistics of the real features.
        truth: True distance of the first and of the second.
        draw: Returns N paired rows of each, float64 [N, d].
    """

    name: str
    reference: Reference
    truth: tuple[float, float]
    draw: Draw

    @property
    def difference(self) -> float:
        """True distance of the first minus that of the second."""
        return self.truth[0] - self.truth[1]


def gaussian(dim: int) -> Population:
    """Gaussian features; the truth is exact."""
    base, turned = _factors(dim)
    mixes = _mixes(base, turned)
    reference = _reference("gaussian", np.zeros(dim), base @ base.T)
    truths = [
        frechet_of_moments(np.full(dim, shift), _second(first) + _second(second), reference)
        for first, second, shift in mixes
    ]
    draw = _mixed(mixes, lambda rows: rows)
    return Population("gaussian", reference, (truths[0], truths[1]), draw)


def rectified(dim: int, *, truth_images: int) -> Population:
    """Features after a ReLU, as pooled activations are; the truth from `truth_images` rows."""
    base, turned = _factors(dim)

    def relu(rows: Array) -> Array:
        return np.maximum(rows + 0.3, 0.0)

    generator = np.random.default_rng(7)
    plain = _mixed([(base, np.zeros_like(base), 0.0)] * 2, relu)
    draw = _mixed(_mixes(base, turned), relu)
    real, _ = _moments_of(plain, generator, truth_images)
    reference = _reference("rectified", *real)
    first, second = _moments_of(draw, generator, truth_images)
    truth = (frechet_of_moments(*first, reference), frechet_of_moments(*second, reference))
    return Population("rectified", reference, truth, draw)


def resampled(name: str, first: Array, second: Array, reference: Reference) -> Population:
    """Bootstrap from paired rows: the given rows are the population, so the truth is exact."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)

    def draw(generator: np.random.Generator, images: int) -> tuple[Array, Array]:
        chosen = generator.integers(len(first), size=images)
        return first[chosen], second[chosen]

    truths = [
        frechet_of_moments(rows.mean(axis=0), np.cov(rows, rowvar=False, ddof=0), reference)
        for rows in (first, second)
    ]
    return Population(name, reference, (truths[0], truths[1]), draw)


def spread_null(dim: int, *, change: float = 0.1) -> Population:
    """Gaussians of equal distance and unequal spread; see `spread_null_of`."""
    return _spread("spread null, gaussian", *_plain(dim), less=change, more=change)


def spread_trap(dim: int, *, less: float = 0.17, more: float = 0.1) -> Population:
    """Gaussians of which the first is truly farther, but has the smaller bias in N.

    As `spread_null_of`, with the first schedule's directions scaled by 1 - `less` and the second's
    by 1 + `more`. With these numbers the plain distance prefers the first up to about N = 7d.
    """
    return _spread("spread trap, gaussian", *_plain(dim), less=less, more=more)


def spread_null_of(name: str, rows: Array, *, change: float = 0.1) -> Population:
    """The distribution of given rows [M, d], spread less and more in its fine directions.

    The first schedule scales the half of the principal directions that varies least by
    1 - change, the second by 1 + change. Scaling direction k of variance v_k by s adds
    (1 - s)^2 v_k to the distance, so both are equally far from the reference; but the bias in N
    grows with the spread.
    """
    rows = np.asarray(rows, np.float64)
    reference = _reference(name, rows.mean(axis=0), np.cov(rows, rowvar=False, ddof=0))

    def drawn(generator: np.random.Generator, images: int) -> Array:
        return rows[generator.integers(len(rows), size=images)]

    return _spread(f"spread null, {name}", reference, drawn, less=change, more=change)


def _plain(dim: int) -> tuple[Reference, Callable[[np.random.Generator, int], Array]]:
    """Return a Gaussian as reference, and what draws from it."""
    base, _ = _factors(dim)

    def rows(generator: np.random.Generator, images: int) -> Array:
        return generator.standard_normal((images, dim)) @ base.T

    return _reference("gaussian", np.zeros(dim), base @ base.T), rows


def _spread(
    name: str,
    reference: Reference,
    rows: Callable[[np.random.Generator, int], Array],
    *,
    less: float,
    more: float,
) -> Population:
    variances, directions = np.linalg.eigh(reference.covariance)
    fine = directions[:, : reference.dim // 2]
    narrow, wide = (np.eye(reference.dim) + by * fine @ fine.T for by in (-less, more))
    variance = float(variances[: reference.dim // 2].sum())

    def draw(generator: np.random.Generator, images: int) -> tuple[Array, Array]:
        centred = rows(generator, images) - reference.mean
        return reference.mean + centred @ narrow, reference.mean + centred @ wide

    return Population(name, reference, (less**2 * variance, more**2 * variance), draw)


def _factors(dim: int) -> tuple[Array, Array]:
    """Return a covariance factor and a slightly turned one, [d, d]."""
    generator = np.random.default_rng(3)
    axes = np.linalg.qr(generator.standard_normal((dim, dim)))[0]
    base = axes * np.sqrt(np.exp(-_DECAY * np.arange(dim) / dim))
    wobble = generator.standard_normal((dim, dim)) / np.sqrt(dim)
    turn = np.linalg.qr(np.eye(dim) + 0.3 * wobble)[0]
    turn *= np.sign(np.diag(turn))
    return base, turn @ base


def _mixes(base: Array, turned: Array) -> list[tuple[Array, Array, float]]:
    """Two models that share most of their noise: factors of common and own noise, mean shift."""
    return [
        (0.85 * base, 0.15 * base, 0.03),
        (0.83 * turned, 0.25 * base, 0.02),
    ]


def _mixed(mixes: list[tuple[Array, Array, float]], bend: Callable[[Array], Array]) -> Draw:
    def draw(generator: np.random.Generator, images: int) -> tuple[Array, Array]:
        dim = len(mixes[0][0])
        common = generator.standard_normal((images, dim))
        own = generator.standard_normal((images, dim))
        first, second = (
            bend(common @ left.T + own @ right.T + shift) for left, right, shift in mixes
        )
        return first, second

    return draw


def _moments_of(
    draw: Draw, generator: np.random.Generator, images: int, block: int = 20_000
) -> list[tuple[Array, Array]]:
    blocks = [draw(generator, block) for _ in range(max(1, images // block))]
    result = []
    for side in (0, 1):
        rows = np.concatenate([pair[side] for pair in blocks])
        result.append((rows.mean(axis=0), np.cov(rows, rowvar=False)))
    return result


def _second(factor: Array) -> Array:
    product: Array = factor @ factor.T
    return product


def _reference(name: str, mean: Array, covariance: Array) -> Reference:
    return Reference(
        name=name,
        extractor="simulated",
        sha256="0" * 64,
        preprocess="none",
        dim=len(mean),
        images=None,
        mean=np.asarray(mean, np.float64),
        covariance=np.asarray(covariance, np.float64),
        header={},
    )
