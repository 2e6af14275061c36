"""Schedules: by how much each skip is multiplied, at which noise levels.

A schedule is a set of terms (address, scale, low, high, part): the skip at `address` is multiplied
by `scale` while low <= sigma < high, and by 1 at every other noise level; on its way into the
block, or in one part of the block alone. Classifier-free guidance evaluates a network twice, with
the label and without; a schedule acts in both branches, or in one of them alone. A schedule that
was tuned together with numbers of the setting names these: its images are made at
`setting.with_knobs(schedule.knobs)`, which is for whoever samples to do. Schedules that
act alike are equal, have the same JSON and the same digest: terms with scale 1 and empty windows
are dropped, adjoining windows of equal scale are joined, and the order of the terms is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from skiptune.canonical import digest
from skiptune.errors import Problem, SpecError
from skiptune.sampling.setting import KNOBS

__all__ = ["BRANCHES", "PARTS", "Schedule", "Term", "place_name", "place_of"]

BRANCHES = ("both", "cond", "uncond")
"""Where a schedule acts: in every evaluation, or only in those with or without a label."""

PARTS = ("both", "shortcut", "residual", "whole-shortcut")
"""Where in the decoder block that receives a skip a scale acts.

``both``: on the skip itself, as Skip-Tuning (arXiv 2402.15170) has it, before anything reads it.
``shortcut``: on the skip's channels of the input of the block's 1x1 shortcut convolution.
``residual``: on the skip's channels of the input of the first convolution of the residual branch,
behind normalisation and activation, which then do not undo it.
``whole-shortcut``: on the output of the shortcut convolution: main path, skip and bias together.
"""

_HINT = "`skiptune skips` lists a network's skips; a schedule without terms is the baseline"
_NUMBERS = ("scale", "low", "high")
_KEYS = ("address", *_NUMBERS, "part")


def place_name(address: str, part: str = "both") -> str:
    """Return the name of what one scale multiplies: `16x16_block0`, `shortcut/16x16_block0`."""
    return address if part == "both" else f"{part}/{address}"


def place_of(name: str) -> tuple[str, str]:
    """Return the address and the part that `place_name` made a name of."""
    part, _, address = name.partition("/")
    return (address, part) if address and part in PARTS[1:] else (name, "both")


@dataclass(frozen=True, order=True)
class Term:
    """One skip's scale over one interval of noise levels.

    Arguments:
        address: The decoder block that receives the skip, e.g. ``16x16_block0``.
        scale: Factor on the skip, finite and at least 0; exactly 0 drops the skip, which is not
            the limit of small scales, because group normalisation undoes these.
        low: Lowest noise level (sigma, EDM units) at which the scale acts.
        high: The scale acts below this noise level; infinity for no bound.
        part: One of `PARTS`; scales of several parts of one block act side by side.

    Raises:
        SpecError: For a number outside these ranges, or an unknown part.
    """

    address: str
    scale: float
    low: float = 0.0
    high: float = math.inf
    part: str = "both"

    def __post_init__(self) -> None:
        problems = []
        where = f"schedule: {self.address}"
        if not (math.isfinite(self.scale) and self.scale >= 0):
            expected = "a finite number above 0, or 0 to drop the skip"
            problems.append(Problem(f"{where}: scale", expected, repr(self.scale)))
        if not (0 <= self.low <= self.high):
            window = f"low {self.low!r}, high {self.high!r}"
            problems.append(Problem(f"{where}: window", "0 <= low <= high", window))
        if self.part not in PARTS:
            problems.append(
                Problem(f"{where}: part", f"one of {', '.join(PARTS)}", _show(self.part))
            )
        if problems:
            raise SpecError.of(problems, hint=_HINT)


class Schedule:
    """All scales over skips and noise levels: immutable, hashable, in canonical form.

    Arguments:
        terms: In any order; windows of one part of one address must not overlap, whatever their
            scales.
        branches: One of `BRANCHES`; without terms there is only ``both``.
        knobs: Numbers of the setting that go with it, by name (`setting.KNOBS`), above 0.

    Raises:
        SpecError: For overlapping windows, an unknown branch or knob, or a knob out of range.
    """

    __slots__ = ("_branches", "_knobs", "_terms")

    def __init__(
        self,
        terms: Iterable[Term] = (),
        *,
        branches: str = "both",
        knobs: Mapping[str, float] | None = None,
    ) -> None:
        self._terms = _canonical_terms(terms)
        problem = _branches_problem(branches)
        problems = [] if problem is None else [problem]
        problems += _knob_problems({} if knobs is None else knobs)
        if problems:
            raise SpecError.of(problems, hint=_HINT)
        self._branches = branches if self._terms else "both"
        self._knobs = tuple(sorted((name, value + 0.0) for name, value in (knobs or {}).items()))

    @classmethod
    def baseline(cls) -> Schedule:
        """Return the schedule that leaves the network untouched."""
        return cls()

    @classmethod
    def uniform(
        cls,
        scales: Mapping[str, float],
        low: float = 0.0,
        high: float = math.inf,
        *,
        branches: str = "both",
        part: str = "both",
    ) -> Schedule:
        """Return one scale per address, all acting where low <= sigma < high, in one part."""
        terms = [Term(address, scale, low, high, part) for address, scale in scales.items()]
        return cls(terms, branches=branches)

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
            Problem(
                f"schedule: {key}", "no key but `terms`, `branches` and `knobs`", _show(value[key])
            )
            for key in value
            if key not in ("terms", "branches", "knobs")
        ]
        branches, knobs = value.get("branches", "both"), value.get("knobs", {})
        problem = _branches_problem(branches)
        problems += [] if problem is None else [problem]
        problems += _knob_problems(knobs)
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
        return cls(terms, branches=branches, knobs=knobs)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: floats whose decimal text reads back exactly; no bound, no key.

        `branches`, and a term's `part`, are written where they are not ``both``; `knobs` where
        there are any.
        """
        plain: dict[str, Any] = {"terms": [_entry(term) for term in self._terms]}
        if self._branches != "both":
            plain["branches"] = self._branches
        if self._knobs:
            plain["knobs"] = dict(self._knobs)
        return plain

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms in canonical form, by address, noise level and part."""
        return self._terms

    @property
    def branches(self) -> str:
        """One of `BRANCHES`: in which evaluations the scales act."""
        return self._branches

    @property
    def knobs(self) -> dict[str, float]:
        """The numbers of the setting that go with it, by name."""
        return dict(self._knobs)

    @property
    def scales_alone(self) -> Schedule:
        """The schedule without its knobs."""
        return Schedule(self._terms, branches=self._branches)

    @property
    def is_baseline(self) -> bool:
        """Whether every skip keeps its scale of 1 at every noise level, and there is no knob."""
        return not self._terms and not self._knobs

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all skips whose scale differs from 1 somewhere, sorted."""
        return tuple(dict.fromkeys(term.address for term in self._terms))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, with floats in hexadecimal: the schedule's identity."""
        return digest(self.to_json())

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of blocks that are scaled somewhere, in the order of `PARTS`."""
        found = {term.part for term in self._terms}
        return tuple(part for part in PARTS if part in found)

    def scale(self, address: str, sigma: float, *, part: str = "both") -> float:
        """Return the factor in one part at noise level `sigma`, where the schedule acts at all."""
        for term in self._terms:
            if (term.address, term.part) == (address, part) and term.low <= sigma < term.high:
                return term.scale
        return 1.0

    def acts(self, sigma: float) -> bool:
        """Return whether any scale differs from 1 at noise level `sigma`."""
        return any(term.low <= sigma < term.high for term in self._terms)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        branches = "" if self._branches == "both" else f", branches={self._branches!r}"
        knobs = f", knobs={self.knobs!r}" if self._knobs else ""
        return f"Schedule({list(self._terms)!r}{branches}{knobs})"

    @property
    def _identity(self) -> tuple[object, ...]:
        return self._terms, self._branches, self._knobs


def _knob_problems(knobs: Any) -> list[Problem]:
    if not isinstance(knobs, Mapping):
        return [Problem("schedule: knobs", "an object", _show(knobs))]
    known = f"a knob among {', '.join(KNOBS)}"
    problems = [
        Problem(f"schedule: knobs.{name}", known, _show(value))
        for name, value in knobs.items()
        if name not in KNOBS
    ]
    for name, value in knobs.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            problems.append(
                Problem(f"schedule: knobs.{name}", "a finite number above 0", _show(value))
            )
    return problems


def _branches_problem(branches: Any) -> Problem | None:
    if branches in BRANCHES:
        return None
    return Problem("schedule: branches", f"one of {', '.join(BRANCHES)}", _show(branches))


def _canonical_terms(terms: Iterable[Term]) -> tuple[Term, ...]:
    # Adding 0.0 makes floats of ints and 0.0 of -0.0.
    plain = (
        replace(term, scale=term.scale + 0.0, low=term.low + 0.0, high=term.high + 0.0)
        for term in terms
    )
    ordered = sorted(
        (term for term in plain if term.low < term.high),
        key=lambda term: (term.address, term.part, term.low, term.high),
    )
    problems = [
        Problem(
            f"schedule: {one.address}",
            "windows that do not overlap",
            f"{one.low!r}..{one.high!r} and {two.low!r}..{two.high!r}",
        )
        for one, two in pairwise(ordered)
        if _place(one) == _place(two) and two.low < one.high
    ]
    if problems:
        raise SpecError.of(problems, hint=_HINT)
    joined: list[Term] = []
    for term in ordered:
        if term.scale == 1:
            continue
        last = joined[-1] if joined else None
        if last and (*_place(last), last.scale, last.high) == (
            *_place(term),
            term.scale,
            term.low,
        ):
            joined[-1] = replace(last, high=term.high)
        else:
            joined.append(term)
    return tuple(sorted(joined, key=lambda term: (term.address, term.low, term.part)))


def _place(term: Term) -> tuple[str, str]:
    return term.address, term.part


def _entry(term: Term) -> dict[str, Any]:
    entry: dict[str, Any] = {"address": term.address, "scale": term.scale}
    if term.low > 0:
        entry["low"] = term.low
    if term.high < math.inf:
        entry["high"] = term.high
    if term.part != "both":
        entry["part"] = term.part
    return entry


def _term(entry: Mapping[str, Any]) -> Term:
    low, high = entry.get("low", 0.0), entry.get("high", math.inf)
    part = entry.get("part", "both")
    return Term(entry["address"], float(entry["scale"]), float(low), float(high), part)


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
    for key in _NUMBERS:
        if key not in entry and key != "scale":
            continue
        number = entry.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float):
            problems.append(Problem(f"{where}.{key}", "a number", _show(number)))
    return problems


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
