from __future__ import annotations

from pathlib import Path

import pytest

from skiptune.errors import SpecError, StorageError
from skiptune.views.dashboard.access import (
    SESSION_SECONDS,
    VARIABLE,
    Access,
    find_token,
    host_of,
)

TOKEN = "0123456789abcdef-token"


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8080", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[0:0::0:1]", "::1"),
        ("a-b.example.org:", "a-b.example.org"),
        ("gpu_1:8080", "gpu_1"),
        ("", None),
        ("localhost:8080:1", None),
        ("localhost:http", None),
        ("local host", None),
        ("localhost, evil.org", None),
        ("user@localhost", None),
        ("localhost/path", None),
        ("[::1", None),
        ("[localhost]", None),
        ("[::1]evil.org", None),
        ("-x", None),
        ("x.", None),
        ("localhost:1234567", None),
    ],
)
def test_the_host_of_a_header(header: str, host: str | None) -> None:
    assert host_of(header) == host


def test_a_name_that_somebody_lets_point_to_us_is_not_ours() -> None:
    access = Access()
    assert all(access.knows_host(name) for name in ("localhost:1", "127.0.0.1", "[::1]:8080"))
    for name in ("evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "10.0.0.7", "", "[::2]"):
        assert not access.knows_host(name), name
    everywhere = Access(token=TOKEN, any_address=True)
    assert everywhere.knows_host("10.0.0.7:8080") and everywhere.knows_host("[fe80::1]")
    assert not everywhere.knows_host("evil.org")


def test_nobody_edits_without_a_token() -> None:
    with pytest.raises(ValueError, match="token"):
        Access(edit=True)


def test_the_token_is_compared_whole_and_never_shown() -> None:
    access = Access(token=TOKEN)
    assert access.is_token(TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "\udcff"):
        assert not access.is_token(wrong)
    assert not Access().is_token("")
    assert TOKEN not in repr(access)


def test_a_cookie_lasts_its_time_and_cannot_be_made_without_the_token() -> None:
    access = Access(token=TOKEN)
    value = access.session(1000.0)
    assert TOKEN not in value
    assert access.is_session(value, 1000.0)
    assert access.is_session(value, 1000.0 + SESSION_SECONDS - 1)
    assert not access.is_session(value, 1000.0 + SESSION_SECONDS)
    until, _, signature = value.partition(".")
    for wrong in (
        f"{int(until) + 1}.{signature}",
        f"{until}.{signature[:-1]}",
        f"{until}.",
        until,
        "",
        f"-1.{signature}",
        f"{until} .{signature}",
        Access(token=TOKEN + "x").session(1000.0),
    ):
        assert not access.is_session(wrong, 1000.0), wrong
    assert not Access().is_session(value, 1000.0)


def test_two_ports_have_two_cookies() -> None:
    access = Access(token=TOKEN)
    assert access.at(1).cookie != access.at(2).cookie
    assert access.at(1).is_token(TOKEN)


def test_the_file_comes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    assert find_token(file, {VARIABLE: "another-token-of-others"}) == TOKEN
    assert find_token(None, {VARIABLE: f"{TOKEN}\n"}) == TOKEN
    assert find_token(None, {}) is None
    assert find_token(None, {VARIABLE: ""}) is None


def test_the_shortest_and_the_longest_token() -> None:
    for length in (16, 512):
        assert find_token(None, {VARIABLE: "~" * length}) == "~" * length


def test_a_token_file_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    with pytest.raises(StorageError, match="mode 0644") as raised:
        find_token(file, {})
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("short", "one of 5 characters"),
        ("x" * 15, "one of 15 characters"),
        ("sixteen with one", "with spaces"),
        ("x" * 513, "one of 513 characters"),
        ("with a space in it, long", "with spaces"),
        ("ümlaute-ümlaute-ümlaute", "other characters"),
    ],
)
def test_a_token_that_is_none_is_refused_and_not_shown(token: str, found: str) -> None:
    with pytest.raises(SpecError, match=found) as raised:
        find_token(None, {VARIABLE: token})
    assert token not in str(raised.value)
    assert "openssl rand" in raised.value.hint
