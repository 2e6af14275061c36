"""Optuna's studies follow our rows: told at least once, the same twice, made anew when gone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from skiptune.errors import StorageError, TurnLostError, UnavailableError
from skiptune.search.bounded import BoundedStudy
from skiptune.search.confirm import result_of
from skiptune.search.events import ChunkDone, Event
from skiptune.search.projection import (
    DIVERGED,
    SCHEDULE,
    Board,
    board_names,
    delete_optuna_studies,
)
from skiptune.search.proposals import propose
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.turns import end_turn, take_turn
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


def trials(study: OpenStudy, name: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database)).trials


def told(study: OpenStudy) -> dict[str, Any]:
    """What the Optuna studies of the search hold, without numbers, times and those told FAIL."""
    return {
        name: sorted(
            (
                (t.user_attrs.get(SCHEDULE, ""), t.state, t.values, t.params, t.distributions,
                 t.user_attrs, t.constraints)
                for t in trials(study, name)
                if t.state != TrialState.FAIL
            ),
            key=repr,
        )
        for name in board_names(study.row)[:-1]
    }  # fmt: skip


def finished(tiny: Tiny) -> OpenStudy:
    study = tiny.open()
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    return study


def names(study: OpenStudy) -> set[str]:
    return {s.study_name for s in optuna_storage(study.database).get_all_studies()}


def test_who_loses_the_turn_while_telling_tells_no_more(tiny: Tiny, quick: None) -> None:
    """The next worker tells what is left; in two turns at once one trial would be told twice."""
    study = finished(tiny)
    untouched = told(study)
    delete_optuna_studies(study.database, board_names(study.row))
    ledger.forget_told(study.database, study.id)
    slow, steps = Board(study.database, study.row), iter(range(3))

    def keep() -> None:
        if next(steps) == 2:
            raise TurnLostError("turn", expected="ours", found="another's", hint="-")

    slow.refresh()
    with pytest.raises(TurnLostError):
        slow.project(keep=keep)
    assert 0 < sum(map(len, told(study).values())) < sum(map(len, untouched.values()))
    heir = Board(study.database, study.row)
    heir.refresh()
    heir.project()
    assert told(study) == untouched


def test_told_twice_because_the_note_was_lost_it_says_the_same(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny.elsewhere() as other:
        expected = told(finished(other))
    # As if each worker died between telling and noting it.
    monkeypatch.setattr(ledger, "mark_told", lambda database, items: None)
    study = finished(tiny)
    assert len(ledger.untold(study.database, study.id)) == 9
    assert told(study) == expected
    monkeypatch.undo()
    numbers = {name: len(trials(study, name)) for name in expected}
    for _ in range(2):
        board = Board(study.database, study.row)
        board.refresh()
        board.project()
        assert ledger.untold(study.database, study.id) == ()
        assert told(study) == expected
        ledger.forget_told(study.database, study.id)
    assert {name: len(trials(study, name)) for name in expected} == numbers


def test_a_crash_in_the_middle_of_telling_is_told_on(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(tiny)
    expected = told(study)
    delete_optuna_studies(study.database, board_names(study.row))
    ledger.forget_told(study.database, study.id)
    real = Board._add
    for most in range(1, 9):
        calls: list[None] = []

        def add(self: Board, *rest: Any, most: int = most, calls: list[None] = calls) -> None:
            if len(calls) >= most:
                raise KeyboardInterrupt
            calls.append(None)
            real(self, *rest)

        monkeypatch.setattr(Board, "_add", add)
        board = Board(study.database, study.row)
        board.refresh()
        try:
            board.project()
        except KeyboardInterrupt:
            continue
    monkeypatch.undo()
    board = Board(study.database, study.row)
    board.refresh()
    board.project()
    assert told(study) == expected


def rename(study: OpenStudy, old: str, new: str) -> None:
    """As optuna-dashboard does it: a new study with the trials of the old one, which then goes."""
    storage = optuna_storage(study.database)
    before = optuna.load_study(study_name=old, storage=storage)
    made = optuna.create_study(study_name=new, storage=storage, directions=before.directions)
    made.add_trials(before.get_trials(deepcopy=False))
    optuna.delete_study(study_name=old, storage=storage)


@pytest.mark.parametrize("name", ["tiny", "tiny/500"])
@pytest.mark.parametrize("action", ["deleted", "renamed"])
def test_what_is_deleted_or_renamed_in_the_dashboard_is_made_anew(
    tiny: Tiny, quick: None, name: str, action: str
) -> None:
    study = finished(tiny)
    expected = told(study)
    board = Board(study.database, study.row)
    board.refresh()
    if action == "deleted":
        optuna.delete_study(study_name=name, storage=optuna_storage(study.database))
    else:
        rename(study, name, "mine")
    for who in (board, Board(study.database, study.row)):
        who.refresh()
        who.project()
        assert told(study) == expected
    assert ("mine" in names(study)) == (action == "renamed")


@pytest.mark.parametrize("after", [3, 6, 9])
def test_a_study_deleted_under_a_worker_changes_nothing_in_the_end(
    tiny: Tiny, quick: None, after: int
) -> None:
    with tiny.elsewhere() as other:
        undisturbed = finished(other)
        expected, verdict = told(undisturbed), result_of(undisturbed, 1).verdict
    study, dashboard = tiny.open(), tiny.open()
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ChunkDone):
            seen.append(event)
            if len(seen) == after:
                delete_optuna_studies(dashboard.database, board_names(study.row))

    member = crew_member(study, "a", limits=UNTIL_DONE, on_event=on_event)
    assert member.run() == "complete"
    assert told(study) == expected
    assert result_of(study, 1).verdict == verdict


def test_a_study_deleted_while_it_is_spoken_of_is_a_passing_fault(tiny: Tiny) -> None:
    study = tiny.open()
    board = Board(study.database, study.row)
    board.refresh()
    delete_optuna_studies(tiny.open().database, board_names(study.row))
    with pytest.raises(UnavailableError, match="deleted meanwhile"), board.explained():
        board.lowest.ask(fixed_distributions=board.distributions)
    with pytest.raises(KeyError, match="other"), board.explained():
        raise KeyError("other")


def test_rebuilt_in_the_middle_the_running_ones_run(tiny: Tiny, quick: None) -> None:
    study = tiny.open(search__evaluations=6)
    crew_member(study, "a", limits=Limits(trials=2)).run()
    board = Board(study.database, study.row)
    board.refresh()
    board.project()
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    left = [propose(study, board, turn) for _ in range(2)]
    end_turn(study.database, turn)
    before = told(study)
    for _ in range(2):
        board.rebuild()
        assert told(study) == before
    running = {t.user_attrs[SCHEDULE] for t in trials(study, "tiny") if not t.state.is_finished()}
    assert running >= {e.schedule for e in left if e is not None}
    assert board.fail_orphans() == 0
    member = crew_member(tiny.open(search__evaluations=6), "b", limits=UNTIL_DONE)
    assert member.run() == "complete"
    states = Counter(trial.state for trial in trials(study, "tiny"))
    assert states == {TrialState.COMPLETE: 7}


def test_the_ends_that_are_no_values(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(trials=1)).run()
    board = Board(study.database, study.row)
    board.refresh()
    board.project()
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    made = [propose(study, board, turn) for _ in range(2)]
    for evaluation, state in zip(made, ("diverged", "failed"), strict=True):
        assert evaluation is not None
        ledger.finish_evaluation(study.database, evaluation.id, state, f"it {state}")  # type: ignore[arg-type]
    board.refresh()
    board.project()
    ends = {t.user_attrs.get("reason"): (t.state, t.constraints) for t in trials(study, "tiny")}
    assert ends["it diverged"] == (TrialState.PRUNED, {DIVERGED: 1.0})
    assert ends["it failed"][0] == TrialState.FAIL
    # They are told anew where they were forgotten.
    board.rebuild()
    again = {t.user_attrs.get("reason"): (t.state, t.constraints) for t in trials(study, "tiny")}
    assert again["it diverged"] == ends["it diverged"]


def test_before_the_baseline_is_scored_nothing_is_told(tiny: Tiny) -> None:
    study = tiny.open()
    study.baseline(block=SEARCH, first_seed=1_000_000, images=500)
    board = Board(study.database, study.row)
    board.refresh()
    board.project()
    assert trials(study, "tiny") == []
    assert names(study) == {"tiny", "tiny/500"}


def test_the_one_that_is_asked_shows_samplers_a_bounded_history(tiny: Tiny) -> None:
    study = tiny.open()
    assert isinstance(Board(study.database, study.row).lowest, BoundedStudy)


def test_running_trials_are_failed_when_nobody_goes_on(tiny: Tiny) -> None:
    study = tiny.open()
    board = Board(study.database, study.row)
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    for _ in range(3):
        propose(study, board, turn)
    board.fail_running()
    board.fail_running()
    assert {t.state for t in trials(study, "tiny")} == {TrialState.FAIL}


def test_a_row_of_an_old_version_is_refused(tiny: Tiny) -> None:
    study = tiny.open()
    old = ledger.set_study_spec(study.database, study.id, dict(study.row.spec))
    with pytest.raises(StorageError, match="one that an older version wrote"):
        Board(study.database, old)
