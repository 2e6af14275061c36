"""What the server answers by itself: refusals, the page of the login; and headers of every answer.

Optuna's page is a bundle of scripts in one file that draws by WebGL and compiles functions at
run time; its policy allows that much, and no other host. Everything else may run nothing at all.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = [
    "FILE",
    "NOTHING",
    "PAGE",
    "Answer",
    "Headers",
    "login_page",
    "refused",
    "secured",
    "sent_on",
]

Headers = list[tuple[str, str]]
"""Names and values, as WSGI has them."""

PAGE: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; media-src 'self';"
    " worker-src 'self' blob:; manifest-src 'self'; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
"""Of Optuna's page: what its own policy allows, less frames, plus who may frame it: nobody."""

NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of data and scripts: shown by themselves, they may load and run nothing."""

FILE: Final = f"{NOTHING}; sandbox"
"""Of stored files: besides, they have an origin of their own."""

_LOGIN: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)

# Said by us, or by nobody.
_OURS: Final = (
    "access-control-",
    "cache-control",
    "content-encodings",
    "content-security-policy",
    "cross-origin-",
    "referrer-policy",
    "server",
    "x-content-type-options",
    "x-frame-options",
)


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Arguments:
        status: Its code.
        body: Its bytes.
        headers: Besides length, type and those of `secured`.
        kind: Its media type.
        policy: Its content security policy.
        cache: Who may keep it, and how long.
    """

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)
    kind: str = "text/plain; charset=utf-8"
    policy: str = NOTHING
    cache: str = "no-store"

    def send(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request; one with HEAD gets no body."""
        status = HTTPStatus(self.status)
        start_response(
            f"{status.value} {status.phrase}",
            secured(
                [
                    ("Content-Type", self.kind),
                    ("Content-Length", str(len(self.body))),
                    *self.headers,
                ],
                policy=self.policy,
                cache=self.cache,
            ),
        )
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [self.body]


def secured(headers: Headers, *, policy: str, cache: str = "no-store") -> list[tuple[str, str]]:
    """Return headers with those that keep a browser from doing more than it was asked.

    Arguments:
        headers: Of an answer; what contradicts ours is left out, e.g. other origins that may
            read it.
        policy: Content security policy.
        cache: Who may keep the answer, and how long.
    """
    kept = [(name, value) for name, value in headers if not name.lower().startswith(_OURS)]
    return [
        *kept,
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        # Not no-referrer: a browser that follows it says `Origin: null` with a form of our own.
        ("Referrer-Policy", "same-origin"),
        ("Cache-Control", cache),
        ("Server", "skiptune"),
    ]


def refused(status: int, reason: str, *, headers: Headers | None = None) -> Answer:
    """Return a refusal in the form in which Optuna's page shows one."""
    body = json.dumps({"reason": reason}).encode()
    return Answer(status, body, headers or [], kind="application/json")


def sent_on(to: str, *, headers: Headers | None = None) -> Answer:
    """Return an answer that sends a browser to a path of this server, by GET."""
    return Answer(303, b"", [("Location", to), *(headers or [])])


def login_page(to: str, *, wrong: bool = False) -> Answer:
    """Return the page that asks for the token.

    Arguments:
        to: Path of this server that is shown afterwards.
        wrong: A token was given, and it is another.
    """
    said = '<p role="alert">This is not the token.</p>' if wrong else ""
    text = _PAGE.replace("{said}", said).replace("{to}", html.escape(to, quote=True))
    return Answer(
        401 if wrong else 200,
        text.encode(),
        kind="text/html; charset=utf-8",
        policy=_LOGIN,
    )


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>skiptune dashboard</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 24rem; margin: 20vh auto 0;
  padding: 1rem; }
input, button { font: inherit; padding: .4rem .6rem; width: 100%; box-sizing: border-box; }
button { margin-top: .6rem; }
[role=alert] { color: #c62828; }
</style>
</head>
<body>
<h1>skiptune dashboard</h1>
<form method="post" action="/login">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{to}">
<button>Log in</button>
</form>
{said}
<p>It stands in the file that <code>--token-file</code> names, or in
<code>SKIPTUNE_DASHBOARD_TOKEN</code>, where the server was started.</p>
</body>
</html>
"""
