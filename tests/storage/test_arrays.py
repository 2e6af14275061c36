"""Files by content: the same arrays are the same file, and what is read is what was written.

A test that takes `store` is of a folder, one that takes `any_store` of a folder and of a bucket.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skiptune.errors import DiskFullError, StorageError
from skiptune.storage.arrays import ArrayStore, LostFileError, StoredFile, open_store
from skiptune.storage.shelves import FolderShelf
from tests.storage.buckets import bucket, new_store


@pytest.fixture
def store(tmp_path: Path) -> ArrayStore:
    return ArrayStore(tmp_path / "artifacts")


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArrayStore]:
    with new_store(request.param, tmp_path) as made:
        yield made


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def some(seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {
        "features": generator.normal(size=(250, 8)).astype(np.float32),
        "finite": np.ones(250, np.float32),
    }


def test_round_trip(any_store: ArrayStore) -> None:
    arrays = some() | {
        "label": np.arange(250),
        "flag": np.array([True, False]),
        "one": np.float64(0.1) * np.ones(()),
        "none": np.zeros((0, 3), np.float32),
    }
    digest = any_store.write(arrays)
    assert any_store.exists(digest)
    [file] = any_store.files()
    assert file.name == f"{digest[:2]}/{digest}.safetensors"
    assert hashlib.sha256(any_store.shelf.get(file.name) or b"").hexdigest() == digest
    read = any_store.read(digest)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


def test_a_path_is_below_the_folder(store: ArrayStore) -> None:
    digest = store.write(some())
    assert store.path(digest) == store.folder / digest[:2] / f"{digest}.safetensors"
    assert store.path(digest).is_file()
    assert store.location == str(store.folder)


def test_a_bucket_has_no_paths() -> None:
    with bucket() as location:
        store = open_store(f"{location}/artifacts")
        with pytest.raises(StorageError, match="in a bucket"):
            store.path("0" * 64)
        assert store.location == f"{location}/artifacts"


ARRAYS = st.dictionaries(
    st.text(max_size=5),
    hnp.arrays(
        st.sampled_from(["f4", "f8", "f2", "i8", "i4", "u1", "?"]).map(np.dtype),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(ARRAYS)
def test_every_array_comes_back(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, NDArray[Any]]
) -> None:
    store = ArrayStore(tmp_path_factory.getbasetemp() / "every")
    read = store.read(store.write(arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_names_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    arrays = {name: np.full(3, ord(name), np.float32) for name in names}
    ArrayStore(folder).write(arrays)
    assert len(files(folder)) == 1


def test_the_memory_order_does_not_matter(store: ArrayStore) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    strided = np.repeat(array, 2, axis=1)[:, ::2]
    views = [array, np.asfortranarray(array), array.T.copy().T, strided]
    assert len({store.write({"x": view}) for view in views}) == 1
    [path] = files(store.folder)
    np.testing.assert_array_equal(store.read(path.stem)["x"], array)


def test_other_arrays_are_another_file(any_store: ArrayStore) -> None:
    arrays = some()
    changed = {**arrays, "features": np.nextafter(arrays["features"], np.float32(9))}
    renamed = {"feature": arrays["features"], "finite": arrays["finite"]}
    wider = {**arrays, "finite": arrays["finite"].astype(np.float64)}
    written = {any_store.write(item) for item in (arrays, changed, renamed, wider)}
    assert len(written) == 4
    assert {file.digest for file in any_store.files()} == written


def test_equal_arrays_are_written_once(store: ArrayStore) -> None:
    digest = store.write(some())
    before = store.path(digest).stat()
    assert store.write(some()) == digest
    assert store.path(digest).stat().st_ino == before.st_ino
    assert files(store.folder) == [store.path(digest)]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_damage_is_found_and_mended_by_writing_again(any_store: ArrayStore, damage: str) -> None:
    digest = any_store.write(some())
    [file] = any_store.files()
    data = bytearray(any_store.shelf.get(file.name) or b"")
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[-1] ^= 1
    else:
        data.clear()
    any_store.shelf.put(file.name, bytes(data))
    with pytest.raises(LostFileError, match="damaged") as raised:
        any_store.read(digest)
    assert raised.value.problems[0].where == any_store.shelf.place(file.name)
    assert any_store.write(some()) == digest
    np.testing.assert_array_equal(any_store.read(digest)["features"], some()["features"])


def test_a_missing_file(any_store: ArrayStore) -> None:
    assert not any_store.exists("0" * 64)
    with pytest.raises(LostFileError, match="No such file") as raised:
        any_store.read("0" * 64)
    assert raised.value.hint


def test_what_cannot_be_read_is_not_lost(
    store: ArrayStore, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    """Otherwise a worker without the rights would have everything sampled again."""
    digest = store.write(some())
    store.path(digest).chmod(0)
    with unprivileged(), pytest.raises(StorageError, match="Permission denied") as raised:
        store.read(digest)
    assert not isinstance(raised.value, LostFileError)


def test_bytes_that_are_no_arrays(any_store: ArrayStore) -> None:
    digest = any_store.write_bytes(b"no arrays", suffix=".safetensors")
    with pytest.raises(StorageError, match="safetensors"):
        any_store.read(digest)


def test_bytes(any_store: ArrayStore) -> None:
    digest = any_store.write_bytes(b"picture", ".png")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert any_store.exists(digest, suffix=".png") and not any_store.exists(digest)
    assert any_store.read_bytes(digest, ".png") == b"picture"


@pytest.mark.parametrize("suffix", ["", "png", ".", ".a/b", "/../x", ".a b"])
def test_a_suffix_by_which_no_file_would_be_listed(store: ArrayStore, suffix: str) -> None:
    with pytest.raises(ValueError, match="end of a file's name"):
        store.write_bytes(b"picture", suffix)
    assert not store.folder.exists()


def test_a_read_only_folder(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match="Permission denied") as raised:
        ArrayStore(folder).write(some())
    assert "permissions" in raised.value.hint
    assert list(folder.iterdir()) == []


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("mine")
    with pytest.raises(StorageError):
        ArrayStore(tmp_path / "artifacts").write(some())
    assert (tmp_path / "artifacts").read_text() == "mine"


def test_a_full_disk_leaves_nothing(store: ArrayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(DiskFullError, match="No space left"):
            store.write(some())
        with pytest.raises(DiskFullError):
            store.put_note("results", "a", {})
    assert files(store.folder) == []
    assert store.exists(store.write(some()))


def test_a_group_of_writers(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = open_store(tmp_path / "artifacts", group_writable=True)
        digest = store.write(some())
    finally:
        os.umask(before)
    assert store.path(digest).stat().st_mode & 0o777 == 0o664
    assert store.path(digest).parent.stat().st_mode & 0o7777 == 0o2775


PROGRAM = """
import sys
import numpy as np
from skiptune.storage.arrays import ArrayStore
store = ArrayStore(sys.argv[1])
print("ready", flush=True)
for seed in range(1_000_000):
    store.write({"x": np.random.default_rng(seed).normal(size=50_000)})
