"""Noise levels of a setting on a network: those of its grid, rounded to levels the network knows.

Most denoisers know every noise level, and nothing is rounded. Networks trained on discrete levels
have a method `round_sigma`, as EDM's classes do: what the solver, windows, guidance intervals and
diagnostics meet is then the rounded level, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from skiptune.errors import Problem
from skiptune.sampling.setting import Setting, churned, evaluated_points, sigmas

__all__ = ["grid_points", "level_problems", "levels", "rounded", "start_std", "usual_setting"]


def rounded(network: nn.Module, sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return for each noise level the nearest one that a network knows: itself where it knows all.

    Arguments:
        network: A denoiser, perhaps with `round_sigma`: noise levels [S] above 0 to such of the
            same shape.
        sigmas: Noise levels, above 0.

    References:
        Karras et al. 2022, code of EDM (generate.py): `net.round_sigma`, applied to the grid and
        to every level that churn raises.
    """
    rounding = getattr(network, "round_sigma", None)
    if rounding is None:
        return tuple(sigmas)
    made: list[float] = rounding(torch.tensor(sigmas, dtype=torch.float64)).tolist()
    return tuple(made)


def levels(network: nn.Module, setting: Setting) -> tuple[float, ...]:
    """Return the noise levels at which a setting steps on a network, falling.

    A final 0 stays 0: it is where the last step ends, and no network is evaluated there.
    """
    grid = sigmas(setting)
    if grid[-1] > 0:
        return rounded(network, grid)
    return (*rounded(network, grid[:-1]), 0.0)


def grid_points(network: nn.Module, setting: Setting) -> tuple[float, ...]:
    """Return those of `levels` at which the network is evaluated: the points of windows.

    Levels that churn raises are no points of their own.
    """
    return levels(network, setting)[: evaluated_points(setting)]


def start_std(network: nn.Module, sigma: float) -> float:
    """Return the standard deviation of the noise that sampling begins with at a noise level.

    That of the level itself, but for networks with a method `start_std`: pipelines of diffusers
    begin with noise of variance sigma^2 + 1, which an image with that noise would have.
    """
    of_network = getattr(network, "start_std", None)
    return sigma if of_network is None else float(of_network(sigma))


def usual_setting(network: nn.Module) -> Setting:
    """Return the default setting, with its ends moved into the range of a network."""
    low, high = _range(network)
    plain = Setting()
    return Setting(sigma_min=max(plain.sigma_min, low), sigma_max=min(plain.sigma_max, high))


def level_problems(network: nn.Module, setting: Setting) -> Iterator[Problem]:
    """Yield what a network refuses in the noise levels of a setting.

    Levels outside `network.sigma_min` to `network.sigma_max` (where it has them), also those that
    churn raises; levels that rounding makes equal, or carries over a bound of the guidance
    interval, after which a setting would not cost what it says.
    """
    wanted = [sigma for sigma in sigmas(setting) if sigma > 0]
    raised = [churned(setting, sigma) for sigma in wanted[: setting.steps]]
    given = setting.sigmas is not None
    low, high = _range(network)
    if wanted[-1] < low:
        where = "setting.sigmas" if given else "setting.sigma_min"
        yield Problem(where, f"{low!r} or more: the network's lowest noise level", f"{wanted[-1]}")
    if wanted[0] > high:
        where = "setting.sigmas" if given else "setting.sigma_max"
        yield Problem(
            where, f"{high!r} or less: the network's highest noise level", f"{wanted[0]}"
        )
    elif max(raised) > high:
        level = wanted[raised.index(max(raised))]
        expected = f"below {level:.6g}, which churn raises above the network's highest, {high!r}"
        yield Problem("setting.churn.high", expected, f"{setting.churn.high}")
    pairs = list(zip(wanted, rounded(network, wanted), strict=True))
    for (one, here), (two, there) in pairwise(pairs):
        if here == there:
            where = "setting.sigmas" if given else "setting.steps"
            expected = "noise levels that stay apart when rounded to those of the network"
            yield Problem(where, expected, f"{one:.6g} and {two:.6g}, both {here:.6g} there")
            break
    called = sorted({*wanted, *raised}, reverse=True)
    for sigma, known in zip(called, rounded(network, called), strict=True):
        if setting.guides(sigma) != setting.guides(known):
            at_the_top = (sigma > setting.guidance_high) != (known > setting.guidance_high)
            name = "guidance_high" if at_the_top else "guidance_low"
            expected = f"no bound between {sigma:.6g} and {known:.6g}, the network's nearest"
            yield Problem(f"setting.{name}", expected, f"{getattr(setting, name)}")


def _range(network: nn.Module) -> tuple[float, float]:
    low, high = getattr(network, "sigma_min", 0.0), getattr(network, "sigma_max", float("inf"))
    return float(low), float(high)
