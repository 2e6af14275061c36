"""The search space: Optuna parameters on one side, schedules on the other.

A space has one float parameter per degree of freedom of its kind, in log scale from `low` to
`high`; a scale of 1 leaves a skip untouched, so the baseline is in every space. A searched window
adds two whole numbers, because at a few steps only whole grid points differ: its scales act at
`window/length` grid points from `window/first` on, counted from the noisiest (0).

Parameter names: `all` (uniform), `bottom` and `top` (linear), `resolution/16` (per-resolution),
`skip/16x16_block0` (per-skip), `window/first`, `window/length`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from skiptune.errors import Problem, SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.search.document import shown
from skiptune.search.problems import choices_text, suggestion
from skiptune.search.sections import SPACES, SpaceSpec, WindowSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from skiptune.sampling.skips import Skip

__all__ = ["EDGE", "Space"]

EDGE = 0.02  # nearer to an end than this part of the log range, an optimum touches the edge

WINDOW_FIRST = "window/first"
WINDOW_LENGTH = "window/length"

# Samplers work with logarithms; the way back may leave the range by rounding, not by more.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Space:
    """Which scales are searched.

    Arguments:
        kind: One of `SPACES`.
        low: Smallest scale, in (0, 1].
        high: Largest scale, at least 1 and above `low`.
        skips: The searched skips, deepest first; all others stay untouched.
        sigmas: The noise levels of the sampling grid, decreasing; a final 0 is no grid point.
        window: None (all noise levels), "search", or the first and last grid point.

    Raises:
        SpecError: When the parts do not go together.
    """

    kind: str
    low: float
    high: float
    skips: tuple[Skip, ...]
    sigmas: tuple[float, ...]
    window: str | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "skips", tuple(sorted(self.skips, key=lambda s: s.index)))
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.sigmas if s > 0))
        problems = list(self._problems())
        if problems:
            raise SpecError.of(problems, hint="list the skips with `skiptune skips CHECKPOINT`")

    def _problems(self) -> list[Problem]:
        problems = []
        if self.kind not in SPACES:
            problems.append(
                Problem("space.kind", choices_text(self.kind, SPACES), shown(self.kind))
            )
        if not (0 < self.low <= 1 <= self.high < math.inf and self.low < self.high):
            found = f"low {self.low}, high {self.high}"
            problems.append(Problem("space.low, space.high", "0 < low <= 1 <= high", found))
        fewest = 2 if self.kind == "linear" else 1
        if len(self.skips) < fewest:
            found = f"{len(self.skips)} searched"
            problems.append(Problem("space.skips", f"at least {fewest} for {self.kind}", found))
        if any(a <= b for a, b in pairwise(self.sigmas)):
            problems.append(Problem("setting", "decreasing noise levels", shown(self.sigmas)))
        points = len(self.sigmas)
        if isinstance(self.window, str) and self.window != "search":
            problems.append(Problem("space.window", '"search"', shown(self.window)))
        if isinstance(self.window, tuple):
            first, last = self.window
            if not 0 <= first <= last < points:
                found = f"first {first}, last {last}"
                expected = f"0 <= first <= last <= {points - 1} (the setting's grid)"
                problems.append(Problem("space.window", expected, found))
        return problems

    @classmethod
    def of(cls, spec: SpaceSpec, skips: Sequence[Skip], sigmas: Sequence[float]) -> Space:
        """Return the space that a spec describes on a network and a grid.

        Arguments:
            spec: The section `space` of a study.
            skips: All skips of the network.
            sigmas: The noise levels of the setting's grid, decreasing.

        Raises:
            SpecError: With every address that the network does not have, and the real ones.
        """
        real = {skip.address: skip for skip in skips}
        chosen = list(skips)
        if not isinstance(spec.skips, str):
            problems = [
                Problem(
                    f"space.skips[{index}]",
                    f"an address among {', '.join(real)}{suggestion(address, real)}",
                    shown(address),
                )
                for index, address in enumerate(spec.skips)
                if address not in real
            ]
            if problems:
                raise SpecError.of(
                    problems, hint="list the skips with `skiptune skips CHECKPOINT`"
                )
            chosen = [real[address] for address in spec.skips]
        window = spec.window
        return cls(
            kind=spec.kind,
            low=spec.low,
            high=spec.high,
            skips=tuple(chosen),
            sigmas=tuple(sigmas),
            window=(window.first, window.last) if isinstance(window, WindowSpec) else window,
        )

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The names of the float parameters, deepest first."""
        if self.kind == "uniform":
            return ("all",)
        if self.kind == "linear":
            return ("bottom", "top")
        if self.kind == "per-resolution":
            return tuple(dict.fromkeys(f"resolution/{skip.resolution}" for skip in self.skips))
        return tuple(f"skip/{skip.address}" for skip in self.skips)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return every parameter's range as Optuna's ask takes it."""
        # Optuna takes 0.4 s to import, and `skiptune status` needs none of it.
        from optuna.distributions import FloatDistribution, IntDistribution

        ranges: dict[str, BaseDistribution] = {
            name: FloatDistribution(self.low, self.high, log=True) for name in self.scale_names
        }
        if self.window == "search":
            points = len(self.sigmas)
            ranges[WINDOW_FIRST] = IntDistribution(0, points - 1)
            ranges[WINDOW_LENGTH] = IntDistribution(1, points)
        return ranges

    def baseline_params(self) -> dict[str, float]:
        """Return the parameters of the untouched network: every scale 1, the full window."""
        params: dict[str, float] = dict.fromkeys(self.scale_names, 1.0)
        if self.window == "search":
            params |= {WINDOW_FIRST: 0, WINDOW_LENGTH: len(self.sigmas)}
        return params

    def schedule(self, params: Mapping[str, float]) -> Schedule:
        """Return the schedule that parameters stand for.

        Arguments:
            params: One value for each parameter of `distributions`. A window that would pass the
                last grid point ends there.

        Raises:
            SpecError: With every parameter that is missing, unknown or out of range.
        """
        values = self._checked(params)
        scales = dict(zip(self._addresses(), self._scales(values), strict=True))
        low, high = self._bounds(values)
        return Schedule.uniform(scales, low=low, high=high)

    def edges(self, params: Mapping[str, float]) -> tuple[str, ...]:
        """Return the scales that touch an end of the range: the optimum may lie beyond it.

        Arguments:
            params: As for `schedule`.
        """
        margin = EDGE * math.log(self.high / self.low)
        return tuple(
            name
            for name in self.scale_names
            if math.log(params[name] / self.low) <= margin
            or math.log(self.high / params[name]) <= margin
        )

    def _addresses(self) -> tuple[str, ...]:
        return tuple(skip.address for skip in self.skips)

    def _scales(self, values: Mapping[str, float]) -> list[float]:
        """Return one scale per skip, deepest first."""
        if self.kind == "uniform":
            return [values["all"]] * len(self.skips)
        if self.kind == "per-resolution":
            return [values[f"resolution/{skip.resolution}"] for skip in self.skips]
        if self.kind == "per-skip":
            return [values[f"skip/{skip.address}"] for skip in self.skips]
        # Skip-Tuning (arXiv 2402.15170): linear interpolation of the scale over the skips, from
        # the deepest (bottom) to the shallowest (top). i / (N - 1), so that both ends are reached.
        bottom, top = values["bottom"], values["top"]
        last = len(self.skips) - 1
        inner = [bottom + (top - bottom) * (i / last) for i in range(last)]
        return [*inner, top]

    def _bounds(self, values: Mapping[str, float]) -> tuple[float, float]:
        """Return the window [low, high) in sigma that holds exactly the wanted grid points.

        Bounds lie halfway in log sigma between neighbouring grid points; the first and the last
        grid point leave the window open. (Churn evaluates the network above the grid point, by
        at most sqrt(2): on a fine grid that may reach the window's neighbour.)
        """
        points = len(self.sigmas)
        if self.window is None:
            return 0.0, math.inf
        if isinstance(self.window, tuple):
            first, last = self.window
        else:
            first = int(values[WINDOW_FIRST])
            last = min(first + int(values[WINDOW_LENGTH]), points) - 1
        high = math.inf if first == 0 else self._between(first - 1)
        low = 0.0 if last == points - 1 else self._between(last)
        return low, high

    def _between(self, index: int) -> float:
        """Return the geometric mean of the grid points `index` and `index + 1`."""
        return math.sqrt(self.sigmas[index]) * math.sqrt(self.sigmas[index + 1])

    def _checked(self, params: Mapping[str, float]) -> dict[str, float]:
        points = len(self.sigmas)
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(
            self.scale_names, (self.low, self.high)
        )
        if self.window == "search":
            ranges |= {WINDOW_FIRST: (0, points - 1), WINDOW_LENGTH: (1, points)}
        problems: list[Problem] = []
        values: dict[str, float] = {}
        for name in [*ranges, *(name for name in params if name not in ranges)]:
            where = f"params: {name}"
            if name not in ranges:
                problems.append(Problem(where, choices_text(name, tuple(ranges)), "unknown name"))
                continue
            low, high = ranges[name]
            whole = name in (WINDOW_FIRST, WINDOW_LENGTH)
            expected = f"a {'whole ' if whole else ''}number from {low} to {high}"
            if name not in params:
                problems.append(Problem(where, expected, "nothing"))
                continue
            value = params[name]
            inside = low * (1 - ROUNDING) <= value <= high * (1 + ROUNDING)
            if not inside or (whole and value != int(value)):
                problems.append(Problem(where, expected, f"{value}"))
                continue
            values[name] = min(max(float(value), low), high)
        if problems:
            raise SpecError.of(problems, hint="ask the study's space for its parameters")
        return values
