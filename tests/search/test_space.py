from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from skiptune.errors import SpecError
from skiptune.sampling.schedule import BRANCHES, PARTS, Schedule
from skiptune.sampling.setting import GRIDS, Setting, sigmas
from skiptune.sampling.skips import Skip
from skiptune.search.space import EDGE, Space
from skiptune.search.space_section import SPACE_PARTS, SPACES, SpaceSpec

GRID = sigmas(Setting(steps=6))


def make_skips(
    resolutions: tuple[int, ...] = (8, 8, 8, 16, 16, 16, 32, 32, 32),
) -> tuple[Skip, ...]:
    """Return skips as a network has them: deepest first, numbered within their resolution."""
    return tuple(
        Skip(
            address=f"{res}x{res}_block{resolutions[:index].count(res)}",
            index=index,
            resolution=res,
            main_channels=64,
            skip_channels=32,
            groups=24,
            mixed=False,
        )
        for index, res in enumerate(resolutions)
    )


SKIPS = make_skips()


def make_space(
    kind: str = "per-skip", *, low: float = 0.5, high: float = 2.0, **parts: object
) -> Space:
    values: dict[str, object] = {"skips": SKIPS, "sigmas": GRID, "window": None, **parts}
    return Space(kind=kind, low=low, high=high, **values)  # type: ignore[arg-type]


@st.composite
def spaces(draw: st.DrawFn, window: bool = True, decoupled: bool = True) -> Space:
    kind = draw(st.sampled_from(SPACES))
    fewest = 2 if kind == "linear" else 1
    counts = draw(st.lists(st.integers(1, 3), min_size=fewest, max_size=4))
    resolutions = tuple(4 * 2**level for level, count in enumerate(counts) for _ in range(count))
    setting = Setting(steps=draw(st.integers(2, 12)), grid=draw(st.sampled_from(GRIDS)))
    first = draw(st.integers(0, setting.steps - 1))
    last = draw(st.integers(first, setting.steps - 1))
    return make_space(
        kind,
        low=draw(st.floats(0.01, 1.0)),
        high=draw(st.floats(1.01, 100.0)),
        skips=make_skips(resolutions),
        sigmas=sigmas(setting),
        window=draw(st.sampled_from([None, "search", (first, last)])) if window else None,
        part=draw(st.sampled_from(SPACE_PARTS if decoupled else PARTS)),
    )


@st.composite
def spaces_with_params(draw: st.DrawFn) -> tuple[Space, dict[str, float]]:
    space = draw(spaces())
    params: dict[str, float] = {}
    for name, distribution in space.distributions().items():
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = distribution.low, distribution.high
        if isinstance(distribution, FloatDistribution):
            params[name] = draw(st.floats(low, high))
        else:
            params[name] = draw(st.integers(int(low), int(high)))
    return space, params


def expected_scale(space: Space, params: Mapping[str, float], place: int, part: str) -> float:
    """Return the scale of the skip at a place of the space, from the words of the design."""
    skip = space.skips[place]
    if space.part == "decoupled":
        if part not in ("shortcut", "residual"):
            return 1.0
        own = {k.partition("/")[2]: v for k, v in params.items() if k.startswith(part)}
        params = {f"skip/{k}" if space.kind == "per-skip" else k: v for k, v in own.items()}
    elif part != space.part:
        return 1.0
    if space.kind == "uniform":
        return params["all"]
    if space.kind == "per-resolution":
        return params[f"resolution/{skip.resolution}"]
    if space.kind == "per-skip":
        return params[f"skip/{skip.address}"]
    share = place / (len(space.skips) - 1)
    return params["bottom"] * (1 - share) + params["top"] * share


def acting_points(space: Space, params: Mapping[str, float]) -> set[int]:
    """Return the grid points at which scales should act."""
    points = range(len(space.sigmas))
    if space.window is None:
        return set(points)
    if isinstance(space.window, tuple):
        return set(range(space.window[0], space.window[1] + 1))
    first, length = int(params["window/first"]), int(params["window/length"])
    return {point for point in points if first <= point < first + length}


@given(case=spaces_with_params())
def test_a_schedule_scales_the_wanted_skips_at_the_wanted_grid_points(
    case: tuple[Space, dict[str, float]],
) -> None:
    space, params = case
    schedule = space.schedule(params)
    acting = acting_points(space, params)
    for place, skip in enumerate(space.skips):
        for part in PARTS:
            wanted = expected_scale(space, params, place, part)
            for point, sigma in enumerate(space.sigmas):
                found = schedule.scale(skip.address, sigma, part=part)
                assert found == pytest.approx(wanted if point in acting else 1.0, rel=1e-12)


