"""What a study's rows say about its health: all that is wrong, and nothing that is not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from skiptune.storage import leases, ledger
from skiptune.storage.database import Database
from skiptune.storage.inspection import (
    DeviceWork,
    StoredArray,
    abandoned,
    chunk_formats,
    devices_used,
    poisoned_chunks,
    sampled_arrays,
    versions_used,
)
from skiptune.storage.tables import ChunkRow
from skiptune.storage.turns import take_turn
from tests.storage.conftest import Add, Work


def claim(database: Database, study_id: str, worker: str, seconds: float) -> leases.Claim:
    found = leases.claim_chunk(database, study_id, worker=worker, seconds=seconds)
    assert found is not None
    return found


def test_a_sound_study(database: Database, study: ledger.Study, add: Add, work: Work) -> None:
    assert chunk_formats(database, study.id) == {}
    add(1.0)
    work(1)
    claim(database, study.id, "alive", 60.0)
    take_turn(database, study.id, task="propose", worker="alive", seconds=60.0)
    assert poisoned_chunks(database, study.id) == ()
    assert abandoned(database, study.id, seconds=0.0) == ()
    assert chunk_formats(database, study.id) == {1: 2}
    assert versions_used(database, study.id, ("torch",)) == {}


def test_poisoned_chunks_keep_their_reason_and_other_studies_do_not_see_them(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(1.0)
    leases.poison(database, claim(database, study.id, "a", 60.0), "no luck")
    [chunk] = poisoned_chunks(database, study.id)
    assert (chunk.first_seed, chunk.reason) == (1_000_000, "no luck")
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(0.5, study_id=other.id)
    assert poisoned_chunks(database, other.id) == ()


def test_leases_that_ended_long_ago_and_are_waited_for(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = add(1.0)
    ledger.promote(database, made.id, 1000)  # a second rung asks for the same chunk
    claim(database, study.id, "dead", -100.0)
    take_turn(database, study.id, task="propose", worker="gone", seconds=-100.0)
    first, second = abandoned(database, study.id, seconds=90.0)
    assert (first.what, first.worker) == ("chunk from seed 1000000", "dead")
    assert (second.what, second.worker) == ("turn to propose", "gone")
    assert all(100.0 <= each.seconds < 160.0 for each in (first, second))
    assert abandoned(database, study.id, seconds=200.0) == ()
    # Nobody samples for an evaluation that has ended: its lease is no sign of anything.
    ledger.finish_evaluation(database, made.id, "diverged", "NaN")
    left = abandoned(database, study.id, seconds=90.0)
    assert [each.what for each in left] == ["turn to propose"]


def test_a_sample_of_the_stored_arrays(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    add(1.0, images=1000)
    work(3)
    every = sampled_arrays(database, study.id, most=100)
    assert set(every) == {StoredArray(f"{n:064x}", 1_000_000 + 250 * n) for n in range(3)}
    assert sampled_arrays(database, study.id, most=2) == every[:2]


def test_versions_and_formats(database: Database, study: ledger.Study, add: Add) -> None:
    add(1.0, images=1000)
    for number, torch in enumerate(("2.5", "2.6", "2.5")):
        held = claim(database, study.id, "a", 60.0)
        # Other facts differ too: they are counted together.
        facts = {"torch": torch, "threads": number}
        leases.commit_chunk(
            database, held, array=f"{number:064x}", seconds=1.0, nfe=6.0, provenance=facts
        )
    assert versions_used(database, study.id, ("skiptune", "torch")) == {
        "torch": {"2.5": 2, "2.6": 1}
    }
    with database.write() as session:
        session.execute(update(ChunkRow).where(ChunkRow.state == "open").values(format=2))
    assert chunk_formats(database, study.id) == {1: 3, 2: 1}


def test_what_each_device_has_done(database: Database, study: ledger.Study, add: Add) -> None:
    add(1.0, images=1250)
    told: list[dict[str, Any] | None] = [
        {"device": "cuda:0", "gpu": "H200", "torch": "2.5"},
        {"device": "cuda:1", "gpu": "H200", "torch": "2.6"},
        {"device": "cpu"},
        None,
    ]
    for number, facts in enumerate(told):
        held = claim(database, study.id, "a", 60.0)
        seconds = 1.0 + number
        leases.commit_chunk(
            database, held, array=f"{number:064x}", seconds=seconds, nfe=6.0, provenance=facts
        )
    assert devices_used(database, study.id) == (
        DeviceWork("", 250, 4.0, is_gpu=False),
        DeviceWork("H200", 500, 3.0, is_gpu=True),
        DeviceWork("cpu", 250, 3.0, is_gpu=False),
    )
    # A study that takes them over has paid for none.
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(1.0, images=1000, study_id=other.id)
    assert devices_used(database, other.id) == ()
