"""Spaces of several noise intervals, against one plain space per interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from skiptune.errors import SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.search.mapping import carried
from skiptune.search.slope_map import Slopes
from skiptune.search.space import Space
from skiptune.search.space_section import SPACE_PARTS, SPACES, SpaceSpec
from tests.search.test_space import GRID, SKIPS, make_space

HERE = tuple(skip.address for skip in SKIPS)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Space, dict[str, float]]:
    first = draw(st.integers(0, 4))
    last = draw(st.integers(first + 1, 5))
    space = make_space(
        draw(st.sampled_from(SPACES)),
        window=draw(st.sampled_from([None, (first, last)])),
        intervals=draw(st.integers(2, last - first + 1)),
        part=draw(st.sampled_from(SPACE_PARTS)),
    )
    scale = st.floats(0.5, 2.0)
    return space, {name: draw(scale) for name in space.scale_names}


@settings(max_examples=40, deadline=None)
@given(cases())
def test_each_interval_is_a_plain_space_of_its_own(case: tuple[Space, dict[str, float]]) -> None:
    space, params = case
    whole = space.schedule(params)
    seen: list[int] = []
    for place, one in enumerate(space.within):
        assert isinstance(one.window, tuple)
        own = {name: params[f"{name}@{place}"] for name in one.scale_names}
        alone = one.schedule(own)
        points = range(one.window[0], one.window[1] + 1)
        seen += points
        for point in points:
            for skip in space.skips:
                for part in space.parts:
                    expected = alone.scale(skip.address, GRID[point], part=part)
                    assert whole.scale(skip.address, GRID[point], part=part) == expected
    # No grid point twice, none between two intervals left out, and nothing beside them.
    assert seen == list(range(seen[0], seen[-1] + 1))
    sizes = [one.window[1] - one.window[0] for one in space.within if type(one.window) is tuple]
    assert max(sizes) - min(sizes) <= 1
    outside = [sigma for point, sigma in enumerate(GRID[:6]) if point not in seen]
    assert not any(whole.acts(sigma) for sigma in outside)
    assert space.joined(space.split(params)) == params


def test_names_and_ranges() -> None:
    space = make_space("linear", intervals=3)
    names = ["bottom@0", "top@0", "bottom@1", "top@1", "bottom@2", "top@2"]
    assert list(space.scale_names) == names
    assert space.distributions() == dict.fromkeys(names, FloatDistribution(0.5, 2.0, log=True))
    assert space.schedule(space.baseline_params()).is_baseline
    assert space.edges({**space.baseline_params(), "top@2": 2.0}) == ("top@2",)


def test_equal_intervals_are_the_schedule_without_any() -> None:
    scales = {f"skip/{address}": 0.9 for address in HERE}
    plain = make_space().schedule(scales)
    assert make_space(intervals=6).schedule(
        {f"{name}@{place}": value for name, value in scales.items() for place in range(6)}
    ) == plain  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_slopes_along_are_the_derivative(case: tuple[Space, dict[str, float]], seed: int) -> None:
    """Of a function that is linear in the log scale of every skip, part and level."""
    space, params = case
    levels = tuple(float(sigma) for sigma in GRID[:6])
    places = [(part, skip) for part in space.parts for skip in SKIPS]
    weights = np.random.default_rng(seed).standard_normal((len(places), 6))
    found, _ = Slopes(np.stack([weights, weights]), levels, 6.0).along(space, params)

    def value(schedule: Schedule) -> float:
        logs = [
            [math.log(schedule.scale(skip.address, level, part=part)) for level in levels]
            for part, skip in places
        ]
        return float(np.sum(weights * np.array(logs)))

    for name, slope in zip(space.scale_names, found, strict=True):
        ends = []
        for sign in (1, -1):
            moved = min(max(params[name] * math.exp(sign * 1e-5), 0.5), 2.0)
            ends.append((math.log(moved), value(space.schedule({**params, name: moved}))))
        (log_up, up), (log_down, down) = ends
        assert slope == pytest.approx((up - down) / (log_up - log_down), rel=1e-3, abs=1e-3)


def test_a_schedule_is_carried_over_interval_by_interval() -> None:
    space = make_space(intervals=2)
    params = {name: 0.8 + 0.02 * place for place, name in enumerate(space.scale_names)}
    schedule = space.schedule(params)
    again = carried(schedule, skips=HERE, params={}, space=space, here=HERE)
    assert space.schedule(again.params) == schedule
    # What acts everywhere acts in each; what acts in one leaves the other untouched.
    plain = Schedule.uniform(dict.fromkeys(HERE, 0.9))
    assert space.schedule(
        carried(plain, skips=HERE, params={}, space=space, here=HERE).params
    ) == plain  # fmt: skip
    late = Schedule.uniform(dict.fromkeys(HERE, 0.9), high=GRID[3] * 1.01)
    found = carried(late, skips=HERE, params={}, space=space, here=HERE).params
    assert {found[name] for name in space.scale_names} == {1.0, 0.9}
    with pytest.raises(SpecError):
        carried(Schedule.baseline(), skips=HERE, params={}, space=space, here=HERE)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"intervals": 7}, "1 to 6"),
        ({"intervals": 3, "window": (1, 2)}, "1 to 2"),
        ({"intervals": 0}, "1 to 6"),
        ({"intervals": 2, "window": "search"}, "1, because space.window"),
    ],
    ids=str,
)
def test_intervals_that_make_no_sense_are_refused(parts: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError, match=r"space\.intervals") as refused:
        make_space(**parts)  # type: ignore[arg-type]
    assert refused.value.problems[0].expected.startswith(expected)


def test_a_spec_is_taken_over_and_says_nothing_of_one_interval() -> None:
    assert "intervals" not in SpaceSpec().model_dump(mode="json")
    spec = SpaceSpec(intervals=2)
    assert spec.model_dump(mode="json")["intervals"] == 2
    assert Space.of(spec, SKIPS, GRID).intervals == 2
    with pytest.raises(ValueError, match=r"space\.window"):
        SpaceSpec(intervals=2, window="search")


@pytest.mark.parametrize(
    ("window", "hint"),
    [
        (None, "or up to 6 intervals: -s space.intervals=6"),
        ((1, 3), "or up to 3 intervals: -s space.intervals=3"),
        ("search", "one scale for all noise levels: -s space.intervals=1"),
    ],
)
def test_too_many_intervals_say_how_many_there_may_be(window: Any, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_space("per-skip", window=window, intervals=7)
    assert caught.value.hint.endswith(hint)
    assert "-s space.intervals=1" in caught.value.hint
