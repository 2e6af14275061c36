"""Schedules: by how much each skip is multiplied, at which noise levels.

A schedule is a set of terms (address, scale, low, high): the skip at `address` is multiplied by
`scale` while low <= sigma < high, and by 1 at every other noise level. Schedules that act alike
are equal, have the same JSON and the same digest: terms with scale 1 and empty windows are
dropped, adjoining windows of equal scale are joined, and the order of the terms is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from skiptune.canonical import digest
from skiptune.errors import Problem, SpecError

__all__ = ["Schedule", "Term"]

_HINT = "`skiptune skips` lists a network's skips; a schedule without terms is the baseline"
_KEYS = ("address", "scale", "low", "high")


@dataclass(frozen=True, order=True)
class Term:
    """One skip's scale over one interval of noise levels.

    Arguments:
        address: The decoder block that receives the skip, e.g. ``16x16_block0``.
        scale: Factor on the skip, finite and at least 0; exactly 0 drops the skip, which is not
            the limit of small scales, because group normalisation undoes these.
        low: Lowest noise level (sigma, EDM units) at which the scale acts.
        high: The scale acts below this noise level; infinity for no bound.

    Raises:
        SpecError: For a number outside these ranges.
    """

    address: str
    scale: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        problems = []
        where = f"schedule: {self.address}"
        if not (math.isfinite(self.scale) and self.scale >= 0):
            expected = "a finite number above 0, or 0 to drop the skip"
            problems.append(Problem(f"{where}: scale", expected, repr(self.scale)))
        if not (0 <= self.low <= self.high):
            window = f"low {self.low!r}, high {self.high!r}"
            problems.append(Problem(f"{where}: window", "0 <= low <= high", window))
        if problems:
            raise SpecError.of(problems, hint=_HINT)


class Schedule:
    """All scales over skips and noise levels: immutable, hashable, in canonical form.

    Arguments:
        terms: In any order; windows of one address must not overlap, whatever their scales.

    Raises:
        SpecError: For overlapping windows.
    """

    __slots__ = ("_terms",)

    def __init__(self, terms: Iterable[Term] = ()) -> None:
        self._terms = _canonical_terms(terms)

    @classmethod
    def baseline(cls) -> Schedule:
        """Return the schedule that leaves the network untouched."""
        return cls()

    @classmethod
    def uniform(
        cls, scales: Mapping[str, float], low: float = 0.0, high: float = math.inf
    ) -> Schedule:
        """Return one scale per address, all acting where low <= sigma < high."""
        return cls(Term(address, scale, low, high) for address, scale in scales.items())

    @classmethod
    def from_json(cls, value: Any) -> Schedule:
        """Read what `to_json` wrote.

        Raises:
            SpecError: With every problem of `value` at once.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("terms"), list):
            raise SpecError(
                "schedule",
                expected="an object with a list `terms`",
                found=_show(value),
                hint=_HINT,
            )
        problems = [
            Problem(f"schedule: {key}", "no key but `terms`", _show(value[key]))
            for key in value
            if key != "terms"
        ]
        terms: list[Term] = []
        for index, entry in enumerate(value["terms"]):
            where = f"schedule: terms[{index}]"
            wrong = _entry_problems(entry, where)
            if not wrong:
                try:
                    terms.append(_term(entry))
                except SpecError as error:
                    wrong = list(error.problems)
            problems.extend(wrong)
        if problems:
            raise SpecError.of(problems, hint=_HINT)
        return cls(terms)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: floats whose decimal text reads back exactly; no bound, no key."""
        return {"terms": [_entry(term) for term in self._terms]}

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms in canonical form, by address and then by noise level."""
        return self._terms

    @property
    def is_baseline(self) -> bool:
        """Whether every skip keeps its scale of 1 at every noise level."""
        return not self._terms

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all skips whose scale differs from 1 somewhere, sorted."""
        return tuple(dict.fromkeys(term.address for term in self._terms))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, with floats in hexadecimal: the schedule's identity."""
        return digest(self.to_json())

    def scale(self, address: str, sigma: float) -> float:
        """Return the factor on a skip at noise level `sigma`."""
        for term in self._terms:
            if term.address == address and term.low <= sigma < term.high:
                return term.scale
        return 1.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self._terms == other._terms

    def __hash__(self) -> int:
        return hash(self._terms)

    def __repr__(self) -> str:
        return f"Schedule({list(self._terms)!r})"


def _canonical_terms(terms: Iterable[Term]) -> tuple[Term, ...]:
    # Adding 0.0 makes floats of ints and 0.0 of -0.0.
    plain = (
        Term(term.address, term.scale + 0.0, term.low + 0.0, term.high + 0.0) for term in terms
    )
    ordered = sorted(
        (term for term in plain if term.low < term.high),
        key=lambda term: (term.address, term.low, term.high),
    )
    problems = [
        Problem(
            f"schedule: {one.address}",
            "windows that do not overlap",
            f"{one.low!r}..{one.high!r} and {two.low!r}..{two.high!r}",
        )
        for one, two in pairwise(ordered)
        if one.address == two.address and two.low < one.high
    ]
    if problems:
        raise SpecError.of(problems, hint=_HINT)
    joined: list[Term] = []
    for term in ordered:
        if term.scale == 1:
            continue
        last = joined[-1] if joined else None
        if last and (last.address, last.scale, last.high) == (term.address, term.scale, term.low):
            joined[-1] = Term(last.address, last.scale, last.low, term.high)
        else:
            joined.append(term)
    return tuple(joined)


def _entry(term: Term) -> dict[str, Any]:
    entry: dict[str, Any] = {"address": term.address, "scale": term.scale}
    if term.low > 0:
        entry["low"] = term.low
    if term.high < math.inf:
        entry["high"] = term.high
    return entry


def _term(entry: Mapping[str, Any]) -> Term:
    low, high = entry.get("low", 0.0), entry.get("high", math.inf)
    return Term(entry["address"], float(entry["scale"]), float(low), float(high))


def _entry_problems(entry: Any, where: str) -> list[Problem]:
    if not isinstance(entry, Mapping):
        return [Problem(where, "an object with `address` and `scale`", _show(entry))]
    problems = [
        Problem(f"{where}.{key}", f"a key among {', '.join(_KEYS)}", _show(entry[key]))
        for key in entry
        if key not in _KEYS
    ]
    address = entry.get("address")
    if not isinstance(address, str) or not address:
        problems.append(Problem(f"{where}.address", "a skip's address", _show(address)))
    for key in _KEYS[1:]:
        if key not in entry and key != "scale":
            continue
        number = entry.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float):
            problems.append(Problem(f"{where}.{key}", "a number", _show(number)))
    return problems


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
