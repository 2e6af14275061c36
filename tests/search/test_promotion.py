"""Who is promoted, on a real database with made-up scores, against the rule read literally."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.search.promotion import WORSE, best, places, promote
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation
from tests.search.conftest import Tiny

DIFFERENCES = st.dictionaries(st.integers(1, 50), st.floats(-5, 5, allow_nan=False), max_size=12)
RUNGS = [250, 500, 750]

Scores = dict[int, dict[int, tuple[float, float]]]
"""By level and number: the difference to the baseline and its standard error."""


@given(DIFFERENCES, st.integers(0, 15))
def test_best_are_those_that_no_other_beats(differences: dict[int, float], count: int) -> None:
    chosen = best(differences, count)
    assert len(chosen) == min(count, len(differences))
    for number in chosen:
        beaten_by = [
            other
            for other in differences
            if (differences[other], other) < (differences[number], number)
        ]
        assert len(beaten_by) < count


def test_equal_differences_are_decided_by_age() -> None:
    assert best({7: -1.0, 3: -1.0, 5: 0.0}, 1) == (3,)


@pytest.mark.parametrize(
    ("scored", "fraction", "count"),
    [(0, 0.5, 0), (2, 1 / 3, 0), (3, 1 / 3, 1), (6, 0.3333, 2), (5, 0.5, 2), (7, 1.0, 7)],
)
def test_places(scored: int, fraction: float, count: int) -> None:
    assert places(scored, fraction) == count


def enter(study: OpenStudy, number: int) -> Evaluation:
    params = {name: 1.0 + number / 1000 for name in study.space.distributions()}
    return study.evaluate(
        study.space.schedule(params),
        kind="proposal",
        label=f"proposal {number}",
        block=SEARCH,
        first_seed=SEARCH_SEED,
        images=RUNGS[0],
        params=params,
    )


def score(
    study: OpenStudy, evaluation: Evaluation, level: int, value: float, error: float
) -> None:
    ledger.put_score(
        study.database,
        evaluation.id,
        level=level,
        metric="m",
        reference="r",
        images=RUNGS[level],
        value=1.0,
        standard_error=0.1,
        difference=value,
        difference_error=error,
    )


def rule(scores: Scores, entered: dict[int, set[int]], fraction: float) -> set[tuple[int, int]]:
    """ASHA as it is written: whoever is among a rung's best part, and is not up yet, goes up."""
    due = set()
    for level in (0, 1):
        here = scores[level]
        for number, (value, error) in here.items():
            ahead = sum((v, n) < (value, number) for n, (v, _) in here.items())
            among_the_best = ahead < int(len(here) * fraction + 1e-3)
            worse = value > 1.96 * error
            if among_the_best and not worse and number not in entered[level + 1]:
                due.add((number, level + 1))
    return due


@pytest.mark.parametrize("fraction", [0.25, 0.3333, 0.5, 1.0])
def test_against_the_rule_read_literally_whatever_the_order_of_arrival(
    tiny: Tiny, fraction: float
) -> None:
    study = tiny.open(search__rungs=RUNGS, search__promote=fraction, search__evaluations=50)
    chance = random.Random(f"{fraction}")
    made: dict[int, Evaluation] = {}
    scores: Scores = {0: {}, 1: {}, 2: {}}
    entered: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    promoted = 0
    for _ in range(30):
        for _ in range(chance.randrange(3)):
            evaluation = enter(study, len(made) + 1)
            made[evaluation.number] = evaluation
            entered[0].add(evaluation.number)
        waiting = [(n, level) for level in entered for n in entered[level] - set(scores[level])]
        for number, level in chance.sample(waiting, min(len(waiting), chance.randrange(4))):
            # Few values, so that many are equal.
            found = chance.choice([-2.0, -1.0, 0.0, 0.5, 1.0]), chance.choice([0.1, 0.4, 2.0])
            scores[level][number] = found
            score(study, made[number], level, *found)
        due = rule(scores, entered, fraction)
        assert promote(study) == len(due)
        for number, level in due:
            entered[level].add(number)
        promoted += len(due)
        standing = {(number, level) for level in entered for number in entered[level]}
        names = {e.id: e.number for e in made.values()}
        stored = ledger.rungs(study.database, study.id)
        assert {(names[rung.evaluation_id], rung.level) for rung in stored} == standing
        assert promote(study) == 0
    assert promoted > 3


def test_at_the_end_at_least_the_best_part_has_gone_up(tiny: Tiny) -> None:
    """Promotion does not wait for the rung, so it may promote more; never fewer."""
    study = tiny.open(search__rungs=RUNGS[:2], search__promote=1 / 3)
    chance = random.Random(3)
    differences = {}
    for number in range(1, 7):
        evaluation = enter(study, number)
        differences[evaluation.number] = chance.gauss(-1.0, 1.0)
        score(study, evaluation, 0, differences[evaluation.number], 5.0)
        promote(study)
    up = {rung.evaluation_id for rung in ledger.rungs(study.database, study.id) if rung.level == 1}
    numbers = {e.number for e in ledger.evaluations(study.database, study.id) if e.id in up}
    assert set(best(differences, 2)) <= numbers


def test_higher_rungs_come_first_and_spent_images_end_it(tiny: Tiny) -> None:
    # The budget holds three lowest rungs and two more chunks: only two of three may go up.
    study = tiny.open(
        search__rungs=RUNGS, search__promote=1.0, search__images=RUNGS[-1] + RUNGS[0] + 250
    )
    made = [enter(study, number) for number in range(1, 4)]
    score(study, made[0], 0, -1.0, 1.0)
    assert promote(study) == 1
    score(study, made[0], 1, -1.0, 1.0)
    for evaluation in made[1:]:
        score(study, evaluation, 0, -2.0, 1.0)
    assert promote(study) == 1
    first = ledger.rungs(study.database, study.id, evaluation_id=made[0].id)
    assert [rung.images for rung in first] == RUNGS
    assert promote(study) == 0


def test_whoever_is_clearly_worse_stays_however_few_there_are(tiny: Tiny) -> None:
    study = tiny.open(search__rungs=RUNGS, search__promote=1.0)
    error = 0.5
    just, worse = enter(study, 1), enter(study, 2)
    score(study, just, 0, WORSE * error, error)
    score(study, worse, 0, WORSE * error * 1.001, error)
    assert promote(study) == 1
    up = [r.evaluation_id for r in ledger.rungs(study.database, study.id) if r.level == 1]
    assert up == [just.id]


def test_nothing_scored_promotes_nobody(tiny: Tiny) -> None:
    study = tiny.open(search__rungs=RUNGS)
    enter(study, 1)
    assert promote(study) == 0
    assert promote(tiny.open(study="single", search__rungs=RUNGS[:1])) == 0
