"""Studies: made once, found by name, and never half changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.canonical import canonical
from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.rows import parse, text_of


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


def test_state_and_spec_change_and_meaning_stays(database: Database, study: ledger.Study) -> None:
    ledger.set_study_state(database, study.id, "paused")
    changed = ledger.set_study_spec(database, study.id, {"study": "cats", "evaluations": 80})
    assert changed == ledger.set_study_spec(database, study.id, changed.spec)
    assert changed == ledger.find_study(database, "cats")
    assert (changed.state, changed.spec["evaluations"]) == ("paused", 80)
    assert changed.meaning == study.meaning


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
