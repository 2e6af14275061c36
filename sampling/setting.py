"""Settings: how images are made, apart from network, schedule and seeds."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from skiptune.errors import Problem, SpecError
from skiptune.sampling.grids import edm_sigmas, logsnr_sigmas, time_uniform_sigmas

__all__ = [
    "GRIDS",
    "HISTORIES",
    "KNOBS",
    "LATER_FIELDS",
    "MULTISTEP_SOLVERS",
    "NOISES",
    "ORDERS",
    "SOLVERS",
    "STOCHASTIC_SOLVERS",
    "Churn",
    "Setting",
    "churned",
    "evaluated_points",
    "evaluations",
    "sigmas",
    "steps_of",
]

SOLVERS: Final = ("euler", "heun", "dpmpp_2m", "unipc", "dpmpp_2m_sde")
# The solvers that can churn: the steps of EDM's algorithm 2.
STOCHASTIC_SOLVERS: Final = ("euler", "heun")
# The solvers that look back at estimates of earlier noise levels.
MULTISTEP_SOLVERS: Final = ("dpmpp_2m", "unipc", "dpmpp_2m_sde")
ORDERS: Final = (2, 3)
KNOBS: Final = ("epsilon_scale", "exponent", "sigma_max", "guidance", "eta", "churn_noise")
"""Numbers that may be tuned together with the scales of skips: none changes what an image costs
where guidance is not switched on or off. `churn_noise` is the `noise` of churn."""
GRIDS: Final = ("edm", "logsnr", "time-uniform")
HISTORIES: Final = ("keep", "restart")
NOISES: Final = ("edm", "counter")
# Written only where they differ from their defaults: a setting that could be said without them
# keeps its JSON, and so its identity, byte for byte.
LATER_FIELDS: Final = (
    "order",
    "eta",
    "final_zero",
    "sigmas",
    "guidance_low",
    "guidance_high",
    "history",
    "noise",
)
MOST_STEPS: Final = 1000

_HINT = "the fields and their ranges stand in the docstring of skiptune.sampling.Setting"


@dataclass(frozen=True)
class Churn:
    """Fresh noise during sampling: S_churn, S_min, S_max, S_noise of EDM's algorithm 2.

    Arguments:
        amount: How much noise in total, at least 0; 0 is deterministic.
        low: Noise is added at noise levels from here,
        high: up to here, both inclusive; infinity for no bound.
        noise: Standard deviation of the added noise, above 0; EDM uses 1.003 on ImageNet.

    Raises:
        SpecError: For numbers outside these ranges.

    References:
        Karras et al. 2022 (arXiv 2206.00364), algorithm 2 and table 5.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0

    def __post_init__(self) -> None:
        problems = _Problems("setting.churn", self)
        problems.number("amount", "a finite number, at least 0", lambda v: 0 <= v < math.inf)
        problems.number("low", "a number, at least 0", lambda v: 0 <= v < math.inf)
        problems.number("high", "a number, at least `low`", lambda v: v >= 0)
        problems.number("noise", "a finite number above 0", lambda v: 0 < v < math.inf)
        if not problems.found and self.low > self.high:
            problems.add("low", "a number up to `high`")
        problems.stop()

    def to_json(self) -> dict[str, Any]:
        """Return plain data; null stands for no upper bound."""
        return {
            "amount": float(self.amount),
            "low": float(self.low),
            "high": None if self.high == math.inf else float(self.high),
            "noise": float(self.noise),
        }

    @classmethod
    def from_json(cls, value: Any) -> Churn:
        """Read what `to_json` wrote; absent keys take their defaults.

        Raises:
            SpecError: For unknown keys and values out of range.
        """
        fields = _fields(cls, value, "setting.churn")
        if "high" in fields and fields["high"] is None:
            fields["high"] = math.inf
        return cls(**fields)


