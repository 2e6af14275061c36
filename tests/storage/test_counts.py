"""What a study has spent: every image once, doubled ones apart, those of others not at all."""

from __future__ import annotations

import pytest

from skiptune.errors import LeaseLostError
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, Work


def test_an_empty_study(database: Database, study: ledger.Study) -> None:
    assert ledger.spending(database, study.id) == ledger.Spending(0, 0.0, 0.0, 0, 0)
    assert ledger.progress(database, study.id) == ledger.Progress({}, {}, ())


def test_a_chunk_that_two_rungs_ask_for_counts_once(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    ledger.promote(database, made.id, 1000)
    work()
    assert ledger.spending(database, study.id) == ledger.Spending(1000, 8.0, 6000.0, 0, 0)
    assert ledger.progress(database, study.id).chunks == {"done": 4}


def test_what_another_study_paid_for(database: Database, add: Add, work: Work) -> None:
    add(1.0)
    work()
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(1.0, study_id=other.id, images=750)
    work(study_id=other.id)
    assert ledger.spending(database, other.id) == ledger.Spending(250, 2.0, 1500.0, 0, 500)


def test_blocks_are_counted_apart(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    add(1.0)
    add(1.0, block="c/A", first_seed=2_100_000, images=750)
    work()
    assert ledger.spending(database, study.id, block="search").images == 500
    assert ledger.spending(database, study.id, block="c/A").images == 750
    assert ledger.spending(database, study.id).images == 1250


def test_doubled_images_count_apart(database: Database, study: ledger.Study, add: Add) -> None:
    add(1.0, images=250)
    slow = leases.claim_chunk(database, study.id, worker="slow", seconds=0.0)
    quick = leases.claim_chunk(database, study.id, worker="quick", seconds=60.0)
    assert slow is not None and quick is not None
    leases.commit_chunk(database, quick, array="1" * 64, seconds=3.0, nfe=6.0)
    with pytest.raises(LeaseLostError):
        leases.commit_chunk(database, slow, array="1" * 64, seconds=9.0, nfe=6.0)
    assert ledger.spending(database, study.id) == ledger.Spending(250, 3.0, 1500.0, 250, 0)


def test_progress(database: Database, study: ledger.Study, add: Add, work: Work) -> None:
    add(1.0)
    made, ended = add(0.8, images=1000), add(0.9)
    work(3)
    ledger.finish_evaluation(database, ended.id, "diverged", "NaN")
    leases.claim_chunk(database, study.id, worker="node2:5", seconds=60.0)
    leases.claim_chunk(database, study.id, worker="node1:4", seconds=60.0)
    leases.claim_chunk(database, study.id, worker="dead", seconds=0.0)
    assert made.number == 1
    assert ledger.progress(database, study.id) == ledger.Progress(
        evaluations={
            ("baseline", "running"): 1,
            ("proposal", "running"): 1,
            ("proposal", "diverged"): 1,
        },
        chunks={"done": 3, "leased": 3, "open": 2},
        workers=("node1:4", "node2:5"),
    )


def test_what_was_reused_is_told_by_evaluation(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    first = add(0.8)
    work()
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    shared = add(0.8, study_id=other.id, images=750)
    own = add(0.9, study_id=other.id)
    work(study_id=other.id)
    assert ledger.reused_chunks(database, other.id, block="search") == {shared.id: [0, 250]}
    # The chunk that the other one has paid for is at hand, should it be asked for.
    assert ledger.reused_chunks(database, study.id, block="search") == {first.id: [500]}
    assert ledger.reused_chunks(database, other.id, block="c/A") == {}
    assert own.id not in ledger.reused_chunks(database, other.id, block="search")


def test_network_images_are_those_of_the_first_chunk(
    database: Database, add: Add, work: Work
) -> None:
    done, waiting = add(0.8), add(0.9)
    work(2)
    assert ledger.network_images(database, [done.id, waiting.id]) == {done.id: 6.0}
    assert ledger.network_images(database, []) == {}
    many = [*(f"{i:032x}" for i in range(1500)), done.id]
    assert ledger.network_images(database, many) == {done.id: 6.0}
