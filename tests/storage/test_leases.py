"""Leases: one holder at a time, by the database's clock; whoever comes late stores nothing."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import text

from skiptune.errors import LeaseLostError
from skiptune.storage import leases, ledger
from skiptune.storage.database import REVISIONS, VERSION_TABLE, Database
from skiptune.storage.records import LOST_LEASES
from tests.storage.conftest import Add, Work, in_threads

ARRAY = "1" * 64

_numbers = itertools.count(1)


def claim(
    database: Database, study: ledger.Study, *, worker: str = "", seconds: float = 60.0
) -> leases.Claim:
    """Claim a chunk that is known to be there, by default for a worker of its own."""
    name = worker or f"worker {next(_numbers)}"
    found = leases.claim_chunk(database, study.id, worker=name, seconds=seconds)
    assert found is not None
    return found


def commit(database: Database, held: leases.Claim, array: str = ARRAY) -> None:
    made = {"torch": "2", "device": "cpu"}
    leases.commit_chunk(database, held, array=array, seconds=2.5, nfe=6.0, provenance=made)


def chunk_of(database: Database, held: leases.Claim) -> ledger.Chunk:
    chunks = ledger.chunks_of(database, held.evaluation_id)
    return next(chunk for chunk in chunks if chunk.id == held.chunk_id)


def test_a_claim_carries_all_that_sampling_needs(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = add(0.8)
    first, second = (claim(database, study, worker=name) for name in "ab")
    assert (first.series, first.measure) == ({"network": "n", "steps": 6}, {"extractor": "e"})
    assert first.schedule == made.schedule_json
    assert (first.evaluation_id, first.study_id, first.fence) == (made.id, study.id, 1)
    assert (first.kind, first.label, first.number) == ("proposal", "x0.8", made.number)
    assert (first.first_seed, first.images, first.opens_evaluation) == (1_000_000, 250, True)
    assert (second.first_seed, second.opens_evaluation) == (1_000_250, False)
    held = chunk_of(database, first)
    assert (held.state, held.worker, held.study_id, held.attempts) == ("leased", "a", study.id, 1)
    assert held.lease_until is not None
    length = held.lease_until - datetime.now(UTC)
    assert timedelta(seconds=30) < length < timedelta(seconds=90)


def test_the_baseline_comes_first_then_number_then_seed(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    early, late, baseline = add(0.8), add(0.9), add(1.0)
    done = [(item.evaluation_id, item.first_seed) for item in work()]
    assert done == [
        (made.id, seed) for made in (baseline, early, late) for seed in (1_000_000, 1_000_250)
    ]


def test_the_baseline_of_a_later_block_comes_before_proposals(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(1.0, images=250)
    add(0.8, images=250)
    later = add(1.0, block="A", first_seed=2_100_000, images=250)
    claim(database, study)
    assert claim(database, study).evaluation_id == later.id


def test_a_scored_rung_asks_for_nothing_more(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work(1)
    ledger.promote(database, made.id, 750)
    ledger.put_score(
        database,
        made.id,
        level=1,
        metric="m",
        reference="r",
        images=750,
        value=1.0,
        standard_error=0.1,
    )
    assert [item.first_seed for item in work()] == [1_000_250]


def test_a_commit_is_kept_whole(database: Database, study: ledger.Study, add: Add) -> None:
    add(0.8)
    held = claim(database, study)
    commit(database, held)
    chunk = chunk_of(database, held)
    assert (chunk.state, chunk.array, chunk.seconds, chunk.nfe) == ("done", ARRAY, 2.5, 6.0)
    assert chunk.provenance == {"torch": "2", "device": "cpu"}
    assert chunk.committed is not None and chunk.lease_until is None
    commit(database, held)
    assert chunk_of(database, held) == chunk


def test_a_held_chunk_is_not_claimed(database: Database, study: ledger.Study, add: Add) -> None:
    add(0.8)
    assert claim(database, study).chunk_id != claim(database, study).chunk_id
    assert leases.claim_chunk(database, study.id, worker="c", seconds=60.0) is None


@pytest.mark.parametrize("seconds", [0.0, -100.0])
def test_an_expired_lease_is_claimed_by_others_and_the_loser_is_told(
    database: Database, study: ledger.Study, add: Add, seconds: float
) -> None:
    add(0.8, images=250)
    slow = claim(database, study, worker="slow", seconds=seconds)
    quick = claim(database, study, worker="quick")
    assert (quick.chunk_id, quick.fence) == (slow.chunk_id, slow.fence + 1)
    with pytest.raises(LeaseLostError):
        leases.renew(database, slow, seconds=60.0)
    assert not leases.release(database, slow)
    with pytest.raises(LeaseLostError):
        leases.poison(database, slow, "mine is broken")
    with pytest.raises(LeaseLostError) as raised:
        commit(database, slow, array="2" * 64)
    assert "seed 1000000" in raised.value.problems[0].where
    chunk = chunk_of(database, quick)
    assert (chunk.state, chunk.worker, chunk.array) == ("leased", "quick", None)
    assert chunk.doubled_images == 250
    commit(database, quick)
    with pytest.raises(LeaseLostError):
        commit(database, slow, array="2" * 64)
    chunk = chunk_of(database, quick)
    assert (chunk.state, chunk.array, chunk.doubled_images) == ("done", ARRAY, 250)


def test_a_slow_worker_whose_chunk_nobody_took_may_commit(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8, images=250)
    slow = claim(database, study, seconds=0.0)
    commit(database, slow)
    assert chunk_of(database, slow).state == "done"


def test_a_renewed_lease_is_not_claimed(database: Database, study: ledger.Study, add: Add) -> None:
    add(0.8, images=250)
    held = claim(database, study, seconds=0.0)
    leases.renew(database, held, seconds=60.0)
    assert leases.claim_chunk(database, study.id, worker="b", seconds=60.0) is None
    commit(database, held)


def test_a_released_chunk_is_open_at_once_and_nothing_is_held_against_it(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8, images=250)
    for _ in range(5):
        held = claim(database, study)
        assert leases.release(database, held)
        assert not leases.release(database, held)
    chunk = chunk_of(database, held)
    assert (chunk.state, chunk.worker, chunk.attempts) == ("open", None, 0)
    with pytest.raises(LeaseLostError):
        commit(database, held)
    assert claim(database, study).fence == 6


def test_the_third_lost_lease_poisons_the_chunk_and_fails_who_needs_it(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    bad, also = add(0.8, images=250), add(0.8, images=250, study_id=other.id)
    good = add(0.9, images=250)
    lost = [claim(database, study, worker=f"w{n}", seconds=0.0) for n in range(3)]
    assert {item.chunk_id for item in lost} == {lost[0].chunk_id}
    assert [item.evaluation_id for item in work()] == [good.id]
    for made in (bad, also):
        ended = ledger.evaluation(database, made.id)
        assert ended.state == "failed" and ended.finished is not None
        assert ended.reason == (
            "chunk from seed 1000000: 3 leases of this chunk were lost, the last by w2"
        )
    chunk = chunk_of(database, lost[0])
    assert (chunk.state, chunk.attempts) == ("poisoned", 3)
    with pytest.raises(LeaseLostError):
        commit(database, lost[2])
    assert leases.claim_chunk(database, study.id, worker="w", seconds=60.0) is None
    # A study that asks for the chunk later gets three leases of its own.
    third = ledger.create_study(database, name="mice", spec={}, meaning={})
    add(0.8, images=250, study_id=third.id)
    assert len(work(study_id=third.id)) == 1
    assert ledger.evaluation(database, bad.id).state == "failed"


def test_poison(database: Database, study: ledger.Study, add: Add) -> None:
    made, far = add(0.8), add(0.8, block="A", first_seed=2_100_000, images=250)
    held = claim(database, study)
    leases.poison(database, held, "one microbatch needs 90 GiB")
    leases.poison(database, held, "said again")
    chunk = chunk_of(database, held)
    assert (chunk.state, chunk.reason) == ("poisoned", "one microbatch needs 90 GiB")
    ended = ledger.evaluation(database, made.id)
    assert ended.state == "failed"
    assert ended.reason == "chunk from seed 1000000: one microbatch needs 90 GiB"
    assert ledger.evaluation(database, far.id).state == "running"
    assert claim(database, study).evaluation_id == far.id
    with pytest.raises(LeaseLostError):
        commit(database, held)


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_paused_study_hands_out_nothing(
    database: Database, study: ledger.Study, add: Add, work: Work, state: ledger.StudyState
) -> None:
    add(0.8)
    held = claim(database, study)
    ledger.set_study_state(database, study.id, state)
    assert leases.claim_chunk(database, study.id, worker="w", seconds=60.0) is None
    commit(database, held)
    ledger.set_study_state(database, study.id, "running")
    assert len(work()) == 1


def test_leases_and_breaking_one(database: Database, study: ledger.Study, add: Add) -> None:
    add(0.8)
    held = claim(database, study, worker="dead", seconds=60.0)
    gone = claim(database, study, worker="gone", seconds=-5.0)
    expired, alive = leases.leases(database, study.id)
    assert (expired.worker, expired.first_seed) == ("gone", gone.first_seed)
    assert expired.remaining <= -5.0 and 0.0 < alive.remaining <= 60.0
    assert leases.break_lease(database, alive)
    again = claim(database, study, worker="heir")
    assert (again.chunk_id, again.fence) == (held.chunk_id, 2)
    assert not leases.break_lease(database, alive)
    assert chunk_of(database, again).attempts == 2


def test_the_clock_is_the_databases(
    database: Database, study: ledger.Study, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose own clock is an hour off neither takes nor loses a lease."""
    add(0.8, images=250)
    monkeypatch.setattr("time.time", lambda: 0.0)
    claim(database, study, seconds=60.0)
    assert leases.claim_chunk(database, study.id, worker="w", seconds=60.0) is None


