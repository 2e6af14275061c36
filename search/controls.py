"""Control rows: is it the skips, or would any knob have done it?

Three knobs that have nothing to do with skips get the same chance as a schedule, at equal images
and at no more network evaluations: the solver (with its grid), one scalar on the predicted
noise, and the exponent of the time steps. Each family picks its best option on block A and is
measured on block B beside the winner.

References:
    Ning et al., Elucidating the Exposure Bias in Diffusion Models, 2023,
    https://arxiv.org/abs/2308.15321 (epsilon scaling).
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    https://arxiv.org/abs/2206.00364, equation 5 (exponent of the time steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from skiptune.sampling.setting import Setting, evaluations
from skiptune.search.sections import CONTROLS

__all__ = ["EPSILON_SCALES", "GRID_EXPONENTS", "options"]

# Both sides of 1: few-step solvers err in either direction.
EPSILON_SCALES = (0.99, 1.005, 1.015)
GRID_EXPONENTS = (5.0, 10.0)  # EDM's default is 7
# Each more would cost every confirm four rows of images.
GRIDS = ("edm", "logsnr")


def options(
    setting: Setting,
    families: Sequence[str] = CONTROLS,
    *,
    fits: Callable[[Setting], bool] = lambda setting: True,
) -> Mapping[str, tuple[tuple[str, Setting], ...]]:
    """Return the options of each control family as (label, setting), the study's own left out.

    Arguments:
        setting: The study's setting. No option costs more network evaluations per image.
        families: Which of `CONTROLS` are wanted.
        fits: Whether the network can follow a setting: one of discrete noise levels may not have
            another grid's.
    """
    # Heun spends two evaluations a step and one on the last to 0 (EDM, Algorithm 1).
    spared = 1 if setting.final_zero else 0
    calls = 2 * setting.steps - spared if setting.solver == "heun" else setting.steps
    steps = {
        "euler": calls,
        "dpmpp_2m": calls,
        "heun": (calls + spared) // 2,
        "unipc": calls,
    }
    solvers = tuple(
        (f"{solver} on {grid}, {steps[solver]} steps", other)
        for solver in steps
        for grid in GRIDS
        if steps[solver] >= 2
        and (other := setting.with_solver(solver, grid=grid, steps=steps[solver])) != setting
        # On another grid more noise levels may lie where guidance acts.
        and evaluations(other) <= evaluations(setting)
    )
    scales = tuple(
        (f"epsilon x {scale:g}", replace(setting, epsilon_scale=scale))
        for scale in EPSILON_SCALES
        if scale != setting.epsilon_scale
    )
    exponents = tuple(
        (f"exponent {exponent:g}", replace(setting, exponent=exponent))
        for exponent in GRID_EXPONENTS
        if setting.grid == "edm" and setting.sigmas is None and exponent != setting.exponent
        if evaluations(replace(setting, exponent=exponent)) <= evaluations(setting)
    )
    found = dict(zip(CONTROLS, (solvers, scales, exponents), strict=True))
    return {
        family: tuple((label, other) for label, other in found[family] if fits(other))
        for family in families
    }
