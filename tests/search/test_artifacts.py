"""Where arrays are, that the store is the right one, and what happens when it is not there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from skiptune.errors import StorageError
from skiptune.search.artifacts import (
    SHARED_BYTES,
    artifacts_location,
    bind_store,
    bound_store,
    required_store,
    share_files,
    shared_file,
)
from skiptune.search.files import SourceFile
from skiptune.search.scoring import stored_arrays
from skiptune.search.study import SEARCH, OpenStudy, open_stored
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.markers import marked
from tests.search.conftest import Tiny, crew_member

SERVER = "postgresql://user@server/studies"


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKIPTUNE_ARTIFACTS", "SKIPTUNE_GROUP_WRITABLE", "SKIPTUNE_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    beside = f"sqlite:///{tmp_path}/deep/a.db"
    assert artifacts_location(beside) == str(tmp_path / "deep/skiptune-artifacts")
    assert artifacts_location("sqlite:///a.db") == str(tmp_path / "skiptune-artifacts")
    assert artifacts_location(beside, "here") == str(tmp_path / "here")
    assert artifacts_location(SERVER, "s3://bucket/prefix") == "s3://bucket/prefix"
    monkeypatch.setenv("SKIPTUNE_ARTIFACTS", "/mnt/share")
    assert artifacts_location(SERVER) == artifacts_location(beside) == "/mnt/share"
    assert artifacts_location(SERVER, tmp_path) == str(tmp_path)
    monkeypatch.setenv("SKIPTUNE_ARTIFACTS", "~/share")
    assert artifacts_location(SERVER) == str(Path.home() / "share")


def test_a_server_needs_a_store_that_is_named() -> None:
    with pytest.raises(StorageError) as caught:
        artifacts_location(SERVER)
    assert "--artifacts or SKIPTUNE_ARTIFACTS" in caught.value.hint


def test_an_empty_database_takes_an_empty_store_and_marks_it(tiny: Tiny) -> None:
    study = tiny.open()
    identity = ledger.database_id(study.database)
    assert marked(study.arrays) == (identity,)
    elsewhere = tiny.folder / "elsewhere"
    assert marked(bound_store(study.database, elsewhere)) == (identity,)
    assert required_store(study.database, elsewhere).folder == elsewhere


def with_a_chunk(tiny: Tiny) -> OpenStudy:
    study = tiny.open()
    assert crew_member(study, "a", limits=Limits(images=250)).run() == "limit reached"
    return study


def test_once_arrays_are_stored_another_folder_is_refused(tiny: Tiny, quick: None) -> None:
    study = with_a_chunk(tiny)
    wrong = tiny.folder / "wrong"
    for open_it in (bound_store, required_store):
        with pytest.raises(StorageError) as caught:
            open_it(study.database, wrong)
        assert "check the mount" in caught.value.hint
        assert not wrong.exists()
    with pytest.raises(StorageError):
        open_stored("tiny", storage=tiny.url, artifacts=wrong)
    # The user may say that this is it.
    bind_store(study.database, wrong)
    assert required_store(study.database, wrong).folder == wrong


def test_a_store_that_lost_its_marker_and_holds_the_newest_array_is_taken(
    tiny: Tiny, quick: None
) -> None:
    study = with_a_chunk(tiny)
    (marker,) = (tiny.artifacts / ".skiptune").glob("*.json")
    marker.unlink()
    with pytest.raises(StorageError):
        required_store(study.database, tiny.artifacts)
    bound_store(study.database, tiny.artifacts)
    assert marker.exists()


def test_group_writable_by_the_environment(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny.open()
    monkeypatch.setenv("SKIPTUNE_GROUP_WRITABLE", "1")
    bound_store(study.database, tiny.folder / "shared").write_bytes(b"x", ".bin")
    (file,) = (tiny.folder / "shared").rglob("*.bin")
    assert file.stat().st_mode & 0o777 == 0o664


def chunk_of(study: OpenStudy) -> ledger.Chunk:
    (baseline,) = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
    return ledger.chunks_of(study.database, baseline.id)[0]


def test_a_lost_file_is_reopened(tiny: Tiny, quick: None) -> None:
    study = with_a_chunk(tiny)
    chunk = chunk_of(study)
    study.arrays.path(str(chunk.array)).unlink()
    with pytest.raises(LostFileError):
        stored_arrays(study, chunk)
    assert chunk_of(study).state == "open"


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "another store"])
def test_a_store_that_is_not_mounted_is_no_lost_file(tiny: Tiny, quick: None, there: str) -> None:
    study = with_a_chunk(tiny)
    chunk = chunk_of(study)
    away = tiny.artifacts.with_name("unmounted")
    tiny.artifacts.rename(away)
    if there != "nothing":
        tiny.artifacts.mkdir()
    if there == "another store":
        with tiny.elsewhere() as other:
            (tiny.artifacts / ".skiptune").mkdir()
            identity = ledger.database_id(other.open().database)
            (tiny.artifacts / ".skiptune" / f"{identity}.json").write_text("{}")
    for action in (
        lambda: stored_arrays(study, chunk),
        lambda: crew_member(study, "b", limits=Limits(images=250)).run(),
    ):
        with pytest.raises(StorageError) as caught:
            action()
        assert not isinstance(caught.value, LostFileError)
        assert "marker" in str(caught.value)
    assert chunk_of(study).state == "done"
    if there != "nothing":
        shutil.rmtree(tiny.artifacts)
    away.rename(tiny.artifacts)
    assert "features" in stored_arrays(study, chunk)


def source(path: Path, data: bytes) -> SourceFile:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return SourceFile("network.checkpoint", path.name, digest, len(data), None, str(path))


def test_small_files_are_kept_in_the_store_large_ones_are_not(tiny: Tiny) -> None:
    study = tiny.open()
    small = source(tiny.folder / "small.bin", b"small")
    large = source(tiny.folder / "large.bin", b"large")
    said_to_be_large = SourceFile.from_json({**large.to_json(), "bytes": SHARED_BYTES + 1})
    for _ in range(2):
        share_files(study.database, study.arrays, [small, said_to_be_large])
    assert shared_file(study.arrays, small) == b"small"
    assert shared_file(study.arrays, large) is None
    named = {artifact.name for artifact in ledger.artifacts(study.database)}
    assert named == {"tiny.safetensors", "reference.npz", "small.bin"}
