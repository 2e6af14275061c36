from __future__ import annotations

import pytest

from skiptune.objectives.paired import Estimate
from training.metric_card import Curve, rises


@pytest.mark.parametrize(
    ("values", "judged"),
    [((2, 3, 4), True), ((2, 2, 4), False), ((0.5, 3, 4), False), ((2, 4, 3), False)],
)
def test_a_curve_must_rise_at_every_step_from_the_floor_on(
    values: tuple[float, ...], judged: bool
) -> None:
    scores = tuple(Estimate(value, 0.1, 10) for value in values)
    curve = Curve("damage", tuple(map(str, values)), scores, None)
    assert rises(curve, Estimate(1.0, 0.1, 10)) is judged
