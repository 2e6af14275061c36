"""A proxy between clients and a PostgreSQL server that cuts connections when told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

if TYPE_CHECKING:
    from bench.postgres import Server

__all__ = ["HOST", "CuttingProxy", "Side"]

HOST = "127.0.0.1"
"""Where servers and proxies listen."""

Side = Literal["before", "after"]
"""Where a commit is cut: before the server sees it, or after it was done."""

# For all messages, see https://www.postgresql.org/docs/18/protocol-message-formats.html

# The codes of SSLRequest and GSSENCRequest.
ENCRYPTION_REQUESTS = ((80877103).to_bytes(4), (80877104).to_bytes(4))


class CuttingProxy:
    """A TCP proxy that passes everything on, until it is told to cut; a context manager.

    It reads the protocol as far as it has to: a commit is the statement `COMMIT` by itself, as a
    simple query or prepared. Connections are not encrypted.

    Arguments:
        server: Where to.

    Attributes:
        port: The TCP port on 127.0.0.1.
        commits_cut: How many commits were cut, counted before the client notices.
    """

    def __init__(self, server: Server) -> None:
        self.commits_cut = 0
        self._server = server
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._cut: Side | None = None
        self._refusing = False
        self._listener = socket.create_server((HOST, 0), backlog=socket.SOMAXCONN)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(
        self, database: str = "postgres", *, user: str | None = None, password: str | None = None
    ) -> str:
        """Return the URL of a database through this proxy."""
        return self._server.url(database, user=user, password=password, port=self.port)

    def cut_next_commit(self, *, side: Side = "after") -> None:
        """Cut the connection over which the next commit comes.

        Arguments:
            side: `after` lets the server commit, and the client never hears of it. `before`
                keeps the commit from the server, and the client is disconnected once the server
                has rolled back.
        """
        with self._lock:
            self._cut = side

    def cut_all(self) -> None:
        """Cut all connections, and return when they are closed."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
            link.thread.join()

    def refuse(self, refusing: bool) -> None:
        """Close new connections at once, or stop doing so."""
        with self._lock:
            self._refusing = refusing

    def close(self) -> None:
        """Stop listening and cut all connections; may be called again and again."""
        with suppress(OSError):
            # Closing alone would not wake the thread.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut_all()

    def take_cut(self) -> Side | None:
        """Return what to do with the commit at hand; the next one passes again."""
        with self._lock:
            side, self._cut = self._cut, None
        return side

    def count_cut(self) -> None:
        """Count one commit as cut."""
        with self._lock:
            self.commits_cut += 1

    def forget(self, link: _Link) -> None:
        """Forget a link that is closed."""
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            with self._lock:
                refusing = self._refusing
            server = None if refusing else self._connect()
            if server is None:
                client.close()
                continue
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
                # Within the lock, because `cut_all` joins the threads of all links.
                link.thread.start()

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection((HOST, self._server.port))
        except OSError:
            # The server is down; to the client it looks as if it had just gone.
            return None


class _Link:
    """A client's connection and the one to the server: a thread for each direction."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self.thread = threading.Thread(target=self._run, name="proxy-up", daemon=True)
        self._proxy = proxy
        self._client = client
        self._server = server
        self._down = threading.Thread(target=self._pass_down, name="proxy-down", daemon=True)
        self._cutting = threading.Event()
        self._prepared: set[bytes] = set()
        for end in (client, server):
            # Many small messages, each of which somebody waits for.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self) -> None:
        """Make both threads end."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        with self._client, self._server:
            # That a connection breaks is what this class is for.
            with suppress(OSError), self._client.makefile("rb") as stream:
                if self._greet(stream):
                    self._down.start()
                    self._pass_up(stream)
            # Closing alone would not wake the other thread.
            self.cut()
            if self._down.ident is not None:
                self._down.join()
        self._proxy.forget(self)

    def _greet(self, stream: BinaryIO) -> bool:
        """Pass on what comes before the first message with a type; False if nothing follows."""
        while packet := _packet(stream):
            self._server.sendall(packet)
            if packet[4:8] not in ENCRYPTION_REQUESTS:
                return True
            # The answer is one byte, and the client waits for it.
            answer = self._server.recv(1)
            if answer != b"N":
                return False
            self._client.sendall(answer)
        return False

    def _pass_up(self, stream: BinaryIO) -> None:
        for message in _messages(stream):
            if self._is_commit(message):
                side = self._proxy.take_cut()
                if side == "before":
                    self._proxy.count_cut()
                    # The server rolls back before it closes its end.
                    self._server.shutdown(socket.SHUT_WR)
                    self._down.join()
                    return
                if side == "after":
                    self._cutting.set()
            self._server.sendall(message)

    def _pass_down(self) -> None:
        with suppress(OSError):
            with self._server.makefile("rb") as stream:
                for message in _messages(stream):
                    if self._cutting.is_set() and _answers_commit(message):
                        self._proxy.count_cut()
                        break
                    self._client.sendall(message)
        self.cut()

    def _is_commit(self, message: bytes) -> bool:
        kind, body = message[:1], message[5:]
        if kind == b"Q":
            return _says_commit(body)
        if kind == b"P":
            name, text, *_ = body.split(b"\0", 2)
            (self._prepared.add if _says_commit(text) else self._prepared.discard)(name)
        if kind == b"B":
            return body.split(b"\0", 2)[1] in self._prepared
        return False


def _packet(stream: BinaryIO) -> bytes:
    """Return the next thing that has a length but no type, empty at the end of the stream."""
    head = stream.read(4)
    body = stream.read(int.from_bytes(head) - 4) if len(head) == 4 else b""
    return head + body if body else b""


def _messages(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the messages of a stream, each with its type and its length."""
    while len(head := stream.read(5)) == 5:
        length = int.from_bytes(head[1:]) - 4
        body = stream.read(length)
        if len(body) < length:
            return
        yield head + body


def _says_commit(text: bytes) -> bool:
    return text.strip(b" \t\r\n;\0").upper() == b"COMMIT"


def _answers_commit(message: bytes) -> bool:
    """Tell whether a message ends a COMMIT: done, turned into a rollback, or failed."""
    return message[:1] == b"E" or (
        message[:1] == b"C" and message[5:] in (b"COMMIT\0", b"ROLLBACK\0")
    )
