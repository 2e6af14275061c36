"""What stands before Optuna's dashboard, which by itself lets everyone do everything.

A request is let through by what it is, not kept out by what it is not: GET and HEAD, a host that
we are, an origin that is ours, and, where there is a token, whoever has shown it. Other methods
need `Access.edit` too. What comes back is stripped of what the dashboard permits too much of.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from skiptune.views.dashboard.access import SESSION_SECONDS, Access
from skiptune.views.dashboard.answers import (
    FILE,
    NOTHING,
    PAGE,
    Answer,
    Headers,
    login_page,
    refused,
    secured,
    sent_on,
)
from skiptune.views.dashboard.files import media_type

__all__ = ["BODY_BYTES", "HEALTH", "Guard"]

HEALTH: Final = "/healthz"
"""Path that answers 200 as long as the database does; it needs no token and tells nothing."""

BODY_BYTES: Final = 2**20
"""The longest body of a request: a note is some kilobytes."""

_LARGE: Final = 2**16  # bytes from which on an answer is compressed

_READING: Final = ("GET", "HEAD")
_EDITING: Final = ("POST", "PUT", "DELETE")
_HOME: Final = "/dashboard"

# Files are named by their content.
_KEPT: Final = "private, max-age=31536000, immutable"

# What nobody may do from a browser: the schema is upgraded by `skiptune db`, and files of the
# store are named by their content and shared by trials.
_NEVER: Final = ("/incompatible-rdb-schema", "/api/artifacts")

# What the dashboard has no use for and might believe: its framework builds URLs from forwarded
# headers, and others let a GET be something else by a header.
_DROPPED: Final = (
    "HTTP_AUTHORIZATION",
    "HTTP_COOKIE",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_HTTP_METHOD",
    "HTTP_X_HTTP_METHOD_OVERRIDE",
    "HTTP_X_METHOD_OVERRIDE",
    "HTTP_X_SCRIPT_NAME",
)


class Guard:
    """A WSGI application that lets through to another one what `Access` allows.

    Arguments:
        app: Optuna's dashboard.
        access: Who may do what.
        healthy: Whether the database answers.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        app: WSGIApplication,
        access: Access,
        *,
        healthy: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._access = access
        self._healthy = healthy
        self._clock = clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, by ourselves or by the application below."""
        answer = self._answer(environ)
        if answer is not None:
            # Closed unread, the connection would take our answer with it.
            _body(environ)
            return answer.send(environ, start_response)
        return self._passed(environ, start_response)

    def _answer(self, environ: WSGIEnvironment) -> Answer | None:
        """What we answer by ourselves, None where the request goes through."""
        path, method = _path(environ), environ["REQUEST_METHOD"]
        if path is None:
            return refused(400, "The path is no text in UTF-8")
        if not self._access.knows_host(environ.get("HTTP_HOST", "")):
            return refused(
                403,
                "This server is not known by the name in the request (Host); where a reverse"
                " proxy calls it so, start it with --allow-host NAME",
            )
        if _length(environ) is None:
            return refused(400, "The length of the body is no number")
        if "HTTP_TRANSFER_ENCODING" in environ:
            # The framework below would read a body without a length to its end.
            return refused(411, "The length of the body has to be given")
        if _is_foreign(environ):
            return refused(403, "A page of another site may not ask for this")
        reads = method in _READING
        if path == HEALTH and reads:
            good = self._healthy()
            return Answer(200 if good else 503, b"ok\n" if good else b"no database\n")
        if self._access.token is not None:
            answer = self._without_token(environ, path)
            if answer is not None:
                return answer
        if path in ("", "/") and reads:
            return sent_on(_HOME)
        return None if reads else self._edit(environ, path)

    def _without_token(self, environ: WSGIEnvironment, path: str) -> Answer | None:
        """What somebody sees who has not shown the token yet, None for who has."""
        method = environ["REQUEST_METHOD"]
        if path == "/login":
            return self._login(environ)
        asked = _fields(environ.get("QUERY_STRING", ""))
        given = dict(asked).get("token", "")
        if given and method in _READING:
            # The token leaves the address at once: addresses are kept and shared.
            rest = [(name, value) for name, value in asked if name != "token"]
            to = quote(path) + (f"?{urlencode(rest)}" if rest else "")
            if not self._access.is_token(given):
                return login_page(_local(to), wrong=True)
            return sent_on(_local(to), headers=[self._cookie(environ)])
        if self._is_known(environ):
            return None
        if method not in _READING:
            return refused(403, "This needs the token")
        if path in ("", "/") or _is_page(path):
            return sent_on("/login?" + urlencode({"next": _local(quote(path or "/"))}))
        return refused(
            401, "This needs the token", headers=[("WWW-Authenticate", 'Bearer realm="skiptune"')]
        )

    def _login(self, environ: WSGIEnvironment) -> Answer:
        method = environ["REQUEST_METHOD"]
        if method in _READING:
            asked = dict(_fields(environ.get("QUERY_STRING", "")))
            return login_page(_local(asked.get("next", _HOME)))
        if method != "POST":
            return refused(405, "GET or POST", headers=[("Allow", "GET, HEAD, POST")])
        if not _is_own_origin(environ):
            return refused(403, "A page of another site may not log in here")
        form = dict(_fields(_body(environ).decode("utf-8", "replace")))
        to = _local(form.get("next", _HOME))
        if not self._access.is_token(form.get("token", "").strip()):
            return login_page(to, wrong=True)
        return sent_on(to, headers=[self._cookie(environ)])

    def _is_known(self, environ: WSGIEnvironment) -> bool:
        """Whether the request shows the token, or the cookie that stands for it."""
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and self._access.is_token(given.strip()):
            return True
        for item in environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = item.strip().partition("=")
            if name == self._access.cookie and self._access.is_session(value, self._clock()):
                return True
        return False

    def _edit(self, environ: WSGIEnvironment, path: str) -> Answer | None:
        """Why a request that may change something is refused, None where it is not."""
        allowed = (*_READING, *(_EDITING if self._access.edit else ()))
        if environ["REQUEST_METHOD"] not in allowed:
            reason = "This method is unknown here"
            if not self._access.edit:
                reason = "This dashboard is read-only; see `skiptune dashboard --help`"
            return refused(405, reason, headers=[("Allow", ", ".join(allowed))])
        if any(path == name or path.startswith(f"{name}/") for name in _NEVER):
            return refused(403, "This is done by skiptune alone")
        bearer = environ.get("HTTP_AUTHORIZATION", "").lower().startswith("bearer ")
        # A browser names the origin; what is none shows the token itself.
        if not (_is_own_origin(environ) or (bearer and "HTTP_ORIGIN" not in environ)):
            return refused(403, "A page of another site may not change anything here")
        if (_length(environ) or 0) > BODY_BYTES:
            return refused(413, f"At most {BODY_BYTES} bytes")
        return None

    def _cookie(self, environ: WSGIEnvironment) -> tuple[str, str]:
        value = f"{self._access.cookie}={self._access.session(self._clock())}"
        words = [value, "Path=/", f"Max-Age={SESSION_SECONDS}", "HttpOnly", "SameSite=Strict"]
        # Who forges this header makes his own cookie stricter.
        scheme = environ.get("HTTP_X_FORWARDED_PROTO") or environ["wsgi.url_scheme"]
        if scheme == "https":
            words.append("Secure")
        return "Set-Cookie", "; ".join(words)

    def _passed(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer by the application below."""
        path = _path(environ) or ""
        inside = {name: value for name, value in environ.items() if name not in _DROPPED}
        # The dashboard expects this one of everybody.
        inside.setdefault("HTTP_ACCEPT_ENCODING", "")
        if path.startswith("/artifacts"):
            return _file(self._app, inside).send(environ, start_response)
        page = _is_page(path)
        # The bundle is six megabytes; the browser asks whether it is still the same.
        cache = "no-cache" if path.startswith("/static/") else "no-store"

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            policy = PAGE if page else NOTHING
            return start_response(status, secured(headers, policy=policy, cache=cache), *rest)

        if path.startswith("/api/") and "gzip" in inside["HTTP_ACCEPT_ENCODING"]:
            return _packed(self._app, inside, start)
        return self._app(inside, start)


