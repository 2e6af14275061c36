"""What gets past the guard: every route of the installed dashboard, taken from its router."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any
from urllib.parse import urlencode
from wsgiref.types import StartResponse, WSGIEnvironment

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.storage.optuna_rows import optuna_storage
from skiptune.views.dashboard.access import SESSION_SECONDS, Access
from skiptune.views.dashboard.guard import BODY_BYTES, Guard
from tests.dashboards import Reply, ask, attach, content, picture
from tests.views.dashboard.conftest import Studied

TOKEN = "0123456789abcdef-token"
HOST = "127.0.0.1:8080"
ORIGIN = f"http://{HOST}"
NOW = 1_800_000_000.0

# What a browser sends with a request of a page of ours.
OWN: dict[str, Any] = {"Origin": ORIGIN, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
FORM = "application/x-www-form-urlencoded"

# Values for the places in a rule; there is a study 1 with a trial 1.
PLACES = {
    "study_id": "1", "trial_id": "1", "artifact_id": "0" * 64, "history_id": "1",
    "plot_type": "slice", "filename": "bundle.js",
}  # fmt: skip


def guarded(studied: Studied, *, edit: bool = False, token: str | None = None) -> Guard:
    access = Access(token=token, edit=edit)
    return Guard(studied.served(edit=edit), access, clock=lambda: NOW)


def cookie(token: str = TOKEN, now: float = NOW) -> str:
    access = Access(token=token)
    return f"other=1; {access.cookie}={access.session(now)}; more=2"


def path_of(rule: str) -> str:
    """A path that a rule of the router matches."""
    if rule.startswith("/dashboard"):
        return "/dashboard/studies/1"
    return re.sub(r"<(\w+)[^>]*>", lambda found: PLACES[found[1]], rule) or "/"


def routes(studied: Studied, *, reads: bool) -> list[tuple[str, str]]:
    """Method and path of each route of the installed dashboard."""
    found = [(method, path_of(rule)) for method, rule in studied.served().routes]
    assert len(found) > 30
    return [(method, path) for method, path in found if (method == "GET") == reads]


def put_note(app: Guard, **headers: str) -> Reply:
    body = json.dumps({"version": 1, "body": "a note"}).encode()
    return ask(app, "/api/studies/1/note", method="PUT", body=body, **headers)


# Read-only


def test_every_route_that_does_not_read_is_refused_and_changes_nothing(studied: Studied) -> None:
    before = content(studied.database)
    mutating = routes(studied, reads=False)
    assert len(mutating) > 15
    assert ("POST", "/incompatible-rdb-schema") in mutating
    assert {method for method, _ in mutating} == {"POST", "PUT", "DELETE"}
    bodies = (b"", b"{}", json.dumps({"study_name": "x", "directions": ["minimize"]}).encode())
    for app, expected in (
        (guarded(studied), 405),  # nobody may edit
        (guarded(studied, token=TOKEN), 403),
        (guarded(studied, token=TOKEN, edit=True), 403),  # somebody may, who has the token
    ):
        for method, path in mutating:
            for body in bodies:
                for headers in ({}, OWN, {"Cookie": cookie("another-token-of-others")}):
                    said: dict[str, Any] = headers
                    reply = ask(app, path, method=method, body=body, **said)
                    assert reply.status == expected, (method, path)
                    assert "reason" in reply.json
    assert content(studied.database) == before


def test_every_route_that_reads_is_answered_and_changes_nothing(studied: Studied) -> None:
    before = content(studied.database)
    app = guarded(studied)
    for method, path in routes(studied, reads=True):
        reply = ask(app, path, method=method)
        missing = path.startswith("/artifacts")
        assert reply.status in ((404,) if missing else (200, 302, 303)), (path, reply.body)
        headers = reply.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control-")]
        # HEAD is the same without the body.
        assert ask(app, path, method="HEAD").status == reply.status
        assert ask(app, path, method="HEAD").body == b""
    assert content(studied.database) == before


def test_the_page_that_upgrades_the_schema_leads_nowhere(studied: Studied) -> None:
    reply = ask(guarded(studied), "/incompatible-rdb-schema")
    assert (reply.status, b"Migrate" in reply.body) == (302, False)


@pytest.mark.parametrize(
    "method",
    "POST PUT DELETE PATCH OPTIONS TRACE CONNECT PROXY ANY get head post GETS MOVE".split(),
)
@pytest.mark.parametrize("path", ["/", "/api/studies", "/healthz", "/nowhere", "/dashboard"])
def test_methods_are_allowed_by_name(studied: Studied, method: str, path: str) -> None:
    reply = ask(guarded(studied), path, method=method, body=b"{}", **OWN)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_the_page_alone_runs_scripts_and_the_bundle_alone_is_kept(studied: Studied) -> None:
    app = guarded(studied)
    for path, scripts, cache in (
        ("/dashboard", True, "no-store"),
        ("/dashboard/studies/1", True, "no-store"),
        ("/api/studies", False, "no-store"),
        ("/static/bundle.js", False, "no-cache"),
    ):
        headers = ask(app, path).headers
        assert ("script-src 'self'" in headers["content-security-policy"]) == scripts, path
        assert headers["cache-control"] == cache, path


def test_no_header_or_field_makes_another_method_of_get(studied: Studied) -> None:
    before = content(studied.database)
    for app in (guarded(studied), guarded(studied, token=TOKEN, edit=True)):
        for name in ("X_Http_Method_Override", "X_Http_Method", "X_Method_Override"):
            said: dict[str, Any] = {name: "DELETE", "Cookie": cookie()}
            reply = ask(app, "/api/studies/1", query="_method=DELETE", **said)
            assert (reply.status, reply.json["name"]) == (200, "tiny")
    assert content(studied.database) == before


def test_a_path_that_is_read_in_two_ways_is_refused(studied: Studied) -> None:
    app = guarded(studied)
    # The framework leaves the byte out, and would see /artifacts/...
    assert ask(app, "/artif\xffacts/1/" + 64 * "0").status == 400
    assert ask(app, "/dashboard/\xc3\xa9").status == 200  # é


# Who asks


@pytest.mark.parametrize("host", ["evil.org", "127.0.0.1.evil.org:8080", "10.0.0.7", ""])
def test_a_request_by_another_name_is_refused(studied: Studied, host: str) -> None:
    reply = ask(guarded(studied), "/api/studies", Host=host)
    assert (reply.status, b"tiny" in reply.body) == (403, False)
    assert "--allow-host" in reply.json["reason"]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none, cross-site"])
def test_another_site_may_link_to_a_page_and_not_read_it(studied: Studied, site: str) -> None:
    app = guarded(studied)
    assert ask(app, "/api/studies", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors").status == 403
    link: dict[str, Any] = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate"}
    assert ask(app, "/dashboard", **link).status == 200
    assert ask(app, "/dashboard", method="POST", **link).status == 403


# The token


def test_without_the_token_pages_lead_to_the_login_and_data_are_refused(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    for _, path in routes(studied, reads=True):
        reply = ask(app, path)
        if path == "/" or path.startswith("/dashboard"):
            assert reply.status == 303
            assert reply.headers["location"].startswith("/login?next=%2F")
        else:
            assert reply.status == 401, path
            assert reply.headers["www-authenticate"].startswith("Bearer")
        assert b"tiny" not in reply.body


def test_login_sets_a_cookie_that_scripts_and_other_sites_do_not_get(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    page = ask(app, "/login", query="next=%2Fdashboard%2Fstudies%2F1")
    assert page.status == 200
    assert b'value="/dashboard/studies/1"' in page.body
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]
    form = {"token": f" {TOKEN}\n", "next": "/dashboard/studies/1"}
    body = urlencode(form).encode()
    reply = ask(app, "/login", method="POST", body=body, Content_Type=FORM, **OWN)
    assert (reply.status, reply.headers["location"]) == (303, "/dashboard/studies/1")
    value, *words = reply.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_SECONDS}"} == set(words)
    assert TOKEN not in value
    assert ask(app, "/api/studies", Cookie=value).status == 200
    assert ask(app, "/", Cookie=value).headers["location"] == "/dashboard"
    behind = ask(app, "/login", method="POST", body=body, X_Forwarded_Proto="https", **OWN)
    assert "; Secure" in behind.headers["set-cookie"]


def test_another_token_another_origin_or_an_old_cookie_does_not_log_in(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    for token in ("", "wrong", TOKEN + "x"):
        body = urlencode({"token": token}).encode()
        reply = ask(app, "/login", method="POST", body=body, **OWN)
        assert reply.status == 401
        assert "set-cookie" not in reply.headers and b"not the token" in reply.body
    body = urlencode({"token": TOKEN}).encode()
    for origin in ("", "http://evil.org", "null"):
        assert ask(app, "/login", method="POST", body=body, Origin=origin).status == 403
    assert ask(app, "/login", method="PUT", body=body, **OWN).status == 405
    for value in (cookie("another-token-of-others"), cookie(now=NOW - SESSION_SECONDS), "x"):
        assert ask(app, "/api/studies", Cookie=value).status == 401


@pytest.mark.parametrize(
    "to",
    ["//evil.org", "https://evil.org", "/\\evil.org", "evil", "", "/login?x", "/a\r\nX: y", "/é"],
)
def test_login_sends_nobody_elsewhere(studied: Studied, to: str) -> None:
    app = guarded(studied, token=TOKEN)
    body = urlencode({"token": TOKEN, "next": to}).encode()
    reply = ask(app, "/login", method="POST", body=body, **OWN)
    assert (reply.status, reply.headers["location"]) == (303, "/dashboard")


def test_a_path_cannot_write_into_the_login_page(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    reply = ask(app, "/login", query=urlencode({"next": '/x"><script>alert(1)</script>'}))
    assert b"<script" not in reply.body


def test_a_token_in_the_address_leaves_it_at_once(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    reply = ask(app, "/dashboard/studies/1", query=f"x=1&token={TOKEN}&y=a%26b")
    assert reply.status == 303
    assert reply.headers["location"] == "/dashboard/studies/1?x=1&y=a%26b"
    assert ask(app, "/api/meta", Cookie=reply.headers["set-cookie"].split(";")[0]).status == 200
    wrong = ask(app, "/dashboard", query="token=wrong")
    assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
    elsewhere = ask(app, "//evil.org", query=f"token={TOKEN}")
    assert elsewhere.headers["location"] == "/dashboard"


def test_a_program_shows_the_token_in_a_header(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN)
    assert ask(app, "/api/studies", Authorization=f"Bearer {TOKEN}").status == 200
    for wrong in (f"Basic {TOKEN}", "Bearer", "Bearer x", TOKEN):
        assert ask(app, "/api/studies", Authorization=wrong).status == 401
    # Read-only is read-only for everyone.
    assert put_note(app, Authorization=f"Bearer {TOKEN}").status == 405
    assert put_note(app, Cookie=cookie(), **OWN).status == 405


HOSTILE = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.sampled_from(
        [HOST, ORIGIN, "http://[", "//[", "null", "same-origin", "cross-site", TOKEN, "-1", "²"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "get", "X", ""]),
    path=st.one_of(
        HOSTILE, st.sampled_from(["/", "/login", "/dashboard", "/api/studies/1", "/artifacts/1"])
    ),
    query=st.one_of(HOSTILE, st.just("&".join(["a=1"] * 200)), st.just("token=x&next=//evil")),
    body=st.binary(max_size=60),
    headers=st.dictionaries(
        st.sampled_from(
            ["Host", "Origin", "Sec_Fetch_Site", "Sec_Fetch_Mode", "Authorization", "Cookie"]
        ),
        HOSTILE,
    ),
    length=st.one_of(st.none(), HOSTILE),
)
def test_whatever_is_sent_nothing_breaks_and_nothing_passes_unknown(
    method: str,
    path: str,
    query: str,
    body: bytes,
    headers: dict[str, Any],
    length: str | None,
) -> None:
    passed: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        passed.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [])
        return [b"inside"]

    said: dict[str, Any] = {} if length is None else {"length": length}
    for access in (Access(), Access(token=TOKEN), Access(token=TOKEN, edit=True)):
        passed.clear()
        guard = Guard(app, access, clock=lambda: NOW)
        reply = ask(guard, path, method=method, query=query, body=body, **said, **headers)
        assert 200 <= reply.status < 500
        location = reply.headers.get("location", "/")
        assert re.match(r"/(?![/\\\\])", location) and location.isprintable()
        if passed:
            assert access.token is None or TOKEN in headers["Authorization"]
            edits = {"POST", "PUT", "DELETE"} if access.edit else set()
            assert set(passed) <= {"GET", "HEAD"} | edits


# Editing


def test_who_has_the_token_edits_from_our_own_page_or_a_program(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    for foreign in (
        {},
        {"Origin": "http://evil.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": f"ftp://{HOST}"},
        {"Origin": f"http://{HOST}.evil.org"},
        OWN | {"Sec_Fetch_Site": "cross-site"},
        OWN | {"Sec_Fetch_Site": "same-site"},
    ):
        assert put_note(app, Cookie=cookie(), **foreign).status == 403, foreign
    assert put_note(app, Authorization=f"Bearer {TOKEN}", Origin="http://evil.org").status == 403
    assert put_note(app, Cookie=cookie(), **OWN).status == 204
    seen = ask(app, "/api/studies/1", Cookie=cookie()).json
    assert seen["note"] == {"version": 1, "body": "a note"}
    created = {"study_name": "mine", "directions": ["minimize"]}
    reply = ask(
        app,
        "/api/studies",
        method="POST",
        body=json.dumps(created).encode(),
        Authorization=f"Bearer {TOKEN}",
    )
    assert reply.status == 201
    # Behind a proxy that ends TLS the origin is that of the proxy, and so is the host.
    proxied: dict[str, Any] = {**OWN, "Origin": f"https://{HOST}"}
    again = json.dumps({"version": 2, "body": "b"}).encode()
    path = "/api/studies/1/note"
    assert ask(app, path, method="PUT", body=again, Cookie=cookie(), **proxied).status == 204


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "PROXY", "post"])
def test_who_edits_has_three_methods_more(studied: Studied, method: str) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    reply = ask(app, "/api/studies", method=method, Cookie=cookie(), **OWN)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST, PUT, DELETE")


def test_files_and_schema_are_nobodys_to_change(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    digest = studied.store.write_bytes(picture(), ".png")
    attach(studied.url, "tiny", digest, name="a.png", kind="image/png")
    before = content(studied.database)
    upload = json.dumps({"file": "data:text/html;base64,PGI+", "filename": "x.html"}).encode()
    said: dict[str, Any] = {"Cookie": cookie(), **OWN}
    for method, path in (
        ("POST", "/api/artifacts/1"),
        ("POST", "/api/artifacts/1/1"),
        ("DELETE", f"/api/artifacts/1/{digest}"),
        ("DELETE", f"/api/artifacts/1/1/{digest}"),
        ("POST", "/incompatible-rdb-schema"),
        ("POST", "/incompatible-rdb-schema/"),
    ):
        assert ask(app, path, method=method, body=upload, **said).status == 403, path
    # Past the guard the store refuses by itself.
    direct = ask(studied.served(edit=True), "/api/artifacts/1", method="POST", body=upload)
    assert direct.status == 403
    assert content(studied.database) == before


def test_a_deleted_study_leaves_the_stored_files(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    digest = studied.store.write_bytes(picture(), ".png")
    attach(studied.url, "tiny", digest, name="a.png", kind="image/png")
    path = "/api/studies/1"
    body = json.dumps({"remove_associated_artifacts": True}).encode()
    reply = ask(app, path, method="DELETE", body=body, Cookie=cookie(), **OWN)
    assert reply.status == 204
    assert studied.store.exists(digest, suffix=".png")
    names = optuna.get_all_study_names(optuna_storage(studied.database))
    assert "tiny" not in names


def test_a_body_beyond_the_limit_is_refused(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    said: dict[str, Any] = {"Cookie": cookie(), **OWN}
    for size, status in ((BODY_BYTES, 204), (BODY_BYTES + 1, 413)):
        body = json.dumps({"version": 1, "body": "a note"}).encode().ljust(size)
        reply = ask(app, "/api/studies/1/note", method="PUT", body=body, **said)
        assert reply.status == status


def test_a_body_without_a_length_is_not_read(studied: Studied) -> None:
    app = guarded(studied, token=TOKEN, edit=True)
    note = json.dumps({"version": 1, "body": "x" * (BODY_BYTES + 1)}).encode()
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(note), note)
    for coding in ("chunked", "Chunked", "gzip, chunked"):
        said: dict[str, Any] = {"Cookie": cookie(), "Transfer_Encoding": coding, **OWN}
        path = "/api/studies/1/note"
        assert ask(app, path, method="PUT", body=body, length="", **said).status == 411
    assert b"xxxx" not in ask(app, "/api/studies/1", Cookie=cookie()).body


# Files


def test_a_file_is_shown_as_what_it_is(studied: Studied) -> None:
    app = guarded(studied)
    script = b"<!DOCTYPE html><script>fetch('/api/studies')</script>"
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for data, suffix, said, expected in (
        (picture(), ".png", "image/png", "image/png"),
        (picture("JPEG"), ".jpg", "image/png", "image/jpeg"),
        (picture(), ".png", "text/html", "image/png"),
        (b'{"a": 1}', ".json", "text/html", "application/json"),
        (script, ".txt", "text/html", "text/plain; charset=utf-8"),
        (drawing, ".txt", "image/svg+xml", "text/plain; charset=utf-8"),
    ):
        digest = studied.store.write_bytes(data, suffix)
        path = attach(studied.url, "tiny", digest, name="x.html", kind=said)
        reply = ask(app, path)
        assert (reply.status, reply.body) == (200, data)
        assert reply.headers["content-type"] == expected
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and policy.endswith("; sandbox")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in reply.headers
        assert "immutable" in reply.headers["cache-control"]
        assert ask(app, path, method="HEAD").headers == reply.headers


def test_a_missing_file_is_shown_as_missing_and_the_page_loads(studied: Studied) -> None:
    app = guarded(studied)
    path = attach(studied.url, "tiny", "0" * 64, name="x.png", kind="image/png")
    reply = ask(app, path)
    assert (reply.status, reply.headers["content-type"]) == (404, "image/png")
    assert reply.body.startswith(b"\x89PNG")
    assert reply.headers["cache-control"] == "no-store"
    assert len(studied.said) == 1 and "missing" in studied.said[0]
    assert ask(app, "/api/studies/1").status == 200


def test_a_file_that_cannot_be_read_now_is_not_kept() -> None:
    def away(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("503 Service Unavailable", [("Cache-Control", "public")])
        return [picture()]

    reply = ask(Guard(away, Access()), f"/artifacts/1/1/{64 * '0'}")
    assert (reply.status, reply.headers["cache-control"]) == (503, "no-store")
    assert reply.json == {"reason": "This file cannot be shown now"}


def test_other_kinds_of_files_are_not_shown(studied: Studied) -> None:
    digest = studied.store.write_bytes(b"\x00\x01program", ".txt")
    path = attach(studied.url, "tiny", digest, name="x.png", kind="image/png")
    reply = ask(guarded(studied), path)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    # The arrays of the study are in the store too.
    array = next(iter(studied.store.files())).digest
    path = attach(studied.url, "tiny", array, name="x.png", kind="image/png")
    assert ask(guarded(studied), path).headers["content-type"] == "image/png"  # "missing"


def test_large_data_are_compressed_for_who_can_read_it(
    studied: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = guarded(studied)
    plain = ask(app, "/api/studies/1", Accept_Encoding="gzip, br")
    assert "content-encoding" not in plain.headers  # small
    monkeypatch.setattr("skiptune.views.dashboard.guard._LARGE", 1000)
    packed = ask(app, "/api/studies/1", Accept_Encoding="gzip, br")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-length"] == str(len(packed.body))
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["x-content-type-options"] == "nosniff"
    assert ask(app, "/api/studies/1").body == plain.body
    assert ask(app, "/api/studies/1", method="HEAD", Accept_Encoding="gzip").body == b""


def test_health_needs_no_token_and_follows_the_database(studied: Studied) -> None:
    healthy = [True]
    access = Access(token=TOKEN)
    app = Guard(studied.served(), access, healthy=lambda: healthy[0])
    assert (ask(app, "/healthz").status, ask(app, "/healthz").body) == (200, b"ok\n")
    healthy[0] = False
    assert ask(app, "/healthz").status == 503
    assert ask(app, "/healthz", Host="evil.org").status == 403
