"""Who works on a study: those who hold a lease, with what they have stored for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

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
    crew_now = first, second = crew(database, study.id)
    assert (first.name, first.images, first.rate, first.stored_ago) == ("a", 0, None, None)
    assert (second.name, second.images, second.rate) == ("b", 500, 20.0)
    assert (second.device, second.gpu) == ("cuda:1", "H200")
    assert second.stored_ago is not None and 0.0 <= second.stored_ago < 60.0
    assert all(0.0 < each.lease <= 60.0 for each in crew_now)
    assert all(each.seen_ago is not None and 0.0 <= each.seen_ago < 60.0 for each in crew_now)


def test_the_last_sign_of_life_is_the_last_renewal(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(1.0, images=500)
    held = claim(database, study.id, "a", seconds=900.0)
    claim(database, study.id, "b")
    with database.write() as session:
        past = text(
            "UPDATE skiptune_chunks SET renewed = renewed - 300, lease_until = lease_until - 300"
            " WHERE worker = 'a'"
        )
        session.execute(past)
    first, _ = crew(database, study.id)
    assert first.seen_ago is not None and 300.0 <= first.seen_ago < 360.0
    leases.renew(database, held, seconds=60.0)
    first, _ = crew(database, study.id)
    assert first.seen_ago is not None and first.seen_ago < 60.0
    with database.write() as session:
        session.execute(text("UPDATE skiptune_chunks SET renewed = NULL"))
    assert [member.seen_ago for member in crew(database, study.id)] == [None, None]


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
