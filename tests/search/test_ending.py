"""When a study will be done, from rows that are written by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skiptune.search.ending import images_left, seconds_left
from skiptune.search.overview import overview
from skiptune.storage import leases, ledger
from skiptune.storage.crews import Member
from skiptune.storage.database import Database, init_database
from skiptune.storage.records import Budget, Kind, Study
from tests.search.test_overview import MEANING, SPEC, enter, page

PLAN = {"plan": {"search": 10_000, "confirm": 4000}}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with init_database(database_url) as opened:
        yield opened


def create(database: Database, name: str = "s", **values: object) -> Study:
    return ledger.create_study(
        database,
        name=name,
        spec=SPEC,
        meaning=MEANING,
        **{"board": PLAN, **values},  # type: ignore[arg-type]
    )


def sample(
    database: Database,
    study: Study,
    images: int,
    *,
    block: str = "search",
    kind: Kind = "proposal",
    scale: float = 0.5,
) -> None:
    """Store the images of one schedule on a block of seeds."""
    first = {"search": 1_000_000, "confirm-1/A": 2_000_000, "confirm-1/B": 2_050_000}[block]
    enter(
        database, scale, kind=kind, label=kind, block=block, first_seed=first, images=images,
        study=study.name,
    )  # fmt: skip
    while (held := leases.claim_chunk(database, study.id, worker="w", seconds=60.0)) is not None:
        leases.commit_chunk(database, held, array="0" * 64, seconds=10.0, nfe=6.0)


def left(database: Database, study: Study, **options: int) -> int | None:
    return images_left(
        database, ledger.require_study(database, study.name), {}, most=options.get("most")
    )


def test_what_is_planned_less_what_is_stored(database: Database) -> None:
    study = create(database)
    assert left(database, study) == 14_000
    sample(database, study, 1000)
    assert left(database, study) == 13_000
    # What another study has paid for need not be made, either.
    other = create(database, "other")
    sample(database, other, 1000)
    assert ledger.spending(database, other.id).images == 0
    assert left(database, other) == 13_000


def test_a_budget_of_images_binds_the_search(database: Database) -> None:
    study = create(database, budget=Budget(images=3000))
    assert overview(database, "s").images_left == 3000 + 4000
    sample(database, study, 1000)
    assert overview(database, "s").images_left == 2000 + 4000


def test_a_search_that_took_more_than_planned_has_none_left(database: Database) -> None:
    study = create(database, board={"plan": {"search": 500, "confirm": 4000}})
    sample(database, study, 1000)
    assert left(database, study) == 4000


def test_once_it_confirms_the_search_is_over(database: Database) -> None:
    study = create(database)
    sample(database, study, 1000)
    ledger.spend_block(database, study.id, block="confirm-1", images=2000, alpha=0.05)
    assert overview(database, "s").images_left == 4000
    sample(database, study, 500, block="confirm-1/A", kind="confirm")
    sample(database, study, 1000, block="confirm-1/B", kind="confirm")
    row = ledger.require_study(database, "s")
    assert images_left(database, row, {"confirm-1": False}) == 2500
    # With a larger budget it goes on after its confirm, and confirms once more.
    assert images_left(database, row, {"confirm-1": True}) == 9000 + 4000


def test_nothing_is_left_of_what_has_ended(database: Database) -> None:
    study = create(database)
    ledger.set_study_state(database, study.id, "stopped")
    assert left(database, study) == 0
    ledger.set_study_state(database, study.id, "complete")
    assert left(database, study) == 0
    # Complete, and confirmed once more.
    row = ledger.require_study(database, "s")
    assert images_left(database, row, {"confirm-1": True, "confirm-2": False}) == 4000


def test_a_row_of_an_earlier_version_knows_no_plan(database: Database) -> None:
    assert left(database, create(database, board={})) is None
    assert overview(database, "s").seconds_left is None


def test_those_who_have_stored_nothing_yet_count_as_the_others_do() -> None:
    fast = Member("a", 60.0, images=1000, seconds=10.0)
    slow = Member("b", 60.0, images=1000, seconds=20.0)
    new = Member("c", 60.0)
    assert seconds_left(1500, (fast, slow)) == pytest.approx(10.0)
    assert seconds_left(2250, (fast, slow, new)) == pytest.approx(10.0)
    assert seconds_left(1500, (new,)) is None
    assert seconds_left(1500, ()) is None
    assert seconds_left(None, (fast,)) is None


def test_the_page_tells_when(database: Database) -> None:
    study = create(database)
    sample(database, study, 1000)  # 25 images a second
    assert "estimated end" not in page(overview(database, "s"))
    enter(database, 0.7)
    leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    found = overview(database, "s")
    assert found.seconds_left == pytest.approx(13_000 / 25)
    assert found.to_json()["seconds_left"] == found.seconds_left
    assert "UTC, in 8 min 40 s, if all proposals are made: 13,000 images" in page(found)
