"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma, and of its SDE.

Notation as in Karras et al. 2022 (arXiv 2206.00364) with sigma(t) = t and s(t) = 1: t is the noise
level, D the denoiser, d the slope. A solver steps along a grid of noise levels that ends in 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from skiptune.errors import SpecError
from skiptune.sampling.setting import ORDERS, SOLVERS, STOCHASTIC_SOLVERS, Churn

__all__ = ["SOLVERS", "Denoise", "solve"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x float64 [N, ...], sigma float64 0-dim on the same device) -> estimate of the clean x."""


def solve(
    solver: str,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: Churn | None = None,
    randn_like: Callable[[Tensor], Tensor] | None = None,
    order: int = 2,
    eta: float = 1.0,
    restarts: Container[int] = (),
    round_sigma: Callable[[float], float] | None = None,
) -> Tensor:
    """Take images from pure noise to clean.

    Differentiable in everything `denoise` depends on.

    Arguments:
        solver: One of `SOLVERS`. ``euler`` and ``heun`` are EDM's algorithm 2 without and with the
            second-order correction; ``dpmpp_2m`` is DPM-Solver++(2M) (Lu et al. 2022, arXiv
            2211.01095, algorithm 2), ``dpmpp_2m_sde`` its stochastic form (ibid.,
            SDE-DPM-Solver++(2M)); ``unipc`` is multistep UniPC with B(h) = e^h - 1 (Zhao et al.
            2023, arXiv 2302.04867).
        denoise: The denoiser; see `Denoise`.
        x: Noise of standard deviation sigmas[0], [N, ...]; the state is float64.
        sigmas: Falling noise levels [steps + 1] on any device, the last one at least 0.
        churn: Fresh noise on the way, euler and heun only.
        randn_like: Draws noise; needed where churn.amount is above 0, and by ``dpmpp_2m_sde``
            with eta above 0, which draws once for every step that does not end in 0.
        order: 2 or 3, the order of ``unipc``.
        eta: How much of ``dpmpp_2m_sde`` is stochastic, at least 0: 1 is the paper's SDE, 0 is
            ``dpmpp_2m``.
        restarts: Places i of noise levels at which a multistep solver forgets the estimates of
            the levels before sigmas[i].
        round_sigma: Rounds a level that churn raises to one that the denoiser knows; the levels
            of `sigmas` are taken as they are.

    Returns:
        Images float64 [N, ...] at the last noise level: clean ones where it is 0.

    Raises:
        SpecError: For an unknown solver or order, churn with a solver that has none, or no source
            of noise where one is needed.
    """
    if solver not in SOLVERS:
        raise SpecError(
            "setting.solver",
            expected=f"one of {', '.join(SOLVERS)}",
            found=repr(solver),
            hint="choose one of the solvers listed",
        )
    churn = churn or Churn()
    if churn.amount > 0 and (solver not in STOCHASTIC_SOLVERS or randn_like is None):
        raise SpecError(
            "setting.churn",
            expected=f"solver {' or '.join(STOCHASTIC_SOLVERS)} and a source of noise",
            found=f"solver {solver}, randn_like {'given' if randn_like else 'not given'}",
            hint="set churn.amount to 0",
        )
    if solver == "dpmpp_2m_sde" and eta > 0 and randn_like is None:
        raise SpecError(
            "setting.eta",
            expected="a source of noise, because eta is above 0",
            found=f"eta {eta}, randn_like not given",
            hint="give randn_like, or set eta to 0",
        )
    if solver == "unipc" and order not in ORDERS:
        raise SpecError(
            "setting.order",
            expected=f"one of {', '.join(map(str, ORDERS))}",
            found=repr(order),
            hint="choose one of the orders listed",
        )
    levels = [float(level) for level in sigmas.tolist()]
    grid = sigmas.to(x.device, torch.float64)
    x = x.to(torch.float64)
    if solver == "unipc":
        return _unipc(denoise, x, levels, grid, order, restarts)
    if solver in ("dpmpp_2m", "dpmpp_2m_sde"):
        noise = randn_like if solver == "dpmpp_2m_sde" and eta > 0 else None
        return _dpmpp_2m(denoise, x, levels, grid, eta, noise, restarts)
    corrections = 1 if solver == "heun" else 0
    return _algorithm_2(denoise, x, levels, grid, corrections, churn, randn_like, round_sigma)


def _algorithm_2(
    denoise: Denoise,
    x: Tensor,
    levels: list[float],
    grid: Tensor,
    corrections: int,
    churn: Churn,
    randn_like: Callable[[Tensor], Tensor] | None,
    round_sigma: Callable[[float], float] | None,
) -> Tensor:
    """EDM's stochastic sampler: Karras et al. 2022, algorithm 2."""
    steps = len(levels) - 1
    for i in range(steps):
        t, t_next, sigma = levels[i], levels[i + 1], grid[i]
        if churn.amount > 0 and randn_like is not None:
            # Drawn at every step, used or not, so that the streams advance as EDM's do.
            noise = randn_like(x)
            if churn.low <= t <= churn.high:
                gamma = min(churn.amount / steps, math.sqrt(2) - 1)
                t_hat = t + gamma * t
                if round_sigma is not None:
                    t_hat = round_sigma(t_hat)
                x = x + math.sqrt(t_hat**2 - t**2) * churn.noise * noise
                t, sigma = t_hat, torch.full_like(sigma, t_hat)
        d = (x - denoise(x, sigma)) / t
        x_next = x + (t_next - t) * d
        if corrections and t_next > 0:
            d_next = (x_next - denoise(x_next, grid[i + 1])) / t_next
            x_next = x + (t_next - t) * (d + d_next) / 2
        x = x_next
    return x