"""


def test_killed_at_any_moment_no_final_name_has_other_content(store: ArrayStore) -> None:
    moments = random.Random(0)
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(store.folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0.01, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    written = [path for path in files(store.folder) if path.suffix == ".safetensors"]
    assert written
    for path in written:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


# What lies in a store, and what may go.


def test_files_are_listed_and_nothing_else(any_store: ArrayStore) -> None:
    any_store.put_note("results", "a", {})
    before = any_store.now()
    arrays = any_store.write(some())
    picture = any_store.write_bytes(b"picture", ".png")
    both = any_store.write_bytes(b"picture", ".tar.gz")
    assert both == picture
    for name in (
        "skiptune.db",
        f"{arrays}.safetensors",
        f"00/{'1' * 64}.png",  # in the folder of another digest
        f"{'2' * 2}/{'2' * 63}.png",
        f"{'2' * 2}/{'2' * 64}",
        f"AA/AA{'a' * 62}.png",
        f"deeper/{'2' * 2}/{'2' * 64}.png",
    ):
        any_store.shelf.put(name, b"mine")
    found = {(file.digest, file.suffix): file for file in any_store.files()}
    assert found.keys() == {(arrays, ".safetensors"), (picture, ".png"), (picture, ".tar.gz")}
    file = found[picture, ".png"]
    assert (file.name, file.bytes) == (f"{picture[:2]}/{picture}.png", 7)
    # A bucket counts whole seconds.
    assert all(before - 1.0 <= item.modified <= any_store.now() + 1.0 for item in found.values())


def test_an_empty_store_has_no_files(any_store: ArrayStore) -> None:
    assert list(any_store.files()) == list(any_store.leftovers()) == []
    assert any_store.notes("results") == ()


def test_a_file_is_removed_once(any_store: ArrayStore) -> None:
    digest = any_store.write(some())
    any_store.write_bytes(b"picture", ".png")
    assert not any_store.remove(digest, suffix=".png")
    assert any_store.remove(digest)
    assert not any_store.exists(digest)
    assert not any_store.remove(digest)
    assert [file.suffix for file in any_store.files()] == [".png"]


def test_a_young_file_is_left(any_store: ArrayStore) -> None:
    digest = any_store.write(some())
    now = any_store.now()
    assert not any_store.remove(digest, written_before=now - 3600.0)
    assert any_store.exists(digest)
    assert any_store.remove(digest, written_before=now + 3600.0)
    assert not any_store.exists(digest)


def test_a_file_that_is_stored_again_is_young(store: ArrayStore) -> None:
    """Otherwise it could be removed between `write` and the commit of the row that names it."""
    digest = store.write(some())
    os.utime(store.path(digest), (1e9, 1e9))
    [listed] = store.files()
    assert listed.modified == 1e9
    day_ago = store.now() - 86_400.0
    assert store.write(some()) == digest
    assert not store.remove(digest, written_before=day_ago)


def test_a_wrong_clock_here_ages_nothing(
    any_store: ArrayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = any_store.write(some())
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert not any_store.remove(digest, written_before=any_store.now() - 86_400.0)


KILLED = """
import sys
from skiptune.storage.arrays import ArrayStore
store = ArrayStore(sys.argv[1])
if sys.argv[2] == "note":
    store.put_note("results", "chunk", {"a": 1})
