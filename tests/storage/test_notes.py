"""Notes wait in a store for the database: a whole one comes back, half a one never does.

A test that takes `store` is of a folder, one that takes `any_store` of a folder and of a bucket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.errors import UnavailableError
from skiptune.storage.arrays import ArrayStore, open_store, plain_name
from tests.storage.buckets import Answer, new_store, service


@pytest.fixture
def store(tmp_path: Path) -> ArrayStore:
    return ArrayStore(tmp_path / "artifacts")


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArrayStore]:
    with new_store(request.param, tmp_path) as made:
        yield made


def test_notes(any_store: ArrayStore) -> None:
    values: dict[str, dict[str, Any]] = {
        "b": {"x": 0.1, "y": [1, None, "ü"]},
        "a.json": {},
        "a": {"deep": {"er": True}},
    }
    for name, value in values.items():
        any_store.put_note("results", name, value)
    any_store.put_note("others", "a", {"kind": "others"})
    assert any_store.notes("results") == tuple(sorted(values.items()))
    any_store.put_note("results", "a", {"new": 1})
    assert dict(any_store.notes("results"))["a"] == {"new": 1}
    for name in ("a", "a", "missing"):
        any_store.remove_note("results", name)
    assert [name for name, _ in any_store.notes("results")] == ["a.json", "b"]
    assert any_store.notes("others") == (("a", {"kind": "others"}),)
    assert any_store.shelf.find(".skiptune/others/a.json") is not None


def test_what_is_no_whole_note_is_passed_over(any_store: ArrayStore) -> None:
    any_store.put_note("results", "good", {"a": 1})
    for name, data in {
        "empty.json": b"",
        "half.json": b'{"a": ',
        "list.json": b"[1]",
        "binary.json": b"\xff\xfe",
        "deep.json": b"[" * 100_000,
        "good.txt": b"{}",
        "a b.json": b"{}",
        ".hidden.json": b"{}",
        "folder/good.json": b"{}",
    }.items():
        any_store.shelf.put(f".skiptune/results/{name}", data)
    assert any_store.notes("results") == (("good", {"a": 1}),)


def test_a_note_of_somebody_else_is_passed_over(
    store: ArrayStore, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    store.put_note("results", "mine", {})
    store.put_note("results", "theirs", {})
    (store.folder / ".skiptune" / "results" / "theirs.json").chmod(0)
    with unprivileged():
        assert store.notes("results") == (("mine", {}),)


def test_a_service_that_is_down_has_not_lost_its_notes() -> None:
    with service(Answer.refusal(503, "SlowDown")), pytest.raises(UnavailableError):
        open_store("s3://images").notes("results")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_every_note_comes_back(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    store = ArrayStore(tmp_path_factory.getbasetemp() / "notes")
    store.put_note("results", "chunk", value)
    assert store.notes("results") == (("chunk", value),)


@given(st.text())
def test_a_name_stays_in_its_folder(text: str) -> None:
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
    if text and set(text) <= set(allowed) and text[0] != "." and len(text) <= 200:
        assert plain_name(text) == text
    else:
        with pytest.raises(ValueError, match="part of a file's name"):
            plain_name(text)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", ".a", "a b", "ä", "a\n", "a" * 201]
)
def test_a_name_or_kind_that_leads_elsewhere(store: ArrayStore, name: str) -> None:
    for use in (
        lambda: store.put_note("results", name, {}),
        lambda: store.put_note(name, "chunk", {}),
        lambda: store.remove_note("results", name),
        lambda: store.remove_note(name, "chunk"),
        lambda: store.notes(name),
    ):
        with pytest.raises(ValueError, match="part of a file's name"):
            use()
    assert not store.folder.exists()


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": float("inf")}, {"a": {1}}])
def test_a_value_that_is_not_json(store: ArrayStore, value: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        store.put_note("results", "chunk", value)
    assert not store.folder.exists()


def test_a_note_is_json_that_a_person_can_read(store: ArrayStore) -> None:
    store.put_note("results", "chunk", {"b": 1, "a": [2]})
    text = (store.folder / ".skiptune" / "results" / "chunk.json").read_text()
    assert json.loads(text) == {"a": [2], "b": 1}
    assert text.count("\n") > 2 and text.endswith("}\n")
