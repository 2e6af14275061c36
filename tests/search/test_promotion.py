"""Who is promoted, on a real database with made-up scores, against the rule read literally."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.objectives.paired import paired_difference
from skiptune.search import rivals
from skiptune.search.promotion import WORSE, best, places, promote
from skiptune.search.scoring import Stored
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.ledger import Standing
from skiptune.storage.records import Evaluation, NewScore
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

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


def pair_error(here: dict[int, tuple[float, float]], ours: int, theirs: int) -> float:
    """A made-up error of a difference, never above the sum of both errors."""
    return min(0.1 * (ours * theirs % 8), here[ours][1] + here[theirs][1])


def rule(scores: Scores, entered: dict[int, set[int]], fraction: float) -> set[tuple[int, int]]:
    """Whoever is among a rung's best part, is no worse than the baseline, and may still be the
    best goes up, if it is not there yet; the leader where anybody beside it may be the best."""
    due = set()
    for level in (0, 1):
        here = scores[level]
        ranked = sorted(here, key=lambda n: (here[n][0], n))
        part = ranked[: int(len(here) * fraction + 1e-3)]
        fair = [n for n in part if here[n][0] <= 1.96 * here[n][1]]
        going = set(fair)
        if part and fraction < 1:
            first = part[0]
            rivals = {
                n
                for n in fair
                if n != first and here[n][0] - here[first][0] < 2 * pair_error(here, first, n)
            }
            going = rivals | {first} if rivals else set()
        due |= {(n, level + 1) for n in going & set(fair) - entered[level + 1]}
    return due


@pytest.mark.parametrize("fraction", [0.25, 0.3333, 0.5, 1.0])
def test_against_the_rule_read_literally_whatever_the_order_of_arrival(
    tiny: Tiny, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(study: OpenStudy, ours: Standing, theirs: Standing, *, level: int) -> float:
        return pair_error(scores[level], ours.number, theirs.number)

    monkeypatch.setattr(rivals, "paired_error", made_up)
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


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decided between two schedules."""
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: float("inf"))


def test_at_the_end_at_least_the_best_part_has_gone_up(tiny: Tiny, undecided: None) -> None:
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


def up(study: OpenStudy) -> set[int]:
    """Numbers of those that have entered the second rung."""
    names = {e.id: e.number for e in ledger.evaluations(study.database, study.id)}
    rungs = ledger.rungs(study.database, study.id)
    return {names[rung.evaluation_id] for rung in rungs if rung.level == 1}


def test_only_rivals_of_the_leader_go_on_and_it_goes_with_them(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: 0.1)
    study = tiny.open(search__rungs=RUNGS[:2], search__promote=0.6)
    made = [enter(study, number) for number in range(1, 6)]
    for one, value in zip(made[:4], (-2.0, -1.5, 0.0, 0.0), strict=True):
        score(study, one, 0, value, 1.0)
    # Two places, and the second is behind by five errors: nothing is left to decide.
    assert promote(study) == 0
    score(study, made[4], 0, -1.9, 1.0)
    assert promote(study) == 2
    assert up(study) == {made[0].number, made[4].number}


@pytest.mark.parametrize(
    ("error", "value", "projection", "promoted"),
    [
        (0.06, 10.0, None, 0),
        (0.1, 10.0, None, 2),
        # A screen's distances have another unit than the baseline's: nothing is too small there.
        (0.06, 10.0, 8, 2),
        (0.02, 10.0, 8, 0),
        # Nor is there a part of a value below 0, as small distances may have.
        (0.06, -10.0, None, 2),
        (0.02, -10.0, None, 0),
    ],
)
def test_a_rival_may_be_better_by_what_counts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: float, value: float,
    projection: int | None, promoted: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: error)
    study = tiny.open(
        search__rungs=RUNGS[:2],
        search__promote=0.67,
        confirm__min_gain=0.01,
        objective__projection=projection,
    )
    base = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=RUNGS[1])
    numbers = {"images": RUNGS[1], "value": value, "standard_error": 0.5}
    ledger.put_score(study.database, base.id, level=0, metric="m", reference="r", **numbers)
    made = [enter(study, number) for number in range(1, 4)]
    # Behind by 0.05; 0.1 counts. Within two errors it may be 0.07 better, or 0.15.
    for one, difference in zip(made, (-2.0, -1.95, 0.0), strict=True):
        score(study, one, 0, difference, 1.0)
    assert promote(study) == promoted


def test_a_proposal_that_is_worse_than_the_baseline_is_nobody_s_rival(
    tiny: Tiny, undecided: None
) -> None:
    study = tiny.open(search__rungs=RUNGS[:2], search__promote=0.67)
    made = [enter(study, number) for number in range(1, 4)]
    # Behind its leader by less than their errors, and above 1.96 of its own.
    for one, difference in zip(made, (0.1, 0.25, 0.5), strict=True):
        score(study, one, 0, difference, 0.1)
    assert promote(study) == 0


