"""Schedules in other spaces: exactly where they lie there, else as near as brute force comes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.errors import SpecError
from skiptune.sampling.schedule import Schedule, Term
from skiptune.search.mapping import Carried, carried
from skiptune.search.space import Space
from tests.search.test_space import GRID, SKIPS, make_skips, make_space, spaces_with_params

HERE = tuple(skip.address for skip in SKIPS)


def into(
    schedule: Schedule,
    space: Space,
    *,
    skips: tuple[str, ...] = HERE,
    params: dict[str, float] | None = None,
) -> Carried:
    here = tuple(skip.address for skip in make_skips()) if space.skips is SKIPS else HERE
    return carried(schedule, skips=skips, params=params or {}, space=space, here=here)


def test_scales_that_differ_in_their_last_bit_stay_apart() -> None:
    space = Space("per-resolution", 1.0, 70.0, SKIPS, (80.0, 0.002))
    params = {name: 69.57854622035771 for name in space.scale_names}
    params[space.scale_names[-1]] = math.nextafter(69.57854622035771, 0.0)
    schedule = space.schedule(params)
    here = tuple(skip.address for skip in SKIPS)
    found = carried(schedule, skips=here, params={}, space=space, here=here)
    assert space.schedule(found.params) == schedule


def test_a_scale_one_bit_off_1_is_a_scale() -> None:
    space = Space("uniform", 0.5, 2.0, SKIPS, (80.0, 0.002))
    params = {name: math.nextafter(1.0, 0.0) for name in space.scale_names}
    schedule = space.schedule(params)
    found = carried(schedule, skips=HERE, params={}, space=space, here=HERE)
    assert (space.schedule(found.params), found.notes) == (schedule, ())


def test_a_scale_one_bit_off_1_is_that_of_its_own_skip_alone() -> None:
    space = make_space()
    schedule = Schedule.uniform({HERE[2]: math.nextafter(1.0, 0.0)})
    found = into(schedule, space)
    assert (space.schedule(found.params), found.notes) == (schedule, ())


@pytest.mark.parametrize("low, high", [(0.5, 0.9), (1.1, 2.0)])
@pytest.mark.parametrize("kind", ["uniform", "linear", "per-resolution", "per-skip"])
def test_a_range_without_1_takes_schedules_over(kind: str, low: float, high: float) -> None:
    space = make_space(kind, low=low, high=high)
    names = space.scale_names
    params = {name: low + 0.1 + 0.1 * place / len(names) for place, name in enumerate(names)}
    schedule = space.schedule(params)
    found = into(schedule, space)
    assert (space.schedule(found.params), found.notes) == (schedule, ())


@pytest.mark.parametrize("low, high", [(0.5, 0.9), (1.1, 2.0)])
@pytest.mark.parametrize("window", [None, (1, 3), "search"])
def test_untouched_skips_come_to_the_nearer_end_of_a_range_without_1(
    low: float, high: float, window: str | tuple[int, int] | None
) -> None:
    made = make_space(window=None if window is None else (1, 3), skips=SKIPS[:1])
    schedule = made.schedule({made.scale_names[0]: 0.8 if high < 1 else 1.3})
    space = make_space(low=low, high=high, window=window)
    found = into(schedule, space)
    near = high if high < 1 else low
    scales = [space.schedule(found.params).scale(address, 0.5) for address in HERE]
    assert scales == [0.8 if high < 1 else 1.3] + [near] * 8
    assert found.notes == (f"clipped to {low} to {high}: {', '.join(HERE[1:])}",)


@pytest.mark.parametrize("low, high", [(0.5, 0.9), (1.1, 2.0)])
@pytest.mark.parametrize("share", [1.0, 0.99])  # of the border, where the schedule ends
def test_an_interval_without_scales_comes_to_the_nearer_end_of_a_range_without_1(
    low: float, high: float, share: float
) -> None:
    space = make_space("uniform", low=low, high=high, intervals=2)
    ((_, _), (_, border)) = space.interval_bounds
    found = into(Schedule.uniform(dict.fromkeys(HERE, 1.2), high=share * border), space)
    near = high if high < 1 else low
    last = min(1.2, high)
    assert found.params == {"all@0": near, "all@1": last}
    assert space.schedule(found.params).scale(HERE[0], GRID[0]) == near
    assert found.notes == (f"clipped to {low} to {high}: {', '.join(HERE)}",)


def squares(space: Space, params: dict[str, float], wanted: np.ndarray) -> float:
    made = space.schedule({**space.baseline_params(), **params})
    logs = [math.log(made.scale(skip.address, 1.0)) for skip in space.skips]
    return float(np.square(np.array(logs) - wanted).sum())


@settings(max_examples=40, deadline=None)
@given(spaces_with_params())
def test_a_schedule_of_the_space_itself_is_carried_to_the_last_bit(
    case: tuple[Space, dict[str, float]],
) -> None:
    space, params = case
    schedule = space.schedule(params)
    here = tuple(skip.address for skip in space.skips)
    if schedule.is_baseline:
        with pytest.raises(SpecError, match="the untouched network"):
            carried(schedule, skips=here, params={}, space=space, here=here)
        return
    found = carried(schedule, skips=here, params=params, space=space, here=here)
    assert found == Carried({name: params[name] for name in space.baseline_params()})
    # Without the parameters, from the scales alone, it is the same schedule.
    again = carried(schedule, skips=here, params={}, space=space, here=here)
    made = space.schedule(again.params)
    for skip, sigma in itertools.product(space.skips, space.sigmas):
        ours, theirs = (one.scale(skip.address, sigma) for one in (made, schedule))
        assert ours == pytest.approx(theirs, rel=1e-6)
    if space.kind != "linear":
        assert made == schedule
    assert again.notes == ()


@pytest.mark.parametrize("kind", ["uniform", "linear", "per-resolution"])
@settings(max_examples=4, deadline=None)
@given(st.lists(st.floats(0.4, 2.4), min_size=9, max_size=9))
def test_a_smaller_space_takes_the_best_that_it_has(kind: str, scales: list[float]) -> None:
    """No neighbour of the fit and no point of a grid is nearer in log scale."""
    space = make_space(kind)
    schedule = Schedule.uniform(dict(zip(HERE, scales, strict=True)))
    if schedule.is_baseline:
        return
    found = into(schedule, space)
    wanted = np.log(scales)
    least = squares(space, found.params, wanted)
    grid = np.exp(np.linspace(math.log(0.5), math.log(2.0), 7))
    for values in itertools.product(grid, repeat=len(space.scale_names)):
        point = dict(zip(space.scale_names, (float(v) for v in values), strict=True))
        assert squares(space, point, wanted) >= least - 1e-9
    for name, way in itertools.product(space.scale_names, (0.999, 1.001)):
        near = min(max(found.params[name] * way, 0.5), 2.0)
        assert squares(space, {**found.params, name: near}, wanted) >= least - 1e-9


def test_uniform_is_the_geometric_mean_and_says_what_is_left_over() -> None:
    scales = dict(zip(HERE, [0.8] * 4 + [1.25] * 5, strict=True))
    found = into(Schedule.uniform(scales), make_space("uniform"))
    assert found.params == {"all": pytest.approx((0.8**4 * 1.25**5) ** (1 / 9))}
    (note,) = found.notes
    logs = np.log([*scales.values()])
    assert note == f"fitted to a uniform space, {logs.std():.3f} of log scale left over"


def test_values_are_clipped_to_the_range_and_it_is_said() -> None:
    schedule = Schedule.uniform({"8x8_block0": 0.4, "8x8_block1": 0.9, "32x32_block2": 3.0})
    found = into(schedule, make_space())
    assert found.params["skip/8x8_block0"] == 0.5
    assert found.params["skip/8x8_block1"] == 0.9
    assert found.params["skip/32x32_block2"] == 2.0
    assert found.params["skip/16x16_block0"] == 1.0
    assert found.notes == ("clipped to 0.5 to 2.0: 8x8_block0, 32x32_block2",)


def test_a_dropped_skip_comes_to_the_end_of_the_range() -> None:
    found = into(Schedule.uniform({"8x8_block0": 0.0, "8x8_block1": 0.9}), make_space())
    assert found.params["skip/8x8_block0"] == 0.5
    assert found.notes == ("8x8_block0 is 0, which no space has: 0.5",)


def test_another_network_is_read_by_relative_depth() -> None:
    # Three skips at 0, 1/2, 1; nine of them at i / 8.
    theirs = ("4x4_block0", "8x8_block0", "16x16_block0")
    schedule = Schedule.uniform(dict(zip(theirs, (0.64, 1.0, 1.44), strict=True)))
    found = into(schedule, make_space(), skips=theirs)
    scales = [found.params[f"skip/{address}"] for address in HERE]
    expected = [0.64 ** (1 - i / 4) for i in range(4)] + [1.44 ** (i / 4) for i in range(5)]
    assert scales == pytest.approx(expected)
    assert found.notes == ("mapped by relative depth from 3 skips to 9",)
    # There and back again is the same, because the nine hold the three.
    back = carried(
        make_space().schedule(found.params),
        skips=HERE,
        params=found.params,
        space=make_space(skips=make_skips((4, 8, 16))),
        here=theirs,
    )
    assert [*back.params.values()] == pytest.approx([0.64, 1.0, 1.44])


def test_a_network_of_one_skip_gives_its_scale_to_all() -> None:
    schedule = Schedule.uniform({"8x8_block7": 0.9})
    found = into(schedule, make_space(), skips=("8x8_block7",))
    assert [*found.params.values()] == pytest.approx([0.9] * 9)


def test_a_window_is_kept_where_the_space_has_the_same() -> None:
    fixed = make_space(window=(1, 3))
    searched = make_space(window="search")
    schedule = fixed.schedule(dict.fromkeys(fixed.scale_names, 0.8))
    assert into(schedule, fixed).notes == ()
    found = into(schedule, searched)
    assert searched.schedule(found.params) == schedule and found.notes == ()
    assert (found.params["window/first"], found.params["window/length"]) == (1, 3)


def test_a_window_that_the_space_does_not_have_is_dropped_and_it_is_said() -> None:
    windowed = make_space(window=(1, 3))
    schedule = windowed.schedule(dict.fromkeys(windowed.scale_names, 0.8))
    for window, points in ((None, "0-5"), ((0, 0), "0")):
        found = into(schedule, make_space(window=window))
        assert set(found.params.values()) == {0.8}
        (note,) = found.notes
        word = "points" if "-" in points else "point"
        assert note == (
            f"its window (grid points 1-3) is dropped: scales act at grid {word} {points}"
        )


def test_scales_that_differ_between_noise_levels_are_averaged() -> None:
    middle = math.sqrt(GRID[2] * GRID[3])
    terms = [Term("8x8_block0", 0.64, middle, math.inf), Term("8x8_block0", 0.81, 0.0, middle)]
    found = into(Schedule(terms), make_space())
    assert found.params["skip/8x8_block0"] == pytest.approx(0.72)
    assert found.notes == ("scales that differ between noise levels are averaged",)


def test_skips_that_the_space_does_not_search_are_named() -> None:
    space = make_space(skips=SKIPS[3:])
    schedule = Schedule.uniform({"8x8_block0": 0.8, "16x16_block0": 0.9})
    found = carried(schedule, skips=HERE, params={}, space=space, here=HERE)
    assert found.params["skip/16x16_block0"] == 0.9
    assert found.notes == ("not in this space: 8x8_block0",)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.baseline(), "acts at a noise level of this study"),
        (Schedule.uniform({"8x8_block0": 0.8}), "scales a skip of this space"),
        (Schedule.uniform({"16x16_block0": 0.8}, low=1e6), "acts at a noise level of this study"),
        (Schedule.uniform({"16x16_block0": 0.8}, part="shortcut"), "scales a skip of this space"),
    ],
)
def test_a_schedule_of_which_the_space_holds_nothing_is_refused(
    schedule: Schedule, expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        carried(schedule, skips=HERE, params={}, space=make_space(skips=SKIPS[3:]), here=HERE)
