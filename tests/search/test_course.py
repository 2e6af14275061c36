"""What a study's workers enter together: budgets, stages, and going on with a larger budget."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from skiptune.search.confirm import result_of
from skiptune.search.course import whole_study
from skiptune.search.events import Event, Notice, Stage
from skiptune.search.plan import search_images
from skiptune.search.projection import SCHEDULE, Board
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import leases, ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.turns import end_turn, take_turn
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member, together


def trials(study: OpenStudy, name: str = "tiny") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database)).trials


def crew(tiny: Tiny, count: int, **changes: Any) -> list[str]:
    """Let workers finish the study; return how they ended."""
    members = [
        crew_member(tiny.open(**changes), f"host{n}", limits=UNTIL_DONE) for n in range(count)
    ]
    return together([member.run for member in members])


def proposals(study: OpenStudy) -> tuple[ledger.Evaluation, ...]:
    return ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)


@pytest.fixture
def second_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk counts as one second of sampling."""
    real = leases.commit_chunk

    def commit_chunk(*arguments: Any, **values: Any) -> None:
        real(*arguments, **{**values, "seconds": 1.0})

    monkeypatch.setattr(leases, "commit_chunk", commit_chunk)


def test_three_workers_spend_a_budget_of_evaluations_exactly(tiny: Tiny, quick: None) -> None:
    assert crew(tiny, 3, search__evaluations=7) == ["complete"] * 3
    study = tiny.open(search__evaluations=7)
    assert len(proposals(study)) == 7
    assert [e.number for e in proposals(study)] == list(range(1, 8))


# The baseline takes 500; what is left does not divide evenly into what is asked for.
@pytest.mark.parametrize("images", [1000, 2250, 2500])
def test_three_workers_spend_a_budget_of_images_exactly(
    tiny: Tiny, quick: None, images: int
) -> None:
    changes = {"search__evaluations": 40, "search__images": images}
    assert crew(tiny, 3, **changes) == ["complete"] * 3
    study = tiny.open(**changes)
    wanted, stored = ledger.images_wanted(study.database, study.id, block=SEARCH)
    assert wanted == stored == images
    left = ledger.budget_left(study.database, study.id)
    assert left.images == 0
    # Nobody waits for what a spent budget does not allow.
    assert TrialState.RUNNING not in {trial.state for trial in trials(study)}
    assert ledger.spending(study.database, study.id).images > images  # the confirm's


@pytest.mark.parametrize("workers", [1, 3])
def test_after_the_last_second_nothing_of_the_search_is_sampled_and_the_confirm_runs(
    tiny: Tiny, quick: None, second_each: None, workers: int
) -> None:
    changes = {"search__evaluations": 30, "search__seconds": 8.0}
    assert crew(tiny, workers, **changes) == ["complete"] * workers
    study = tiny.open(**changes)
    wanted, stored = ledger.images_wanted(study.database, study.id, block=SEARCH)
    # Whoever samples when the last second passes finishes its chunk.
    assert 8 * 250 <= stored <= (8 + workers - 1) * 250
    assert result_of(study, 1).verdict in ("win", "no significant gain")
    left_open = [e for e in proposals(study) if e.state == "running"]
    told = trials(study)
    states = Counter(trial.state for trial in told)
    assert states[TrialState.RUNNING] == 0
    scored = {score.evaluation_id for score in ledger.scores(study.database, study.id)} & {
        e.id for e in proposals(study)
    }
    assert states[TrialState.COMPLETE] == 1 + len(scored)
    assert wanted > stored or not left_open


def test_a_larger_budget_finishes_what_was_left_and_tells_it_as_new_trials(
    tiny: Tiny, quick: None, second_each: None
) -> None:
    study = tiny.open(search__seconds=3.0)
    # A moment in which a proposal is entered and its only chunk is not sampled any more.
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    study.baseline(block=SEARCH, first_seed=1_000_000, images=500)
    course, board = whole_study(study), Board(study.database, study.row)
    for _ in range(3):
        assert course(board, turn) == "entered"
    end_turn(study.database, turn)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    open_ones = [e for e in proposals(study) if e.state == "running"]
    assert len(open_ones) == 3
    first = trials(study)
    fails = [t.user_attrs[SCHEDULE] for t in first if t.state == TrialState.FAIL]
    assert sorted(fails) == sorted(e.schedule for e in open_ones if e.id not in scored_ids(study))

    more = tiny.open(search__seconds=100.0)
    assert crew_member(more, "b", limits=UNTIL_DONE).run() == "complete"
    assert {e.state for e in proposals(more)} == {"complete"}
    complete = [t for t in trials(more) if t.state == TrialState.COMPLETE]
    assert sorted(
        t.user_attrs[SCHEDULE] for t in complete if t.user_attrs["kind"] != "baseline"
    ) == sorted(e.schedule for e in proposals(more))
    # The trial that was told FAIL stays what it is, and a new one holds the value.
    again = {t.user_attrs[SCHEDULE]: t.number for t in complete}
    assert all(again[schedule] >= len(first) for schedule in fails)


def scored_ids(study: OpenStudy) -> set[str]:
    return {score.evaluation_id for score in ledger.scores(study.database, study.id)}


def test_stages_are_told_once_each_with_their_images(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    events: list[Event] = []
    course = whole_study(study, on_event=events.append)
    member = crew_member(study, "a", course=course, limits=UNTIL_DONE, on_event=events.append)
    assert member.run() == "complete"
    stages = [event for event in events if isinstance(event, Stage)]
    assert [(stage.name, stage.images) for stage in stages] == [
        ("search", search_images(study.spec)),
        ("confirm A", 3 * 250),
        ("confirm B", 2 * 250),
    ]
    assert [stage.stored for stage in stages] == [0, 0, 0]


def test_a_step_whose_work_others_hold_waits(tiny: Tiny, quick: None) -> None:
    study = tiny.open(search__evaluations=1, search__rungs=[250])
    course, board = whole_study(study), Board(study.database, study.row)
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60.0)
    assert turn is not None
    assert course(board, turn) == "entered"  # the baseline
    assert course(board, turn) == "entered"  # the only proposal
    assert course(board, turn) == "waiting"
    assert course(board, turn) == "waiting"


@pytest.mark.parametrize("sampler", ["random", "moments"])
def test_a_space_may_leave_the_untouched_network_out_and_says_so(
    tiny: Tiny, quick: None, sampler: str
) -> None:
    changes = {"space__low": 1.05, "space__high": 1.3, "search__evaluations": 4}
    study, events = tiny.open(search__sampler=sampler, **changes), list[Event]()
    assert crew_member(study, "a", course=whole_study(study, on_event=events.append)).run()
    told = [event.text for event in events if isinstance(event, Notice)]
    assert told == ["no schedule of this space leaves the network untouched: scales 1.05 to 1.3"]
    entered = proposals(study)
    assert len(entered) == 4
    assert all(1.05 <= value <= 1.3 for one in entered for value in one.params.values())
    # The baseline is compared with, and known to Optuna by its value alone.
    first = trials(study)[0]
    assert first.params == {} and first.value is not None
    assert result_of(study, 1).verdict in ("win", "no significant gain")
