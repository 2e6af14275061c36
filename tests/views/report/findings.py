"""Findings that are made up: a confirmed study of two skips with everything a report can tell."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.search.confirm_evidence import ConfirmEvidence
from skiptune.search.explanation import Explanation, Parameter
from skiptune.search.findings import Cost, Findings, FrontierPoint, Origin, Seeds
from skiptune.search.incumbents import RungCount, Step
from skiptune.search.line_slice import Point, Prediction
from skiptune.search.overview import Confirmed, Leader, Other, Overview
from skiptune.search.result import WIN, Luck, Measured, Result, SecondLook
from skiptune.search.sensitivities import ByLevel, Sensitivities, Sensitivity
from skiptune.storage.inspection import DeviceWork
from skiptune.storage.records import Spending
from skiptune.views.report.blocks import Pair
from skiptune.views.report.tiles import pair_of

__all__ = [
    "BASELINE",
    "FINDINGS",
    "LEADER",
    "MADE",
    "OVERVIEW",
    "PAIR",
    "RESULT",
    "SKIPS",
    "TUNED",
]

MADE = datetime(2026, 2, 3, tzinfo=UTC)
SKIPS = ("8x8_block0", "16x16_block0")
SCHEDULE = Schedule([Term(SKIPS[0], 1.25, 0.5, 20.0), Term(SKIPS[0], 0.8, high=0.5),
                     Term(SKIPS[1], 0.9)])  # fmt: skip
METRIC = "FD(x)-2k-corrected"
BASELINE = Measured("baseline", 2000, 6.0, 10.0, 0.3)
TUNED = Measured("tuned", 2000, 6.0, 9.0, 0.3, -1.0, 0.2)
LEADER = Leader(
    3, SCHEDULE, {}, Measured("proposal 3", 2000, 6.0, 8.9, 0.3, -1.1, 0.2), BASELINE, METRIC,
    confirmed=True,
)  # fmt: skip
CONFIRMED = Confirmed(1, 2_100_000, 0.025, True, SCHEDULE, BASELINE, TUNED, WIN)
SPENDING = Spending(12_500, 90.0, 75_000.0, 250, 1000)
OVERVIEW = Overview(
    study="fashion", state="complete", created=datetime(2026, 1, 1, tzinfo=UTC), metric=METRIC,
    evaluations=3, budget=3, states={"scored": 3}, chunks={"done": 20}, workers=(),
    baseline=BASELINE, best=LEADER, confirms=(CONFIRMED,), spending=SPENDING,
)  # fmt: skip
CONTROLS = (
    Measured("solver: heun on edm, 3 steps", 2000, 5.0, 11.0, 0.3, 1.0, 0.3),
    Measured("epsilon scale: epsilon x 1.005", 2000, 6.0, 9.8, 0.3, -0.2, 0.1),
)
RESULT = Result(
    study="fashion", metric=METRIC, setting=Setting(), confirm=1, alpha=0.025, min_gain=0.01,
    seeds=(2_100_000, 2_150_000), baseline=BASELINE, winner=TUNED, controls=CONTROLS,
    schedule=SCHEDULE, params={"skip/8x8_block0": 1.25}, edges=("skip/8x8_block0",),
    evaluations=3, images=12_500, seconds=90.0, verdict=WIN,
    second=SecondLook(
        "FD(y)-2k-corrected",
        Measured("baseline", 2000, 6.0, 1.0, 0.05),
        Measured("tuned", 2000, 6.0, 0.9, 0.05, -0.1, 0.02),
    ),
    luck=Luck(2000, -1.1, 0.2, 0.1, 0.28),
)  # fmt: skip


def _step(spent: int, number: int, gain: float, best: float, *, leads: bool) -> Step:
    return Step(
        spent, number, f"proposal {number}", 500, gain, 0.02, leads, best, 0.02, "proposal 3"
    )


EXPLANATION = Explanation(
    overview=OVERVIEW,
    space="per-skip, 2 scales from 0.7 to 1.3",
    setting=Setting().to_json(),
    sampler="descent",
    rungs=(RungCount(500, 3, 3, 1, 2, 1500, 250), RungCount(2000, 1, 1, None, 1, 1500, 0)),
    steps=(
        _step(2500, 1, -0.9, -0.9, leads=True),
        _step(3000, 2, 0.05, 0.05, leads=True),
        _step(3500, 3, 0.11, 0.11, leads=True),
        _step(5000, 3, 0.1, 0.1, leads=False),
    ),
    sensitivities=Sensitivities(
        "slopes",
        "slopes of proposal 3, 8 blocks of seeds",
        (Sensitivity(SKIPS[0], -0.031, 0.004), Sensitivity(SKIPS[1], 0.002, 0.004)),
        ByLevel(
            (80.0, 3.0, 0.1),
            changes=((-0.001, -0.02, -0.01), (0.0, 0.0, 0.002)),
            errors=((0.002, 0.003, 0.002), (0.001, 0.001, 0.003)),
        ),
    ),
    parameters=(
        Parameter("skip/8x8_block0", 1.25, 0.7, 1.3, "high", 0.75),
        Parameter("skip/16x16_block0", 0.9, 0.7, 1.3, "", 0.25),
    ),
    points=(
        Point(0, 0.0, 0.0, 0.0, 0.0),
        Point(1, -0.3, 2.0, -0.9, 0.02),
        Point(2, 0.5, 0.1, 0.05, 0.02),
        Point(3, 1.0, 0.0, 0.11, 0.02),
    ),
    prediction=Prediction((-0.5, 0.0, 0.75, 1.5), (-0.2, 0.0, 0.12, 0.02), (0.1,) * 4, 4, 0.03),
    no_prediction="",
    unserved="",
    evidence={
        1: ConfirmEvidence(
            controls=CONTROLS,
            luck=0.01,
            luck_error=0.028,
            beside=(
                Other("recall", "beside", 0.61, 0.01, 0.02, 0.005, violated=False),
                Other("FD(y)-2k-corrected", "beside", 0.9, 0.05, -0.1, 0.02, violated=False),
            ),
        )
    },
    min_gain=0.01,
    sloped=True,
    failed=0,
)
FINDINGS = Findings(
    explanation=EXPLANATION,
    result=RESULT,
    leaders=(LEADER,),
    skips=SKIPS,
    costs=(
        Cost("search", Spending(5000, 36.0, 30_000.0, 250, 1000)),
        Cost("confirm 1, block B (tests)", Spending(7500, 54.0, 45_000.0, 0, 0)),
    ),
    frontier=(
        FrontierPoint("fashion", BASELINE, TUNED, confirmed=True),
        FrontierPoint("longer", Measured("baseline", 2000, 8.0, 7.0, 0.2), None, confirmed=False),
    ),
    origin=Origin(
        study_id="0123456789abcdef0123456789abcdef",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        spec={"study": "fashion", "space": {"kind": "per-skip", "low": 0.7, "high": 1.3}},
        hashes=(("network", "fashion", "a" * 64), ("reference", "fashion-train", "b" * 64)),
        seeds=(Seeds("search", 1_000_000, 2000), Seeds("confirm 1, block B", 2_150_000, 2000)),
        versions={"torch": ("2.10.0", "2.15.0")},
        devices=(DeviceWork("NVIDIA H200", 12_500, 90.0, is_gpu=True),),
        series="c" * 64,
    ),
)
_IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 1, 8, 8), dtype=np.uint8)
PAIR: Pair = pair_of(
    _IMAGES[0], _IMAGES[1], range(900_000, 900_004), names=("untouched", "tuned"),
    caption="The same 4 seeds.",
)  # fmt: skip
