from __future__ import annotations

import os
from pathlib import Path

import pytest

from skiptune.errors import OutputError
from skiptune.search.output import write_whole


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
