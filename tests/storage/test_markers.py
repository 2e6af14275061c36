"""A store without the marker of a database is not its store, whatever it looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from skiptune.errors import StorageError, UnavailableError
from skiptune.storage import markers
from skiptune.storage.arrays import ArrayStore, open_store
from tests.storage.buckets import Answer, bucket, new_store, service

OURS, THEIRS = "0f7a", "b1c2"
NAME = "postgresql://host/skiptune"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArrayStore]:
    """A store without files, of each kind."""
    with new_store(request.param, tmp_path) as made:
        yield made


def contents(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*")))


def refusal(store: ArrayStore) -> str:
    """Return what is found where the store of our database should be."""
    with pytest.raises(StorageError) as raised:
        markers.require(store, OURS, database_name=NAME)
    [problem] = raised.value.problems
    assert problem.where == store.location
    assert problem.expected == f"the store of database {NAME} (marker {OURS})"
    for word in ("mount", "--artifacts", "SKIPTUNE_ARTIFACTS", "`skiptune db init`"):
        assert word in raised.value.hint
    return problem.found


def test_a_marked_store_is_accepted(store: ArrayStore) -> None:
    markers.mark(store, OURS)
    markers.require(store, OURS, database_name=NAME)
    assert markers.marked(store) == (OURS,)
    text = json.loads(store.shelf.get(f".skiptune/{OURS}.json") or b"")
    assert text.keys() == {"database", "created"}
    assert text["database"] == OURS
    assert datetime.fromisoformat(text["created"]).utcoffset() is not None


def test_the_first_marker_stays(store: ArrayStore) -> None:
    name = f".skiptune/{OURS}.json"
    store.shelf.put(name, b'{"database": "0f7a", "created": "2001-09-09T01:46:40+00:00"}')
    markers.mark(store, OURS)
    assert b"2001" in (store.shelf.get(name) or b"")


def test_databases_may_share_a_store(store: ArrayStore) -> None:
    assert markers.marked(store) == ()
    for name in (THEIRS, OURS, THEIRS):
        markers.mark(store, name)
    assert markers.marked(store) == (OURS, THEIRS)
    markers.require(store, OURS, database_name=NAME)


def test_what_is_beside_the_markers_is_none(store: ArrayStore) -> None:
    store.write_bytes(b"picture", ".png")
    store.put_note("results", "note", {})
    store.shelf.put(".skiptune/.half.json.12.0a1b2c3d.tmp", b"{")
    store.shelf.put(".skiptune/.hidden.json", b"{}")
    store.shelf.put(".skiptune/README.txt", b"")
    assert markers.marked(store) == ()
    markers.mark(store, OURS)
    assert [file.suffix for file in store.files()] == [".png"]


def test_the_store_of_another_database(store: ArrayStore) -> None:
    markers.mark(store, THEIRS)
    assert refusal(store) == f"the store of another database (marker {THEIRS})"
    assert markers.marked(store) == (THEIRS,)


def test_a_store_without_markers(store: ArrayStore) -> None:
    store.write_bytes(b"picture", ".png")
    assert refusal(store) == f"a {store.shelf.kind} without markers"


def test_a_store_whose_notes_are_no_markers(store: ArrayStore) -> None:
    store.put_note("results", OURS, {})
    assert refusal(store) == f"a {store.shelf.kind} without markers"


def test_a_share_that_is_not_mounted(tmp_path: Path) -> None:
    """The folder below the mount is there, and empty; it stays so."""
    mount = tmp_path / "mnt"
    mount.mkdir()
    before = contents(tmp_path)
    assert refusal(open_store(mount)) == "a folder without markers"
    assert refusal(open_store(mount / "artifacts")) == "no such folder"
    assert contents(tmp_path) == before


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("mine")
    assert refusal(open_store(tmp_path / "artifacts")) == "no such folder"


def test_a_missing_bucket() -> None:
    with bucket(), pytest.raises(StorageError, match="no such bucket"):
        markers.require(open_store("s3://elsewhere"), OURS, database_name=NAME)


def test_a_service_that_is_down() -> None:
    """It says nothing about the store: the worker may ask again."""
    with service(Answer.refusal(503, "SlowDown")), pytest.raises(UnavailableError):
        markers.require(open_store("s3://images"), OURS, database_name=NAME)


@pytest.mark.parametrize("identifier", ["", "..", "a/b", "../../x", ".x", "a b"])
def test_an_identifier_that_leads_elsewhere(tmp_path: Path, identifier: str) -> None:
    store = open_store(tmp_path / "artifacts")
    with pytest.raises(ValueError, match="part of a file's name"):
        markers.mark(store, identifier)
    with pytest.raises(ValueError, match="part of a file's name"):
        markers.require(store, identifier, database_name=NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_group_may_mark(tmp_path: Path) -> None:
    store = open_store(tmp_path / "artifacts", group_writable=True)
    markers.mark(store, OURS)
    marker = tmp_path / "artifacts" / ".skiptune" / f"{OURS}.json"
    assert marker.stat().st_mode & 0o777 == 0o664
    assert marker.parent.stat().st_mode & 0o7777 == 0o2775