@given(case=spaces_with_params())
def test_scales_stay_in_the_range(case: tuple[Space, dict[str, float]]) -> None:
    space, params = case
    for term in space.schedule(params).terms:
        # Only interpolation may round; the ends themselves are met exactly.
        assert space.low * (1 - 1e-12) <= term.scale <= space.high * (1 + 1e-12)


@pytest.mark.parametrize("branches", BRANCHES)
def test_all_schedules_act_in_the_branches_of_the_space(branches: str) -> None:
    space = Space.of(SpaceSpec(kind="uniform", branches=branches), SKIPS, GRID)
    assert space.schedule({"all": 0.7}).branches == branches
    assert space.schedule({"all": 1.0}) == Schedule.baseline()
    with pytest.raises(SpecError, match="did you mean `uncond`"):
        make_space(branches="unconditional")


@given(space=spaces())
def test_the_baseline_is_in_every_space(space: Space) -> None:
    params = space.baseline_params()
    assert space.schedule(params) == Schedule.baseline()
    distributions = space.distributions()
    assert set(params) == set(distributions)
    for name, distribution in distributions.items():
        assert distribution._contains(distribution.to_internal_repr(params[name]))


@given(case=spaces_with_params())
def test_the_chain_is_how_log_scales_move(case: tuple[Space, dict[str, float]]) -> None:
    space, params = case
    wide = dataclasses.replace(space, low=space.low / 2, high=space.high * 2)
    at = wide.sigmas[int(params.get("window/first", 0))]
    if isinstance(space.window, tuple):
        at = wide.sigmas[space.window[0]]
    step = 1e-4

    def logs(moved: str, factor: float) -> list[float]:
        schedule = wide.schedule({**params, moved: params[moved] * factor})
        return [
            math.log(schedule.scale(skip.address, at, part=part))
            for part in space.parts
            for skip in space.skips
        ]

    chain = space.chain(params)
    assert chain.shape == (len(space.parts) * len(space.skips), len(space.scale_names))
    for column, name in enumerate(space.scale_names):
        ends = [logs(name, math.exp(sign * step)) for sign in (1, -1)]
        found = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
        assert chain[:, column] == pytest.approx(found, abs=1e-6)


def test_a_decoupled_space_has_every_degree_of_freedom_twice() -> None:
    space = make_space(part="decoupled")
    own = [f"{part}/{skip.address}" for part in ("shortcut", "residual") for skip in SKIPS]
    assert list(space.scale_names) == own
    assert list(make_space("linear", part="decoupled").scale_names) == [
        "shortcut/bottom", "shortcut/top", "residual/bottom", "residual/top",
    ]  # fmt: skip
    assert make_space("per-resolution", part="decoupled").scale_names[2:4] == (
        "shortcut/resolution/32",
        "residual/resolution/8",
    )
    assert make_space(part="shortcut").scale_names == make_space().scale_names
    params = {**space.baseline_params(), own[0]: 0.5}
    assert space.schedule(params) == Schedule.uniform({SKIPS[0].address: 0.5}, part="shortcut")
    assert space.edges(params) == (own[0],)
    with pytest.raises(SpecError, match="did you mean `shortcut`"):
        make_space(part="shortcuts")
    assert Space.of(SpaceSpec(part="residual"), SKIPS, GRID).parts == ("residual",)


@given(space=spaces(window=False, decoupled=False), bottom=st.floats(0, 1), top=st.floats(0, 1))
def test_linear_reaches_both_ends_exactly(space: Space, bottom: float, top: float) -> None:
    if space.kind != "linear":
        return
    at = [space.low * (space.high / space.low) ** share for share in (bottom, top)]
    at = [min(max(value, space.low), space.high) for value in at]
    schedule = space.schedule({"bottom": at[0], "top": at[1]})
    scales = [schedule.scale(skip.address, 1.0, part=space.part) for skip in space.skips]
    assert (scales[0], scales[-1]) == (at[0], at[1])
    assert scales == sorted(scales, reverse=at[0] > at[1])


