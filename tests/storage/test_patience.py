"""Patience: how long and how often is asked again, and that asking again changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from bench.cutting_proxy import CuttingProxy, Side
from bench.postgres import Server
from skiptune.errors import StorageError, UnavailableError
from skiptune.storage import end_turn, failpoints, leases, ledger, take_turn
from skiptune.storage.database import Database
from skiptune.storage.patience import FIRST_WAIT, LONGEST_WAIT, PATIENCE, Patience
from skiptune.storage.tables import Table
from tests.postgres import fresh_database
from tests.storage.conftest import TEMPLATE

MODEL = "skiptune_model"


def away() -> UnavailableError:
    return UnavailableError("there", expected="an answer", found="none", hint="wait")


class Clock:
    """Time that passes only while somebody sleeps, or while an action takes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr("skiptune.storage.patience.time.monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds, 1e-6)  # no sleep is shorter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failing(times: int) -> Callable[[], str]:
    """An action that finds the database away so many times."""
    left = [times]

    def action() -> str:
        if left[0]:
            left[0] -= 1
            raise away()
        return "done"

    return action


def test_what_succeeds_is_asked_once(clock: Clock) -> None:
    assert Patience(sleep=clock.sleep)(failing(0)) == "done"
    assert clock.slept == []


def test_waits_double_up_to_the_longest_and_are_spread(clock: Clock) -> None:
    told: list[float] = []
    patience = Patience(sleep=clock.sleep, on_wait=lambda error, wait: told.append(wait))
    assert patience(failing(12)) == "done"
    assert told == clock.slept
    expected = FIRST_WAIT
    for wait in clock.slept:
        assert expected / 2 <= wait <= expected
        expected = min(2 * expected, LONGEST_WAIT)
    assert expected == LONGEST_WAIT
    assert len({wait / round(wait, 1) for wait in clock.slept}) > 6


@given(seconds=st.floats(0.0, 2 * PATIENCE), takes=st.floats(0.0, 40.0))
def test_it_ends(seconds: float, takes: float) -> None:
    """Whatever an attempt takes, the last one begins when the patience ends, and not after."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        began: list[float] = []

        def action() -> None:
            began.append(clock.now - 1000.0)
            clock.now += takes
            raise away()

        with pytest.raises(UnavailableError):
            Patience(seconds, sleep=clock.sleep)(action)
        assert began[-1] <= seconds + 2e-6
        assert clock.now - 1000.0 >= seconds - 1e-6
        assert len(began) == len(clock.slept) + 1


def test_a_worker_is_patient_for_ten_minutes(clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        Patience(sleep=clock.sleep)(failing(10**9))
    assert clock.now - 1000.0 == pytest.approx(600.0)


def test_each_call_has_patience_of_its_own(clock: Clock) -> None:
    patience = Patience(10.0, sleep=clock.sleep)
    for _ in range(5):
        assert patience(failing(3)) == "done"
    assert clock.now > 1005.0


@pytest.mark.parametrize(
    "error", [KeyError("no"), StorageError("there", expected="a", found="b", hint="c")]
)
def test_what_does_not_pass_is_raised_at_once(clock: Clock, error: Exception) -> None:
    def action() -> None:
        raise error

    with pytest.raises(type(error)):
        Patience(sleep=clock.sleep)(action)
    assert clock.slept == []


def test_a_signal_ends_the_waiting() -> None:
    class Stopped(BaseException):
        pass

    def sleep(seconds: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        Patience(sleep=sleep)(failing(1))


# Every function of the room, when its answer is lost.


class Room:
    """A study half done, by one database, and the functions that write to it, once each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.study = self.create_study()
        self.scored = self.add(0.8)
        self.claims = {
            scale: self.claimed(self.add(scale), scale) for scale in (0.7, 0.6, 0.5, 0.4)
        }
        self.late = self.claimed(self.add(0.3), 0.3, seconds=0.0)
        leases.claim_chunk(database, self.study.id, worker="heir", seconds=60.0)
        self.lost = self.add(0.2)
        leases.commit_chunk(
            database, self.claimed(self.lost, 0.2), array="e" * 64, seconds=1.0, nfe=6.0
        )
        self.turn = take_turn(database, self.study.id, task="tell", worker="w", seconds=60.0)
        ended = self.add(0.1)
        leases.commit_chunk(
            database, self.claimed(ended, 0.1), array="d" * 64, seconds=1.0, nfe=6.0
        )
        ledger.finish_evaluation(database, ended.id, "diverged", "NaN")
        given_up = self.add(0.9)
        leases.poison(database, self.claimed(given_up, 0.9), "it does not fit")

    def at(self, database: Database) -> Room:
        """Return this room in a copy of its database."""
        twin = copy(self)
        twin.database = database
        return twin

    def create_study(self, name: str = "cats") -> ledger.Study:
        return ledger.create_study(self.database, name=name, spec={}, meaning={})

    def add(self, scale: float, **other: Any) -> ledger.Evaluation:
        values: dict[str, Any] = {
            "kind": "proposal",
            "label": "",
            "block": "search",
            "series": {},
            "measure": {},
            "schedule": {"scale": scale},
            "first_seed": 1_000_000,
            "images": 250,
            "params": {},
        }
        return ledger.add_evaluation(self.database, self.study.id, **(values | other))

    def claimed(
        self, made: ledger.Evaluation, scale: float, *, seconds: float = 60.0
    ) -> leases.Claim:
        """Claim for a worker of its own until the chunk is that evaluation's."""
        for n in range(9):
            claim = leases.claim_chunk(
                self.database, self.study.id, worker=f"{scale}-{n}", seconds=seconds
            )
            assert claim is not None
            if claim.evaluation_id == made.id:
                return claim
        raise AssertionError("not found")

    def commit(self, claim: leases.Claim) -> str:
        try:
            leases.commit_chunk(self.database, claim, array="c" * 64, seconds=1.0, nfe=6.0)
        except StorageError as error:
            if isinstance(error, UnavailableError):
                raise
            return "lost"
        return "committed"

    def steps(self) -> dict[str, Callable[[], Any]]:
        database, study = self.database, self.study
        return {
            "create_study": lambda: self.create_study("dogs"),
            "set_study_state": lambda: ledger.set_study_state(database, study.id, "paused"),
            "set_study_spec": lambda: ledger.set_study_spec(database, study.id, {"a": 1}),
            "add_evaluation": lambda: self.add(0.9, images=500),
            "promote": lambda: ledger.promote(database, self.scored.id, 750),
            "finish_evaluation": lambda: ledger.finish_evaluation(
                database, self.scored.id, "failed", "why"
            ),
            "put_score": lambda: ledger.put_score(
                database,
                self.scored.id,
                level=0,
                metric="m",
                reference="r",
                images=250,
                value=1.0,
                standard_error=0.1,
            ),
            "put_artifact": lambda: ledger.put_artifact(
                database, digest="f" * 64, kind="picture", bytes=1, name="p"
            ),
            "spend_block": lambda: ledger.spend_block(
                database, study.id, block="c", images=250, alpha=0.05
            ),
            "reopen_chunks": lambda: unsaid(ledger.reopen_chunks(database, "e" * 64)),
            "claim_chunk": lambda: leases.claim_chunk(
                database, study.id, worker="new", seconds=60.0
            ),
            "renew": lambda: leases.renew(database, self.claims[0.7], seconds=90.0),
            # A second answer may be that there was nothing to do, here and below.
            "release": lambda: unsaid(leases.release(database, self.claims[0.6])),
            "commit_chunk": lambda: self.commit(self.claims[0.5]),
            "commit_chunk, too late": lambda: self.commit(self.late),
            "poison": lambda: leases.poison(database, self.claims[0.4], "it does not fit"),
            "retry_failed": lambda: unsaid(ledger.retry_failed(database, study.id)),
            "break_lease": lambda: leases.break_lease(
                database, leases.leases(database, study.id)[0]
            ),
            "take_turn": lambda: take_turn(
                database, study.id, task="propose", worker="w", seconds=60.0
            ),
            "end_turn": lambda: self.turn is not None and end_turn(database, self.turn),
            "mark_told": lambda: ledger.mark_told(database, ledger.untold(database, study.id)),
            "forget_told": lambda: ledger.forget_told(database, study.id),
            "drop_arrays": lambda: unsaid(ledger.drop_arrays(database)),
        }


def unsaid(answer: object) -> None:
    """Leave out an answer, so that only what is stored counts."""


STEPS = (
    "create_study, set_study_state, set_study_spec, add_evaluation, promote, finish_evaluation,"
    " put_score, put_artifact, spend_block, reopen_chunks, claim_chunk, renew, release,"
    " commit_chunk, poison, retry_failed, break_lease, take_turn, end_turn, mark_told,"
    " forget_told, drop_arrays"
).split(", ")


def contents(database: Database) -> dict[str, list[str]]:
    """Return all rows of our tables, without identifiers, times and fences."""
    with database.read() as session:
        return {
            table.name: sorted(
                str({key: shown(key, value) for key, value in row._mapping.items()})
                for row in session.execute(select(table))
            )
            for table in Table.metadata.sorted_tables
        }


def shown(key: str, value: Any) -> Any:
    times = ("created", "finished", "completed", "committed", "lease_until", "renewed")
    if key.endswith("id") or key in times:
        return value is not None
    return None if key == "fence" else value


@pytest.fixture(scope="module")
def model(template_server: Server) -> Room:
    """A room whose database is copied for every test."""
    template_server.create_database(MODEL, template=TEMPLATE)
    with Database(template_server.url(MODEL)) as database:
        return Room(database)


@pytest.fixture
def rooms(model: Room, template_server: Server) -> Iterator[tuple[Room, Room, CuttingProxy]]:
    """A room that is spared, an equal one behind a proxy, and the proxy."""
    with (
        fresh_database(template_server, MODEL) as calm,
        fresh_database(template_server, MODEL) as cut,
        CuttingProxy(template_server) as proxy,
        Database(calm) as spared,
        Database(proxy.url(cut.rpartition("/")[2])) as behind,
    ):
        yield model.at(spared), model.at(behind), proxy


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", [*STEPS, "commit_chunk, too late"])
def test_a_lost_answer_changes_nothing(
    rooms: tuple[Room, Room, CuttingProxy], step: str, side: Side
) -> None:
    spared, cut, proxy = rooms
    waited: list[float] = []
    expected = plain(spared.steps()[step]())
    action = cut.steps()[step]
    # Not the commit of what the step only reads.
    database, real = cut.database, cut.database.write

    def write(name: str | None = None) -> Any:
        if not waited:
            proxy.cut_next_commit(side=side)
        return real(name)

    database.write = write  # type: ignore[method-assign,assignment]
    answer = Patience(sleep=waited.append)(action)
    database.write = real  # type: ignore[method-assign]
    assert (len(waited), proxy.commits_cut) == (1, 1)
    assert plain(answer) == expected
    assert contents(cut.database) == contents(spared.database)


def plain(answer: Any) -> str:
    """Return an answer without identifiers, times and fences."""
    values = getattr(answer, "__dict__", None)
    if values is None:
        return str(answer)
    return str({key: shown(key, value) for key, value in values.items()})


def test_every_step_is_cut(model: Room) -> None:
    """But for those that say of themselves that they can be said once."""
    assert set(failpoints.STEPS) - set(STEPS) == {"upgrade", "delete_study", "store_file"}
    assert model.steps().keys() == {*STEPS, "commit_chunk, too late"}
