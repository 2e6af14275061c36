"""One schedule carried over into a space: exactly where it lies in it, else as near as can be.

A schedule of the same network keeps its scales. One of another network is read by relative depth:
the skip at place i of n lies at i / (n - 1), and between two of them the logarithm of the scale is
a straight line. What comes of that is fitted to the space's parameters by least squares over the
skips in log scale, within the range of the space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import SpecError
from skiptune.sampling.schedule import Schedule, place_name
from skiptune.search.document import shown
from skiptune.search.space import WINDOW_FIRST, WINDOW_LENGTH, Space

__all__ = ["Carried", "carried"]

Array = NDArray[np.float64]
Place = tuple[str, str]  # address and part

_SAME = 1e-9  # logarithms that differ by less are one scale
_EXACT = 1e-6  # a fit that leaves no more than this in any log scale has left nothing
_ROUNDS = 200  # over all parameters; two of them, coupled as in `linear`, take about 40


@dataclass(frozen=True)
class Carried:
    """A schedule in a space.

    Arguments:
        params: One value for each parameter of the space.
        notes: What was lost on the way, one clause each.
    """

    params: dict[str, float]
    notes: tuple[str, ...] = ()


def carried(
    schedule: Schedule,
    *,
    skips: Sequence[str],
    params: Mapping[str, float],
    space: Space,
    here: Sequence[str],
) -> Carried:
    """Return the nearest that a space has to a schedule.

    Arguments:
        schedule: Of any network.
        skips: Addresses of all skips of its network, deepest first.
        params: What it was made from in the space that it was found in; may be empty.
        space: Where it is carried to.
        here: Addresses of all skips of that space's network, deepest first.

    Raises:
        SpecError: The space holds nothing of it; without a hint that would help.
    """
    if list(skips) == list(here) and _is_itself(schedule, params, space):
        return Carried({name: params[name] for name in space.baseline_params()})
    if space.intervals > 1:
        return _by_interval(schedule, skips=skips, space=space, here=here)
    notes: list[str] = []
    window = _points(space)
    acting = tuple(k for k, sigma in enumerate(space.sigmas) if schedule.acts(sigma))
    if not acting:
        raise _nothing("a schedule that acts at a noise level of this study", schedule)
    whole = _nearest_to_untouched(space)
    if space.window == "search" and acting == tuple(range(acting[0], acting[-1] + 1)):
        whole |= {WINDOW_FIRST: acting[0], WINDOW_LENGTH: len(acting)}
        window = acting
    if acting != window:
        notes.append(f"its window ({_named(acting)}) is dropped: scales act at {_named(window)}")
    if schedule.branches != space.branches:
        notes.append(f"it acted in {schedule.branches} of guidance, here in {space.branches}")
    places = _places(space)
    found = _logs(schedule, [space.sigmas[k] for k in acting], notes, least=space.low)
    if list(skips) != list(here):
        found = _by_depth(found, skips, here)
        notes.append(f"mapped by relative depth from {len(skips)} skips to {len(here)}")
    lost = [place for place, log in found.items() if place not in places and abs(log) > _SAME]
    if lost:
        names = ", ".join(place_name(*place) for place in lost)
        notes.append(f"not in this space: {names}")
    if schedule.knobs:
        notes.append(f"its setting is not taken over: {', '.join(schedule.knobs)}")
    wanted = np.array([found.get(place, 0.0) for place in places])
    if not np.any(wanted):
        raise _nothing("a schedule that scales a skip of this space", schedule)
    logs = _fitted(space, places, wanted, whole, notes)
    ends = (1.0, space.low, space.high)
    others = [term.scale for term in schedule.terms if term.scale > 0]
    values = [
        _snapped(float(np.exp(log)), _digits(schedule, space, name), ends, others)
        for name, log in zip(space.scale_names, logs, strict=True)
    ]
    return Carried({**whole, **dict(zip(space.scale_names, values, strict=True))}, tuple(notes))


def _by_interval(
    schedule: Schedule, *, skips: Sequence[str], space: Space, here: Sequence[str]
) -> Carried:
    """Carry what acts in each interval of noise levels over into the interval's own scales."""
    found: list[dict[str, float]] = []
    notes: list[str] = []
    refusals: list[SpecError] = []
    for one in space.within:
        low, high = one.window_at(one.baseline_params())
        clipped = [
            replace(term, low=max(term.low, low), high=min(term.high, high))
            for term in schedule.terms
            if term.low < high and low < term.high
        ]
        here_alone = Schedule(clipped, branches=schedule.branches, knobs=schedule.knobs)
        try:
            own = carried(here_alone, skips=skips, params={}, space=one, here=here)
        except SpecError as refusal:
            refusals.append(refusal)
            own = _untouched(one)
        found.append(own.params)
        notes += own.notes
    if len(refusals) == len(space.within):
        raise refusals[0]
    params = {**space.baseline_params(), **space.joined(found)}
    return Carried(params, tuple(dict.fromkeys(notes)))