def test_linear_is_linear_in_the_scale() -> None:
    space = make_space("linear")
    schedule = space.schedule({"bottom": 0.5, "top": 1.5})
    scales = [schedule.scale(skip.address, 1.0) for skip in SKIPS]
    assert scales == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5])


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("uniform", ["all"]),
        ("linear", ["bottom", "top"]),
        ("per-resolution", ["resolution/8", "resolution/16", "resolution/32"]),
        ("per-skip", [f"skip/{skip.address}" for skip in SKIPS]),
    ],
)
def test_parameters_have_their_names_and_log_ranges(kind: str, names: list[str]) -> None:
    distributions = make_space(kind, low=0.25, high=3.0).distributions()
    assert list(distributions) == names
    for distribution in distributions.values():
        assert distribution == FloatDistribution(0.25, 3.0, log=True)
    searched = make_space(kind, window="search").distributions()
    assert list(searched) == [*names, "window/first", "window/length"]
    assert searched["window/first"] == IntDistribution(0, 5)
    assert searched["window/length"] == IntDistribution(1, 6)


@given(steps=st.integers(2, 40), grid=st.sampled_from(GRIDS), data=st.data())
def test_windows_switch_exactly_the_wanted_grid_points(
    steps: int, grid: str, data: st.DataObject
) -> None:
    levels = sigmas(Setting(steps=steps, grid=grid))
    first = data.draw(st.integers(0, steps - 1))
    length = data.draw(st.integers(1, steps))
    space = make_space("uniform", sigmas=levels, window="search")
    schedule = space.schedule({"all": 2.0, "window/first": first, "window/length": length})
    acting = [schedule.scale("8x8_block0", sigma) == 2.0 for sigma in levels[:-1]]
    assert acting == [first <= point < first + length for point in range(steps)]
    last = min(first + length, steps) - 1
    fixed = make_space("uniform", sigmas=levels, window=(first, last))
    assert fixed.schedule({"all": 2.0}) == schedule


def test_windows_are_open_at_the_ends_and_halfway_in_log_sigma_between() -> None:
    space = make_space("uniform", sigmas=(64.0, 16.0, 1.0, 0.0), window="search")

    def bounds(first: int, length: int) -> tuple[float, float]:
        params = {"all": 0.5, "window/first": first, "window/length": length}
        (term, *_) = space.schedule(params).terms
        return term.low, term.high

    assert bounds(0, 3) == (0.0, math.inf)
    assert bounds(0, 1) == (32.0, math.inf)
    assert bounds(1, 1) == (4.0, 32.0)
    assert bounds(2, 1) == (0.0, 4.0)
    assert bounds(1, 3) == (0.0, 32.0)


def test_neighbouring_windows_leave_no_gap() -> None:
    params = [{"all": 0.5, "window/first": point, "window/length": 1} for point in range(6)]
    space = make_space("uniform", window="search")
    terms = [term for p in params for term in space.schedule(p).terms]
    assert Schedule(terms) == Schedule.uniform({skip.address: 0.5 for skip in SKIPS})


def test_a_subset_leaves_the_other_skips_untouched() -> None:
    spec = SpaceSpec(kind="linear", skips=("32x32_block2", "8x8_block1", "16x16_block0"))
    space = Space.of(spec, SKIPS, GRID)
    assert [skip.address for skip in space.skips] == ["8x8_block1", "16x16_block0", "32x32_block2"]
    schedule = space.schedule({"bottom": 0.6, "top": 1.4})
    expected = {"8x8_block1": 0.6, "16x16_block0": 1.0, "32x32_block2": 1.4}
    for skip in SKIPS:
        assert schedule.scale(skip.address, 1.0) == pytest.approx(expected.get(skip.address, 1.0))


def test_a_spec_is_taken_over() -> None:
    space = Space.of(SpaceSpec(), SKIPS, GRID)
    assert (space.kind, space.low, space.high) == ("per-skip", 0.5, 2.0)
    assert space.skips == SKIPS
    assert len(space.sigmas) == 6
    spec = SpaceSpec.model_validate({"window": {"first": 1, "last": 2}})
    assert Space.of(spec, SKIPS, GRID).window == (1, 2)
    assert Space.of(SpaceSpec(window="search"), SKIPS, GRID).window == "search"


