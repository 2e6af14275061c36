"""A model of how schedules move the moments of features, and through them the Frechet distance.

On common seeds each image is a smooth function of the scales, and so are mean and covariance of
its features; the distance is far less so: it is a nonlinear function of both, and most of what
bends it is known exactly. So the changes of the moments are regressed on the log scales, and the
distance is computed of what the regression predicts.

Let x be the log parameters of a schedule minus those of the centre, a schedule whose moments are
known and through which every prediction passes. The change of any entry of a moment is a quadratic
of x plus a rest. In units of that entry the coefficients have mean 0 and the variances v_j of x_j,
2 v_j of x_j^2 and v_j v_k / 20 of x_j x_k: a ridge with a strength for each parameter that all
entries share. It is learnt by type-II maximum likelihood (expectation maximisation; Tipping 2001,
"Sparse Bayesian learning and the relevance vector machine"); because there are so many entries,
fewer schedules than parameters tell which parameters matter. The rest has variance s (0.001 + r^2)
with r = sum_j v_j x_j^2: a quadratic fits less and less far from the centre. This is a local
regression whose reach is learnt. A prediction is a weighted sum of the changes that were seen,

    m(x) = m_c + sum_i w_i(x) (m_i - m_c)
    S(x) = S_c + sum_i w_i(x) (S_i - S_c)        w(x) = (K + R)^-1 k(x)

with K and k the covariances of quadratics and R that of the rests. What distances of these moments
leave over from the corrected distances that were seen (the bias in N, above all) is summed with
the same weights. All in float64, numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.frechet import expand, frechet_of_moments
from skiptune.objectives.reference import Reference

__all__ = ["LeftOut", "MomentModel", "Prediction", "Seen", "left_out"]

Array = NDArray[np.float64]

ITERATIONS: Final = 30
"""Steps of expectation maximisation; a hundred predict no better."""

SQUARE: Final = 2.0
"""Variance of the coefficient of x_j^2 over that of x_j."""

CROSS: Final = 0.05
"""Variance of the coefficient of x_j x_k over the product of those of x_j and x_k: they take part,
and explain little (`bench/moment_surrogate.py`)."""

PULL: Final = 0.1
"""Weight, against that of all entries, with which a variance is drawn to where it began."""

NEAR: Final = 0.001
"""The rest's variance at the centre, as a part of that of a typical change: 3 % in size."""

# Where expectation maximisation begins, and its smallest end, which keeps K + R from singular:
# the rest of a typical change, as a part of its square.
_REST, _LEAST_REST = 0.05, 1e-6

# Directions in which features spread less than this part of their largest variance count as
# spreading so much: the metric of changes divides by variances.
_FLOOR = 1e-4


@dataclass(frozen=True, eq=False)
class Seen:
    """An evaluation, the baseline included.

    Arguments:
        logs: float64 [p], the logarithms of its parameters.
        mean: float64 [d], of its features, on the same seeds for all evaluations.
        covariance: float64 [d, d].
        value: Its corrected distance.
    """

    logs: Array
    mean: Array
    covariance: Array
    value: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a schedule.

    Arguments:
        value: Corrected distance.
        gradient: float64 [p], its derivative in the log parameters.
        variance: Of a moment's entry in units of that entry: 0 at the centre, and it grows with
            the distance from what was seen.
        variance_gradient: float64 [p].
    """

    value: float
    gradient: Array
    variance: float
    variance_gradient: Array


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What models that have not seen an evaluation say of it.

    Arguments:
        values: float64 [n], the corrected distances that were seen.
        predicted: float64 [n].
        variances: float64 [n], `Prediction.variance` and the variance of the rest.
    """

    values: Array
    predicted: Array
    variances: Array

    @property
    def error(self) -> float:
        """Root of the mean square error."""
        return float(np.sqrt(np.mean(np.square(self.predicted - self.values))))

    @property
    def scale(self) -> float:
        """Standard deviation of a distance whose variance is predicted as 1."""
        return float(np.sqrt(np.mean(np.square(self.predicted - self.values) / self.variances)))


