"""The search space: Optuna parameters on one side, schedules on the other.

A space has one float parameter per degree of freedom of its kind, in log scale from `low` to
`high`; a scale of 1 leaves a skip untouched. A range without 1 leaves the baseline out: it is
evaluated all the same, because everything is compared with it. A searched window
adds two whole numbers, because at a few steps only whole grid points differ: its scales act at
`window/length` grid points from `window/first` on, counted from the noisiest (0). In which
branches of guidance scales act is the same for all schedules of a space, and so is the part of
the decoder blocks that is scaled (`sampling.schedule.PARTS`). A decoupled space has every degree
of freedom twice: once for the shortcuts, once for the residual branches. A space of several
intervals has all of it for each of so many stretches of the grid: `skip/16x16_block0@0` acts where
it is noisiest.

Numbers of the setting may be searched as well (`search.knobs`), or alone: kind none.

Parameter names: `all` (uniform), `bottom` and `top` (linear), `resolution/16` (per-resolution),
`skip/16x16_block0` (per-skip), `window/first`, `window/length`. Decoupled, `shortcut/` and
`residual/` stand before the former ones, and in the place of `skip/`. `setting/epsilon_scale` and
so on are those of the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from skiptune.errors import Problem, SpecError
from skiptune.sampling.schedule import BRANCHES, Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.search.document import shown
from skiptune.search.knobs import MOVES_GRID, Knob, knobs_of
from skiptune.search.problems import choices_text, suggestion
from skiptune.search.space_section import (
    DECOUPLED,
    KINDS,
    NONE,
    SPACE_PARTS,
    SpaceSpec,
    WindowSpec,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from skiptune.sampling.skips import Skip

__all__ = ["EDGE", "Space"]

EDGE = 0.02  # nearer to an end than this part of the log range, an optimum touches the edge

WINDOW_FIRST = "window/first"
WINDOW_LENGTH = "window/length"

LIST = "list the skips with `skiptune skips CHECKPOINT`"

# Samplers work with logarithms; the way back may leave the range by rounding, not by more.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Space:
    """Which scales are searched.

    Arguments:
        kind: One of `KINDS`.
        low: Smallest scale, above 0.
        high: Largest scale, above `low`.
        skips: The searched skips, deepest first; all others stay untouched.
        sigmas: The grid points: noise levels at which the network is evaluated, decreasing
            (`skiptune.sampling.levels.grid_points`); a final 0 is none of them.
        window: None (all noise levels), "search", or the first and last grid point.
        branches: One of `BRANCHES`: the evaluations in which scales act.
        part: One of `SPACE_PARTS`: what they multiply.
        intervals: Into how many stretches of (nearly) equally many grid points the noise levels
            are divided, each with scales of its own; without a searched window.
        knobs: Numbers of the setting that are searched too.

    Raises:
        SpecError: When the parts do not go together.
    """

    kind: str
    low: float
    high: float
    skips: tuple[Skip, ...]
    sigmas: tuple[float, ...]
    window: str | tuple[int, int] | None = None
    branches: str = "both"
    part: str = "both"
    intervals: int = 1
    knobs: tuple[Knob, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "skips", tuple(sorted(self.skips, key=lambda s: s.index)))
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.sigmas if s > 0))
        problems = list(self._problems())
        if problems:
            raise SpecError.of(problems, hint=self._hint(problems))

    def _problems(self) -> list[Problem]:
        problems = []
        if self.kind not in KINDS:
            problems.append(
                Problem("space.kind", choices_text(self.kind, KINDS), shown(self.kind))
            )
        if self.kind == NONE and not self.knobs:
            problems.append(Problem("space.setting", "a range, because kind is none", "nothing"))
        moving = [knob.name for knob in self.knobs if knob.name in MOVES_GRID]
        if moving and self.window is not None:
            expected = f"null, because {moving[0]} is searched and moves the grid"
            problems.append(Problem("space.window", expected, shown(self.window)))
        if self.intervals > 1 and (moving or self.kind == NONE):
            why = f"{moving[0]} moves the grid" if moving else "kind none has no scales"
            problems.append(Problem("space.intervals", f"1, because {why}", str(self.intervals)))
        if self.branches not in BRANCHES:
            expected = choices_text(self.branches, BRANCHES)
            problems.append(Problem("space.branches", expected, shown(self.branches)))
        if self.part not in SPACE_PARTS:
            expected = choices_text(self.part, SPACE_PARTS)
            problems.append(Problem("space.part", expected, shown(self.part)))
        if not 0 < self.low < self.high < math.inf:
            found = f"low {self.low}, high {self.high}"
            problems.append(Problem("space.low, space.high", "0 < low < high", found))
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
        most = 1 if self.window == "search" else len(self._points())
        if self.intervals != 1 and not 1 <= self.intervals <= most:
            expected = f"1 to {most}, the grid points at which scales act"
            if self.window == "search":
                expected = '1, because space.window is "search"'
            problems.append(Problem("space.intervals", expected, shown(self.intervals)))
        return problems

    def _hint(self, problems: Sequence[Problem]) -> str:
        """Return what mends the first problem that a command mends."""
        places = {problem.where for problem in problems}
        if "space.skips" in places:
            return LIST
        if "space.intervals" in places:
            bound = self.window == "search" or self.kind == NONE or bool(self.knobs)
            most = 1 if bound else max(len(self._points()), 1)
            return "one scale for all noise levels: -s space.intervals=1" + (
                "" if most == 1 else f"; or up to {most} intervals: -s space.intervals={most}"
            )
        return "every key is explained in the file that `skiptune init` writes"

    @classmethod
    def of(
        cls,
        spec: SpaceSpec,
        skips: Sequence[Skip],
        sigmas: Sequence[float],
        *,
        setting: Setting | None = None,
    ) -> Space:
        """Return the space that a spec describes on a network and a grid.

        Arguments:
            spec: The section `space` of a study.
            skips: All skips of the network.
            sigmas: The grid points, as in the class.
            setting: The study's own; by default the usual one.

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
                raise SpecError.of(problems, hint=LIST)
            chosen = [real[address] for address in spec.skips]
        window = spec.window
        return cls(
            kind=spec.kind,
            low=spec.low,
            high=spec.high,
            skips=tuple(chosen),
            sigmas=tuple(sigmas),
            window=(window.first, window.last) if isinstance(window, WindowSpec) else window,
            branches=spec.branches,
            part=spec.part,
            intervals=spec.intervals,
            knobs=knobs_of(spec.setting, Setting() if setting is None else setting),
        )

    @cached_property
    def within(self) -> tuple[Space, ...]:
        """One space for each interval, noisiest first; the space itself where there is one."""
        if self.intervals == 1:
            return (self,)
        points = self._points()
        ends = [len(points) * k // self.intervals for k in range(self.intervals + 1)]
        return tuple(
            replace(self, window=(points[first], points[end - 1]), intervals=1, knobs=())
            for first, end in pairwise(ends)
        )

    @property
    def interval_bounds(self) -> tuple[tuple[float, float], ...]:
        """The noise levels [low, high) of each interval, noisiest first; none where there is one.

        Lower than the first bound and higher than the last one the scales of a window are 1.
        """
        if self.intervals == 1:
            return ()
        return tuple(one._bounds({}) for one in self.within)

    def _points(self) -> range:
        """Return the grid points at which scales act, all of them where that is searched."""
        if isinstance(self.window, tuple):
            return range(self.window[0], self.window[1] + 1)
        return range(len(self.sigmas))

    def split(self, params: Mapping[str, float]) -> list[dict[str, float]]:
        """Return the parameters of each interval's own space, from all of them.

        Arguments:
            params: One value for each parameter of `distributions`.
        """
        if self.intervals == 1:
            return [dict(params)]
        return [
            {name: params[f"{name}@{place}"] for name in one.scale_names}
            for place, one in enumerate(self.within)
        ]

    def joined(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return all parameters, from those of each interval's own space."""
        if self.intervals == 1:
            return dict(parts[0])
        return {
            f"{name}@{place}": value
            for place, part in enumerate(parts)
            for name, value in part.items()
        }

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the blocks that are scaled, each by scales of its own."""
        return ("shortcut", "residual") if self.part == DECOUPLED else (self.part,)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The names of the scales, by interval, part by part, deepest first."""
        if self.intervals > 1:
            return tuple(
                f"{name}@{place}"
                for place, one in enumerate(self.within)
                for name in one.scale_names
            )
        return tuple(self._full(part, name) for part in self.parts for name in self._names())

    def _full(self, part: str, name: str) -> str:
        """Return the parameter's name of a degree of freedom in one part."""
        return f"{part}/{name.removeprefix('skip/')}" if self.part == DECOUPLED else name

    def _names(self) -> tuple[str, ...]:
        """Return the names of one part's degrees of freedom, deepest first."""
        if self.kind == NONE:
            return ()
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
        for knob in self.knobs:
            ranges[knob.param] = FloatDistribution(knob.low, knob.high, log=True)
        return ranges

    def baseline_params(self) -> dict[str, float]:
        """Return the parameters of the untouched network: scales 1, full window, own setting."""
        params: dict[str, float] = dict.fromkeys(self.scale_names, 1.0)
        if self.window == "search":
            params |= {WINDOW_FIRST: 0, WINDOW_LENGTH: len(self.sigmas)}
        return params | {knob.param: knob.own for knob in self.knobs}

    @property
    def leaves_out_baseline(self) -> bool:
        """Whether no schedule of the space leaves the network untouched."""
        return not self.low <= 1 <= self.high

    def schedule(self, params: Mapping[str, float]) -> Schedule:
        """Return the schedule that parameters stand for; knobs at their own value are left out.

        Arguments:
            params: One value for each parameter of `distributions`, or `baseline_params`, whether
                1 is in the range or not. A window that would pass the last grid point ends there.

        Raises:
            SpecError: With every parameter that is missing, unknown or out of range.
        """
        checked = self._checked(params)
        values = self.split(checked)
        terms = [
            term for one, own in zip(self.within, values, strict=True) for term in one._terms(own)
        ]
        knobs = {k.name: checked[k.param] for k in self.knobs if checked[k.param] != k.own}
        return Schedule(terms, branches=self.branches, knobs=knobs)

    def _terms(self, values: Mapping[str, float]) -> list[Term]:
        """Return the terms of a space of one interval."""
        low, high = self._bounds(values)
        return [
            Term(skip.address, scale, low, high, part)
            for part in (() if self.kind == NONE else self.parts)
            for skip, scale in zip(self.skips, self._scales(self._own(values, part)), strict=True)
        ]

    def window_at(self, params: Mapping[str, float]) -> tuple[float, float]:
        """Return the noise levels [low, high) at which the scales of parameters act.

        Arguments:
            params: As for `schedule`, of a space of one interval.
        """
        assert self.intervals == 1
        return self._bounds(self._checked(params))

    def chain(self, params: Mapping[str, float]) -> NDArray[np.float64]:
        """Return how the logarithm of each scale moves with that of each parameter.

        Arguments:
            params: As for `schedule`, of a space of one interval.

        Returns:
            float64 [parts x skips, parameters], in the orders of `parts`, `skips` and
            `scale_names`.
        """
        import numpy as np  # `skiptune status` needs none of it

        assert self.intervals == 1
        values = self._checked(params)
        links = [self._links(self._own(values, part)) for part in self.parts]
        # A part's scales hang on its own parameters alone.
        rows = [
            [link if row == column else np.zeros_like(link) for column in range(len(links))]
            for row, link in enumerate(links)
        ]
        return np.asarray(np.block(rows), dtype=np.float64)

    def _links(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """Return `chain` of one part."""
        import numpy as np

        if self.kind == "linear":
            # Of s = bottom (1 - t) + top t, d log s / d log bottom is bottom (1 - t) / s.
            place = np.linspace(0, 1, len(self.skips))
            parts = np.array([values["bottom"] * (1 - place), values["top"] * place])
            return np.asarray((parts / parts.sum(axis=0)).T, dtype=np.float64)
        names = self._names()
        found = np.zeros((len(self.skips), len(names)))
        for row, skip in enumerate(self.skips):
            own = {
                "uniform": "all",
                "per-resolution": f"resolution/{skip.resolution}",
                "per-skip": f"skip/{skip.address}",
            }[self.kind]
            found[row, names.index(own)] = 1
        return found

    def edges(self, params: Mapping[str, float]) -> tuple[str, ...]:
        """Return the scales and knobs that touch an end of their range: more may lie beyond it.

        Arguments:
            params: As for `schedule`.
        """
        ranges = dict.fromkeys(self.scale_names, (self.low, self.high))
        ranges |= {knob.param: (knob.low, knob.high) for knob in self.knobs}
        return tuple(
            name
            for name, (low, high) in ranges.items()
            if min(math.log(params[name] / low), math.log(high / params[name]))
            <= EDGE * math.log(high / low)
        )

    def _own(self, values: Mapping[str, float], part: str) -> dict[str, float]:
        """Return the values of one part's degrees of freedom by their names."""
        return {name: values[self._full(part, name)] for name in self._names()}

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
        if self.leaves_out_baseline and dict(params) == self.baseline_params():
            return dict(params)
        points = len(self.sigmas)
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(
            self.scale_names, (self.low, self.high)
        )
        if self.window == "search":
            ranges |= {WINDOW_FIRST: (0, points - 1), WINDOW_LENGTH: (1, points)}
        ranges |= {knob.param: (knob.low, knob.high) for knob in self.knobs}
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
