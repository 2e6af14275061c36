"""Who works on a study: those who hold a lease, with what they have stored for it."""

from __future__ import annotations

from typing import Any

from skiptune.storage import leases, ledger
from skiptune.storage.crews import crew
from skiptune.storage.database import Database
from tests.storage.conftest import Add


def claim(database: Database, study_id: str, worker: str, seconds: float = 60.0) -> leases.Claim:
    found = leases.claim_chunk(database, study_id, worker=worker, seconds=seconds)
    assert found is not None
    return found


def store(database: Database, study_id: str, worker: str, seconds: float, **facts: Any) -> None:
    held = claim(database, study_id, worker)
    leases.commit_chunk(database, held, array="0" * 64, seconds=seconds, nfe=6.0, provenance=facts)


def test_nobody(database: Database, study: ledger.Study) -> None:
    assert crew(database, study.id) == ()


def test_those_who_hold_a_lease(database: Database, study: ledger.Study, add: Add) -> None:
    add(1.0, images=2500)
    store(database, study.id, "b", 10.0, device="cpu")
    store(database, study.id, "b", 15.0, device="cuda:1", gpu="H200")
    store(database, study.id, "left", 10.0, device="cpu")
    for worker in ("b", "a"):
        claim(database, study.id, worker)
    claim(database, study.id, "dead", -1.0)
    first, second = crew(database, study.id)
    assert (first.name, first.images, first.rate, first.stored_ago) == ("a", 0, None, None)
    assert (second.name, second.images, second.rate) == ("b", 500, 20.0)
    assert (second.device, second.gpu) == ("cuda:1", "H200")
    assert second.stored_ago is not None and 0.0 <= second.stored_ago < 60.0
    assert all(0.0 < each.lease <= 60.0 for each in (first, second))


def test_what_was_stored_for_another_study_does_not_count(
    database: Database, study: ledger.Study, add: Add
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(1.0)
    add(0.5, study_id=other.id)
    store(database, study.id, "a", 10.0, device="cpu")
    claim(database, other.id, "a")
    assert crew(database, study.id) == ()
    (member,) = crew(database, other.id)
    assert (member.images, member.device) == (0, "")
