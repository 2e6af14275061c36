"""Figures of schedules and slopes that no tiny study has: windows, parts, many skips."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from skiptune.sampling.schedule import Schedule, Term
from skiptune.search.explanation import Explanation
from skiptune.search.incumbents import Step
from skiptune.search.line_slice import Point
from skiptune.search.overview import Leader, Other, Overview
from skiptune.search.result import Measured
from skiptune.search.sensitivities import How, Sensitivities, Sensitivity, from_slopes
from skiptune.search.slope_map import Slopes
from skiptune.storage.records import Spending
from skiptune.views.dashboard.figures import (
    MOST_LEVELS,
    MOST_POINTS,
    MOST_SKIPS,
    PREFIX,
    figures,
)

LARGEST = 64_000  # bytes of a figure, whatever there is to show
BASE = Measured("baseline", 1000, 6.0, 10.0, 0.5)
SKIPS = ("8x8_block0", "8x8_block1", "16x16_block0")


def leader(number: int, *terms: Term, others: tuple[Other, ...] = ()) -> Leader:
    measured = Measured(f"proposal {number}", 1000, 6.0, 9.0 + number / 10, 0.5, -1.0, 0.2)
    return Leader(
        number, Schedule(terms), {}, measured, BASE, "FD", False, others, on_front=bool(others)
    )


def explanation(**changes: Any) -> Explanation:
    study = Overview(
        study="s", state="running", created=datetime(2026, 1, 1, tzinfo=UTC), metric="FD",
        evaluations=0, budget=10, states={}, chunks={}, workers=(), baseline=BASE, best=None,
        confirms=(), spending=Spending(0, 0.0, 0.0, 0, 0),
    )  # fmt: skip
    plain = Explanation(
        overview=study, space="per-skip", setting={"solver": "heun", "steps": 3}, sampler="tpe",
        rungs=(), steps=(), sensitivities=Sensitivities("nothing", "too few"), parameters=(),
        points=(), prediction=None, no_prediction="", unserved="", evidence={}, min_gain=0.01,
        sloped=False, failed=0,
    )  # fmt: skip
    return replace(plain, **changes)


def drawn(
    found: Explanation, leaders: tuple[Leader, ...] = (), skips: tuple[str, ...] = SKIPS
) -> dict[str, Any]:
    made = {name: figure.to_json() for name, figure in figures(found, leaders, skips).items()}
    assert all(len(text) < LARGEST for text in made.values())
    return {name.removeprefix(PREFIX): json.loads(text) for name, text in made.items()}


def lines(figure: Any) -> dict[str, list[float]]:
    return {one["name"]: one["y"] for one in figure["data"]}


def test_nothing_known_has_no_figure() -> None:
    assert drawn(explanation()) == {}


def test_each_noise_interval_has_a_line() -> None:
    low, high = (0.0, 1.0), (1.0, math.inf)
    one = leader(
        1, Term(SKIPS[0], 0.8, *low), Term(SKIPS[0], 1.2, *high), Term(SKIPS[2], 1.1, *high)
    )
    found = lines(drawn(explanation(), (one,))["profile"])
    assert found == {
        "untouched": [1.0, 1.0, 1.0],
        "best: proposal 1, sigma 1 and above": [1.2, 1.0, 1.1],
        "best: proposal 1, sigma below 1": [0.8, 1.0, 1.0],
    }


def test_the_profile_says_which_schedule_is_the_best_one() -> None:
    figure = drawn(explanation(), (leader(1, Term(SKIPS[0], 0.8)),))["profile"]
    first, second = figure["layout"]["title"]["text"].split("<br>")
    assert first == "Scales over depth, the best 1"
    # A difference of -1 ± 0.2 from 10: 10 ± 1.96 * 2 %.
    assert second.startswith("best: proposal 1, gain +10.0 % [+6.1, +13.9] in the search,")
    assert " not confirmed; " in second
    assert second.endswith("the study's note")


@pytest.mark.parametrize("how", ["ranks", "regression"])
def test_how_bars_are_to_be_read_fits_below_them(how: How) -> None:
    of = {"ranks": "rank correlations over 2,000 schedules", "regression": "a plane through 2,000"}
    known = Sensitivities(how, of[how], (Sensitivity("a", -0.5, 0.2),))
    figure = drawn(explanation(sensitivities=known))["sensitivity"]
    lines = figure["layout"]["xaxis"]["title"]["text"].split("<br>")
    assert of[how] in lines and any("below 0" in line for line in lines)
    assert max(len(line) for line in lines) <= 50  # half a page has room for 60


def test_many_noise_intervals_are_points() -> None:
    terms = [Term(SKIPS[i % 3], 1 + i / 10, float(i), float(i + 1)) for i in range(1, 7)]
    figure = drawn(explanation(), (leader(1, *terms),))["profile"]
    (points,) = [one for one in figure["data"] if one["name"] != "untouched"]
    assert points["mode"] == "markers"
    assert sorted(points["y"]) == pytest.approx([term.scale for term in terms])


def test_parts_of_a_block_have_places_of_their_own() -> None:
    one = leader(1, Term(SKIPS[0], 0.8, part="shortcut"), Term(SKIPS[0], 1.3, part="residual"))
    figure = drawn(explanation(), (one,))["profile"]
    places = figure["layout"]["xaxis"]["ticktext"]
    assert set(places) == {
        "shortcut/8x8_block0", "residual/8x8_block0", "8x8_block1", "16x16_block0",
    }  # fmt: skip
    found = dict(zip(places, lines(figure)["best: proposal 1"], strict=True))
    assert found["shortcut/8x8_block0"] == 0.8
    assert found["residual/8x8_block0"] == 1.3
    assert found["8x8_block1"] == 1.0


def test_a_baseline_that_leads_is_a_line_at_one() -> None:
    found = lines(drawn(explanation(), (leader(1),))["profile"])
    assert found["best: proposal 1"] == [1.0, 1.0, 1.0]


def test_slopes_are_a_heat_map() -> None:
    blocks = np.array([[[1.0, 2.0], [-1.0, -1.0]], [[2.0, 3.0], [-1.0, -1.0]]])
    known = from_slopes(Slopes(blocks, (80.0, 1.0), 0.0), ["x", "y"], baseline=10.0, of="best")
    (heat,) = drawn(explanation(sensitivities=known))["sensitivity"]["data"]
    times = 100 * math.log(1.1) / 10
    assert heat["y"] == ["x", "y"]
    assert heat["x"] == ["80", "1"]
    assert heat["z"] == [
        pytest.approx([1.5 * times, 2.5 * times], rel=1e-5),
        pytest.approx([-times, -times], rel=1e-5),
    ]
    assert heat["customdata"][0] == pytest.approx([0.5 * times, 0.5 * times], rel=1e-5)
    # What they sum up to is what `explain` prints.
    assert sum(heat["z"][0]) == pytest.approx(100 * known.rows[0].change, rel=1e-5)


def test_ranks_are_bars() -> None:
    known = Sensitivities("ranks", "5", tuple(Sensitivity(n, -0.5, 0.1) for n in "ab"))
    (bars,) = drawn(explanation(sensitivities=known))["sensitivity"]["data"]
    assert (bars["y"], bars["x"]) == (["b", "a"], [-0.5, -0.5])
    assert bars["error_x"]["array"] == [0.196, 0.196]


def test_a_large_network_and_a_long_study_stay_small() -> None:
    skips = tuple(f"64x64_block{i}" for i in range(200))
    rng = np.random.default_rng(0)

    def many(number: int) -> Leader:
        windows = ((0.0, 1.0), (1.0, 5.0), (5.0, 20.0), (20.0, math.inf))
        return leader(
            number,
            *(Term(skip, float(rng.uniform(0.5, 2)), *w) for skip in skips for w in windows),
            others=(Other("recall", "objective", rng.uniform(), 0.01, 0.0, 0.01, False),),
        )

    best = tuple(many(number) for number in range(1, 11))
    rest = tuple(replace(best[0], number=number) for number in range(11, 2000))
    blocks = rng.normal(size=(4, 200, 100))
    levels = tuple(float(level) for level in np.geomspace(80, 0.002, 100))
    points = [Point(i, *map(float, rng.normal(size=4))) for i in range(5000)]
    points = [replace(point, away=abs(point.away), error=abs(point.error)) for point in points]
    steps = tuple(
        Step(i, i % 10 + 1, f"proposal {i % 10 + 1}", 250 * (i // 10 + 1), 0.1, 0.1, True, 0.1,
             0.1, "proposal 1")
        for i in range(30)
    )  # fmt: skip
    found = explanation(
        sensitivities=from_slopes(
            Slopes(blocks, levels, 0.0), skips, baseline=10.0, of="the best one"
        ),
        points=tuple(points),
        steps=steps,
    )
    made = drawn(found, (*best, *rest), skips)
    assert set(made) == {"profile", "gain", "sensitivity", "slice", "front"}
    assert len(made["profile"]["layout"]["xaxis"]["ticktext"]) == MOST_SKIPS
    (heat,) = made["sensitivity"]["data"]
    assert len(heat["z"]) == MOST_SKIPS
    assert {len(row) for row in heat["z"]} == {MOST_LEVELS}
    assert sum(len(one["x"]) for one in made["slice"]["data"]) == MOST_POINTS
    assert sum(len(one["x"]) for one in made["front"]["data"]) == MOST_POINTS
