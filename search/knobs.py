"""Numbers of the setting that are searched beside, or instead of, the scales of skips.

A knob that is searched gives every evaluation a setting of its own; the noise of a seed stays the
same, so all are still paired with the untouched network at the study's own setting. Solver, steps
and whatever else changes what an image costs are no knobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skiptune.errors import Problem, SpecError
from skiptune.sampling.setting import Setting
from skiptune.search.document import shown

if TYPE_CHECKING:
    from torch import nn

    from skiptune.search.space_section import SettingRanges

__all__ = ["MOVES_GRID", "SETTING_ALONE", "Knob", "knob_problems", "knobs_of"]

MOVES_GRID = ("exponent", "sigma_max")
"""Knobs that change at which noise levels the network is evaluated."""

SETTING_ALONE = "its setting alone"
"""The control of a winner with knobs: these, and untouched skips. Is it the skips?"""

BETWEEN = 9
"""Values of a knob, from end to end, at which a network is asked whether it can follow: rounding
to levels that a network knows may fail inside a range whose ends are good."""


@dataclass(frozen=True)
class Knob:
    """One searched number.

    Arguments:
        name: One of `sampling.setting.KNOBS`.
        low: Smallest value, above 0: it is searched in log scale.
        high: Largest value.
        own: The study's own value, which lies between them: the baseline's.
    """

    name: str
    low: float
    high: float
    own: float

    @property
    def param(self) -> str:
        """The name of its parameter: `setting/epsilon_scale`."""
        return f"setting/{self.name}"


def knobs_of(ranges: SettingRanges | None, setting: Setting) -> tuple[Knob, ...]:
    """Return the knobs that a study searches.

    Arguments:
        ranges: The key `space.setting`.
        setting: The study's own.
    """
    if ranges is None:
        return ()
    return tuple(
        Knob(name, low, high, setting.knob(name)) for name, (low, high) in ranges.named().items()
    )


def knob_problems(
    ranges: SettingRanges | None,
    setting: Setting,
    *,
    network: nn.Module | None = None,
    samples: bool = True,
) -> list[Problem]:
    """Return what stands in the way of searching numbers of a setting, all of it.

    Arguments:
        ranges: The key `space.setting`.
        setting: The study's own setting, which the network follows.
        network: Asked whether it can follow the settings between.
        samples: Whether the objective looks at sampled images, which alone a setting changes.
    """
    problems = []
    for knob in knobs_of(ranges, setting):
        where = f"space.setting.{knob.name}"
        found = shown([knob.low, knob.high])
        for expected in _expected(knob, setting, samples=samples):
            problems.append(Problem(where, expected, found))
        if not any(problem.where == where for problem in problems):
            problems += _followed(knob, setting, network, where=where, found=found)
    return problems


def _expected(knob: Knob, setting: Setting, *, samples: bool) -> Iterator[str]:
    """Yield what would be accepted instead of a knob that does not apply."""
    if not samples:
        yield "nothing: no metric of this objective looks at sampled images"
    if knob.name in MOVES_GRID:
        if setting.sigmas is not None:
            yield "nothing: setting.sigmas gives the noise levels one by one"
        elif knob.name == "exponent" and setting.grid != "edm":
            yield f"nothing: the exponent is that of grid edm, not {setting.grid}"
        if setting.guidance != 1 and not _everywhere(setting):
            yield "nothing: guidance acts in an interval, and an image's cost would change"
    if knob.name == "guidance" and setting.guidance == 1:
        yield "nothing: without guidance (setting.guidance is 1) it would double the cost"
    if knob.name == "churn_noise" and setting.churn.amount == 0:
        yield "nothing: no noise is added (setting.churn.amount is 0)"
    if knob.name == "eta" and setting.solver != "dpmpp_2m_sde":
        yield f"nothing: only dpmpp_2m_sde has an eta, not {setting.solver}"
    applies = knob.name != "guidance" or setting.guidance != 1
    if applies and not knob.low <= knob.own <= knob.high:
        yield f"a range that holds the study's own {shown(knob.own)}: the baseline must be inside"


def _everywhere(setting: Setting) -> bool:
    return setting.guidance_low == 0 and setting.guidance_high == math.inf


def _followed(
    knob: Knob, setting: Setting, network: nn.Module | None, *, where: str, found: str
) -> Iterator[Problem]:
    """Yield the first value of a range that the sampler or the network refuses."""
    ratio = knob.high / knob.low
    for place in range(BETWEEN):
        value = knob.low * ratio ** (place / (BETWEEN - 1))
        value = min(max(value, knob.low), knob.high)
        try:
            at = setting.with_knobs({knob.name: value})
        except SpecError as error:
            why = list(error.problems)
        else:
            why = [] if network is None else _network_problems(network, at)
        if why:
            expected = f"values that can be followed: at {shown(value)}, {why[0].where} must be"
            yield Problem(where, f"{expected} {why[0].expected}", found)
            return


def _network_problems(network: nn.Module, setting: Setting) -> list[Problem]:
    from skiptune.sampling.images import problems_of  # it needs torch

    return problems_of(network, setting)
