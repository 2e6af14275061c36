"""Constraints on metrics: ``recall >= 0.95 x baseline``, ``nfe <= 9``.

A constraint is violated only where the 95 % interval of its gap leaves the limit out: what a few
hundred images cannot tell apart from the limit is given the benefit of the doubt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skiptune.objectives.catalogue import ALIASES, CATALOGUE, resolved
from skiptune.search.problems import suggestion

if TYPE_CHECKING:
    from skiptune.objectives.metrics import Summary
    from skiptune.objectives.paired import Estimate

__all__ = ["Constraint", "gap", "parsed_constraint"]

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_FORM = re.compile(
    rf"(?P<name>\S+) *(?P<sign>>=|<=) *"
    rf"(?:(?P<share>{_NUMBER}) *[x*] *)?(?:(?P<baseline>baseline)|(?P<limit>-?{_NUMBER}))"
)


@dataclass(frozen=True)
class Constraint:
    """A limit that a metric must keep.

    Arguments:
        key: The metric, of `CATALOGUE`.
        at_least: The metric must be at least the limit, else at most.
        limit: The limit; where it is relative, the part of the baseline's value.
        relative: The limit is a part of the baseline's value on the same seeds.
    """

    key: str
    at_least: bool
    limit: float
    relative: bool

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.key} {sign} {self.limit:g}{' x baseline' if self.relative else ''}"


def parsed_constraint(text: str) -> Constraint:
    """Read a constraint.

    Raises:
        ValueError: With what was expected instead.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or (found["share"] is not None and found["baseline"] is None):
        raise ValueError("METRIC >= NUMBER x baseline, or METRIC <= NUMBER")
    key, extractor = resolved(found["name"])
    if key not in CATALOGUE or extractor is not None:
        known = tuple(key for key in CATALOGUE if key not in ALIASES)
        raise ValueError(f"one of {', '.join(known)}{suggestion(found['name'], known)}")
    relative = found["baseline"] is not None
    limit = float(found["share"] or 1.0) if relative else float(found["limit"])
    return Constraint(key, found["sign"] == ">=", limit, relative)


def gap(constraint: Constraint, summary: Summary, baseline: Summary) -> Estimate:
    """Return by how much a limit is missed, with the standard error of that; above 0 is missed.

    Arguments:
        constraint: The constraint.
        summary: Its metric, of the evaluation.
        baseline: The same of the baseline on the same seeds.
    """
    from skiptune.objectives.paired import Estimate

    sign = -1.0 if constraint.at_least else 1.0
    images = summary.value.images
    if not constraint.relative:
        value = sign * (summary.value.value - constraint.limit)
        return Estimate(value, summary.value.standard_error, images)
    value = sign * (summary.value.value - constraint.limit * baseline.value.value)
    return Estimate(value, summary.error_with(baseline, constraint.limit), images)
