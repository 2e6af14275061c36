"""Which schedules a confirm tests: searches whose truth is known, and those of a stored study."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from skiptune.search import candidates as module
from skiptune.search.candidates import HOPELESS, Found, begun_on, candidates, most_promising
from skiptune.search.promotion import WORSE, best, places
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation
from tests.search.conftest import Tiny

RUNGS = (500, 2000, 8000)


def searched(rng: np.random.Generator, shared: float) -> tuple[np.ndarray, list[Found]]:
    """A search of 16 schedules, the best third of each rung promoted, and its truth.

    Arguments:
        rng: Of the world.
        shared: Part of an estimate's variance that all schedules have in common, as they have
            the baseline's error on common seeds.
    """
    truth = rng.normal(0.5, 1.0, 16)
    steps = np.diff([0, *RUNGS])
    own = np.cumsum([rng.normal(0, np.sqrt(step), len(truth)) for step in steps], axis=0)
    common = np.cumsum([rng.normal(0, np.sqrt(step)) for step in steps])[:, None]
    noise = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    estimates = truth + noise * np.sqrt(RUNGS[0]) / np.array(RUNGS)[:, None]
    errors = np.sqrt(RUNGS[0] / np.array(RUNGS))
    here = list(range(len(truth)))
    found: dict[int, Found] = {}
    for level, error in enumerate(errors):
        values = {number: float(estimates[level, number]) for number in here}
        found |= {n: Found(n, False, value, float(error)) for n, value in values.items()}
        on = best(values, places(len(values), 1 / 3))
        here = [number for number in on if values[number] <= WORSE * error]
    return truth, list(found.values())


def regrets(shared: float, searches: int = 1500) -> dict[str, float]:
    """The mean distance of the first candidate from the best schedule there was, by rule."""
    rng = np.random.default_rng(5)
    total = dict.fromkeys(("ours", "lowest", "highest rung"), 0.0)
    for _ in range(searches):
        truth, found = searched(rng, shared)
        first = {
            "ours": most_promising(found, 1) or (None,),
            "lowest": (min(found, key=lambda one: one.difference).number,),
            "highest rung": (min(found, key=lambda one: (one.error, one.difference)).number,),
        }
        for rule, (number,) in first.items():
            # Where there is no candidate, the baseline is kept.
            there = 0.0 if number is None else float(truth[number])
            total[rule] += there - min(float(truth.min()), 0.0)
    return {rule: value / searches for rule, value in total.items()}


def test_the_first_candidate_is_nearest_to_the_best_whatever_estimates_share() -> None:
    apart, together = regrets(0.0), regrets(0.7)
    assert apart["ours"] < 0.95 * apart["highest rung"]
    assert apart["ours"] < 1.05 * apart["lowest"]
    # On common seeds few images look good together, and the lowest of them is no better.
    assert together["ours"] < 0.6 * together["lowest"]
    assert together["ours"] < 1.02 * together["highest rung"]


def test_the_order_of_upper_bounds() -> None:
    found = [
        Found(1, False, -1.0, 0.6),  # bound 0.176
        Found(2, False, -0.5, 0.1),  # bound -0.304, with fewer images or more
        Found(3, False, -0.5, 0.1),
        Found(4, False, 0.1, 0.05),  # worse by two errors
        Found(5, True, -9.0, 0.1),  # of a screen
    ]
    assert most_promising(found, 9) == (2, 3, 1, 5)
    assert most_promising(found, 2) == (2, 3)
    assert most_promising(found[3:4], 3) == ()
    assert most_promising([Found(7, False, HOPELESS * 0.05, 0.05)], 3) == (7,)


@pytest.fixture
def searched_study(tiny: Tiny) -> tuple[OpenStudy, dict[str, Evaluation]]:
    """Three schedules: one with many images, one with few that is far ahead, one that is worse."""
    study = tiny.open(search__rungs=[250, 500], confirm__candidates=2)
    made: dict[str, Evaluation] = {}
    for name, scores in {
        "many": [(-0.3, 0.2), (-0.2, 0.1)],
        "ahead": [(-2.0, 0.2)],
        "worse": [(-0.1, 0.2), (0.3, 0.1)],
    }.items():
        params = {key: 1.0 + (len(made) + 1) / 10 for key in study.space.distributions()}
        one = study.evaluate(
            study.space.schedule(params),
            kind="proposal",
            label=name,
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=250,
            params=params,
        )
        made[name] = one
        for level, (value, error) in enumerate(scores):
            _score(study, one, level, value, error)
    return study, made


def _score(study: OpenStudy, one: Evaluation, level: int, value: float, error: float) -> None:
    ledger.promote(study.database, one.id, study.rungs[level])
    ledger.put_score(
        study.database,
        one.id,
        level=level,
        metric="m",
        reference="r",
        images=study.rungs[level],
        value=1.0,
        standard_error=0.1,
        difference=value,
        difference_error=error,
    )


def test_few_images_that_are_far_ahead_come_first_and_the_worse_is_left_out(
    searched_study: tuple[OpenStudy, dict[str, Evaluation]],
) -> None:
    study, made = searched_study
    assert [one.label for one in candidates(study)] == ["ahead", "many"]
    assert begun_on(study, [made["ahead"], made["many"]])
    # One that was begun on fewer has judged the better ones.
    assert begun_on(study, [made["ahead"]])
    assert not begun_on(study, [made["many"], made["ahead"]])


def test_a_confirm_of_the_highest_rung_first_is_still_that_of_its_search(
    searched_study: tuple[OpenStudy, dict[str, Evaluation]],
) -> None:
    study, made = searched_study
    assert begun_on(study, [made["many"], made["worse"]])
    assert begun_on(study, [made["many"], made["worse"], made["ahead"]])
    assert not begun_on(study, [made["worse"], made["many"]])


def test_whoever_violates_a_constraint_at_its_last_rung_is_no_candidate(
    searched_study: tuple[OpenStudy, dict[str, Evaluation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made = searched_study
    level: Literal[1] = 1
    violated = {(made["many"].id, level): ("recall >= 0.95 x baseline",)}
    monkeypatch.setattr(module, "in_violation", lambda study: violated)
    assert [one.label for one in candidates(study)] == ["ahead"]