def _untouched(space: Space) -> Carried:
    """Carry the untouched network over: a range without 1 has only its nearer end."""
    places = _places(space)
    return Carried(
        _nearest_to_untouched(space), tuple(_clipped(space, places, np.zeros(len(places))))
    )


def _nearest_to_untouched(space: Space) -> dict[str, float]:
    nearest = min(max(1.0, space.low), space.high)
    return space.baseline_params() | dict.fromkeys(space.scale_names, nearest)


def _is_itself(schedule: Schedule, params: Mapping[str, float], space: Space) -> bool:
    """Return whether parameters mean a schedule in this space too."""
    if params.keys() != space.baseline_params().keys():
        return False
    try:
        return space.schedule(params) == schedule
    except SpecError:
        return False  # out of its range


def _fitted(
    space: Space, places: Sequence[Place], wanted: Array, whole: dict[str, float], notes: list[str]
) -> Array:
    """Return the logarithms of the parameters whose scales are nearest to those wanted.

    Minimises the sum of squares over the places within the range, one parameter at a time: for
    all kinds but linear each place hangs on one parameter, and one round is the answer.

    Arguments:
        space: Whose parameters.
        places: What they scale.
        wanted: float64 [places], logarithms.
        whole: All parameters, with the window as it shall be.
        notes: What was lost so far.
    """
    low, high = math.log(space.low), math.log(space.high)
    names = space.scale_names

    def scaled(logs: Array) -> Array:
        values = np.exp(np.clip(logs, low, high))
        plain = {name: float(value) for name, value in zip(names, values, strict=True)}
        made = space.schedule({**whole, **plain})
        at = _acting_at(space, whole)
        return np.log([made.scale(address, at, part=part) for address, part in places])

    def cost(logs: Array) -> float:
        return float(np.square(scaled(logs) - wanted).sum())

    logs, nudge = np.clip(np.zeros(len(names)), low, high), 1e-4
    here = cost(logs)
    for _ in range(_ROUNDS):
        before = logs.copy()
        for k in range(len(names)):
            step = np.zeros(len(names))
            # Inwards, so that the difference is not clipped away.
            step[k] = -nudge if logs[k] + nudge > high else nudge
            slope = (scaled(logs + step) - scaled(logs)) / step[k]
            if not np.any(slope):
                continue
            ideal = logs[k] + float(slope @ (wanted - scaled(logs)) / (slope @ slope))
            target = min(max(ideal, low), high)
            for _ in range(30):
                trial = logs.copy()
                trial[k] = target
                if (value := cost(trial)) <= here:
                    logs, here = trial, value
                    break
                target = (target + logs[k]) / 2
        if float(np.abs(logs - before).max()) < 1e-12:
            break
    notes += _clipped(space, places, wanted)
    left = scaled(logs) - np.clip(wanted, low, high)
    if float(np.abs(left).max()) > _EXACT:
        rest = math.sqrt(float(np.square(left).mean()))
        notes.append(f"fitted to a {space.kind} space, {rest:.3f} of log scale left over")
    return logs


def _clipped(space: Space, places: Sequence[Place], wanted: Array) -> Iterator[str]:
    """Yield what is lost to the ends of a space's range, one clause."""
    low, high = math.log(space.low), math.log(space.high)
    clipped = [
        place_name(*place)
        for place, log in zip(places, wanted, strict=True)
        if not low - _SAME <= log <= high + _SAME
    ]
    if clipped:
        yield f"clipped to {shown(space.low)} to {shown(space.high)}: {', '.join(clipped)}"