def _dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    levels: list[float],
    grid: Tensor,
    eta: float,
    randn_like: Callable[[Tensor], Tensor] | None,
    restarts: Container[int],
) -> Tensor:
    """DPM-Solver++(2M) for alpha = 1, so lambda = -log sigma and h = log(t / t_next).

    Lu et al. 2022 (arXiv 2211.01095), algorithm 2: over a step the denoiser is taken as constant,
    with the value that the line through its last two values (in lambda) has in the middle of the
    step. The first step and the step to 0 (h infinite) use its last value alone.

    With noise it is their SDE-DPM-Solver++(2M): the state keeps exp(-(1 + eta) h) of itself
    instead of exp(-h), and noise of variance t_next^2 (1 - exp(-2 eta h)) makes up for it.
    """
    previous: Tensor | None = None
    h_previous = 0.0
    for i, (t, t_next) in enumerate(pairwise(levels)):
        estimate = denoise(x, grid[i])
        if t_next == 0:
            x = estimate
            continue
        h = math.log(t / t_next)
        target = estimate
        if previous is not None and i not in restarts:
            target = estimate + (estimate - previous) * (h / (2 * h_previous))
        keep = t_next / t
        if randn_like is not None:
            keep *= math.exp(-eta * h)
        x = x * keep + target * (1 - keep)
        if randn_like is not None:
            x = x + t_next * math.sqrt(-math.expm1(-2 * eta * h)) * randn_like(x)
        previous, h_previous = estimate, h
    return x


def _unipc(
    denoise: Denoise,
    x: Tensor,
    levels: list[float],
    grid: Tensor,
    order: int,
    restarts: Container[int],
) -> Tensor:
    """Multistep UniPC for alpha = 1 and data prediction: lambda = -log sigma.

    Zhao et al. 2023 (arXiv 2302.04867), algorithms 1 and 2 with B(h) = e^h - 1, as in their code:
    the corrector takes the estimate at the predicted state, which the next predictor takes too,
    so a step costs one evaluation; the first steps have as many estimates as there are, the last
    steps as many as there are steps left. The step to 0 (h infinite) returns the last estimate.
    """
    history: list[tuple[float, Tensor]] = []  # (lambda, estimate), the newest first
    before, used = x, 0  # the state that the last step began with, and its order
    for i, (t, t_next) in enumerate(pairwise(levels)):
        level = -math.log(t)
        estimate = denoise(x, grid[i])
        if i in restarts:
            # No difference is taken across an edge: the predicted state stays as it is.
            history = []
        elif history:
            x = _unipc_step(before, history[:used], level, estimate)
        history = [(level, estimate), *history][:order]
        if t_next == 0:
            return estimate
        before, used = x, min(len(history), len(levels) - 1 - i)
        x = _unipc_step(x, history[:used], -math.log(t_next), None)
    return x


def _unipc_step(
    x: Tensor, history: Sequence[tuple[float, Tensor]], level: float, estimate: Tensor | None
) -> Tensor:
    """Step to lambda = `level`: UniP, or UniC where the estimate there is known.

    Arguments:
        x: The state at the newest level of the history.
        history: (lambda, estimate), the newest first; as many as the order.
        level: Where to, above all levels of the history.
        estimate: The denoiser's value at the predicted state there; None to predict.
    """
    (newest, base), *older = history
    h = level - newest
    places = [(other - newest) / h for other, _ in older]
    values = [value for _, value in older]
    if estimate is not None:
        places, values = [*places, 1.0], [*values, estimate]
    target = base
    for place, value, weight in zip(places, values, _unipc_weights(h, places), strict=True):
        target = target + (value - base) * (weight / place)
    return x * math.exp(-h) - target * math.expm1(-h)


def _unipc_weights(h: float, places: Sequence[float]) -> list[float]:
    """Return how much each difference quotient counts (Zhao et al. 2023, theorem 3.1).

    Solves sum_m weight_m place_m^(k-1) = k! phi_(k+1)(-h) / phi_1(-h) for k = 1, 2, ..., where
    phi_1(z) = (e^z - 1) / z and phi_(k+1)(z) = (phi_k(z) - 1 / k!) / z. One difference alone
    counts 1/2, the limit for small h, as the paper has it.
    """
    if len(places) < 2:
        return [0.5] * len(places)
    rows, right = [], []
    phi = first = -math.expm1(-h) / h
    for k in range(1, len(places) + 1):
        phi = (1 / math.factorial(k) - phi) / h
        rows.append([place ** (k - 1) for place in places])
        right.append(math.factorial(k) * phi / first)
    matrix = torch.tensor(rows, dtype=torch.float64)
    solved: list[float] = torch.linalg.solve(
        matrix, torch.tensor(right, dtype=torch.float64)
    ).tolist()
    return solved
