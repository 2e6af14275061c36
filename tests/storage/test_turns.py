"""Turns: one worker at a time, and a dead one does not block the others."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import text

from skiptune.errors import StorageError, TurnLostError
from skiptune.storage import Turn, end_turn, ledger, renew_turn, take_turn
from skiptune.storage.database import Database, open_database
from skiptune.storage.turns import check_turn, held_turns, settle
from tests.storage.conftest import Add, in_threads, on_postgresql


def take(
    database: Database, study: ledger.Study, worker: str, *, seconds: float = 60.0
) -> Turn | None:
    return take_turn(database, study.id, task="propose", worker=worker, seconds=seconds)


def test_one_at_a_time(database: Database, url: str, study: ledger.Study) -> None:
    calls = [partial(take, study=study, worker=f"worker {n}") for n in range(8)]
    taken = in_threads(url, calls)
    [turn] = [item for item in taken if item is not None]
    assert (turn.study_id, turn.task, turn.fence) == (study.id, "propose", 1)
    assert take_turn(database, study.id, task="project", worker="x", seconds=60.0) is not None
    assert end_turn(database, turn)
    following = take_turn(database, study.id, task="propose", worker="x", seconds=60.0)
    assert following is not None and following.fence == 2
    assert not end_turn(database, turn)
    assert take_turn(database, study.id, task="propose", worker="y", seconds=60.0) is None


def test_the_turn_of_a_dead_worker_ends(database: Database, study: ledger.Study) -> None:
    dead = take_turn(database, study.id, task="propose", worker="dead", seconds=0.0)
    heir = take_turn(database, study.id, task="propose", worker="heir", seconds=60.0)
    assert dead is not None and heir is not None
    assert not end_turn(database, dead)
    assert take_turn(database, study.id, task="propose", worker="x", seconds=60.0) is None


def test_studies_do_not_wait_for_each_other(database: Database, study: ledger.Study) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    for item in (study, other):
        assert take_turn(database, item.id, task="propose", worker="w", seconds=60.0) is not None


def test_an_unknown_study(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        take_turn(database, "0" * 32, task="propose", worker="w", seconds=60.0)


def test_whoever_did_not_hear_takes_the_turn_anew(database: Database, study: ledger.Study) -> None:
    unheard, heard = take(database, study, "a"), take(database, study, "a")
    assert unheard is not None and heard is not None
    assert heard.fence == unheard.fence + 1
    assert take(database, study, "b") is None
    assert not end_turn(database, unheard)
    assert end_turn(database, heard)
    # Said again, because the answer was lost.
    assert end_turn(database, heard)
    assert take(database, study, "b") is not None
    assert not end_turn(database, heard)


def holds(database: Database, turn: Turn) -> bool:
    try:
        with database.write() as session:
            check_turn(session, turn)
    except TurnLostError as error:
        assert error.problems[0].expected.startswith(f"the turn of {turn.worker}")
        return False
    return True


def test_a_turn_is_its_workers_until_another_takes_it(
    database: Database, study: ledger.Study
) -> None:
    slow = take(database, study, "slow", seconds=0.0)
    assert slow is not None
    # Its time is over, but nobody wanted it.
    assert holds(database, slow)
    heir = take(database, study, "heir")
    assert heir is not None
    assert (holds(database, slow), holds(database, heir)) == (False, True)


def test_a_turn_that_is_renewed_is_nobody_elses(database: Database, study: ledger.Study) -> None:
    slow = take(database, study, "slow", seconds=0.0)
    assert slow is not None
    renew_turn(database, slow, seconds=60.0)
    assert take(database, study, "heir") is None
    renew_turn(database, slow, seconds=0.0)
    heir = take(database, study, "heir")
    assert heir is not None
    with pytest.raises(TurnLostError):
        renew_turn(database, slow, seconds=60.0)
    assert holds(database, heir)


def test_a_turn_of_another_task_is_no_turn(database: Database, study: ledger.Study) -> None:
    turn = take(database, study, "w")
    assert turn is not None
    assert not holds(database, replace(turn, task="project"))
    assert not holds(database, replace(turn, study_id="0" * 32))


def test_nothing_is_entered_in_a_turn_that_was_lost(
    database: Database, study: ledger.Study, add: Add
) -> None:
    slow = take(database, study, "slow", seconds=0.0)
    heir = take(database, study, "heir")
    with pytest.raises(TurnLostError):
        add(0.8, turn=slow)
    assert ledger.evaluations(database, study.id) == ()
    made = add(0.8, turn=heir)
    # Also what has been entered is no answer to somebody without a turn.
    with pytest.raises(TurnLostError):
        add(0.8, turn=slow)
    assert ledger.evaluations(database, study.id) == (made,)


def test_who_enters_in_its_turn_keeps_it_until_it_is_entered(
    url: str, database: Database, study: ledger.Study
) -> None:
    """Otherwise two workers could enter what both asked for in the same turn."""
    slow = take(database, study, "slow", seconds=0.0)
    assert slow is not None
    order: list[str] = []

    def heir() -> None:
        with open_database(url) as other:
            assert take(other, study, "heir") is not None
            order.append("taken")

    thread = threading.Thread(target=heir)
    with database.write() as session:
        check_turn(session, slow)
        thread.start()
        thread.join(timeout=0.2)
        order.append("entered")
    thread.join()
    assert order == ["entered", "taken"]


def test_each_turn_enters_one_proposal(
    url: str, database: Database, study: ledger.Study, add: Add
) -> None:
    """Workers that are all too slow: whatever the order, no turn enters anything twice."""

    def propose(own: Database, number: int) -> list[int]:
        entered = []
        for _ in range(4):
            turn = take(own, study, f"worker {number}", seconds=0.0)
            if turn is None:
                continue
            try:
                made = ledger.add_evaluation(
                    own,
                    study.id,
                    kind="proposal",
                    label="",
                    block="search",
                    series={},
                    measure={},
                    schedule={"turn": turn.fence},
                    first_seed=0,
                    images=250,
                    params={},
                    turn=turn,
                )
                entered.append(made.schedule_json["turn"])
            except TurnLostError:
                continue
        return entered

    entered = in_threads(url, [partial(propose, number=number) for number in range(6)])
    turns = [turn for each in entered for turn in each]
    assert len(turns) == len(set(turns)) == len(ledger.evaluations(database, study.id)) > 0


def test_held_turns_are_those_that_were_not_ended(database: Database, study: ledger.Study) -> None:
    assert held_turns(database, study.id) == ()
    dead = take(database, study, "dead", seconds=-60.0)
    other = take_turn(database, study.id, task="look", worker="alive", seconds=60.0)
    assert dead is not None and other is not None
    assert held_turns(database, study.id) == (other, dead)
    assert end_turn(database, dead)
    assert held_turns(database, study.id) == (other,)
    assert held_turns(database, "0" * 32) == ()


@on_postgresql
def test_a_turn_left_in_the_middle_waits_for_what_was_on_its_way(
    database: Database, url: str
) -> None:
    settled = threading.Event()

    def heir() -> None:
        settle(database)
        settled.set()

    thread = threading.Thread(target=heir)
    with open_database(url) as other:
        # The transaction of a worker that nobody hears of any more; it writes no row, and could.
        with other.write() as lost:
            lost.execute(text("UPDATE trials SET state = state WHERE false"))
            thread.start()
            assert not settled.wait(0.5)
        assert settled.wait(10)
    thread.join()


def test_nobody_waits_where_nothing_is_on_its_way(database: Database, url: str) -> None:
    with open_database(url) as other, other.engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM trials"))
        settle(database)