def test_unknown_addresses_are_refused_with_the_real_ones() -> None:
    spec = SpaceSpec(skips=("8x8_block0", "8x8_blok1", "64x64_block0"))
    with pytest.raises(SpecError) as caught:
        Space.of(spec, SKIPS, GRID)
    one, two = caught.value.problems
    assert one.where == "space.skips[1]" and two.where == "space.skips[2]"
    assert "did you mean `8x8_block1`?" in one.expected
    for skip in SKIPS:
        assert skip.address in two.expected
    assert two.found == '"64x64_block0"'
    assert "skiptune skips" in caught.value.hint


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"kind": "per-skp"}, "space.kind"),
        ({"low": 0.0}, "space.low, space.high"),
        ({"low": 2.2}, "space.low, space.high"),
        ({"high": 0.4}, "space.low, space.high"),
        ({"low": 1.0, "high": 1.0}, "space.low, space.high"),
        ({"high": math.inf}, "space.low, space.high"),
        ({"low": math.nan}, "space.low, space.high"),
        ({"skips": ()}, "space.skips"),
        ({"kind": "linear", "skips": SKIPS[:1]}, "space.skips"),
        ({"sigmas": (1.0, 2.0)}, "setting"),
        ({"window": "find"}, "space.window"),
        ({"window": (2, 1)}, "space.window"),
        ({"window": (0, 6)}, "space.window"),
        ({"window": (-1, 2)}, "space.window"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(parts: dict[str, object], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_space(**parts)  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert problem.where == where
    assert problem.expected and problem.found


@pytest.mark.parametrize(("low", "high"), [(1.05, 1.3), (0.7, 0.95)])
@pytest.mark.parametrize("kind", SPACES)
def test_a_range_without_1_leaves_the_baseline_out_and_knows_it(
    kind: str, low: float, high: float
) -> None:
    space = make_space(kind, low=low, high=high)
    assert space.leaves_out_baseline and not make_space(kind).leaves_out_baseline
    assert not make_space(kind, low=1.0).leaves_out_baseline
    params = space.baseline_params()
    assert space.schedule(params).is_baseline
    assert space.chain(params) == pytest.approx(make_space(kind).chain(params))
    assert space.window_at(params) == (0.0, math.inf)
    # All scales at once, or none: a single 1 is out of the range.
    some = {**params, space.scale_names[0]: high}
    if len(some) > 1:
        with pytest.raises(SpecError):
            space.schedule(some)
    assert not space.schedule(dict.fromkeys(params, high)).is_baseline


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ({"all": None}, "params: all", "a number from 0.5 to 2.0"),
        ({"all": 0.4}, "params: all", "a number from 0.5 to 2.0"),
        ({"all": 2.1}, "params: all", "a number from 0.5 to 2.0"),
        ({"all": math.nan}, "params: all", "a number from 0.5 to 2.0"),
        ({"al": 1.0}, "params: al", "did you mean `all`?"),
        ({"window/first": 6}, "params: window/first", "a whole number from 0 to 5"),
        ({"window/first": 1.5}, "params: window/first", "a whole number from 0 to 5"),
        ({"window/length": 0}, "params: window/length", "a whole number from 1 to 6"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    change: dict[str, float | None], where: str, expected: str
) -> None:
    space = make_space("uniform", window="search")
    changed = {**space.baseline_params(), **change}
    params = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(SpecError) as caught:
        space.schedule(params)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert expected in problem.expected


def test_rounding_at_an_end_is_forgiven() -> None:
    space = make_space("uniform")
    schedule = space.schedule({"all": math.nextafter(2.0, 3)})
    assert schedule.scale("8x8_block0", 1.0) == 2.0


@given(share=st.floats(0, 1), low=st.floats(0.01, 0.9), high=st.floats(1.1, 100))
def test_edges_are_the_outer_two_percent_of_the_log_range(
    share: float, low: float, high: float
) -> None:
    if min(abs(share - EDGE), abs(share - 1 + EDGE)) < 1e-9:
        return
    space = make_space("uniform", low=low, high=high)
    value = min(max(low * (high / low) ** share, low), high)
    touches = share < EDGE or share > 1 - EDGE
    assert space.edges({"all": value}) == (("all",) if touches else ())


def test_edges_name_scales_and_no_windows() -> None:
    space = make_space("linear", window="search")
    params = {"bottom": 0.5, "top": 1.0, "window/first": 0, "window/length": 6}
    assert space.edges(params) == ("bottom",)
    assert space.edges({**params, "top": 1.99}) == ("bottom", "top")


def test_optuna_asks_within_the_space() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = make_space("per-resolution", window="search")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    for _ in range(12):
        trial = study.ask(fixed_distributions=space.distributions())
        schedule = space.schedule(trial.params)
        study.tell(trial, sum(term.scale for term in schedule.terms))
    study.add_trial(
        optuna.trial.create_trial(
            params=space.baseline_params(), distributions=space.distributions(), value=0.0
        )
    )
    assert space.schedule(study.trials[-1].params).is_baseline
