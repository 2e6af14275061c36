"""Headers of every answer, refusals, and the page of the login."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skiptune.views.dashboard.answers import (
    FILE,
    NOTHING,
    PAGE,
    Answer,
    login_page,
    refused,
    secured,
    sent_on,
)


def sent(answer: Answer, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    found: list[Any] = []

    def start(*given: Any) -> Any:
        found.extend(given)

    body = answer.send({"REQUEST_METHOD": method}, start)
    status, headers = found
    assert len(dict(headers)) == len(headers)  # none twice
    return status, dict(headers), b"".join(body)


def test_what_contradicts_ours_is_left_out() -> None:
    theirs = [
        ("Access-Control-Allow-Origin", "*"),
        ("CONTENT-SECURITY-POLICY", "default-src *"),
        ("Cache-Control", "public"),
        ("X-Frame-Options", "ALLOWALL"),
        ("Content-Type", "image/png"),
        ("Content-Encoding", "gzip"),
    ]
    headers = dict(secured(theirs, policy=PAGE, cache="private"))
    assert "Access-Control-Allow-Origin" not in headers
    assert "CONTENT-SECURITY-POLICY" not in headers
    assert headers["Content-Type"] == "image/png" and headers["Content-Encoding"] == "gzip"
    assert headers["Content-Security-Policy"] == PAGE
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "private")


@pytest.mark.parametrize("policy", [NOTHING, FILE])
def test_data_and_files_may_run_nothing(policy: str) -> None:
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert ("sandbox" in policy) == (policy is FILE)


def test_head_has_the_length_and_no_body() -> None:
    status, headers, body = sent(refused(403, "no token"), "HEAD")
    assert status == "403 Forbidden" and body == b""
    _, _, whole = sent(refused(403, "no token"))
    assert json.loads(whole) == {"reason": "no token"}
    assert headers["Content-Length"] == str(len(whole))
    assert headers["Cache-Control"] == "no-store"


def test_a_browser_is_sent_on_by_get() -> None:
    status, headers, body = sent(sent_on("/dashboard"))
    assert (status, headers["Location"], body) == ("303 See Other", "/dashboard", b"")


def test_the_login_shows_a_path_as_text_and_says_what_was_wrong() -> None:
    status, headers, body = sent(login_page('/a"><script>x</script>', wrong=True))
    assert status == "401 Unauthorized"
    assert b"<script>" not in body and b"&quot;&gt;&lt;script&gt;" in body
    assert b"This is not the token." in body
    assert "script-src" not in headers["Content-Security-Policy"]
    status, _, body = sent(login_page("/"))
    assert status == "200 OK" and b"This is not the token." not in body