@dataclass(frozen=True)
class Setting:
    """How images are made, apart from network, schedule and seeds.

    Arguments:
        solver: ``euler``, ``heun``, ``dpmpp_2m``, ``unipc`` or ``dpmpp_2m_sde``.
        steps: Number of steps n, at least 1. Heun evaluates the network 2n-1 times, the others n
            times; where guidance acts, twice as often.
        grid: ``edm``, ``logsnr`` for equal steps in log sigma, or ``time-uniform`` for equal
            steps in the time of a variance-preserving diffusion.
        sigma_min: Lowest positive noise level, above 0.
        sigma_max: Highest noise level, above sigma_min.
        exponent: Exponent of the ``edm`` grid, above 0; the other grids do not read it.
        guidance: Classifier-free guidance g in D = D_u + g (D_c - D_u), at least 0; 1 is none.
        churn: Fresh noise on the way; solvers euler and heun only.
        epsilon_scale: Every predicted noise (x - D) / sigma is divided by this (Ning et al. 2024,
            arXiv 2308.15321, epsilon scaling), above 0; 1 changes nothing.
        labels: ``random`` from each image's own stream, a class number for all images, or None for
            no label. ``random`` means no label on a network without classes.
        order: 2 or 3, of ``unipc`` only.
        eta: How stochastic ``dpmpp_2m_sde`` is, at least 0: 1 is the SDE of its paper, 0 is
            ``dpmpp_2m``.
        final_zero: Whether the last step goes from sigma_min to 0; if not, it ends at sigma_min,
            and Heun evaluates the network 2n times.
        sigmas: Falling noise levels above 0 instead of those of a grid, which then keeps its
            defaults; `steps` is their number, or one less without the step to 0.
        guidance_low: Guidance acts at noise levels above this
        guidance_high: and up to this; infinity for no bound. At all others the network is
            evaluated once, with the label (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        history: What a multistep solver does where the scales of a schedule change from one
            noise level to the next: ``keep`` the earlier estimates, or ``restart`` without them.
        noise: Where an image's random numbers come from: ``edm``, one torch CPU generator per
            seed in EDM's draw order, as published numbers have it; or ``counter``, a
            counter-based generator on the device, all images of a batch at once
            (`skiptune.sampling.noise`).

    Raises:
        SpecError: With every problem at once.
    """

    solver: str = "dpmpp_2m"
    steps: int = 6
    grid: str = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    exponent: float = 7.0
    guidance: float = 1.0
    churn: Churn = field(default_factory=Churn)
    epsilon_scale: float = 1.0
    labels: str | int | None = "random"
    order: int = 2
    eta: float = 1.0
    final_zero: bool = True
    sigmas: tuple[float, ...] | None = None
    guidance_low: float = 0.0
    guidance_high: float = math.inf
    history: str = "keep"
    noise: str = "edm"

    def __post_init__(self) -> None:
        problems = _Problems("setting", self)
        problems.choice("solver", SOLVERS)
        problems.choice("grid", GRIDS)
        if not _is_int(self.steps) or self.steps < 1:
            problems.add("steps", "a whole number, at least 1")
        problems.number("sigma_min", "a finite number above 0", lambda v: 0 < v < math.inf)
        problems.number("sigma_max", "a finite number above 0", lambda v: 0 < v < math.inf)
        problems.number("exponent", "a finite number above 0", lambda v: 0 < v < math.inf)
        problems.number("guidance", "a finite number, at least 0", lambda v: 0 <= v < math.inf)
        problems.number("epsilon_scale", "a finite number above 0", lambda v: 0 < v < math.inf)
        if not isinstance(self.churn, Churn):
            problems.add("churn", "a Churn")
        if self.labels is not None and self.labels != "random":
            if not _is_int(self.labels) or int(self.labels) < 0:
                problems.add("labels", "`random`, a class number from 0, or none")
        if not _is_int(self.order) or self.order not in ORDERS:
            problems.add("order", f"one of {', '.join(map(str, ORDERS))}")
        problems.number("eta", "a finite number, at least 0", lambda v: 0 <= v < math.inf)
        if not isinstance(self.final_zero, bool):
            problems.add("final_zero", "true or false")
        if self.sigmas is not None and not _falling(self.sigmas):
            problems.add("sigmas", "a tuple of falling numbers above 0, or none")
        problems.number("guidance_low", "a number, at least 0", lambda v: 0 <= v < math.inf)
        problems.number("guidance_high", "a number above 0", lambda v: v > 0)
        problems.choice("history", HISTORIES)
        problems.choice("noise", NOISES)
        if not problems.found:
            self._check_together(problems)
        problems.stop()

    def _check_together(self, problems: _Problems) -> None:
        if self.sigma_min >= self.sigma_max:
            problems.add("sigma_min", f"a number below sigma_max {self.sigma_max!r}")
        if self.churn.amount > 0 and self.solver not in STOCHASTIC_SOLVERS:
            expected = f"{' or '.join(STOCHASTIC_SOLVERS)}, because churn is asked for"
            problems.add("solver", expected)
        if self.guidance != 1 and self.labels is None:
            problems.add("labels", "`random` or a class number, because guidance is asked for")
        if self.order != 2 and self.solver != "unipc":
            problems.add("order", f"2, because {self.solver} is not unipc")
        if self.eta != 1 and self.solver != "dpmpp_2m_sde":
            problems.add("eta", f"1, because {self.solver} is not dpmpp_2m_sde")
        if self.history != "keep" and self.solver not in MULTISTEP_SOLVERS:
            problems.add("history", f"keep, because {self.solver} has no history")
        if self.sigmas is not None:
            self._check_sigmas(self.sigmas, problems)
        if self.guidance == 1:
            for name, default in (("guidance_low", 0), ("guidance_high", math.inf)):
                if getattr(self, name) != default:
                    problems.add(name, f"{default}, its default, because guidance is 1")
        elif self.guidance_low >= self.guidance_high:
            problems.add("guidance_high", f"a number above guidance_low {self.guidance_low!r}")

    def _check_sigmas(self, levels: tuple[float, ...], problems: _Problems) -> None:
        steps = len(levels) - (0 if self.final_zero else 1)
        if steps < 1:
            problems.add("sigmas", "two levels, because final_zero is false")
        elif self.steps != steps:
            problems.add("steps", f"{steps}, the steps along `sigmas`")
        for name in ("grid", "sigma_min", "sigma_max", "exponent"):
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                problems.add(name, f"{default!r}, its default, because `sigmas` are given")

    def guides(self, sigma: float) -> bool:
        """Return whether guidance acts at a noise level: the network is then evaluated twice."""
        return self.guidance != 1 and self.guidance_low < sigma <= self.guidance_high

    def knob(self, name: str) -> float:
        """Return the value of one of `KNOBS`."""
        found = self.churn.noise if name == "churn_noise" else getattr(self, name)
        return float(found)

    def with_knobs(self, knobs: Mapping[str, float]) -> Setting:
        """Return the setting with other values of some of `KNOBS`.

        Arguments:
            knobs: Values by name.

        Raises:
            SpecError: For a name that is no knob, or values that do not go together.
        """
        problems = [
            Problem(f"setting.{name}", f"one of {', '.join(KNOBS)}", repr(value))
            for name, value in knobs.items()
            if name not in KNOBS
        ]
        if problems:
            raise SpecError.of(problems, hint=_HINT)
        fields: dict[str, Any] = {k: v for k, v in knobs.items() if k != "churn_noise"}
        if "churn_noise" in knobs:
            fields["churn"] = replace(self.churn, noise=knobs["churn_noise"])
        return replace(self, **fields)

    def with_solver(self, solver: str, *, steps: int, grid: str | None = None) -> Setting:
        """Return the setting with another solver.

        What the other solver does not understand goes back to its default; levels that were
        given one by one become a grid between their ends.

        Arguments:
            solver: One of `SOLVERS`.
            steps: Its number of steps.
            grid: One of `GRIDS`; None to keep the grid.
        """
        low, high = self.sigma_min, self.sigma_max
        if self.sigmas is not None and len(self.sigmas) > 1:
            low, high = self.sigmas[-1], self.sigmas[0]
        return replace(
            self,
            solver=solver,
            steps=steps,
            grid=self.grid if grid is None else grid,
            churn=self.churn if solver in STOCHASTIC_SOLVERS else Churn(),
            order=self.order if solver == "unipc" else 2,
            eta=self.eta if solver == "dpmpp_2m_sde" else 1.0,
            history=self.history if solver in MULTISTEP_SOLVERS else "keep",
            sigmas=None,
            sigma_min=low,
            sigma_max=high,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `LATER_FIELDS` stand in it where they differ from their defaults."""
        later = {
            "order": self.order,
            "eta": float(self.eta),
            "final_zero": self.final_zero,
            "sigmas": None if self.sigmas is None else [float(level) for level in self.sigmas],
            "guidance_low": float(self.guidance_low),
            "guidance_high": float(self.guidance_high),
            "history": self.history,
            "noise": self.noise,
        }
        defaults = type(self).__dataclass_fields__
        return self._first_fields() | {
            name: value for name, value in later.items() if value != defaults[name].default
        }

    def _first_fields(self) -> dict[str, Any]:
        return {
            "solver": self.solver,
            "steps": self.steps,
            "grid": self.grid,
            "sigma_min": float(self.sigma_min),
            "sigma_max": float(self.sigma_max),
            "exponent": float(self.exponent),
            "guidance": float(self.guidance),
            "churn": self.churn.to_json(),
            "epsilon_scale": float(self.epsilon_scale),
            "labels": self.labels,
        }

    @classmethod
    def from_json(cls, value: Any) -> Setting:
        """Read what `to_json` wrote; absent keys take their defaults, `steps` that of `sigmas`.

        Raises:
            SpecError: For unknown keys and values out of range.
        """
        fields = _fields(cls, value, "setting")
        if "churn" in fields:
            fields["churn"] = Churn.from_json(fields["churn"])
        if isinstance(fields.get("sigmas"), list):
            fields["sigmas"] = tuple(fields["sigmas"])
            last = 1 if fields.get("final_zero") is False else 0
            fields.setdefault("steps", max(len(fields["sigmas"]) - last, 1))
        if "guidance_high" in fields and fields["guidance_high"] is None:
            fields["guidance_high"] = math.inf
        return cls(**fields)


def sigmas(setting: Setting) -> tuple[float, ...]:
    """Return the noise levels at which a setting steps: sigma_max, ..., sigma_min, 0.

    Without the step to 0 there are as many steps, and the last one ends at sigma_min.
    """
    if setting.sigmas is not None:
        levels = tuple(float(level) for level in setting.sigmas)
        return (*levels, 0.0) if setting.final_zero else levels
    ends = {"sigma_min": setting.sigma_min, "sigma_max": setting.sigma_max}
    steps = setting.steps if setting.final_zero else setting.steps + 1
    if setting.grid == "edm":
        levels = edm_sigmas(steps, exponent=setting.exponent, **ends)
    elif setting.grid == "logsnr":
        levels = logsnr_sigmas(steps, **ends)
    else:
        levels = time_uniform_sigmas(steps, **ends)
    return levels if setting.final_zero else levels[:-1]


def evaluated_points(setting: Setting) -> int:
    """Return at how many of its noise levels, from the first on, a setting evaluates the network.

    One for each step; only Heun's method evaluates the network where its last step ends, unless
    that is 0.
    """
    return setting.steps + (setting.solver == "heun" and not setting.final_zero)


def churned(setting: Setting, sigma: float) -> float:
    """Return the noise level to which EDM's algorithm 2 raises another before it steps."""
    churn = setting.churn
    if churn.amount == 0 or not churn.low <= sigma <= churn.high:
        return sigma
    return sigma + min(churn.amount / setting.steps, math.sqrt(2) - 1) * sigma


def evaluations(setting: Setting) -> int:
    """Return how many images go through the network per image made, to choose steps by.

    What is reported is counted while sampling; this is known before.
    """
    heun = setting.solver == "heun"
    calls = 2 * setting.steps - (1 if setting.final_zero else 0) if heun else setting.steps
    if setting.guidance == 1:
        return calls
    if setting.guidance_low == 0 and setting.guidance_high == math.inf:
        return 2 * calls
    levels = sigmas(setting)
    called = [churned(setting, level) for level in levels[:-1]]
    if heun:
        called += [level for level in levels[1:] if level > 0]
    return sum(2 if setting.guides(level) else 1 for level in called)


def steps_of(nfe: int, setting: Setting) -> int:
    """Return with how many steps a setting evaluates the network `nfe` times per image.

    Arguments:
        nfe: Images through the network per image made, at least 1.
        setting: Everything but the number of steps.

    Raises:
        SpecError: When no number of steps up to 1000 does, with the nearest that are possible.
    """
    less: int | None = None
    more: int | None = None
    for steps in range(1, min(nfe + 1, MOST_STEPS) + 1):
        count = evaluations(replace(setting, steps=steps))
        if count == nfe:
            return steps
        if count < nfe:
            less = count if less is None else max(less, count)
        else:
            more = count if more is None else min(more, count)
    near = " or ".join(str(count) for count in (less, more) if count is not None)
    rule = " (heun: 2 steps - 1)" if setting.solver == "heun" and setting.final_zero else ""
    raise SpecError(
        "setting.nfe",
        expected=f"{near}, the nearest that {setting.solver} can take{rule}",
        found=str(nfe),
        hint="choose one of these, or give `steps` instead",
    )


def _falling(levels: object) -> bool:
    if not isinstance(levels, tuple) or not levels:
        return False
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in levels)
    return (
        numbers
        and all(0 < v < math.inf for v in levels)
        and all(one > two for one, two in pairwise(levels))
    )


