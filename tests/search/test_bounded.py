from __future__ import annotations

import random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from skiptune.search.bounded import BEST, LONGEST, BoundedStudy, bounded
from skiptune.search.samplers import make_sampler

STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def trial(number: int, state: TrialState, value: float) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params={"x": value},
        distributions={"x": FloatDistribution(-10.0, 10.0)},
    )
    made.number = number
    return made


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiptune.search.bounded.LONGEST", 20)
    monkeypatch.setattr("skiptune.search.bounded.BEST", 5)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_the_best_and_the_latest_are_shown(seed: int, count: int) -> None:
    draw = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skiptune.search.bounded.LONGEST", 20)
        patch.setattr("skiptune.search.bounded.BEST", 5)
        # Few values, so that many are equal; a trial in seven runs or waits.
        trials = [
            trial(
                number,
                draw.choice([*STATES * 2, draw.choice([TrialState.RUNNING, TrialState.WAITING])]),
                float(draw.randint(-3, 3)),
            )
            for number in range(count)
        ]
        shown = bounded(trials)
    finished = [t for t in trials if t.state.is_finished()]
    assert [t.number for t in shown] == sorted(t.number for t in shown)
    assert {t.number for t in trials} - {t.number for t in finished} <= {t.number for t in shown}
    seen = [t for t in shown if t.state.is_finished()]
    assert len(seen) == min(len(finished), 20)
    complete = [t for t in finished if t.state == TrialState.COMPLETE]
    for item in complete:
        ahead = sum((t.value, t.number) < (item.value, item.number) for t in complete)
        assert ahead >= 5 or item in seen
    # Apart from the best ones, whatever is left out is older than whatever is shown.
    best = sorted(complete, key=lambda t: (t.value, t.number))[:5]
    others = [t.number for t in seen if t not in best]
    left = [t.number for t in finished if t not in seen]
    assert not left or max(left) < min(others)


def test_a_short_history_is_shown_whole() -> None:
    trials = [trial(n, TrialState.COMPLETE, 1.0) for n in range(LONGEST)]
    assert bounded(trials) is trials
    assert 0 < BEST < LONGEST


class Watching(optuna.samplers.RandomSampler):
    """Notes what a sampler is shown, by each of the ways in which samplers ask."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.seen: list[list[int]] = []

    def sample_independent(self, study: optuna.Study, *others: object) -> float:
        shown = study._get_trials(deepcopy=False, use_cache=True)
        self.seen.append([t.number for t in shown])
        self.seen.append([t.number for t in study._get_trials(deepcopy=False, states=STATES)])
        return 0.0


def test_only_samplers_see_less(short: None) -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    study = BoundedStudy("s", storage)
    study.add_trials([trial(n, TrialState.COMPLETE, float(n % 10)) for n in range(50)])
    sampler = Watching()
    study.sampler = sampler
    asked = study.ask({"x": FloatDistribution(-10.0, 10.0)})
    # The five best of fifty, which are 0, 10, 20, 30, 40, and the latest up to twenty.
    shown = [0, 10, 20, 30, *range(34, 50)]
    assert sampler.seen == [[*shown, 50], shown]
    assert len(study.trials) == len(study.get_trials(deepcopy=False)) == 51
    study.tell(asked, 3.0)
    assert study.best_trial.number == 0


@pytest.mark.parametrize("name", ["tpe", "random", "nsgaii"])
def test_every_sampler_asks_of_a_long_history(short: None, name: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    study = BoundedStudy("s", storage)
    study.add_trials([trial(n, TrialState.COMPLETE, float(n % 10)) for n in range(50)])
    study.sampler = make_sampler(name, seed=3)
    for _ in range(3):
        asked = study.ask({"x": FloatDistribution(-10.0, 10.0)})
        assert -10.0 <= asked.params["x"] <= 10.0
    assert len(study.trials) == 53
