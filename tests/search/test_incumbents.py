"""How the best schedule changes with the images spent, against a search written down by hand."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from skiptune.search.incumbents import rung_counts_of, steps_of
from skiptune.storage.records import Evaluation, Rung, Score

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def evaluation(number: int) -> Evaluation:
    return Evaluation(
        id=f"e{number}", study_id="s", number=number, kind="proposal", label=f"proposal {number}",
        block="search", series="", measure="", schedule=f"{number}", schedule_json={},
        first_seed=1_000_000, params={}, state="complete", reason=None, created=BEGAN,
        finished=None,
    )  # fmt: skip


def score(number: int, images: int, difference: float | None, *, after: int) -> Score:
    return Score(
        id=f"{number}-{images}", evaluation_id=f"e{number}", level=int(images > 250), place=0,
        metric="m", reference="r", images=images, value=9.0, standard_error=0.3, raw=None,
        difference=difference, difference_error=None if difference is None else 0.2,
        baseline_images=None, created=BEGAN + timedelta(seconds=after),
    )  # fmt: skip


PROPOSALS = {one.id: one for one in map(evaluation, range(1, 4))}
BASELINE = score(0, 500, None, after=0)  # its value is 9
SCORES = [
    BASELINE,
    score(1, 250, -0.9, after=1),
    score(2, 250, -1.8, after=2),
    # Promoted, and less good than it looked.
    score(2, 500, -0.45, after=4),
    score(3, 250, -2.7, after=3),
    score(9, 250, -9.0, after=3),  # of a confirm
]


def test_the_best_has_most_images_and_then_the_largest_gain() -> None:
    steps = steps_of(PROPOSALS, SCORES, baseline=BASELINE)
    found = [(s.spent, s.number, round(s.gain, 9), s.leads, s.best_label) for s in steps]
    assert found == [
        (750, 1, 0.1, True, "proposal 1"),
        (1000, 2, 0.2, True, "proposal 2"),
        (1250, 3, 0.3, True, "proposal 3"),
        # 250 more images of a schedule that had 250: it leads, because no other has 500.
        (1500, 2, 0.05, True, "proposal 2"),
    ]
    assert [round(s.best, 9) for s in steps] == [0.1, 0.2, 0.3, 0.05]
    assert all(round(s.error, 9) == round(0.2 / 9, 9) for s in steps)


def test_a_schedule_that_is_no_better_does_not_lead() -> None:
    worse = [*SCORES[:3], score(3, 250, 4.0, after=3)]
    steps = steps_of(PROPOSALS, worse, baseline=BASELINE)
    assert [s.leads for s in steps] == [True, True, False]
    assert steps[-1].best_label == "proposal 2"


def test_one_that_violates_a_constraint_does_not_lead() -> None:
    steps = steps_of(PROPOSALS, SCORES, baseline=BASELINE, violating={("e1", 0), ("e3", 0)})
    assert [(s.leads, s.best_label, round(s.best, 9)) for s in steps] == [
        (False, "baseline", 0.0),
        (True, "proposal 2", 0.2),
        (False, "proposal 2", 0.2),
        (True, "proposal 2", 0.05),
    ]
    assert (steps[0].best_error, steps[0].gain) == (0.0, 0.1)
    # One that violates it on more images alone steps down, for the best of the others.
    steps = steps_of(PROPOSALS, SCORES, baseline=BASELINE, violating={("e3", 0), ("e2", 1)})
    assert [(s.leads, s.best_label) for s in steps] == [
        (True, "proposal 1"), (True, "proposal 2"), (False, "proposal 2"), (False, "proposal 1"),
    ]  # fmt: skip
    every = {(f"e{number}", level) for number in (1, 2, 3) for level in (0, 1)}
    steps = steps_of(PROPOSALS, SCORES, baseline=BASELINE, violating=every)
    assert not any(s.leads or s.best for s in steps)


@pytest.mark.parametrize("seed", range(20))
def test_at_each_step_the_best_of_all_leads(seed: int) -> None:
    """Against a look at all schedules at each step."""
    draw = random.Random(seed)
    proposals = {one.id: one for one in map(evaluation, range(1, 13))}
    waiting, scores, levels = list(range(1, 13)), [], dict.fromkeys(range(1, 13), 0)
    for after in range(24):
        number = draw.choice(waiting)
        images = (250, 500)[levels[number]]
        scores.append(score(number, images, draw.choice([-2.0, -1.0, 0.0, 1.0]), after=after))
        levels[number] += 1
        if levels[number] == 2:
            waiting.remove(number)
    steps = steps_of(proposals, scores, baseline=BASELINE)
    seen: dict[int, tuple[int, float, int]] = {}
    before = None
    for step, one in zip(steps, scores, strict=True):
        again = step.number in seen
        seen[step.number] = (-one.level, one.difference or 0.0, step.number)
        best = min(seen.values())[2]
        assert step.best_label == f"proposal {best}"
        assert step.leads == (best == step.number and (best != before or again))
        before = best


def test_rungs_are_counted() -> None:
    def rung(number: int, images: int) -> Rung:
        level = int(images > 250)
        return Rung(f"r{number}-{images}", f"e{number}", level, images, "open", BEGAN, None)

    rungs = [rung(1, 250), rung(2, 250), rung(2, 500), rung(3, 250), rung(9, 250)]
    counts = rung_counts_of(
        (250, 500), rungs, SCORES[:4], proposals=PROPOSALS, reused={"e2": [0, 250], "e3": [0]}
    )
    first, last = counts
    assert (first.entered, first.scored, first.promoted, first.better) == (3, 2, 1, 2)
    assert (first.new_images, first.reused) == (750, 500)
    assert (last.entered, last.scored, last.promoted, last.better) == (1, 1, None, 1)
    assert (last.new_images, last.reused) == (250, 250)
