"""A shelf is a dictionary of bytes that outlives its process, be it a folder or a bucket."""

from __future__ import annotations

import copy
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.errors import DiskFullError, StorageError
from skiptune.storage import shelves
from skiptune.storage.buckets import BucketShelf
from skiptune.storage.shelves import FolderShelf, Shelf, is_temporary, open_shelf
from tests.storage.buckets import bucket

NewShelf = Callable[[], Shelf]


@pytest.fixture(scope="module", params=["folder", "bucket"])
def new_shelf(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewShelf]:
    """A function that returns an empty shelf, of each kind."""
    if request.param == "folder":
        yield lambda: FolderShelf(tmp_path_factory.mktemp("shelf") / "in" / "here")
    else:
        with bucket() as location:
            numbers = iter(range(1_000_000))
            # One client for all, because it takes longer to make than a test to run.
            first = BucketShelf(location)

            def make() -> Shelf:
                shelf = copy.copy(first)
                shelf.prefix = f"shelf-{next(numbers)}"
                shelf._root = f"{shelf.prefix}/"
                return shelf

            yield make


@pytest.fixture
def shelf(new_shelf: NewShelf) -> Shelf:
    """An empty shelf, of each kind."""
    return new_shelf()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a folder's shelf shall be made; no mask of another test reaches it."""
    before = os.umask(0o022)
    yield tmp_path / "store"
    os.umask(before)


def listing(shelf: Shelf, below: str = "") -> dict[str, int]:
    """Return the sizes of all names, and check that none comes twice."""
    found = list(shelf.entries(below))
    assert len({entry.name for entry in found}) == len(found)
    return {entry.name: entry.bytes for entry in found}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix == ".tmp"]


