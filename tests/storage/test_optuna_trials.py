from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import text

from skiptune.storage.database import Database
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.optuna_trials import Mark, ended, is_as_it_was, marks


def test_what_came_what_is_named_and_what_has_not_ended(database: Database) -> None:
    storage = optuna_storage(database)
    study = optuna.create_study(study_name="s", storage=storage)
    other = optuna.create_study(study_name="t", storage=storage)
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    trials = [study.ask(space) for _ in range(4)]
    other.ask(space).set_user_attr("mark", "elsewhere")
    for trial in trials[:3]:
        trial.set_user_attr("mark", f"of {trial.number}")
        trial.set_user_attr("more", 1.0)
    study.tell(trials[0], 1.0)
    study.tell(trials[1], state=TrialState.FAIL)
    study.enqueue_trial({"x": 0.5})

    def look(after: int, again: tuple[int, ...] = ()) -> tuple[Mark, ...]:
        return marks(database, study._study_id, attribute="mark", after=after, again=again)

    found = look(-1)
    assert [mark.number for mark in found] == [0, 1, 2, 3, 4]
    assert [mark.value for mark in found] == ["of 0", "of 1", "of 2", None, None]
    assert [mark.state for mark in found] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.RUNNING,
        TrialState.WAITING,
    ]
    assert [mark.trial_id for mark in found[:4]] == [trial._trial_id for trial in trials]
    last = found[-1].trial_id
    # Whatever was seen: a trial that has not ended is named each time.
    assert look(last) == found[2:]
    study.tell(trials[2], 2.0)
    assert [mark.number for mark in look(last)] == [3, 4]
    (ended, *_) = look(last, (trials[2]._trial_id,))
    assert (ended.number, ended.state) == (2, TrialState.COMPLETE)
    assert marks(database, 1000, attribute="mark", after=-1) == ()


def test_what_is_noted_of_ended_trials_is_told_from_what_others_do(database: Database) -> None:
    empty = ended(database)
    assert (empty.last, empty.unended) == (0, ())
    storage = optuna_storage(database)
    study = optuna.create_study(study_name="s", storage=storage)
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    done, running = study.ask(space), study.ask(space)
    done.set_user_attr("a", "one")
    study.tell(done, 1.0)
    before = ended(database)
    assert (before.last, before.unended) == (running._trial_id, (running._trial_id,))
    # What a search does all the time.
    running.set_user_attr("a", "one")
    study.tell(running, 2.0)
    later = study.ask(space)
    later.set_user_attr("a", "one")
    study.tell(later, state=TrialState.FAIL)
    assert is_as_it_was(database, before)
    assert is_as_it_was(database, empty)
    # What it does not.
    for statement in (
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:id, 'b', '2')",
        "UPDATE trial_user_attributes SET value_json = '\"longer\"' WHERE trial_id = :id",
        "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (:id, 'c', '3')",
        "DELETE FROM trial_user_attributes WHERE trial_id = :id AND key = 'b'",
    ):
        before = ended(database)
        assert is_as_it_was(database, before)
        with database.write() as session:
            session.execute(text(statement), {"id": done._trial_id})
        assert not is_as_it_was(database, before), statement
    before = ended(database)
    optuna.delete_study(study_name="s", storage=storage)
    assert not is_as_it_was(database, before)
