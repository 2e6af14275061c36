from __future__ import annotations

from pathlib import Path

import pytest

from skiptune.errors import StorageError
from skiptune.storage.secret_files import read_secret


def read(file: Path) -> str:
    return read_secret(file, where="--token-file", what="the token of the page", example="do this")


def test_the_line_is_returned_without_its_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret\n")
    file.chmod(0o600)
    assert read(file) == "a secret"
    file.chmod(0o400)
    assert read(file) == "a secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_what_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret")
    file.chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:04o}") as raised:
        read(file)
    assert raised.value.hint == f"chmod 600 {file}"
    assert "a secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "0 lines"), (b"\n \n", "0 lines"), (b"a\nb\n", "2 lines"), (b"\xff", "no text")],
)
def test_what_is_not_one_line_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(StorageError, match=found):
        read(file)


def test_a_missing_file_is_said_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as raised:
        read(tmp_path / "nowhere")
    assert raised.value.hint == "write the token into it, then: chmod 600 FILE"
    assert raised.value.problems[0].where == "--token-file"