class _Problems:
    """What is wrong with the fields of one object, collected so that all is told at once."""

    def __init__(self, where: str, owner: object) -> None:
        self.where = where
        self.owner = owner
        self.found: list[Problem] = []

    def add(self, field: str, expected: str) -> None:
        value = getattr(self.owner, field)
        self.found.append(Problem(f"{self.where}.{field}", expected, repr(value)))

    def number(self, field: str, expected: str, accepts: Any) -> None:
        value = getattr(self.owner, field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not accepts(value):
            self.add(field, expected)

    def choice(self, field: str, names: tuple[str, ...]) -> None:
        value = getattr(self.owner, field)
        if value not in names:
            self.add(field, f"one of {', '.join(names)}{_suggestion(str(value), names)}")

    def stop(self) -> None:
        if self.found:
            raise SpecError.of(self.found, hint=_HINT)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _suggestion(word: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _fields(cls: type[Any], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(where, expected="an object", found=repr(value), hint=_HINT)
    names = tuple(field.name for field in dataclasses.fields(cls))
    problems = [
        Problem(
            f"{where}.{key}",
            f"a key among {', '.join(names)}{_suggestion(str(key), names)}",
            repr(value[key]),
        )
        for key in value
        if key not in names
    ]
    if problems:
        raise SpecError.of(problems, hint=_HINT)
    return dict(value)
