"""What is said of one thing that is wrong, and whether somebody has to mend it."""

from __future__ import annotations

from dataclasses import replace

from skiptune.errors import StorageError
from skiptune.search.finding import Finding, counted, refused

FOUND = Finding("leases", "cats", "1 chunk", "it waits", "skiptune doctor --fix", fixable=True)


def test_what_is_mended_or_told_only_is_not_left() -> None:
    assert FOUND.is_left
    assert not replace(FOUND, mended=True).is_left
    assert not replace(FOUND, is_notice=True).is_left


def test_an_error_says_what_was_found_and_expected_and_its_hint_mends() -> None:
    error = StorageError("/arrays", expected="a folder", found="a file", hint="name another")
    assert refused("orphans", error, "nothing can be listed") == Finding(
        "orphans",
        None,
        "/arrays: a file (expected: a folder)",
        "nothing can be listed",
        "name another",
    )


def test_numbers_have_their_nouns() -> None:
    assert [counted(number, "file") for number in range(3)] == ["0 files", "1 file", "2 files"]
    assert [counted(number, "copy", "copies") for number in (1, 2)] == ["1 copy", "2 copies"]
