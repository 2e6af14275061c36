from __future__ import annotations

import os
from pathlib import Path

import pytest

from skiptune.errors import OutputError
from skiptune.search.output import check_folder_free, whole_folder, write_whole


def test_a_file_is_written_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", b"one")
    assert (tmp_path / "a.json").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a.json"]


def test_another_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")
    with pytest.raises(OutputError) as caught:
        write_whole(path, b"two")
    assert caught.value.problems[0].found == "an existing file"
    assert "--force" in caught.value.hint
    assert path.read_bytes() == b"one"
    write_whole(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(force: bool, tmp_path: Path) -> None:
    """Root might replace /dev/null; a named pipe is a device in this, too."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(OutputError, match="a device, a pipe or a socket"):
            write_whole(path, b"data", force=force)
    assert pipe.is_fifo() and link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_of_a_link_the_file_that_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "a.json", tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OutputError, match="an existing file"):
        write_whole(link, b"one")
    for data in (b"one", b"two"):
        write_whole(link, data, force=True)
        assert link.is_symlink() and path.read_bytes() == data
    assert os.listdir(tmp_path / "there") == ["a.json"]


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    really = os.fsync

    def fsync(descriptor: int) -> None:
        really(descriptor)
        path.write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="an existing file"):
        write_whole(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", "a folder"),
        ("missing/a.json", "No such file"),
        ("file/a.json", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_places_that_cannot_be_written(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        write_whole(tmp_path / name, b"data")
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / name)
    assert found in problem.found
    assert problem.expected and caught.value.hint
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_whole(path, b"two", force=True)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a.json"]


MARKER = "marker.json"


def fill(path: Path, text: str, *, force: bool = False) -> None:
    with whole_folder(path, marker=MARKER, force=force) as folder:
        (folder / MARKER).write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


def test_a_folder_is_written_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "a", "one")
    assert (tmp_path / "a" / "inner" / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["a"]
    check_folder_free(tmp_path / "b", marker=MARKER)


def test_a_folder_of_this_kind_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fill(path, "one")
    (path / "other").write_text("left over")
    with pytest.raises(OutputError, match="replace the folder with --force"):
        fill(path, "two")
    fill(path, "two", force=True)
    assert (path / MARKER).read_text() == "two"
    assert not (path / "other").exists()
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["folder", "empty", "file", "link"])
def test_what_is_no_such_folder_is_never_replaced(kind: str, tmp_path: Path) -> None:
    path, ours = tmp_path / "a", tmp_path / "ours"
    fill(ours, "ours")
    if kind == "link":
        path.symlink_to(ours)
    elif kind == "file":
        path.write_text("theirs")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "precious").write_text("theirs")
    for force in (False, True):
        with pytest.raises(OutputError, match="only replaces folders with a marker"):
            fill(path, "two", force=force)
    assert sorted(os.listdir(tmp_path)) == ["a", "ours"]
    assert (ours / MARKER).read_text() == "ours"


@pytest.mark.parametrize("when", ["writing", "syncing", "renaming"])
def test_a_folder_that_fails_leaves_the_old_one(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    fill(path, "one")
    really = os.rename

    def full(*values: object) -> None:
        raise OSError(28, "No space left on device")

    def rename(source: Path, target: Path) -> None:
        if target == path and not source.name.endswith(".old"):
            full()
        really(source, target)

    if when == "syncing":
        monkeypatch.setattr(os, "fsync", full)
    elif when == "renaming":
        monkeypatch.setattr(os, "rename", rename)
    with (
        pytest.raises(OutputError, match="No space left on device"),
        whole_folder(path, marker=MARKER, force=True) as folder,
    ):
        (folder / MARKER).write_text("two")
        if when == "writing":
            full()
    assert (path / MARKER).read_text() == "one"
    assert os.listdir(tmp_path) == ["a"]


def test_another_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_folder(tmp_path / "a", marker=MARKER) as folder:
        (folder / MARKER).write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    for name in ("missing/a", "x" * 300):
        with pytest.raises(OutputError):
            fill(tmp_path / name, "one")
    assert os.listdir(tmp_path) == []
