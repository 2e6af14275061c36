"""Studies: made once, found by name, and never half changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.canonical import canonical
from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database, open_database
from skiptune.storage.rows import parse, text_of
from tests.storage.conftest import Fresh, in_threads


def test_the_first_study_of_a_name_stays(database: Database, study: ledger.Study) -> None:
    again = ledger.create_study(database, name="cats", spec={"other": 1}, meaning={"seed": 1})
    assert again == study
    assert again.meaning == {"seed": 0}
    assert ledger.list_studies(database) == (study,)
    assert ledger.find_study(database, "cats") == study
    assert ledger.require_study(database, "cats") == study


def test_times_are_utc(study: ledger.Study) -> None:
    assert study.created.tzinfo is UTC
    assert abs(datetime.now(UTC) - study.created) < timedelta(minutes=1)


def test_near_names_are_listed(database: Database, study: ledger.Study) -> None:
    ledger.create_study(database, name="carts", spec={}, meaning={})
    ledger.create_study(database, name="whale", spec={}, meaning={})
    assert ledger.find_study(database, "cat") is None
    with pytest.raises(StorageError) as raised:
        ledger.require_study(database, "cat")
    assert "`cats`" in raised.value.hint and "`carts`" in raised.value.hint
    assert "whale" not in raised.value.hint


def test_a_name_like_no_other(database: Database, study: ledger.Study) -> None:
    with pytest.raises(StorageError) as raised:
        ledger.require_study(database, "zzzzzz")
    assert "skiptune status" in raised.value.hint
    with pytest.raises(StorageError, match="its only study, cats"):
        ledger.require_study(database, "horses")
    ledger.create_study(database, name="dogs", spec={}, meaning={})
    with pytest.raises(StorageError, match="one of its 2 studies"):
        ledger.require_study(database, "horses")
    with pytest.raises(StorageError) as raised:
        ledger.require_study(database, "folder/mine.yaml")
    assert raised.value.hint == (
        "give the study's name, which its file has under `study`, not the file"
    )


def test_state_and_spec_change_and_meaning_stays(database: Database, study: ledger.Study) -> None:
    ledger.set_study_state(database, study.id, "paused")
    changed = ledger.set_study_spec(database, study.id, {"study": "cats", "evaluations": 80})
    assert changed == ledger.set_study_spec(database, study.id, changed.spec)
    assert changed == ledger.find_study(database, "cats")
    assert (changed.state, changed.spec["evaluations"]) == ("paused", 80)
    assert changed.meaning == study.meaning


def test_files_board_and_budget_come_back_and_change(database: Database) -> None:
    files: list[dict[str, Any]] = [
        {"path": "a.safetensors", "sha256": "0" * 64, "bytes": 5},
        {"path": "b"},
    ]
    board = {"metric": "FD", "distributions": {"x": "{}"}}
    made = ledger.create_study(
        database,
        name="dogs",
        spec={},
        meaning={},
        files=files,
        board=board,
        budget=ledger.Budget(evaluations=40, images=10**12, seconds=0.1 + 0.2),
    )
    assert (made.files, made.board) == (tuple(files), board)
    assert made.budget == ledger.Budget(40, 10**12, 0.1 + 0.2)
    assert ledger.require_study(database, "dogs") == made
    changed = ledger.set_study_spec(
        database, made.id, {}, files=files[:1], board={}, budget=ledger.Budget(seconds=1.0)
    )
    assert (changed.files, changed.board) == (tuple(files[:1]), {})
    assert changed.budget == ledger.Budget(None, None, 1.0)
    assert ledger.list_studies(database) == (changed,)


def test_machines_that_create_it_at_once_get_the_same(database: Database, url: str) -> None:
    def create(own: Database, number: int) -> ledger.Study:
        return ledger.create_study(own, name="cats", spec={"by": number}, meaning={})

    made = in_threads(url, [partial(create, number=number) for number in range(6)])
    assert [item for item in made if item != made[0]] == []
    assert ledger.list_studies(database) == (made[0],)


def test_every_database_has_an_identity_of_its_own(database: Database, fresh: Fresh) -> None:
    identities = {ledger.database_id(database)}
    for backend in ("sqlite", "sqlite", "postgresql"):
        with fresh(backend) as url, open_database(url) as other:
            identities.add(ledger.database_id(other))
    assert all(set(name) <= set("0123456789abcdef") and len(name) == 32 for name in identities)
    # A copy is the same database to its artifact store: the templates are two.
    assert len(identities) == 2


def test_an_unknown_study_is_refused(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        ledger.set_study_state(database, "0" * 32, "paused")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), PLAIN))
def test_plain_data_comes_back_bit_for_bit(data: dict[str, object]) -> None:
    assert canonical(parse(text_of(data))) == canonical(data)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_without_json_are_refused(database: Database, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ledger.create_study(database, name="bad", spec={"x": number}, meaning={})
    assert ledger.find_study(database, "bad") is None
