"""Who may see the dashboard: the token, the cookie that stands for it, and names of this host.

The cookie holds a time and its HMAC by the token, not the token: who reads it sees the dashboard
until that time, and no longer. A new token ends every cookie of the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from skiptune.errors import SpecError, quoted
from skiptune.storage.secret_files import read_secret

__all__ = [
    "LOOPBACK",
    "SESSION_SECONDS",
    "VARIABLE",
    "Access",
    "find_token",
    "host_of",
    "is_address",
    "make_token",
]

VARIABLE: Final = "SKIPTUNE_DASHBOARD_TOKEN"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

SESSION_SECONDS: Final = 12 * 3600
"""How long a login lasts."""

_SHORTEST: Final = 16
# What may stand in a header and in a form without being quoted.
_TOKEN: Final = re.compile(rf"[!-~]{{{_SHORTEST},512}}")
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_PORT: Final = re.compile(r":[0-9]{0,5}")


@dataclass(frozen=True)
class Access:
    """What is asked of a request.

    Arguments:
        token: The secret that lets somebody in; None lets in everyone who reaches the port.
        edit: Whoever has the token may change what Optuna stores.
        hosts: Names and addresses, in lower case, by which a browser may call this server.
        any_address: Or by any address, where the server listens on all of them.
        cookie: Name of the cookie; browsers send it to every port of a host.
    """

    token: str | None = field(default=None, repr=False)
    edit: bool = False
    hosts: frozenset[str] = LOOPBACK
    any_address: bool = False
    cookie: str = "skiptune-dashboard"

    def __post_init__(self) -> None:
        if self.edit and self.token is None:
            raise ValueError("nobody may edit without a token")

    def at(self, port: int) -> Access:
        """Return the same for a port: two servers of one host do not share a cookie."""
        return replace(self, cookie=f"skiptune-dashboard-{port}")

    def knows_host(self, header: str) -> bool:
        """Whether a request's Host header names this server.

        A page of another site, whose name its owner lets point to 127.0.0.1, is called by that
        name (DNS rebinding). An address cannot be made to point elsewhere.
        """
        host = host_of(header)
        if host is None:
            return False
        return host in self.hosts or (self.any_address and is_address(host))

    def is_token(self, given: str) -> bool:
        """Whether a text is the token, found out in a time that tells nothing of it."""
        if self.token is None:
            return False
        return hmac.compare_digest(_hash(given), _hash(self.token))

    def session(self, now: float) -> str:
        """Return the value of a cookie for somebody who has shown the token.

        Arguments:
            now: Seconds since 1970.
        """
        until = str(int(now) + SESSION_SECONDS)
        return f"{until}.{self._sign(until)}"

    def is_session(self, value: str, now: float) -> bool:
        """Whether a cookie's value is one of ours, and not older than `SESSION_SECONDS`."""
        until, _, signature = value.partition(".")
        if self.token is None or not re.fullmatch("[0-9]{1,12}", until):
            return False
        genuine = hmac.compare_digest(_hash(signature), _hash(self._sign(until)))
        return genuine and now < int(until)

    def _sign(self, until: str) -> str:
        assert self.token is not None
        text = f"skiptune dashboard until {until}"
        return hmac.new(self.token.encode(), text.encode(), hashlib.sha256).hexdigest()


def find_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token of a file, else of the environment, None where there is neither.

    Arguments:
        file: One line, readable by its owner alone.
        environment: `SKIPTUNE_DASHBOARD_TOKEN` holds a token.

    Raises:
        StorageError: The file cannot be read, is readable by others, or has not one line.
        SpecError: It is too short to be secret, or has characters that need quoting.
    """
    if file is not None:
        where = f"--token-file {file}"
        example = f"make one: {make_token(str(file))}"
        token = read_secret(file, where=where, what="the token of the dashboard", example=example)
    else:
        where, token = VARIABLE, environment.get(VARIABLE, "").strip()
        if not token:
            return None
    if not _TOKEN.fullmatch(token):
        fits = _SHORTEST <= len(token) <= 512
        raise SpecError(
            where,
            expected=f"a secret of {_SHORTEST} to 512 visible ASCII characters",
            found="one with spaces, or with other characters"
            if fits
            else f"one of {len(token)} characters",
            hint=f"make one: {make_token(str(file or 'token'))}",
        )
    return token


def make_token(file: str) -> str:
    """Return the command that writes a new token into a file of mode 0600."""
    return f"(umask 077; openssl rand -hex 24 > {quoted(file)})"


def host_of(header: str) -> str | None:
    """Return the name or address of a Host header in lower case, without its port.

    Source: RFC 9112, section 3.2, and RFC 3986, section 3.2.2. None where it is none.
    """
    text = header.strip().lower()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        good = bracket and is_address(address) and (not port or _PORT.fullmatch(port))
        return str(ipaddress.ip_address(address)) if good else None
    name, colon, port = text.partition(":")
    if not _PORT.fullmatch(colon + port or ":") or not _NAME.fullmatch(name):
        return None
    return name


def is_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hash(text: str) -> bytes:
    # Of equal length, whatever is given: a comparison takes a time that depends on the length.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
