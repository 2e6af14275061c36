"""Chunks reach the database late, once or not at all, and are never sampled for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.errors import DiskFullError, LeaseLostError, StorageError, UnavailableError
from skiptune.sampling.schedule import Schedule
from skiptune.search import delivery
from skiptune.search.chunks import Sampled
from skiptune.search.delivery import DISK_WAIT, deliver, deliver_pending, stored
from skiptune.search.events import ChunkDone, Event, Notice, silent
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.leases import Claim
from skiptune.storage.patience import Patience
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

AWAY = UnavailableError("database", expected="an answer", found="none", hint="wait")


class Away:
    """A database that does not hear the next `times` commits; `heard` ones lose the answer."""

    def __init__(self, times: int, *, heard: bool = False) -> None:
        self.times = times
        self.calls = 0
        self._heard = heard

    def __call__(self, *arguments: Any, **values: Any) -> None:
        self.calls += 1
        if self.calls > self.times:
            COMMIT(*arguments, **values)
            return
        if self._heard:
            COMMIT(*arguments, **values)
        raise AWAY


COMMIT = leases.commit_chunk


def claimed(study: OpenStudy, worker: str = "host:0:1:1", *, seconds: float = 60.0) -> Claim:
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)
    claim = leases.claim_chunk(study.database, study.id, worker=worker, seconds=seconds)
    assert claim is not None
    return claim


def made(study: OpenStudy, claim: Claim) -> Sampled:
    seeds = range(claim.first_seed, claim.first_seed + claim.images)
    return made_up.sampled(study, Schedule.baseline(), study.setting, seeds)


def notes(study: OpenStudy) -> list[dict[str, Any]]:
    return [note for _, note in study.arrays.notes(delivery.PENDING)]


def no_wait(seconds: float) -> None:
    """Wait no time at all."""


def delivered(study: OpenStudy, claim: Claim, patience: Patience) -> str:
    array = stored(study, made(study, claim), wait=no_wait, on_event=silent)
    deliver(study, claim, array=array, seconds=2.0, nfe=5.0, patience=patience)
    return array


@pytest.mark.parametrize("heard", [False, True])
def test_a_database_that_comes_back_gets_the_chunk_and_the_note_goes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    study = tiny.open()
    claim = claimed(study)
    database = Away(3, heard=heard)
    monkeypatch.setattr(leases, "commit_chunk", database)
    seen: list[int] = []
    patience = Patience(600.0, sleep=lambda seconds: seen.append(len(notes(study))))
    array = delivered(study, claim, patience)
    assert database.calls == 4
    assert seen == [1, 1, 1]
    assert notes(study) == []
    (chunk, _) = ledger.chunks_of(study.database, claim.evaluation_id)
    assert (chunk.state, chunk.array, chunk.doubled_images) == ("done", array, 0)


def test_without_an_outage_no_note_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny.open()
    claim = claimed(study)

    def refused(*arguments: Any) -> None:
        raise AssertionError("a note was touched")

    monkeypatch.setattr(ArrayStore, "put_note", refused)
    monkeypatch.setattr(ArrayStore, "remove_note", refused)
    delivered(study, claim, Patience(0.0))


def test_what_a_worker_could_not_deliver_is_delivered_by_the_next_and_not_sampled_again(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    events: list[Event] = []
    member = crew_member(study, "first", limits=UNTIL_DONE, on_event=events.append, patience=0.0)
    monkeypatch.setattr(leases, "commit_chunk", Away(1000))
    with pytest.raises(UnavailableError):
        member.run()
    monkeypatch.undo()
    assert member.images == 0
    (note,) = notes(study)
    assert note["claim"]["first_seed"] == SEARCH_SEED
    baseline = ledger.evaluations(study.database, study.id, kind="baseline")[0]
    assert ledger.chunks_of(study.database, baseline.id)[0].state == "leased"

    made_up.replace(monkeypatch.setattr)
    sampled: list[int] = []

    def sample(*arguments: Any, **named: Any) -> Sampled:
        sampled.append(arguments[3][0])
        return made_up.sampled(*arguments, **named)

    made_up.replace(monkeypatch.setattr, sample)
    monkeypatch.setattr("skiptune.search.worker.POLL_SECONDS", (0.01, 0.05))
    other = tiny.open()
    assert crew_member(other, "second", limits=UNTIL_DONE).run() == "complete"
    assert notes(study) == []
    first = ledger.chunks_of(study.database, baseline.id)[0]
    assert (first.state, first.worker, first.fence) == ("done", member.name, 1)
    assert sampled.count(SEARCH_SEED) == other.spec.search.evaluations  # once per proposal
    assert ledger.spending(study.database, study.id).doubled_images == 0


def test_a_late_loser_is_dropped_and_counted_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()
    claim = claimed(study, seconds=-1.0)
    monkeypatch.setattr(leases, "commit_chunk", Away(1000))
    with pytest.raises(UnavailableError):
        delivered(study, claim, Patience(0.0))
    monkeypatch.undo()
    theirs = claimed(other, "quick:0:1:1")
    assert theirs.chunk_id == claim.chunk_id
    array = delivered(other, theirs, Patience(0.0))
    assert len(notes(study)) == 1
    assert deliver_pending(other) == 0
    assert notes(study) == []
    chunk = ledger.chunks_of(study.database, claim.evaluation_id)[0]
    assert (chunk.worker, chunk.array, chunk.doubled_images) == (theirs.worker, array, 250)
    with pytest.raises(LeaseLostError):
        delivered(study, claim, Patience(0.0))
    chunk = ledger.chunks_of(study.database, claim.evaluation_id)[0]
    assert chunk.doubled_images == 250


def test_a_loser_that_had_left_a_note_takes_it_back(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()
    claim = claimed(study, seconds=-1.0)

    def somebody_else(seconds: float) -> None:
        assert len(notes(study)) == 1
        theirs = claimed(other, "quick:0:1:1")
        COMMIT(other.database, theirs, array="0" * 64, seconds=1.0, nfe=5.0)

    monkeypatch.setattr(leases, "commit_chunk", Away(1))
    with pytest.raises(LeaseLostError):
        delivered(study, claim, Patience(600.0, sleep=somebody_else))
    assert notes(study) == []


def test_notes_of_other_studies_are_left_to_them(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats, dogs = tiny.open(study="cats"), tiny.open(study="dogs", setting__steps=4)
    claim = claimed(cats)
    monkeypatch.setattr(leases, "commit_chunk", Away(1000))
    with pytest.raises(UnavailableError):
        delivered(cats, claim, Patience(0.0))
    monkeypatch.undo()
    assert deliver_pending(dogs) == 0
    assert len(notes(dogs)) == 1
    assert deliver_pending(cats) == 1
    assert notes(cats) == []


def test_while_the_disk_is_full_it_waits_and_says_so_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    claim = claimed(study)
    arrays = made(study, claim)
    real = ArrayStore.write
    tries: list[Any] = []

    def write(self: ArrayStore, given: Any) -> str:
        tries.append(given)
        if len(tries) <= 3:
            raise DiskFullError("store", expected="space", found="No space left", hint="free it")
        return real(self, given)

    monkeypatch.setattr(ArrayStore, "write", write)
    events: list[Event] = []
    waits: list[float] = []
    digest = stored(study, arrays, wait=waits.append, on_event=events.append)
    assert waits == [DISK_WAIT] * 3
    assert [type(event) for event in events] == [Notice, Notice]
    told = [event.text for event in events if isinstance(event, Notice)]
    assert told == ["store: No space left; waiting for space", "there is space again"]
    assert all(given is arrays.arrays for given in tries)
    found = study.arrays.read(digest)
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in arrays.arrays.items()
    }


def test_a_worker_that_waits_for_space_keeps_its_lease_and_samples_once(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    monkeypatch.setattr(delivery, "DISK_WAIT", 0.01)
    real = ArrayStore.write
    full = [True, True]

    def write(self: ArrayStore, given: Any) -> str:
        if full:
            full.pop()
            raise DiskFullError("store", expected="space", found="No space left", hint="free it")
        return real(self, given)

    monkeypatch.setattr(ArrayStore, "write", write)
    events: list[Event] = []
    assert crew_member(study, "a", limits=UNTIL_DONE, on_event=events.append).run() == "complete"
    assert len([e for e in events if isinstance(e, Notice)]) == 2
    spending = ledger.spending(study.database, study.id)
    assert spending.doubled_images == 0
    assert sum(e.images for e in events if isinstance(e, ChunkDone)) == spending.images


def test_another_fault_of_the_store_passes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny.open()
    claim = claimed(study)

    def write(self: ArrayStore, given: Any) -> str:
        raise StorageError("store", expected="a folder", found="Permission denied", hint="mend it")

    monkeypatch.setattr(ArrayStore, "write", write)
    waits: list[float] = []
    with pytest.raises(StorageError, match="Permission denied"):
        stored(study, made(study, claim), wait=waits.append, on_event=silent)
    assert waits == []