@contextmanager
def mask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def fails_with(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# Of every shelf.

NAMES = st.sampled_from(["a", "b", "c/a", "c/b", "c/d/a", "ca"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.binary(max_size=20)),
        st.tuples(st.just("remove"), NAMES, st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS)
def test_it_is_a_dictionary(new_shelf: NewShelf, steps: list[tuple[str, str, bytes]]) -> None:
    shelf = new_shelf()
    truth: dict[str, bytes] = {}
    # A folder cannot hold the file "c" and the folder "c"; nor do our names need it.
    for step, name, data in steps:
        if step == "put":
            shelf.put(name, data)
            truth[name] = data
        else:
            shelf.remove(name)
            truth.pop(name, None)
        assert shelf.get(name) == truth.get(name)
    sizes = {name: len(data) for name, data in truth.items()}
    assert listing(shelf) == sizes
    below = {name: size for name, size in sizes.items() if name.startswith("c/")}
    assert listing(shelf, "c/") == below
    for name in ("a", "c/a", "c", "c/d", "none"):
        entry = shelf.find(name)
        assert (None if entry is None else entry.bytes) == sizes.get(name)


def test_large_bytes(shelf: Shelf) -> None:
    data = os.urandom(3_000_001)
    shelf.put("x/large", data)
    assert shelf.get("x/large") == data
    assert listing(shelf) == {"x/large": 3_000_001}


def test_an_empty_shelf_is_only_looked_at(shelf: Shelf) -> None:
    assert shelf.get("a/b") is None
    assert shelf.find("a/b") is None
    assert listing(shelf) == listing(shelf, "a/") == {}
    shelf.remove("a/b")
    assert shelf.exists() == (shelf.kind == "bucket")
    if isinstance(shelf, FolderShelf):
        assert not shelf.folder.parent.exists()


def test_a_place_is_the_location_and_the_name(shelf: Shelf) -> None:
    assert shelf.place("ab/x") == f"{shelf.location}/ab/x"
    assert shelf.kind in repr(shelf).lower()


def test_ages_are_told_by_the_clock_that_dates(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    shelf.put("a", b"1")
    before = shelf.now()
    shelf.put("b", b"2")
    after = shelf.now()
    first, second = shelf.find("a"), shelf.find("b")
    assert first is not None and second is not None
    # A bucket counts whole seconds.
    assert before - 1.0 <= second.modified <= after + 1.0
    assert first.modified <= second.modified + 1.0
    assert sorted(entry.modified for entry in shelf.entries()) == sorted(
        [first.modified, second.modified]
    )
    assert listing(shelf) == {"a": 1, "b": 1}


# Of a folder.


def test_the_same_bytes_stay_and_are_young_again(folder: Path) -> None:
    shelf = FolderShelf(folder)
    shelf.put("ab/x", b"data")
    path = folder / "ab" / "x"
    number = path.stat().st_ino
    os.utime(path, (1e9, 1e9))
    shelf.put("ab/x", b"data")
    assert path.stat().st_ino == number
    assert abs(path.stat().st_mtime - shelf.now()) < 60.0
    shelf.put("ab/x", b"other")
    assert path.stat().st_ino != number


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.mkdir", "pathlib.Path.rename"])
def test_no_space(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    shelf = FolderShelf(folder)
    shelf.put("there", b"before")
    with monkeypatch.context() as patched:
        patched.setattr(function, fails_with(number))
        with pytest.raises(DiskFullError) as raised:
            shelf.put("ab/x", b"data" * 1000)
    [problem] = raised.value.problems
    assert problem.where == str(folder)
    assert problem.expected == "space for 4,000 bytes"
    assert problem.found == os.strerror(number)
    assert "free some space" in raised.value.hint and "nothing committed" in raised.value.hint
    assert temporaries(folder) == []
    assert listing(shelf) == {"there": 6}
    shelf.put("ab/x", b"data")
    assert shelf.get("ab/x") == b"data"


def test_a_device_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own refusal: what is written goes to /dev/full."""

    def full(path: Path, how: str) -> Any:
        open(path, how).close()
        return open("/dev/full", "wb")

    monkeypatch.setattr(shelves, "open", full, raising=False)
    with pytest.raises(DiskFullError, match="No space left"):
        FolderShelf(folder).put("ab/x", b"data")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_the_time_on_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = FolderShelf(folder)
    shelf.put("a", b"")
    os.utime(folder, (1e9, 1e9))
    monkeypatch.setattr("pathlib.Path.touch", fails_with(errno.ENOSPC))
    found, entry = shelf.now(), shelf.find("a")
    assert entry is not None and abs(found - entry.modified) < 60.0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EROFS, errno.ENOTCONN])
def test_a_share_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    shelf = FolderShelf(folder)
    shelf.put("ab/x", b"data")
    before = listing(shelf)
    uses: dict[str, Callable[[], object]] = {
        "os.fsync": lambda: shelf.put("ab/y", b"data"),
        "pathlib.Path.unlink": lambda: shelf.remove("ab/x"),
        "pathlib.Path.read_bytes": lambda: shelf.get("ab/x"),
        "pathlib.Path.touch": lambda: shelf.now(),
        "pathlib.Path.is_dir": lambda: shelf.exists(),
        "os.stat": lambda: shelf.find("ab/x"),
        "os.scandir": lambda: list(shelf.entries("ab/")),
    }
    for function, use in uses.items():
        with monkeypatch.context() as patched:
            patched.setattr(function, fails_with(number))
            with pytest.raises(StorageError) as raised:
                use()
        assert type(raised.value) is StorageError
        assert raised.value.problems[0].found == os.strerror(number)
        assert raised.value.problems[0].where.startswith(str(folder))
        assert "mount" in raised.value.hint
    assert listing(shelf) == before


def test_a_file_system_without_a_flush_for_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr("os.fsync", flush)
    shelf = FolderShelf(folder)
    shelf.put("ab/x", b"data")
    assert shelf.get("ab/x") == b"data"


def test_what_is_written_is_flushed_with_the_folders_that_name_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, flushed = os.fsync, []

    def flush(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr("os.fsync", flush)
    FolderShelf(folder).put("a/b/x", b"data")
    assert flushed[0].parent == folder / "a" / "b" and is_temporary(flushed[0].name)
    assert flushed[1:] == [folder / "a" / "b", folder / "a", folder]


def test_the_time_in_no_folder(folder: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        FolderShelf(folder).now()
    assert not folder.exists()


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    folder.write_text("mine")
    shelf = FolderShelf(folder)
    assert not shelf.exists()
    assert shelf.find("a") is None and shelf.get("a") is None and listing(shelf) == {}
    shelf.remove("a")
    for use in (shelf.now, lambda: shelf.put("a", b"")):
        with pytest.raises(StorageError, match="Not a directory"):
            use()
    assert folder.read_text() == "mine"


def test_what_is_no_file_is_passed_over(folder: Path) -> None:
    shelf = FolderShelf(folder)
    shelf.put("a", b"1")
    (folder / "nowhere").symlink_to(folder / "none")
    (folder / "around").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    assert listing(shelf) == {"a": 1}


def test_a_file_removed_while_they_are_listed(folder: Path) -> None:
    shelf = FolderShelf(folder)
    for name in ("a", "b", "c/d"):
        shelf.put(name, b"")
    entries = shelf.entries()
    assert next(entries).name == "a"
    shelf.remove("b")
    shelf.remove("c/d")
    (folder / "c").rmdir()
    assert list(entries) == []


@pytest.mark.parametrize("masked", [0o077, 0o022, 0o002])
def test_group_writable_whatever_the_umask(folder: Path, masked: int) -> None:
    shelf = FolderShelf(folder / "deep", group_writable=True)
    with mask(masked):
        shelf.put("ab/x", b"data")
        shelf.put(".skiptune/results/y.json", b"{}")
    made = [folder, folder / "deep", *folder.glob("deep/*"), *folder.glob("deep/.skiptune/*")]
    assert len({path for path in made if path.is_dir()}) == 5
    assert {mode(path) for path in made if path.is_dir()} == {0o2775}
    assert {mode(path) for path in folder.rglob("*") if path.is_file()} == {0o664}


def test_what_was_there_keeps_its_mode(folder: Path) -> None:
    folder.mkdir(mode=0o750)
    FolderShelf(folder, group_writable=True).put("ab/x", b"data")
    assert mode(folder) == 0o750


@pytest.mark.parametrize("masked", [0o077, 0o022, 0o002])
def test_without_the_request_the_umask_decides(folder: Path, masked: int) -> None:
    with mask(masked):
        FolderShelf(folder).put("ab/x", b"data")
    assert mode(folder / "ab" / "x") == 0o666 & ~masked
    assert mode(folder) == mode(folder / "ab") == 0o777 & ~masked


def test_a_colleague_of_the_group_writes_too(
    folder: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    shelf = FolderShelf(folder, group_writable=True)
    with mask(0o077):
        shelf.put("ab/x", b"data")
        with unprivileged():
            shelf.put("ab/y", b"more")
            shelf.put("ab/x", b"data")
            shelf.put("ab/x", b"other")
            shelf.remove("ab/y")
    assert shelf.get("ab/x") == b"other" and listing(shelf) == {"ab/x": 5}


def test_a_file_that_only_its_owner_reads_is_replaced(
    folder: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    shelf = FolderShelf(folder, group_writable=True)
    shelf.put("ab/x", b"data")
    (folder / "ab" / "x").chmod(0)
    with unprivileged():
        with pytest.raises(StorageError, match="Permission denied"):
            shelf.get("ab/x")
        shelf.put("ab/x", b"data")
        assert shelf.get("ab/x") == b"data"


# Locations.


@pytest.mark.parametrize("location", ["store", "a/store", "/tmp/a store", "s3", "a:b", "x:/y"])
def test_a_path_is_a_folder(location: str) -> None:
    for place in (location, Path(location)):
        found = open_shelf(place, group_writable=True)
        assert isinstance(found, FolderShelf)
        assert found.location == location and found.group_writable


@pytest.mark.parametrize(
    "location",
    [
        "gs://bucket/prefix",
        "http://host/prefix",
        "file:///tmp/store",
        "S3://bucket",
        Path("s3://bucket/prefix"),
        "",
        " ",
    ],
)
def test_another_location_is_refused(location: str | Path) -> None:
    with pytest.raises(StorageError, match=r"s3://BUCKET/PREFIX") as raised:
        open_shelf(location)
    assert raised.value.problems[0].where


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StorageError) as raised:
        open_shelf("https://me:secret@host/store")
    assert "secret" not in str(raised.value) and "host" in str(raised.value)


def test_a_bucket_has_no_group() -> None:
    with pytest.raises(StorageError, match="group-writable"):
        open_shelf("s3://images", group_writable=True)


def test_what_is_a_temporary_name() -> None:
    assert is_temporary(".x.png.12.0a1b2c3d.tmp") and is_temporary("ab/.x.1.0a1b2c3d.tmp")
    for name in ("x.png", "x.1.0a1b2c3d.tmp", ".x.1.0a1b2c3d.tmp/y", ".x.tmp", ".x.1.0A.tmp"):
        assert not is_temporary(name)
