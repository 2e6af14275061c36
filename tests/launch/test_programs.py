"""Programs of a cluster that are missing, broken, slow, or speak in another encoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from skiptune.errors import LaunchError
from skiptune.launch import programs
from skiptune.launch.programs import asked

Script = Callable[..., Path]
MISSING = LaunchError("tool", expected="it", found="none", hint="install it")


def refused(words: Sequence[str], found: str) -> LaunchError:
    return LaunchError(" ".join(words), expected="an answer", found=found, hint="try again")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


def test_it_answers_whatever_its_exit_code(script: Script) -> None:
    script("tool", "printf '%s,' \"$@\"; printf 'n\\366' >&2; exit 3")
    answer = asked(["tool", "a b", "$c"], missing=MISSING, refused=refused)
    assert (answer.stdout, answer.returncode) == ("a b,$c,", 3)
    assert answer.stderr == "n\N{REPLACEMENT CHARACTER}"  # Latin-1


def test_one_that_is_missing() -> None:
    with pytest.raises(LaunchError) as caught:
        asked(["tool"], missing=MISSING, refused=refused)
    assert caught.value is MISSING


def test_one_that_cannot_be_run(script: Script) -> None:
    script("tool", "").write_bytes(b"\x00 neither a script nor a program")
    with pytest.raises(LaunchError, match="Exec format error"):
        asked(["tool"], missing=MISSING, refused=refused)


def test_one_that_does_not_answer(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "SECONDS", 0.2)
    script("tool", "exec sleep 60")
    with pytest.raises(LaunchError, match=r"tool -x.*no answer for 0 s"):
        asked(["tool", "-x"], missing=MISSING, refused=refused)