# A worker has one chunk at a time.


def test_a_worker_that_did_not_hear_is_given_its_chunk_again(
    database: Database, study: ledger.Study, add: Add
) -> None:
    """However often its answers are lost, that is no lost lease, and no other chunk waits."""
    add(0.8)
    first = claim(database, study, worker="deaf")
    for fence in range(2, 2 * LOST_LEASES):
        again = claim(database, study, worker="deaf")
        assert (again.chunk_id, again.fence) == (first.chunk_id, fence)
    assert chunk_of(database, again).attempts == 1
    other = claim(database, study, worker="other")
    assert other.chunk_id != first.chunk_id
    commit(database, again)
    assert chunk_of(database, again).doubled_images == 0
    assert leases.claim_chunk(database, study.id, worker="deaf", seconds=60.0) is None


def test_its_own_chunk_comes_before_all_others(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.9, images=250)
    held = claim(database, study, worker="w", seconds=0.0)
    add(1.0, images=250)
    again = claim(database, study, worker="w")
    assert (again.chunk_id, again.fence) == (held.chunk_id, 2)
    assert chunk_of(database, again).attempts == 1
    assert claim(database, study, worker="other").kind == "baseline"


def test_a_worker_that_comes_last_to_a_dangerous_chunk_may_keep_it(
    database: Database, study: ledger.Study, add: Add
) -> None:
    """The third attempt is one, although the third claim of it was not heard."""
    add(0.8, images=250)
    for n in range(LOST_LEASES - 1):
        claim(database, study, worker=f"w{n}", seconds=0.0)
    claim(database, study, worker="last", seconds=0.0)
    held = claim(database, study, worker="last")
    assert chunk_of(database, held).attempts == LOST_LEASES
    commit(database, held)


