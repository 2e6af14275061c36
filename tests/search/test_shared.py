"""Several workers on one study: the same study as with one, each image made once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bench.postgres import Server
from skiptune.errors import TurnLostError, UnavailableError
from skiptune.search import chunks, proposals
from skiptune.search.confirm import result_of
from skiptune.search.course import whole_study
from skiptune.search.projection import SCHEDULE, Board
from skiptune.search.proposals import propose
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.records import Turn
from skiptune.storage.turns import end_turn, take_turn
from tests.postgres import fresh_database
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member, together

SCRIPT = Path(__file__).with_name("made_up.py")


def scores_of(study: OpenStudy) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    """Every score by block, schedule and number of images."""
    named = {e.id: e for e in ledger.evaluations(study.database, study.id)}
    found = {}
    for score in ledger.scores(study.database, study.id):
        evaluation = named[score.evaluation_id]
        key = (evaluation.block, evaluation.schedule, score.images)
        found[key] = (score.value, score.standard_error, score.difference, score.difference_error)
    return found


def trials(study: OpenStudy, name: str = "tiny") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database)).trials


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[Tiny]:
    """The tiny study on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield tiny
        return
    server: Server = request.getfixturevalue("postgres_server")
    with fresh_database(server) as url, tiny.elsewhere(url) as there:
        yield there


def test_three_processes_end_as_one_worker_does(anywhere: Tiny, tiny: Tiny, quick: None) -> None:
    with tiny.elsewhere() as other:
        alone = other.open()
        assert crew_member(alone, "alone", limits=UNTIL_DONE).run() == "complete"
        expected, expected_scores = result_of(alone, 1).to_json(), scores_of(alone)
    log = anywhere.folder / "made.log"
    study = anywhere.open()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", SCRIPT, anywhere.folder, anywhere.url, log],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [out.splitlines()[-1:] for out, _ in said] == [["complete"]] * 3, said
    assert ledger.require_study(study.database, "tiny").state == "complete"

    assert scores_of(study) == expected_scores
    found = result_of(study, 1).to_json()
    assert found | {"seconds": 0} == expected | {"seconds": 0}
    assert found["verdict"] == "win"

    made = Counter[tuple[str, int]]()
    for _, schedule, first, images in map(str.split, log.read_text().splitlines()):
        made.update((schedule, seed) for seed in range(int(first), int(first) + int(images)))
    spending = ledger.spending(study.database, study.id)
    assert set(made.values()) == {1}
    assert (spending.images, spending.doubled_images) == (made.total(), 0)
    told = Counter(trial.state for trial in trials(study))
    assert told == {TrialState.COMPLETE: 1 + study.spec.search.evaluations}


