"""The page of an explanation and its two pictures, at every time of a study's life."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from skiptune.sampling.schedule import Schedule
from skiptune.search.confirm_evidence import ConfirmEvidence
from skiptune.search.explanation import Explanation, Parameter
from skiptune.search.incumbents import RungCount, Step
from skiptune.search.line_slice import Point, Prediction
from skiptune.search.overview import Confirmed, Leader, Other, Overview
from skiptune.search.result import NO_GAIN, WIN, Measured
from skiptune.search.sensitivities import Sensitivities, Sensitivity
from skiptune.storage.records import Spending
from skiptune.views.chart import BEST, PROVED
from skiptune.views.explanation import explanation_hints, explanation_view
from skiptune.views.explanation_pictures import gain_picture, slice_picture
from skiptune.views.study import overview_view
from tests.views.printed import printed

SCHEDULE = Schedule.uniform({"8x8_block0": 1.25, "16x16_block0": 0.9})
BASELINE = Measured("baseline", 2000, 6.0, 10.0, 0.3)
TUNED = Measured("tuned", 2000, 6.0, 9.0, 0.3, -1.0, 0.2)
LEADER = Leader(
    3, SCHEDULE, {}, replace(TUNED, label="proposal 3"), BASELINE, "FD(x)-2k-corrected",
    confirmed=True,
)  # fmt: skip
CONFIRMED = Confirmed(1, 2_100_000, 0.025, True, SCHEDULE, BASELINE, TUNED, WIN)
OVERVIEW = Overview(
    study="fashion", state="complete", created=datetime(2026, 1, 1, tzinfo=UTC),
    metric="FD(x)-2k-corrected", evaluations=3, budget=3, states={"scored": 3},
    chunks={"done": 20}, workers=(), baseline=BASELINE, best=LEADER, confirms=(CONFIRMED,),
    spending=Spending(12_500, 90.0, 75_000.0, 0, 0),
)  # fmt: skip


def step(spent: int, number: int, gain: float, best: float, *, leads: bool) -> Step:
    return Step(
        spent, number, f"proposal {number}", 500, gain, 0.02, leads, best, 0.02, f"proposal {3}"
    )


FOUND = Explanation(
    overview=OVERVIEW,
    space="per-skip, 2 scales from 0.8 to 1.25",
    setting={"solver": "dpmpp_2m", "steps": 6},
    sampler="descent",
    rungs=(RungCount(500, 3, 3, 1, 2, 1500, 250), RungCount(2000, 1, 1, None, 1, 1500, 0)),
    steps=(
        step(2500, 1, -0.9, -0.9, leads=True),
        step(3000, 2, 0.05, 0.05, leads=True),
        step(3500, 3, 0.1, 0.1, leads=True),
        step(5000, 3, 0.1, 0.1, leads=False),
    ),
    sensitivities=Sensitivities(
        "slopes",
        "slopes of proposal 3, 8 blocks of seeds",
        (Sensitivity("8x8_block0", -0.031, 0.004), Sensitivity("16x16_block0", 0.002, 0.004)),
    ),
    parameters=(
        Parameter("skip/8x8_block0", 1.25, 0.8, 1.25, "high", 0.75),
        Parameter("skip/16x16_block0", 0.9, 0.8, 1.25, "", 0.25),
    ),
    points=(
        Point(0, 0.0, 0.0, 0.0, 0.0),
        Point(1, -0.3, 2.0, -0.9, 0.02),
        Point(2, 0.5, 0.1, 0.05, 0.02),
        Point(3, 1.0, 0.0, 0.1, 0.02),
    ),
    prediction=Prediction((-0.5, 0.0, 0.75, 1.5), (-0.2, 0.0, 0.12, 0.02), (0.1,) * 4, 4, 0.03),
    no_prediction="",
    unserved="",
    evidence={
        1: ConfirmEvidence(
            controls=(replace(TUNED, label="solver: heun on edm, 3 steps", nfe=5.0),),
            luck=0.04,
            luck_error=0.01,
            beside=(Other("recall", "beside", 0.61, 0.01, 0.02, 0.005, violated=False),),
        )
    },
    min_gain=0.01,
    sloped=True,
    failed=0,
)
NEW = replace(
    FOUND,
    overview=replace(
        OVERVIEW, state="running", metric=None, evaluations=0, states={}, baseline=None,
        best=None, confirms=(), spending=Spending(0, 0.0, 0.0, 0, 0),
    ),
    rungs=(RungCount(500, 0, 0, 0, 0, 0, 0), RungCount(2000, 0, 0, None, 0, 0, 0)),
    steps=(),
    sensitivities=Sensitivities("nothing", "the baseline has no value above zero yet"),
    parameters=(),
    points=(),
    prediction=None,
    evidence={},
)  # fmt: skip


def page(found: Explanation, *, width: int = 80) -> str:
    return printed(*explanation_view(found), width=width)


def text(found: Explanation) -> str:
    return " ".join(page(found).split())


def hints(found: Explanation) -> list[str]:
    return list(explanation_hints(found, source="study.yaml"))


def test_everything_that_was_asked_is_on_the_page() -> None:
    shown = text(FOUND)
    assert "per-skip, 2 scales from 0.8 to 1.25, proposed by descent" in shown
    assert "500 3 3 2 1 1,500 250" in shown
    assert "3,500 proposal 3 500 +10.0 [+6.1, +13.9]" in shown
    assert "skip/8x8_block0 1.25 -3.10 ± 0.40* 0.75 touches 1.25" in shown
    assert "skip/16x16_block0 0.9 +0.20 ± 0.40 0.25" in shown
    assert "3 of 4 schedules, the untouched network among them, were measured near it" in shown
    assert "+12.0 ± 19.6 %, at 0.75 of the way. On schedules" in shown
    assert "Confirm 1: win: gain +10.0 % [+5.5, +14.5] (97.5 % interval)" in shown
    assert "+4.0 ± 2.0 % of the untouched network larger: that part was luck" in shown
    assert "Beside: recall 0.61 ± 0.02, 0.02 ± 0.0098 worse than the baseline" in shown
    assert "solver: heun on edm, 3 steps +10.0 [+6.1, +13.9] 5" in shown


def test_a_control_that_gains_more_is_told() -> None:
    assert "More is gained" not in text(FOUND)
    better = replace(TUNED, label="epsilon scale: epsilon x 1.015", difference=-1.2)
    shown = text(
        replace(FOUND, evidence={1: replace(FOUND.evidence[1], controls=(better,), luck=-0.01)})
    )
    assert "did not clearly show it better than it is: -1.0 ± 2.0 %" in shown
    assert "More is gained without touching a skip by epsilon scale: epsilon x 1.015." in shown


def test_where_every_schedule_violates_a_constraint_none_is_called_best() -> None:
    overview = replace(OVERVIEW, best=None, confirms=(), states={"scored": 3})
    steps = tuple(replace(step, leads=False) for step in FOUND.steps)
    found = replace(FOUND, overview=overview, steps=steps, parameters=(), points=(), evidence={})
    words = "No schedule of the 3 that are scored keeps the constraints."
    assert words in text(found)
    assert not any("confirm" in hint for hint in hints(found))
    standing = " ".join(printed(*overview_view(overview)).split())
    assert (
        "best so far none: no schedule of the 3 that are scored keeps the constraints" in standing
    )


def test_a_violated_constraint_is_named_with_the_verdict() -> None:
    lost = replace(CONFIRMED, verdict=NO_GAIN, violated=("recall >= 0.9 x baseline",))
    shown = text(replace(FOUND, overview=replace(OVERVIEW, confirms=(lost,))))
    assert (
        "Confirm 1: no win: gain +10.0 % [+5.5, +14.5] (97.5 % interval) on 2,000 images, but it "
        "violates recall >= 0.9 x baseline" in shown
    )


def test_a_new_study_has_a_page_too() -> None:
    shown = text(NEW)
    assert "nothing scored yet" in shown and "No schedule is scored yet." in shown
    assert "Nothing yet." in shown
    assert gain_picture(NEW) is None and slice_picture(NEW) is None
    assert hints(NEW) == ["nobody works on it: skiptune worker fashion --until-done"]


@pytest.mark.parametrize("how", ["ranks", "regression"])
def test_where_sensitivities_come_from_is_said(how: str) -> None:
    names = ("skip/8x8_block0", "skip/16x16_block0")
    rows = tuple(Sensitivity(name, 0.5, 0.1) for name in names)
    known = Sensitivities(how, "a plane through 20 schedules", rows)  # type: ignore[arg-type]
    shown = text(replace(FOUND, sensitivities=known))
    assert "a plane through 20 schedules" in shown
    assert ("+0.50 ± 0.10" if how == "ranks" else "+50.00 ± 10.00*") in shown
    assert "Averages over" in shown


def test_slopes_of_skips_that_are_no_parameters_have_a_table_of_their_own() -> None:
    linear = (Parameter("bottom", 0.9, 0.8, 1.25, "", None),)
    shown = text(replace(FOUND, parameters=linear))
    assert "bottom 0.9" in shown
    assert "8x8_block0 -3.10 ± 0.40*" in shown
    assert "Importances are told from 10 schedules on." in shown


def test_why_the_model_was_not_asked_is_said() -> None:
    measured = replace(FOUND, prediction=None, no_prediction="the window is searched")
    assert "Measured points only: the window is searched." in text(measured)


def test_next_steps_follow_from_what_there_is() -> None:
    won = hints(FOUND)
    assert won == [
        "a better schedule may lie beyond the range of skip/8x8_block0: skiptune tune study.yaml"
        " -s study=fashion-wide -s space.high=1.9",
        "hand the schedule over: skiptune export fashion -o tuned.json",
    ]
    lost = replace(CONFIRMED, verdict=NO_GAIN, winner=replace(TUNED, difference_error=1.0))
    again = hints(replace(FOUND, overview=replace(OVERVIEW, confirms=(lost,)), parameters=()))
    assert len(again) == 1 and "skiptune confirm fashion -s confirm.images=" in again[0]
    # 3.8 standard errors at a level of 0.0125; one of them is 10 % on 2,000 images.
    assert int(again[0].rpartition("=")[2]) == pytest.approx(2000 * 3.78**2, rel=0.02)
    prompts = replace(OVERVIEW, confirms=(lost,), unit="prompt")
    assert hints(replace(FOUND, overview=prompts, parameters=())) == []
    stuck = replace(FOUND, failed=2, overview=replace(OVERVIEW, state="paused", confirms=()))
    assert [hint.rpartition("skiptune ")[2] for hint in hints(stuck)][:2] == [
        "resume fashion --retry",
        "resume fashion",
    ]
    unproved = replace(
        FOUND,
        overview=replace(OVERVIEW, confirms=()),
        sensitivities=Sensitivities("nothing", "few"),
    )
    assert [hint.rpartition("skiptune ")[2] for hint in hints(unproved)][1:] == [
        "sensitivity fashion",
        "confirm fashion",
    ]


def test_a_confirm_is_proposed_where_it_would_find_something_to_test() -> None:
    ended = replace(FOUND, overview=replace(OVERVIEW, confirms=()))
    assert hints(ended)[-1].endswith("skiptune confirm fashion")
    worse = tuple(replace(point, gain=-0.3, error=0.1) for point in FOUND.points[1:])
    assert not any(
        "confirm" in hint for hint in hints(replace(ended, points=(FOUND.points[0], *worse)))
    )
    near = (FOUND.points[0], *worse[1:], replace(worse[0], gain=-0.1, error=0.1))
    assert hints(replace(ended, points=near))[-1].endswith("skiptune confirm fashion")


@pytest.mark.parametrize("width", [80, 100])
def test_the_page_fits(width: int) -> None:
    for found in (FOUND, NEW, replace(FOUND, prediction=None, no_prediction="so")):
        assert max(map(len, page(found, width=width).splitlines())) <= width


def picture(data: bytes | None) -> Image.Image:
    assert data is not None
    assert len(data) < 60_000
    return Image.open(io.BytesIO(data)).convert("RGB")


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(image).astype(int) - colour).max(axis=2) < 20).sum())


def test_the_gain_has_a_line_and_confirms_a_mark_of_their_own() -> None:
    with_confirm = picture(gain_picture(FOUND))
    alone = replace(FOUND, overview=replace(OVERVIEW, confirms=()))
    without = picture(gain_picture(alone))
    assert count(without, BEST) > 100
    assert count(without, PROVED) == 0 < count(with_confirm, PROVED)


def test_the_slice_has_a_line_where_there_is_a_model() -> None:
    modelled = picture(slice_picture(FOUND))
    measured = picture(slice_picture(replace(FOUND, prediction=None)))
    assert count(measured, BEST) == 0 < count(modelled, BEST)


@pytest.mark.parametrize(("sampler", "told"), [("descent (auto)", True), ("", False)])
def test_where_a_study_stands_says_who_proposes(sampler: str, *, told: bool) -> None:
    words = " ".join(printed(*overview_view(replace(OVERVIEW, sampler=sampler))).split())
    assert ("proposed by descent (auto)" in words) == told