def test_a_worker_of_two_studies_has_a_chunk_of_each(
    database: Database, study: ledger.Study, add: Add
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(0.8, images=250)
    add(0.9, images=250, study_id=other.id)
    assert claim(database, study, worker="w").evaluation_id != (
        claim(database, other, worker="w").evaluation_id
    )


def test_every_worker_that_lost_counts_once(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8, images=250)
    lost = [claim(database, study, seconds=0.0) for _ in range(2)]
    last = claim(database, study)
    commit(database, last)
    for held in lost:
        for _ in range(3):
            with pytest.raises(LeaseLostError):
                commit(database, held)
    assert chunk_of(database, last).doubled_images == 500


# Who may write here at all.


def test_a_newer_schema_hands_out_nothing(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    """A worker that is at work while the database is upgraded ends its chunk, and no more."""
    add(0.8)
    held = claim(database, study)
    with database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    assert work() == []
    assert leases.claim_chunk(database, study.id, worker=held.worker, seconds=60.0) is None
    commit(database, held)
    with database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{REVISIONS[-1]}'"))
    assert len(work()) == 1


def test_chunks_of_another_format_are_left_to_who_knows_it(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8, images=750)
    assert ledger.foreign_formats(database, study.id) == ()
    with database.write() as session:
        session.execute(text("UPDATE skiptune_chunks SET format = 2 WHERE first_seed = 1000250"))
        session.execute(text("UPDATE skiptune_chunks SET format = 3 WHERE first_seed = 1000500"))
    assert [item.first_seed for item in work()] == [1_000_000]
    assert ledger.foreign_formats(database, study.id) == (2, 3)
    assert [chunk.format for chunk in ledger.chunks_of(database, made.id)] == [1, 2, 3]
    assert ledger.ready_rungs(database, study.id) == ()


PROGRAM = """
import sys
from skiptune.storage import leases
from skiptune.storage.database import open_database
database, worker = open_database(sys.argv[1]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
while claim := leases.claim_chunk(database, sys.argv[2], worker=worker, seconds=600.0):
    print(claim.chunk_id, claim.first_seed, flush=True)
    leases.commit_chunk(database, claim, array="0" * 64, seconds=0.0, nfe=1.0)
"""


def test_processes_never_get_the_same_chunk(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    made = [add(scale, images=10_000) for scale in (1.0, 0.8, 0.9)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, study.id, f"worker {n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
    printed = [process.communicate(timeout=300)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    taken = [line for lines in printed for line in lines]
    assert len(taken) == len(set(taken)) == 120
    assert sum(map(bool, printed)) >= 2, "only one process came to work: nothing was tested"
    chunks = [chunk for item in made for chunk in ledger.chunks_of(database, item.id)]
    assert {f"{chunk.id} {chunk.first_seed}" for chunk in chunks} == set(taken)
    assert {(chunk.state, chunk.fence) for chunk in chunks} == {("done", 1)}


def test_threads_never_get_the_same_chunk(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    """All claims at once, some by leases that are over at once: fences tell every claim apart."""
    made = [add(scale, images=2500) for scale in (1.0, 0.8)]

    def is_lost(worker: str) -> bool:
        """Two claims are lost the moment that they are had; of one chunk, a third poisons it."""
        return worker in ("0-0", "4-0")

    def grab(own: Database, number: int) -> list[leases.Claim]:
        found = []
        for worker in (f"{number}-{n}" for n in range(4)):
            seconds = 0.0 if is_lost(worker) else 60.0
            held = leases.claim_chunk(own, study.id, worker=worker, seconds=seconds)
            if held is not None:
                found.append(held)
        return found

    taken = in_threads(url, [partial(grab, number=number) for number in range(8)])
    claims = [held for each in taken for held in each]
    assert len({(held.chunk_id, held.fence) for held in claims}) == len(claims)
    lasting = [held.chunk_id for held in claims if not is_lost(held.worker)]
    assert len(lasting) == len(set(lasting)) == 20
    chunks = {chunk.id: chunk for item in made for chunk in ledger.chunks_of(database, item.id)}
    for chunk in chunks.values():
        fences = sorted(held.fence for held in claims if held.chunk_id == chunk.id)
        assert fences == list(range(1, chunk.fence + 1))


def test_one_of_two_who_commit_wins(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    for number in range(6):
        add(1.0 - number / 100, images=250)
        slow = claim(database, study, seconds=0.0)
        quick = claim(database, study)

        def deliver(own: Database, held: leases.Claim, array: str) -> bool:
            try:
                commit(own, held, array)
            except LeaseLostError:
                return False
            return True

        won = in_threads(
            url,
            [
                partial(deliver, held=slow, array="a" * 64),
                partial(deliver, held=quick, array="b" * 64),
            ],
        )
        chunk = chunk_of(database, quick)
        assert won == [False, True]
        assert (chunk.state, chunk.array, chunk.doubled_images) == ("done", "b" * 64, 250)