class MomentModel:
    """The regression on a set of evaluations.

    A prediction takes 2 n d^2 operations for n evaluations and one symmetric eigenproblem of size
    d. Making the model takes n times that, and `ITERATIONS` inverses of size n.

    Arguments:
        seen: At least two evaluations.
        reference: Statistics of real features.
        centre: Which of them predictions pass through.

    Raises:
        ObjectiveError: They are fewer, or their shapes do not fit.
    """

    def __init__(self, seen: Sequence[Seen], reference: Reference, *, centre: int = 0) -> None:
        _check(seen, reference)
        middle = seen[centre]
        others = [one for place, one in enumerate(seen) if place != centre]
        self._reference = reference
        self._centre = middle.logs
        self._moves = np.array([one.logs for one in others]) - middle.logs
        # [d + d^2]: one product with [n, d + d^2] gives mean and covariance.
        self._moments = _flat(middle.mean, middle.covariance)
        self._changes = np.array([_flat(one.mean, one.covariance) for one in others])
        self._changes -= self._moments
        self._shift = middle.value - self._distance(np.zeros_like(self._moments))
        # Of the distances that were seen, what those of their moments do not account for.
        self._left_over = np.array([one.value for one in others]) - self._shift
        self._left_over -= [self._distance(change) for change in self._changes]
        alike = _inner_products(self._changes, middle.covariance)
        self.variances, self.rest = _learnt(self._moves, alike)
        self._inverse = np.linalg.inv(_noisy_kernel(self._moves, self.variances, self.rest))

    def predict(self, logs: Array, *, pending: Sequence[Array] = ()) -> Prediction:
        """Return the distance at a schedule with its derivatives.

        Arguments:
            logs: float64 [p].
            pending: Schedules on their way: the variance is what will be left once they are seen.
        """
        move = np.asarray(logs, dtype=np.float64) - self._centre
        across, slopes = _kernel_at(move, self._moves, self.variances)
        weights = self._inverse @ across
        mean, covariance = _split(self._moments + weights @ self._changes)
        slope = expand(mean, covariance, self._reference)
        # How the distance moves with the weight of each evaluation.
        each = self._changes @ _flat(slope.gradient, slope.curvature) + self._left_over
        moves, inverse = self._moves, self._inverse
        if len(pending):
            moves = np.concatenate([moves, np.array(pending) - self._centre])
            inverse = np.linalg.inv(_noisy_kernel(moves, self.variances, self.rest))
        near, near_slopes = _kernel_at(move, moves, self.variances)
        own, own_slopes = _kernel_at(move, move[None], self.variances)
        solved = inverse @ near
        return Prediction(
            value=slope.value + self._shift + float(weights @ self._left_over),
            gradient=slopes.T @ (self._inverse @ each),
            variance=max(float(own[0] - near @ solved), 0.0),
            # Both sides of the first kernel move.
            variance_gradient=2 * (own_slopes[0] - near_slopes.T @ solved),
        )

    def value(self, logs: Array) -> float:
        """Return the distance at a schedule, float64 [p], without derivatives."""
        move = np.asarray(logs, dtype=np.float64) - self._centre
        weights = self._inverse @ _kernel_at(move, self._moves, self.variances)[0]
        change = weights @ self._changes
        return self._distance(change) + self._shift + float(weights @ self._left_over)

    def rest_at(self, logs: Array) -> float:
        """Return the variance of what the regression leaves of a schedule, float64 [p]."""
        move = (np.asarray(logs, dtype=np.float64) - self._centre)[None]
        return float(_rests(move, self.variances, self.rest)[0])

    def _distance(self, change: Array) -> float:
        return frechet_of_moments(*_split(self._moments + change), self._reference)


def left_out(
    seen: Sequence[Seen], reference: Reference, *, centre: int = 0, folds: int | None = None
) -> LeftOut:
    """Return what is predicted of each evaluation by a model that was made without it.

    The centre is in every model. Variances are learnt anew each time: what is learnt from all
    would know the evaluation that is left out.

    Arguments:
        seen: At least three evaluations.
        reference: Statistics of real features.
        centre: As for `MomentModel`.
        folds: Models that are made, each without every `folds`-th; None leaves out one at a time.

    Raises:
        ObjectiveError: As `MomentModel`.
    """
    others = [place for place in range(len(seen)) if place != centre]
    count = len(others) if folds is None else min(folds, len(others))
    predicted, variances = np.zeros(len(others)), np.zeros(len(others))
    for fold in range(count):
        kept = [place for index, place in enumerate(others) if index % count != fold]
        model = MomentModel([seen[centre], *(seen[place] for place in kept)], reference)
        for index in range(fold, len(others), count):
            found = model.predict(seen[others[index]].logs)
            predicted[index] = found.value
            variances[index] = found.variance + model.rest_at(seen[others[index]].logs)
    values = np.array([seen[place].value for place in others])
    return LeftOut(values, predicted, variances)