def test_of_several_objectives_the_fronts_go_on_in_their_order(tiny: Tiny) -> None:
    study = tiny.open(
        search__rungs=RUNGS[:2],
        search__evaluations=7,
        search__promote=0.5,
        objective__metric=["fd", "nfe"],
    )

    def several(number: int, *differences: float) -> None:
        numbers: Any = {"images": RUNGS[0], "value": 1.0, "standard_error": 0.1}
        scores = [
            NewScore(
                f"m{place}", "r", difference=one, difference_error=0.1, place=place, **numbers
            )
            for place, one in enumerate(differences)
        ]
        ledger.put_scores(study.database, enter(study, number).id, scores, level=0)

    # The first and the second are beaten by nobody, the third by the first alone, the fourth by
    # the second alone. Worse than the baseline in one objective, the second is best in the other.
    for number, point in enumerate(
        [(-3.0, 5.0), (0.5, 0.0), (-2.0, 6.0), (0.6, 1.0), (-1.0, 7.0), (1.0, 8.0)], start=1
    ):
        several(number, *point)
    assert promote(study) == 3
    numbers = {e.id: e.number for e in ledger.evaluations(study.database, study.id)}
    first = min(numbers.values())
    assert {number - first for number in up(study)} == {0, 1, 2}
    assert promote(study) == 0
    # A seventh pushes the third out of the best half, and goes on alone.
    several(7, -4.0, 9.0)
    assert promote(study) == 1
    assert {number - first for number in up(study)} == {0, 1, 2, 6}


def test_a_new_leader_goes_on_where_one_that_has_gone_on_is_its_rival(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: 0.1)
    study = tiny.open(search__rungs=RUNGS[:2], search__promote=0.67)
    made = [enter(study, number) for number in range(1, 5)]
    for one, value in zip(made[:3], (-2.0, -1.9, 0.0), strict=True):
        score(study, one, 0, value, 1.0)
    assert promote(study) == 2
    score(study, made[3], 0, -2.1, 1.0)
    assert promote(study) == 1
    assert made[3].number in up(study)


def test_a_leader_whose_slopes_are_wanted_goes_on_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: 0.0)
    # Slopes are taken at 1000 images, four blocks of 16 features: below that the leader goes on.
    for sampler, expected in (("descent", 1), ("random", 0)):
        study = tiny.open(
            study=sampler,
            search__sampler=sampler,
            search__rungs=[250, 1000, 2000],
            search__promote=0.5,
        )
        made = [enter(study, number) for number in range(1, 5)]
        for one, value in zip(made, (-2.0, -1.0, -1.0, -1.0), strict=True):
            score(study, one, 0, value, 1.0)
        assert promote(study) == expected


def test_a_descent_goes_on_from_its_first_better_proposal_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of one is none, but the next slopes are wanted there."""
    monkeypatch.setattr(rivals, "paired_error", lambda *_, **__: 0.0)
    for sampler, value, expected in (
        ("descent", -0.1, 1), ("auto", -0.1, 1), ("descent", 0.1, 0), ("random", -0.1, 0),
    ):  # fmt: skip
        study = tiny.open(
            study=f"{sampler}-{expected}-{value}",
            search__sampler=sampler,
            search__evaluations=5,  # few enough for `auto` to take the descent
            search__rungs=[250, 1000],
            search__promote=0.34,
        )
        assert promote(study) == 0
        score(study, enter(study, 1), 0, value, 1.0)
        assert promote(study) == expected


def test_the_error_of_a_pair_is_that_of_their_features_on_common_seeds(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open(search__evaluations=2, search__rungs=[250], confirm__candidates=1)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    ours, theirs = ledger.leading(study.database, study.id, level=0, places=2)
    rows = [
        Stored(study, ledger.evaluation(study.database, one.evaluation_id), 250).sample.whole(
            "features"
        )
        for one in (ours, theirs)
    ]
    assert study.reference is not None
    expected = paired_difference(rows[1], rows[0], study.reference)
    for opened in (study, tiny.open(search__evaluations=2, search__rungs=[250])):  # kept, and read
        found = rivals.paired_error(opened, ours, theirs, level=0)
        assert found == pytest.approx(expected.standard_error, rel=1e-9)
    assert theirs.difference - ours.difference == pytest.approx(expected.value, rel=1e-6)
    # Without the arrays it waits until they are back; once they are dropped nothing is decided.
    study.summaries.clear()
    (chunk,) = ledger.chunks_of(study.database, ours.evaluation_id)
    path = tiny.artifacts / study.arrays.path(str(chunk.array))
    kept = path.read_bytes()
    path.unlink()
    assert rivals.paired_error(study, ours, theirs, level=0) is None
    assert not rivals.are_rivals(study, ours, theirs, level=0, least=0.0)
    path.write_bytes(kept)
    gone = (replace(chunk, state="dropped", array=None),)
    monkeypatch.setattr(ledger, "chunks_of", lambda *_, **__: gone)
    assert rivals.paired_error(study, ours, theirs, level=0) == float("inf")