def _digits(schedule: Schedule, space: Space, name: str) -> list[float]:
    """Return the scales that a schedule has where a parameter acts."""
    rest = _nearest_to_untouched(space)
    ends = (space.schedule({**rest, name: value}).terms for value in (space.low, space.high))
    own = {(term.address, term.part) for term in set.symmetric_difference(*map(set, ends))}
    return [
        term.scale
        for term in schedule.terms
        if term.scale > 0 and (term.address, term.part) in own
    ]


def _snapped(value: float, *digits: Sequence[float]) -> float:
    """Return a value with the very digits of one of given numbers, where they mean the same.

    Then the schedule is the same to the last bit, and what is stored of it is used again.

    Arguments:
        value: Above 0.
        digits: Groups of numbers above 0; a later one serves where no earlier one is near.
    """
    for group in digits:
        near = min(group, key=lambda one: abs(math.log(one / value)), default=math.inf)
        if abs(math.log(near / value)) < _SAME:
            return float(near)
    return value


def _logs(
    schedule: Schedule, sigmas: Sequence[float], notes: list[str], *, least: float
) -> dict[Place, float]:
    """Return the logarithm of each place's scale, its mean over noise levels.

    A scale of 0, whose logarithm is none, counts as `least`.
    """
    places = dict.fromkeys((term.address, term.part) for term in schedule.terms)
    found = {}
    varies = False
    for address, part in places:
        scales = [schedule.scale(address, sigma, part=part) for sigma in sigmas]
        varies = varies or len(set(scales)) > 1
        if len(set(scales)) == 1 and scales[0] > 0:
            found[address, part] = math.log(scales[0])
            continue
        if 0.0 in scales:
            notes.append(f"{place_name(address, part)} is 0, which no space has: {shown(least)}")
        found[address, part] = float(np.mean([math.log(scale or least) for scale in scales]))
    if varies:
        notes.append("scales that differ between noise levels are averaged")
    return found


def _by_depth(
    found: Mapping[Place, float], skips: Sequence[str], here: Sequence[str]
) -> dict[Place, float]:
    """Return logarithms at the skips of another network, by relative depth."""
    there, ours = (np.linspace(0, 1, len(names)) for names in (skips, here))
    mapped: dict[Place, float] = {}
    for part in dict.fromkeys(part for _, part in found):
        column = [found.get((address, part), 0.0) for address in skips]
        values = np.interp(ours, there, column)
        mapped |= {(a, part): float(v) for a, v in zip(here, values, strict=True)}
    return mapped


def _places(space: Space) -> list[Place]:
    """Return what a space scales, in the order of its skips."""
    value = space.high if space.high != 1 else space.low
    scaled = space.schedule({**space.baseline_params(), **dict.fromkeys(space.scale_names, value)})
    order = {skip.address: skip.index for skip in space.skips}
    places = dict.fromkeys((term.address, term.part) for term in scaled.terms)
    return sorted(places, key=lambda place: (order[place[0]], place[1]))


def _points(space: Space) -> tuple[int, ...]:
    """Return the grid points at which the scales of a space act, all where that is searched."""
    if isinstance(space.window, tuple):
        first, last = space.window
        return tuple(range(first, last + 1))
    return tuple(range(len(space.sigmas)))


def _acting_at(space: Space, params: Mapping[str, float]) -> float:
    """Return a noise level at which the scales of parameters act."""
    low, high = space.window_at(params)
    return next(sigma for sigma in space.sigmas if low <= sigma < high)


def _named(points: Sequence[int]) -> str:
    return "grid " + ("point " if len(points) == 1 else "points ") + ", ".join(_runs(points))


def _runs(points: Sequence[int]) -> Iterator[str]:
    """Yield `0-2`, `4` for 0, 1, 2, 4."""
    start = last = points[0]
    for point in (*points[1:], None):
        if point == last + 1:
            last = point
            continue
        yield f"{start}-{last}" if last > start else f"{start}"
        if point is not None:
            start = last = point


def _nothing(expected: str, schedule: Schedule) -> SpecError:
    names = dict.fromkeys(place_name(term.address, term.part) for term in schedule.terms)
    found = f"one that scales {', '.join(names)}" if names else "the untouched network"
    return SpecError("schedule", expected=expected, found=found, hint="choose another one")