else:
    store.write_bytes(b"picture", ".png")
"""


@pytest.mark.parametrize("what", ["note", "file"])
def test_a_killed_writer_leaves_a_leftover(store: ArrayStore, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.folder), what],
        env={**os.environ, "SKIPTUNE_FAIL_POINT": "store_file.before"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert list(store.files()) == [] and store.notes("results") == ()
    [left] = store.leftovers()
    assert isinstance(left, StoredFile)
    assert (left.digest, left.suffix) == ("", ".tmp")
    assert left.bytes > 0 and abs(left.modified - store.now()) < 60.0
    assert not store.remove_leftover(left.name, written_before=store.now() - 3600.0)
    assert [item.name for item in store.leftovers()] == [left.name]
    assert store.remove_leftover(left.name)
    assert not store.remove_leftover(left.name)
    assert list(store.leftovers()) == []


def test_a_bucket_may_hold_the_leftovers_of_a_copied_folder(any_store: ArrayStore) -> None:
    ours = f"00/.{'0' * 64}.png.12.0a1b2c3d.tmp"
    theirs = ("mine/.x.png.12.0a1b2c3d.tmp", "00/mine.tmp", "00/.mine.tmp")
    for name in (ours, *theirs):
        any_store.shelf.put(name, b"half")
    assert [left.name for left in any_store.leftovers()] == [ours]
    for name in theirs:
        with pytest.raises(ValueError, match="temporary"):
            any_store.remove_leftover(name)


@pytest.mark.parametrize("name", [f"00/{'0' * 64}.safetensors", "../.x.1.0a1b2c3d.tmp", ""])
def test_only_a_leftover_is_removed_as_one(store: ArrayStore, name: str) -> None:
    with pytest.raises(ValueError, match="temporary"):
        store.remove_leftover(name)


def test_the_clock_is_not_a_leftover(store: ArrayStore) -> None:
    store.write_bytes(b"picture", ".png")
    store.now()
    assert list(store.leftovers()) == []


def test_a_store_on_a_shelf_of_ones_own(tmp_path: Path) -> None:
    shelf = FolderShelf(tmp_path / "store")
    store = ArrayStore(shelf)
    assert store.shelf is shelf
    assert ArrayStore(store.location).read(store.write(some())).keys() == some().keys()


def test_size_and_place_of_a_file(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "arrays")
    digest = store.write_bytes(b"four", ".bin")
    assert store.size(digest, suffix=".bin") == 4
    assert store.place(digest, suffix=".bin") == str(store.path(digest, suffix=".bin"))
    assert store.size("0" * 64) is None
    assert store.place("0" * 64) == str(tmp_path / "arrays" / "00" / f"{'0' * 64}.safetensors")
