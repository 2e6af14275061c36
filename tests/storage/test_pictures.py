"""Pictures are shared as images are, and go when nobody needs them."""

from __future__ import annotations

from dataclasses import replace

from skiptune.storage import ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add


def grid(database: Database, made: ledger.Evaluation, digest: str) -> None:
    ledger.put_grid(database, digest=digest, bytes=9, series=made.series, schedule=made.schedule)


def test_a_grid_is_found_by_series_and_schedule(database: Database, add: Add) -> None:
    one, other = add(0.8), add(0.9)
    grid(database, one, "a" * 64)
    assert ledger.grids(database, [one, other]) == {one.id: "a" * 64}
    # Whoever has the same images, whatever is measured of them.
    alike = replace(one, id="x", study_id="y", measure="z", number=7)
    assert ledger.grids(database, [alike]) == {"x": "a" * 64}
    assert ledger.grids(database, [replace(one, series="b" * 64)]) == {}
    assert ledger.grids(database, []) == {}


def test_of_two_grids_the_first_one_is_shown(database: Database, add: Add) -> None:
    made = add(0.8)
    grid(database, made, "b" * 64)
    grid(database, made, "a" * 64)
    assert ledger.grids(database, [made]) == {made.id: "b" * 64}
    grid(database, made, "a" * 64)
    assert len(ledger.artifacts(database)) == 2


def test_more_evaluations_than_a_statement_takes(database: Database, add: Add) -> None:
    made = add(0.8)
    many = [replace(made, id=f"{i}", schedule=f"{i:064x}") for i in range(1203)]
    for one in (many[0], many[600], many[1202]):
        grid(database, one, one.schedule)
    assert ledger.grids(database, many) == {
        one.id: one.schedule for one in (many[0], many[600], many[1202])
    }


def test_a_new_pair_takes_the_place_of_the_one_before(
    database: Database, study: ledger.Study
) -> None:
    def pair(digest: str, study_id: str = study.id) -> tuple[str, ...]:
        return ledger.put_pair(database, digest=digest, bytes=9, study_id=study_id)

    assert pair("a" * 64) == ()
    assert pair("a" * 64) == ()
    assert pair("c" * 64, "another") == ()
    assert pair("b" * 64) == ("a" * 64,)
    assert {one.digest for one in ledger.artifacts(database)} == {"b" * 64, "c" * 64}


def test_what_nobody_needs_is_forgotten(database: Database, study: ledger.Study, add: Add) -> None:
    kept, shared = add(0.8), add(0.9)
    other = ledger.create_study(database, name="other", spec={"s": 1}, meaning={"m": 1})
    mine = add(0.7, study_id=other.id)
    add(0.9, study_id=other.id)
    for place, one in enumerate((kept, shared, mine)):
        grid(database, one, f"{place}" * 64)
    ledger.put_pair(database, digest="d" * 64, bytes=9, study_id=study.id)
    ledger.put_pair(database, digest="e" * 64, bytes=9, study_id=other.id)
    ledger.put_artifact(database, digest="f" * 64, kind="input", bytes=1, name="network")
    assert ledger.drop_pictures(database) == ()
    ledger.delete_study(database, other.id)
    assert ledger.drop_pictures(database) == ("2" * 64, "e" * 64)
    assert ledger.drop_pictures(database) == ()
    left = {one.digest for one in ledger.artifacts(database)}
    assert left == {"0" * 64, "1" * 64, "d" * 64, "f" * 64}
    assert left <= ledger.named_files(database)