def test_the_chunks_of_one_evaluation_are_made_by_all_workers(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen chunks, four workers: each makes one before any of them may make its second."""
    everybody = threading.Barrier(4)
    begun = threading.local()

    def sample(*arguments: Any, **named: Any) -> chunks.Sampled:
        if not getattr(begun, "by_this_worker", False):
            begun.by_this_worker = True
            everybody.wait(timeout=60)
        return made_up.sampled(*arguments, **named)

    made_up.replace(monkeypatch.setattr, sample)
    budget = {"search__evaluations": 1, "search__rungs": [250, 4000]}
    study = tiny.open(**budget)
    study.baseline(block=SEARCH, first_seed=1_000_000, images=4000)
    crew = [
        crew_member(tiny.open(**budget), f"host{n}", limits=Limits(images=5000)) for n in range(4)
    ]
    ended = together([member.run for member in crew])
    assert set(ended) == {"complete"}
    (baseline,) = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
    made = ledger.chunks_of(study.database, baseline.id)
    assert len(made) == 16
    assert {chunk.fence for chunk in made} == {1}
    by = Counter(chunk.worker for chunk in made)
    assert by.keys() == {member.name for member in crew}
    spending = ledger.spending(study.database, study.id)
    assert sum(member.images for member in crew) == spending.images


def test_each_enqueued_point_becomes_one_evaluation(tiny: Tiny, quick: None) -> None:
    budget = {"search__evaluations": 9}
    study = tiny.open(**budget)
    enqueued = [1.1 + n / 10 for n in range(7)]
    names = sorted(study.space.distributions())
    board = Board(study.database, study.row)
    for scale in enqueued:
        board.lowest.enqueue_trial({name: scale for name in names})
    crew = [crew_member(tiny.open(**budget), f"host{n}", limits=UNTIL_DONE) for n in range(3)]
    assert set(together([member.run for member in crew])) == {"complete"}
    made = ledger.evaluations(study.database, study.id, kind="proposal")
    params = Counter(tuple(e.params[name] for name in names) for e in made)
    assert len(made) == 9
    assert set(params.values()) == {1}
    assert {(scale,) * len(names) for scale in enqueued} < params.keys()
    told = trials(study)
    assert Counter(trial.state for trial in told) == {TrialState.COMPLETE: 10}
    assert len({trial.user_attrs[SCHEDULE] for trial in told}) == 10


def turn_of(study: OpenStudy, worker: str, *, seconds: float = 60.0) -> Turn | None:
    return take_turn(study.database, study.id, task="propose", worker=worker, seconds=seconds)


def test_workers_never_propose_the_same_twice(tiny: Tiny) -> None:
    """Three at a time, each asking as often as it gets the turn."""
    budget = {"search__evaluations": 12}
    study = tiny.open(**budget)
    Board(study.database, study.row).refresh()

    def asks(name: str) -> int:
        mine = tiny.open(**budget)
        board = Board(mine.database, mine.row)
        entered = 0
        while entered < 4:
            turn = turn_of(mine, name)
            if turn is None:
                continue
            board.refresh()
            entered += propose(mine, board, turn) is not None
            end_turn(mine.database, turn)
        return entered

    assert together([lambda n=n: asks(f"host{n}") for n in range(3)]) == [4, 4, 4]  # type: ignore[misc]
    made = ledger.evaluations(study.database, study.id, kind="proposal")
    assert len({e.schedule for e in made}) == len(made) == 12
    assert len({e.label for e in made}) == 12
    running = [trial.user_attrs[SCHEDULE] for trial in trials(study)]
    assert sorted(running) == sorted(e.schedule for e in made)


SAMPLER, MARK = (proposals, "sampler_for"), (Board, "enter")


@pytest.mark.parametrize(
    ("cleans", "asks"),
    [(MARK, None), (MARK, MARK), (SAMPLER, MARK)],
    ids=["cleaned before it marks", "asked before it marks", "cleaned before it asks"],
)
def test_whoever_has_lost_its_turn_enters_nothing_and_its_trial_is_told_fail(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, cleans: Any, asks: Any
) -> None:
    """The sampler's seed is that of the proposal's number: both ask for the same schedule."""
    study, other = tiny.open(), tiny.open()
    board, theirs = Board(study.database, study.row), Board(other.database, other.row)
    board.refresh()
    turn = turn_of(study, "slow:0:1:1", seconds=-1.0)
    assert turn is not None
    taken: list[Turn] = []

    def clean() -> None:
        mine = turn_of(other, "quick:0:1:1")
        assert mine is not None
        taken.append(mine)
        theirs.refresh()
        theirs.fail_orphans()

    for place in (SAMPLER, MARK):
        owner, name = place
        real = getattr(owner, name)

        def late(*arguments: Any, place: Any = place, real: Any = real, **named: Any) -> Any:
            monkeypatch.setattr(place[0], place[1], real)
            if cleans == place:
                clean()
            if asks == place:
                assert propose(other, theirs, taken[0]) is not None
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, late)
    with pytest.raises((TurnLostError, UnavailableError)):
        propose(study, board, turn)
    entered = ledger.evaluations(study.database, study.id)
    assert len(entered) == (asks is not None)
    # Whoever has the turn next tells FAIL to what nobody needs, whatever it has seen before.
    for who in (theirs, Board(study.database, study.row)):
        who.refresh()
        who.fail_orphans()
    running = [trial for trial in trials(study) if trial.state == TrialState.RUNNING]
    assert [trial.user_attrs[SCHEDULE] for trial in running] == [e.schedule for e in entered]
    assert Counter(trial.state for trial in trials(study))[TrialState.FAIL] == 1


def test_a_proposal_of_a_known_schedule_is_told_fail_and_another_is_asked_for(
    tiny: Tiny,
) -> None:
    study = tiny.open()
    board = Board(study.database, study.row)
    turn = turn_of(study, "host:0:1:1")
    assert turn is not None
    first = propose(study, board, turn)
    assert first is not None
    board.lowest.enqueue_trial(first.params)
    second = propose(study, board, turn)
    assert second is not None
    assert second.schedule != first.schedule
    states = [trial.state for trial in trials(study)]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


def test_a_space_of_known_schedules_is_exhausted_and_the_study_ends(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    course = whole_study(study)
    fixed = {name: 1.5 for name in study.space.distributions()}
    schedule = study.space.schedule(fixed)
    monkeypatch.setattr(type(study.space), "schedule", lambda self, params: schedule)
    member = crew_member(study, "host", course=course, limits=UNTIL_DONE)
    assert member.run() == "complete"
    assert ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH) == 1