def _whole(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[str, Headers, bytes]:
    """Return status, headers and body of an answer."""
    said: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        said[:] = [status, headers]
        return lambda data: None  # nobody writes by this way, which WSGI keeps for old programs

    body = app(environ, start)
    try:
        data = b"".join(body)
    finally:
        getattr(body, "close", lambda: None)()
    status, headers = said
    return status, headers, data


def _packed(
    app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Answer with large data compressed: two thousand trials are eight megabytes otherwise."""
    status, headers, data = _whole(app, environ)
    if len(data) >= _LARGE:
        # No secret of ours is in the data, so that its length tells none.
        data = gzip.compress(data, compresslevel=1)
        headers = [item for item in headers if item[0].lower() != "content-length"]
        headers += [("Content-Length", str(len(data))), ("Content-Encoding", "gzip")]
    start_response(status, list(headers))
    return [data]


def _file(app: WSGIApplication, environ: dict[str, Any]) -> Answer:
    """Return a stored file under the type that its bytes have, whatever was noted of it."""
    # Its type cannot be told without its bytes, so that HEAD asks for them too.
    text, _, data = _whole(app, {**environ, "REQUEST_METHOD": "GET"})
    status, kind = int(text.split()[0]), media_type(data)
    if status == 200 and kind is not None:
        return Answer(200, data, kind=kind, policy=FILE, cache=_KEPT)
    if status == 404 and kind == "image/png":
        return Answer(404, data, kind=kind, policy=FILE)
    if status in (200, 404):
        return refused(404, "No such file, or neither PNG nor JPEG, JSON or text")
    return refused(max(status, 400), "This file cannot be shown now")


def _path(environ: WSGIEnvironment) -> str | None:
    """The path as the dashboard's framework reads it, None where it would read another one.

    It leaves out bytes that are no UTF-8: what we take for one path would be another below.
    """
    try:
        found: str = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None
    return found


def _is_page(path: str) -> bool:
    return path == _HOME or path.startswith(f"{_HOME}/")


def _is_foreign(environ: WSGIEnvironment) -> bool:
    """Whether a page of another origin asks, other than by a link to us (Fetch Metadata)."""
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    navigates = environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
    return site not in ("same-origin", "none") and not (
        navigates and environ["REQUEST_METHOD"] in _READING
    )


def _is_own_origin(environ: WSGIEnvironment) -> bool:
    """Whether the origin that a browser names is this server."""
    # Not taken apart: a browser writes it in one way (RFC 6454, section 6.2).
    host = environ.get("HTTP_HOST", "").strip().lower()
    return environ.get("HTTP_ORIGIN", "").lower() in (f"http://{host}", f"https://{host}")


def _local(to: str) -> str:
    """Return a path of this server, the dashboard's where a text is none."""
    # A browser takes `//host` and `/\\host` for another server.
    plain = re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", to)
    return to if plain and not to.startswith("/login") else _HOME


def _fields(text: str) -> list[tuple[str, str]]:
    """Return names and values of a query or a form; none of one that is too long to be ours."""
    try:
        return parse_qsl(text, max_num_fields=100)
    except ValueError:
        return []


def _length(environ: WSGIEnvironment) -> int | None:
    """The length of the body, None where what is said of it is no number."""
    text = environ.get("CONTENT_LENGTH") or "0"
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _body(environ: WSGIEnvironment) -> bytes:
    """Read the body of a request, or what is left of it: nothing, the second time."""
    length = _length(environ) or 0
    environ["CONTENT_LENGTH"] = "0"
    data: bytes = environ["wsgi.input"].read(min(length, BODY_BYTES))
    return data
