"""What a sampler is told from our rows is what Optuna's own study would tell it."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from skiptune.search.bounded import BoundedStudy
from skiptune.search.history import DIVERGED, STATELESS, History
from skiptune.search.projection import SCHEDULE, Board
from skiptune.search.proposals import propose
from skiptune.search.samplers import AUTO, CLASSES, NEEDS, make_sampler
from skiptune.search.sections import SAMPLERS
from skiptune.storage import ledger
from skiptune.storage.database import Database, init_database
from skiptune.storage.turns import take_turn
from tests.search.conftest import Tiny

SPACE: dict[str, BaseDistribution] = {
    "a": FloatDistribution(0.5, 2.0, log=True),
    "b": FloatDistribution(0.5, 2.0, log=True),
    "first": IntDistribution(0, 5),
}
BASELINE = {"a": 1.0, "b": 1.0, "first": 0}

INSTALLED = sorted(
    name
    for name in STATELESS & CLASSES.keys()
    if name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None
)


class Rows:
    """A study of our tables, and beside it the Optuna study that is told the same."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.id = ledger.create_study(database, name="s", spec={}, meaning={}).id
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(study_name="s", storage=storage)
        self.optuna = BoundedStudy("s", storage)
        self._draw = random.Random(4)
        self.history = self.look()
        self._add("baseline", BASELINE)

    def look(self) -> History:
        return History(self.database, self.id, distributions=SPACE, baseline=BASELINE)

    def _add(self, kind: Any, params: dict[str, Any]) -> ledger.Evaluation:
        return ledger.add_evaluation(
            self.database,
            self.id,
            kind=kind,
            label=kind,
            block="search",
            series={},
            measure={},
            schedule={"params": params},
            first_seed=1_000_000,
            images=250,
            params={} if kind == "baseline" else params,
        )

    def score(self, evaluation: ledger.Evaluation, difference: float | None) -> float:
        ledger.put_score(
            self.database,
            evaluation.id,
            level=0,
            metric="m",
            reference="r",
            images=250,
            value=7.25,
            standard_error=0.1,
            difference=difference,
            difference_error=None if difference is None else 0.1,
        )
        return 7.25 + (difference or 0.0)

    def baseline(self) -> None:
        evaluation = self._add("baseline", BASELINE)
        self._told(TrialState.COMPLETE, BASELINE, self.score(evaluation, None))

    def proposal(self, end: str = "complete") -> ledger.Evaluation:
        draw = self._draw
        params = {
            "a": draw.uniform(0.5, 2),
            "b": draw.uniform(0.5, 2),
            "first": draw.randint(0, 5),
        }
        evaluation = self._add("proposal", params)
        if end == "complete":
            # Few values: ties are ordered by number.
            value = self.score(evaluation, draw.randint(-8, 8) / 4)
            self._told(TrialState.COMPLETE, params, value)
        elif end == "running":
            self._told(TrialState.RUNNING, params)
        else:
            ledger.finish_evaluation(self.database, evaluation.id, end)  # type: ignore[arg-type]
            state = TrialState.PRUNED if end == "diverged" else TrialState.FAIL
            self._told(state, params)
        return evaluation

    def _told(self, state: TrialState, params: dict[str, Any], value: float | None = None) -> None:
        self.optuna.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=SPACE,
                constraints={DIVERGED: 1.0} if state == TrialState.PRUNED else None,
            )
        )


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with init_database(database_url) as database:
        yield Rows(database)


def plain(trials: list[FrozenTrial]) -> list[Any]:
    return [(t.state, t.values, t.params, t.distributions, t.constraints) for t in trials]


def asked_of_optuna(rows: Rows, name: str, seed: int) -> dict[str, Any]:
    rows.optuna.sampler = make_sampler(name, seed=seed)
    trial = rows.optuna.ask(SPACE)
    rows.optuna.tell(trial, state=TrialState.FAIL)
    return trial.params