def _learnt(moves: Array, alike: Array) -> tuple[Array, float]:
    """Return the variance of each parameter's slope, and that of a typical change's rest.

    Arguments:
        moves: float64 [n, p], of log parameters from the centre.
        alike: float64 [n, n], inner products of the changes.

    Returns:
        float64 [p] and a number, above 0, where a typical change has a mean square of 1.
    """
    size = moves.shape[1]
    changes = np.diagonal(alike)
    if not (changes > 0).any():  # no schedule moves anything
        return np.ones(size), 1.0
    target = alike / np.median(changes[changes > 0])
    columns = np.concatenate([moves, np.square(moves)], axis=1)
    ratio = np.repeat([1.0, SQUARE], size)
    # Each parameter begins with an equal share of what is to be explained. It never loses it
    # quite: what has not been seen to matter may yet matter elsewhere.
    begin = float(np.trace(target)) / max(float(np.square(columns).sum()), 1e-300)
    variances, rest = np.full(size, begin), _REST
    for _ in range(ITERATIONS):
        spread = np.tile(variances, 2) * ratio
        inverse = np.linalg.inv(_noisy_kernel(moves, variances, rest))
        solved = inverse @ columns
        # Mean squares of the coefficients, then of the rests, given what was seen.
        squares = np.einsum("nq,nq->q", solved, target @ solved) * spread**2
        squares += spread - spread**2 * np.einsum("nq,nq->q", columns, solved)
        rests = _rests(moves, variances, rest)
        left = rests**2 * np.einsum("ij,ij->i", inverse @ target, inverse)
        left += rests - rests**2 * np.diagonal(inverse)
        each = (squares / ratio).reshape(2, size).mean(axis=0)
        variances = (each + PULL * begin) / (1 + PULL)
        rest = max(float(np.mean(left * rest / rests)), _LEAST_REST)
    return variances, rest


def _kernel_at(move: Array, others: Array, variances: Array) -> tuple[Array, Array]:
    """Return the covariances of a quadratic at x with that at others, and the derivatives in x.

    With u = sum_j v_j x_j y_j and q = sum_j v_j x_j^2 y_j^2 they are u + 2 q + (u^2 - sum_j v_j^2
    x_j^2 y_j^2) / 40.

    Arguments:
        move: x, float64 [p].
        others: Each y, float64 [n, p].
        variances: v, float64 [p].

    Returns:
        float64 [n] and [n, p].
    """
    weighed = others * variances
    squares = np.square(others) * variances
    own = squares * variances
    linear = weighed @ move
    values = linear + SQUARE * (squares @ np.square(move))
    values += CROSS / 2 * (np.square(linear) - own @ np.square(move))
    slopes = weighed + 2 * SQUARE * squares * move
    slopes += CROSS * (linear[:, None] * weighed - own * move)
    return values, slopes


def _noisy_kernel(moves: Array, variances: Array, rest: float) -> Array:
    """Return K + R, float64 [n, n]."""
    linear = (moves * variances) @ moves.T
    squares = np.square(moves)
    kernel: Array = linear + SQUARE * (squares * variances) @ squares.T
    kernel += CROSS / 2 * (np.square(linear) - (squares * variances**2) @ squares.T)
    kernel += np.diag(_rests(moves, variances, rest))
    return kernel


def _rests(moves: Array, variances: Array, rest: float) -> Array:
    """Return s (0.001 + r^2) for rows [n, p]."""
    rests: Array = rest * (NEAR + np.square(np.square(moves) @ variances))
    return rests


def _inner_products(changes: Array, covariance: Array) -> Array:
    """Return the inner products of changes, float64 [n, n], as the distance sees them.

    |dm|^2 + 1/2 sum_ab dS_ab^2 / (l_a + l_b) in the principal directions of the covariance, with
    variances l: the metric whose geodesics the Frechet distance measures (Takatsu 2011,
    "Wasserstein geometry of Gaussian measures").

    Arguments:
        changes: float64 [n, d + d^2], of mean and covariance.
        covariance: float64 [d, d], where they begin.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, _FLOOR * max(float(values[-1]), 1e-300))
    roots = np.sqrt(2 * (values[:, None] + values))
    seen = np.empty_like(changes)
    for row, change in zip(seen, changes, strict=True):
        mean, moved = _split(change)
        row[...] = _flat(mean, vectors.T @ moved @ vectors / roots)
    product: Array = seen @ seen.T
    return product


def _flat(mean: Array, covariance: Array) -> Array:
    return np.concatenate([mean, covariance.ravel()])


def _split(flat: Array) -> tuple[Array, Array]:
    """Return mean and covariance of d + d^2 numbers."""
    dim = int(np.sqrt(len(flat)))
    return flat[:dim], flat[dim:].reshape(dim, dim)


def _check(seen: Sequence[Seen], reference: Reference) -> None:
    dim = reference.dim
    moments = {(np.shape(one.mean), np.shape(one.covariance)) for one in seen}
    logs = {np.shape(one.logs) for one in seen}
    if len(seen) < 2 or moments != {((dim,), (dim, dim))} or len(logs) != 1:
        raise ObjectiveError(
            "moments of evaluations",
            expected=f"at least 2 of one space, with moments [{dim}] and [{dim}, {dim}] as "
            f"reference {reference.name}",
            found=f"{len(seen)} with parameters {sorted(logs)} and moments {sorted(moments)}",
            hint=f"take all of them of one study, with {reference.extractor}",
        )
