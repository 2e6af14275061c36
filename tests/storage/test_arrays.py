"""Files by content: the same arrays are the same file, and what is read is what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import StorageError
from skiptune.storage.arrays import ArrayStore


@pytest.fixture
def store(tmp_path: Path) -> ArrayStore:
    return ArrayStore(tmp_path / "artifacts")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def some(seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {
        "features": generator.normal(size=(250, 8)).astype(np.float32),
        "finite": np.ones(250, np.float32),
    }


def test_round_trip(store: ArrayStore) -> None:
    arrays = some() | {
        "label": np.arange(250),
        "flag": np.array([True, False]),
        "one": np.float64(0.1) * np.ones(()),
        "none": np.zeros((0, 3), np.float32),
    }
    digest = store.write(arrays)
    assert store.exists(digest)
    assert store.path(digest).parent == store.folder / digest[:2]
    assert hashlib.sha256(store.path(digest).read_bytes()).hexdigest() == digest
    read = store.read(digest)
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


def test_other_arrays_are_another_file(store: ArrayStore) -> None:
    arrays = some()
    changed = {**arrays, "features": np.nextafter(arrays["features"], np.float32(9))}
    renamed = {"feature": arrays["features"], "finite": arrays["finite"]}
    wider = {**arrays, "finite": arrays["finite"].astype(np.float64)}
    assert len({store.write(item) for item in (arrays, changed, renamed, wider)}) == 4


def test_equal_arrays_are_written_once(store: ArrayStore) -> None:
    digest = store.write(some())
    before = store.path(digest).stat()
    assert store.write(some()) == digest
    after = store.path(digest).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files(store.folder) == [store.path(digest)]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_damage_is_found_and_mended_by_writing_again(store: ArrayStore, damage: str) -> None:
    digest = store.write(some())
    path = store.path(digest)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[-1] ^= 1
    else:
        data.clear()
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged") as raised:
        store.read(digest)
    assert str(path) == raised.value.problems[0].where
    assert store.write(some()) == digest
    np.testing.assert_array_equal(store.read(digest)["features"], some()["features"])


def test_a_missing_file(store: ArrayStore) -> None:
    assert not store.exists("0" * 64)
    with pytest.raises(StorageError, match="No such file") as raised:
        store.read("0" * 64)
    assert raised.value.hint


def test_bytes_that_are_no_arrays(store: ArrayStore) -> None:
    digest = store.write_bytes(b"no arrays", suffix=".safetensors")
    with pytest.raises(StorageError, match="safetensors"):
        store.read(digest)


def test_bytes(store: ArrayStore) -> None:
    digest = store.write_bytes(b"picture", ".png")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert store.exists(digest, suffix=".png") and not store.exists(digest)
    assert store.read_bytes(digest, ".png") == b"picture"


def test_a_read_only_folder(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    for above in folder.parents[:3]:
        above.chmod(0o755)
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

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.write(some())
    assert files(store.folder) == []


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