@pytest.mark.parametrize("name", INSTALLED)
def test_a_sampler_proposes_what_it_would_propose_of_optunas_study(rows: Rows, name: str) -> None:
    history = rows.look()

    def same() -> None:
        history.refresh()
        known = [t for t in rows.optuna.trials if t.state != TrialState.FAIL]
        assert plain(history.trials) == plain(known)
        for seed in range(3):
            asked = history.ask(make_sampler(name, seed=seed))
            assert asked == asked_of_optuna(rows, name, seed)
            assert list(asked) == list(SPACE)

    same()
    rows.baseline()
    same()
    ends = ["complete", "complete", "running", "diverged", "complete", "failed"]
    for number in range(24):
        rows.proposal(ends[number % len(ends)])
        if number % 5 == 0:
            same()
    same()


@pytest.mark.parametrize("most", [12, 40])
def test_of_a_long_history_the_same_is_left_out(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    for module in ("skiptune.search.bounded", "skiptune.search.history"):
        monkeypatch.setattr(f"{module}.LONGEST", most)
    monkeypatch.setattr("skiptune.search.bounded.BEST", 4)
    rows.baseline()
    history = rows.look()
    for number in range(80):
        rows.proposal("running" if number % 20 == 0 else "complete")
        if number % 7 == 0:
            history.refresh()
            asked = history.ask(make_sampler("tpe", seed=number))
            assert asked == asked_of_optuna(rows, "tpe", number)
    # What can never be shown again is forgotten.
    history.refresh()
    ended = [trial for trial in history.trials if trial.state.is_finished()]
    assert len(ended) <= 3 * most


def test_read_in_parts_it_is_what_is_read_at_once(rows: Rows) -> None:
    rows.baseline()
    history = rows.look()
    running = []
    for number in range(12):
        running.append(rows.proposal("running"))
        if number % 3 == 2:
            # The oldest ends last.
            rows.score(running.pop(-2), -0.5)
        if number == 7:
            ledger.finish_evaluation(rows.database, running.pop(0).id, "diverged", "not finite")
            ledger.finish_evaluation(rows.database, running.pop(0).id, "failed", "lost leases")
        history.refresh()
        whole = rows.look()
        whole.refresh()
        assert plain(history.trials) == plain(whole.trials)
        assert [t.number for t in history.trials] == [t.number for t in whole.trials]
        assert all(evaluation.schedule in history for evaluation in running)
    assert "0" * 64 not in history
    states = [trial.state for trial in history.trials]
    assert states.count(TrialState.PRUNED) == 1
    assert states.count(TrialState.RUNNING) == len(running)


def test_an_evaluation_that_diverges_at_a_higher_rung_keeps_its_value(rows: Rows) -> None:
    rows.baseline()
    evaluation = rows.proposal("complete")
    ledger.promote(rows.database, evaluation.id, 500)
    ledger.finish_evaluation(rows.database, evaluation.id, "diverged", "not finite")
    for history in (rows.look(), rows.look()):
        history.refresh()
        assert [t.state for t in history.trials] == [TrialState.COMPLETE] * 2


def test_before_the_baseline_is_scored_all_proposals_run(rows: Rows) -> None:
    history = rows.look()
    evaluation = rows.proposal("running")
    rows.score(evaluation, -1.0)
    history.refresh()
    assert [t.state for t in history.trials] == [TrialState.RUNNING]
    rows.baseline()
    history.refresh()
    assert [t.values for t in history.trials] == [[7.25], [6.25]]


def test_samplers_that_note_something_in_optunas_study_are_asked_there() -> None:
    assert set(SAMPLERS) - STATELESS - {AUTO} == {"qmc", "nsgaii"}


def test_a_proposal_is_a_running_trial_of_one_transaction_unless_one_waits(tiny: Tiny) -> None:
    study = tiny.open(search__sampler="tpe")
    board = Board(study.database, study.row)
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    made = propose(study, board, turn)
    assert made is not None
    names = sorted(study.space.distributions())
    board.lowest.enqueue_trial(dict.fromkeys(names, 1.25))
    waited = propose(study, board, turn)
    assert waited is not None
    assert set(waited.params.values()) == {1.25}
    trials = board.lowest.trials
    for trial, evaluation in zip(trials, (made, waited), strict=True):
        assert trial.state == TrialState.RUNNING
        assert trial.params == evaluation.params
        assert trial.distributions == study.space.distributions()
        assert trial.user_attrs == {SCHEDULE: evaluation.schedule, "kind": "proposal"}
        assert trial.datetime_start is not None
    assert board.fail_orphans() == 0
