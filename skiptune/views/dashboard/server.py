"""The server: a thread for each request, on one address of this host."""

from __future__ import annotations

import errno
import io
import ipaddress
import socket
import socketserver
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from skiptune.errors import SpecError

__all__ = ["Address", "Server", "free_port", "listen", "resolve"]

Say = Callable[[str], None]

SILENT_SECONDS: Final = 30.0
"""How long a client may be silent in the middle of a request."""

# Ports that somebody uses, and those below 1024, which are the system's.
_OF_THE_PORT: Final = (errno.EADDRINUSE, errno.EACCES)
_MORE: Final = 100  # how many ports above a used one are tried for a hint


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Arguments:
        given: Name or address, as the user wrote it.
        family: Of the socket.
        place: For `bind`: address and port come first.
    """

    given: str
    family: socket.AddressFamily
    place: tuple[Any, ...]

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address."""
        return ipaddress.ip_address(str(self.place[0]).partition("%")[0])

    @property
    def port(self) -> int:
        """The port; 0 is any free one."""
        return int(self.place[1])

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this host reach it."""
        return self.ip.is_loopback

    @property
    def is_any(self) -> bool:
        """Whether it stands for every address of this host."""
        return self.ip.is_unspecified

    def at(self, port: int) -> Address:
        """Return the same address with another port."""
        return Address(self.given, self.family, (self.place[0], port, *self.place[2:]))

    def url(self, port: int) -> str:
        """Return the URL by which this host reaches it."""
        loopback = "127.0.0.1" if self.family == socket.AF_INET else "::1"
        host = loopback if self.is_any else self.given
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def resolve(host: str, port: int) -> Address:
    """Return the address of a name.

    Raises:
        SpecError: There is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SpecError(
            f"--host {host}",
            expected="a name or address of this host, e.g. 127.0.0.1 or 0.0.0.0 for all of them",
            found=getattr(error, "strerror", None) or str(error),
            hint="leave it out: the dashboard is then seen from this host alone",
        ) from error
    family, _, _, _, place = found[0]
    return Address(host, family, place)


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each request in a thread; not for the open internet, see docs/dashboard.md.

    Arguments:
        address: Where to listen; a free port where its port is 0.
        complain: Told in one line what an application, or a client, did wrong.
        say: Told of each request; None tells nobody.

    Raises:
        OSError: The address cannot be used, or another program does.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: Address, *, complain: Say, say: Say | None = None) -> None:
        self.address_family = address.family
        self.complain = complain
        self.say = say
        super().__init__(address.place[:2], _Handler)

    def server_bind(self) -> None:
        """Bind; unlike the inherited one, ask no name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away or fell silent, and say the rest in one line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.complain(f"A request failed: {error!r}")


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def get_stderr(self) -> Any:
        """Return where the application writes its tracebacks."""
        self.errors = io.StringIO()
        return self.errors

    def handle(self) -> None:
        """Answer one request, and pass on the last line of what it says of itself."""
        self.get_stderr()
        super().handle()
        lines = self.errors.getvalue().strip().splitlines()
        if lines and isinstance(self.server, Server):
            self.server.complain(f"A request failed: {lines[-1]}")

    def log_error(self, format: str, *args: Any) -> None:
        """Pass over what is wrong with a request, whose whole line it quotes: a token may too."""

    def log_message(self, format: str, *args: Any) -> None:
        """Tell who is listening, without what stands behind the path: a token may."""
        say = getattr(self.server, "say", None)
        if say is not None:
            path = getattr(self, "path", "").partition("?")[0]
            say(f"{getattr(self, 'command', None)} {path!r} {' '.join(map(str, args[1:2]))}")


def listen(address: Address, *, command: str, complain: Say, say: Say | None = None) -> Server:
    """Return a server that listens.

    Arguments:
        address: Where.
        command: How the user has asked for it without `--port`, for the hint.
        complain: As for `Server`.
        say: As for `Server`.

    Raises:
        SpecError: Another program has the port, or the address is not ours.
    """
    try:
        return Server(address, complain=complain, say=say)
    except (OSError, OverflowError) as error:
        hint = "leave --host out, or name one of this host"
        if getattr(error, "errno", None) in _OF_THE_PORT:
            hint = f"{command} --port {free_port(address) or 0}"
        raise SpecError(
            f"--host {address.given} --port {address.port}",
            expected="an address of this host and a port that nobody uses",
            found=getattr(error, "strerror", None) or str(error),
            hint=hint,
        ) from error


def free_port(address: Address) -> int | None:
    """Return the next port that nobody uses, None where none of the next hundred is free."""
    for port in range(address.port + 1, min(address.port + _MORE, 65535) + 1):
        with socket.socket(address.family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(address.at(port).place)
                return port
            except OSError as error:
                # Other reasons hold for every port.
                if error.errno not in _OF_THE_PORT:
                    return None
    return None
