"""What Optuna has not been told: everything at first, nothing twice once it was noted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from skiptune.storage import ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, in_threads

Key = tuple[int, int | None]


def score(database: Database, made: ledger.Evaluation, level: int = 0, **other: Any) -> None:
    """Score a rung, which is entered where it is missing."""
    images = 500 * (level + 1)
    if level:
        ledger.promote(database, made.id, images)
    values: dict[str, Any] = {
        "metric": "m",
        "reference": "r",
        "images": images,
        "value": 1.0,
        "standard_error": 0.1,
    }
    ledger.put_score(database, made.id, level=level, **(values | other))


def keys(items: tuple[ledger.Untold, ...]) -> list[Key]:
    return [
        (item.evaluation.number, None if item.score is None else item.score.level)
        for item in items
    ]


def test_scores_and_ends_are_told_once(database: Database, study: ledger.Study, add: Add) -> None:
    scored, diverged, running = add(0.8), add(0.7), add(0.6)
    baseline = add(1.0)
    for made in (baseline, scored):
        score(database, made)
    ledger.finish_evaluation(database, diverged.id, "diverged", "NaN")
    first = ledger.untold(database, study.id)
    assert keys(first) == [(0, 0), (1, 0), (2, None)]
    assert [item.evaluation for item in first] == [
        ledger.evaluation(database, made.id) for made in (baseline, scored, diverged)
    ]
    assert [item.score for item in first[:2]] == list(ledger.scores(database, study.id))
    # Nothing was noted: a crash in between tells it again.
    assert ledger.untold(database, study.id) == first
    ledger.mark_told(database, first)
    ledger.mark_told(database, first)
    assert ledger.untold(database, study.id) == ()
    score(database, scored, 1)
    ledger.finish_evaluation(database, running.id, "failed", "it does not fit")
    assert keys(ledger.untold(database, study.id)) == [(1, 1), (3, None)]
    ledger.forget_told(database, study.id)
    assert keys(ledger.untold(database, study.id)) == [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, None),
        (3, None),
    ]


def test_only_what_was_noted_is_told(database: Database, study: ledger.Study, add: Add) -> None:
    for scale in (0.7, 0.8, 0.9):
        score(database, add(scale))
    first, second, third = ledger.untold(database, study.id)
    ledger.mark_told(database, [second])
    assert ledger.untold(database, study.id) == (first, third)
    ledger.mark_told(database, [])
    assert ledger.untold(database, study.id) == (first, third)


def test_an_evaluation_that_ends_after_its_score_was_told(
    database: Database, study: ledger.Study, add: Add
) -> None:
    """Optuna has a finished trial of it, which nothing can change."""
    made = add(0.8)
    score(database, made)
    ledger.mark_told(database, ledger.untold(database, study.id))
    ledger.promote(database, made.id, 1000)
    ledger.finish_evaluation(database, made.id, "diverged", "NaN")
    assert ledger.untold(database, study.id) == ()


def test_what_is_no_proposal_of_the_search_is_not_told(
    database: Database, study: ledger.Study, add: Add
) -> None:
    score(database, add(0.8, kind="control"))
    score(database, add(0.8, kind="confirm", block="c/A", first_seed=2_100_000))
    score(database, add(1.0, block="c/A", first_seed=2_100_000))
    assert ledger.untold(database, study.id) == ()


def test_studies_are_told_apart(database: Database, study: ledger.Study, add: Add) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    score(database, add(0.8))
    score(database, add(0.8, study_id=other.id))
    for item in (study, other):
        ledger.mark_told(database, ledger.untold(database, item.id))
    ledger.forget_told(database, other.id)
    assert ledger.untold(database, study.id) == ()
    assert keys(ledger.untold(database, other.id)) == [(1, 0)]


@pytest.mark.parametrize("seed", range(2))
def test_against_a_list_kept_by_hand(
    database: Database, study: ledger.Study, add: Add, seed: int
) -> None:
    draw = random.Random(seed)
    made: list[ledger.Evaluation] = []
    levels: dict[int, int] = {}
    ended: set[int] = set()
    waiting: set[Key] = set()
    everything: set[Key] = set()
    for step in range(50):
        what = draw.choice(["add", "add", "score", "score", "score", "end", "tell", "forget"])
        alive = [item for item in made if item.number not in ended]
        new: Key | None = None
        if what == "add":
            made.append(add(1.0 if not made else 0.5 + step / 1000))
        elif what == "score" and alive:
            item = draw.choice(alive)
            level = levels.get(item.number, -1) + 1
            score(database, item, level)
            levels[item.number] = level
            new = (item.number, level)
        elif what == "end" and alive:
            item = draw.choice(alive)
            state: ledger.EvaluationState = draw.choice(["diverged", "failed"])
            ledger.finish_evaluation(database, item.id, state, "why")
            ended.add(item.number)
            if item.number not in levels:
                new = (item.number, None)
        elif what == "tell":
            items = ledger.untold(database, study.id)
            told = draw.sample(items, draw.randint(0, len(items)))
            ledger.mark_told(database, told)
            waiting -= set(keys(tuple(told)))
        elif what == "forget" and draw.random() < 0.2:
            ledger.forget_told(database, study.id)
            waiting = set(everything)
        if new is not None:
            waiting.add(new)
            everything.add(new)
        found = keys(ledger.untold(database, study.id))
        assert set(found) == waiting
        assert found == sorted(found, key=lambda key: (key[0], key[1] or 0))
    assert len(everything) > 10


def test_two_who_note_the_same(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    """In whatever order: neither waits for the other for ever."""
    for n in range(20):
        score(database, add(0.5 + n / 100))
    items = ledger.untold(database, study.id)
    calls = [lambda own: ledger.mark_told(own, items), lambda own: ledger.mark_told(own, items)]
    in_threads(url, calls)
    assert ledger.untold(database, study.id) == ()
