"""Settings: how images are made, apart from network, schedule and seeds."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from skiptune.errors import Problem, SpecError
from skiptune.sampling.grids import edm_sigmas, logsnr_sigmas

__all__ = ["GRIDS", "SOLVERS", "STOCHASTIC_SOLVERS", "Churn", "Setting", "sigmas"]

SOLVERS: Final = ("euler", "heun", "dpmpp_2m")
# The solvers that can add noise on their way: the steps of EDM's algorithm 2.
STOCHASTIC_SOLVERS: Final = ("euler", "heun")
GRIDS: Final = ("edm", "logsnr")

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
        solver: ``euler``, ``heun`` or ``dpmpp_2m``.
        steps: Number of steps n, at least 1. Heun evaluates the network 2n-1 times, the others n
            times; with guidance twice as often.
        grid: ``edm``, or ``logsnr`` for equal steps in log sigma.
        sigma_min: Lowest positive noise level, above 0.
        sigma_max: Highest noise level, above sigma_min.
        exponent: Exponent of the ``edm`` grid, above 0; ``logsnr`` does not read it.
        guidance: Classifier-free guidance g in D = D_u + g (D_c - D_u), at least 0; 1 is none.
        churn: Fresh noise on the way; solvers euler and heun only.
        epsilon_scale: Every predicted noise (x - D) / sigma is divided by this (Ning et al. 2024,
            arXiv 2308.15321, epsilon scaling), above 0; 1 changes nothing.
        labels: ``random`` from each image's own stream, a class number for all images, or None for
            no label. ``random`` means no label on a network without classes.

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

    def to_json(self) -> dict[str, Any]:
        """Return plain data, every field included."""
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
        """Read what `to_json` wrote; absent keys take their defaults.

        Raises:
            SpecError: For unknown keys and values out of range.
        """
        fields = _fields(cls, value, "setting")
        if "churn" in fields:
            fields["churn"] = Churn.from_json(fields["churn"])
        return cls(**fields)


def sigmas(setting: Setting) -> tuple[float, ...]:
    """Return the noise levels at which a setting steps: sigma_max, ..., sigma_min, 0."""
    if setting.grid == "edm":
        return edm_sigmas(
            setting.steps,
            sigma_min=setting.sigma_min,
            sigma_max=setting.sigma_max,
            exponent=setting.exponent,
        )
    return logsnr_sigmas(setting.steps, sigma_min=setting.sigma_min, sigma_max=setting.sigma_max)


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
