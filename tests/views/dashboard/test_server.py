from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from skiptune.errors import SpecError
from skiptune.views.dashboard import server as module
from skiptune.views.dashboard.access import Access
from skiptune.views.dashboard.guard import Guard
from skiptune.views.dashboard.server import Server, free_port, listen, resolve

COMMAND = "skiptune dashboard"


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(environ["PATH_INFO"]).encode()]


@contextmanager
def serving(
    app: Any, said: list[str] | None = None, complain: Callable[[str], None] = pytest.fail
) -> Iterator[Server]:
    say = None if said is None else said.append
    with listen(resolve("127.0.0.1", 0), command=COMMAND, complain=complain, say=say) as server:
        server.set_app(app)
        server.daemon_threads = False  # closing waits for them: what they say is said then
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server: Server, path: str, *, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=20)
    try:
        connection.request(method, path, body=body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_one_silent_client_holds_up_nobody() -> None:
    with (
        serving(hello) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as silent,
    ):
        silent.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert get(server, "/x") == (200, b"/x")


def test_a_refusal_arrives_although_nobody_wants_the_body() -> None:
    with serving(Guard(hello, Access())) as server:
        for _ in range(20):
            status, body = get(server, "/api/studies", method="POST", body=b"x" * 300_000)
            assert (status, b"read-only" in body) == (405, True)


def test_requests_are_told_without_what_may_be_a_token() -> None:
    said: list[str] = []
    with serving(hello, said=said) as server:
        get(server, "/dashboard?token=secret")
    assert said == ["GET '/dashboard' 200"]


def test_a_line_that_is_no_request_is_told_without_what_it_says() -> None:
    said: list[str] = []
    with serving(hello, said=said) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
            client.sendall(b"GET /dashboard?token=secret x HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 400 ")
    assert said == ["None '' 400"]


def test_a_failure_is_one_line_and_the_server_goes_on() -> None:
    said: list[str] = []

    def broken(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/raises":
            raise KeyError("x")
        if environ["PATH_INFO"] == "/tells":
            environ["wsgi.errors"].write("Traceback\n  File 1\nValueError: of a view\n")
        return hello(environ, start_response)

    with serving(broken, complain=said.append) as server:
        assert get(server, "/raises")[0] == 500
        assert get(server, "/tells") == (200, b"/tells")
        assert get(server, "/x") == (200, b"/x")
    # Each in a thread of its own, which may say it after the next one has answered.
    assert sorted(said) == [
        "A request failed: KeyError: 'x'",
        "A request failed: ValueError: of a view",
    ]


def test_clients_that_go_away_are_no_failures() -> None:
    said: list[str] = []
    with serving(hello, complain=said.append) as server:
        for error in (ConnectionResetError(), BrokenPipeError(), TimeoutError(), KeyError("x")):
            try:
                raise error
            except Exception:
                server.handle_error(None, None)
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(server, "/x") == (200, b"/x")
    assert said == ["A request failed: KeyError('x')"]


def test_a_used_port_is_said_with_a_command_for_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        address = resolve("127.0.0.1", port)
        with pytest.raises(SpecError, match="Address already in use") as raised:
            listen(address, command=f"{COMMAND} fashion", complain=pytest.fail)
        found = re.fullmatch(rf"{COMMAND} fashion --port (\d+)", raised.value.hint)
        assert found is not None
        free = int(found[1])
        assert free > port
        with listen(resolve("127.0.0.1", free), command=COMMAND, complain=pytest.fail) as server:
            assert server.server_port == free


def test_the_ports_in_between_are_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        free = free_port(resolve("127.0.0.1", port))
        assert free is not None
        with socket.create_server(("127.0.0.1", free)):
            after = free_port(resolve("127.0.0.1", port))
            assert after is not None and after > free


def test_where_no_port_above_is_free_any_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of port 65535, or of port 80 for who has no rights."""
    monkeypatch.setattr(module, "free_port", lambda address: None)
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = resolve("127.0.0.1", used.getsockname()[1])
        with pytest.raises(SpecError, match="Address already in use") as raised:
            listen(address, command=COMMAND, complain=pytest.fail)
    assert raised.value.hint == f"{COMMAND} --port 0"


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Cannot assign requested address.*leave --host out"):
        listen(
            resolve("192.0.2.1", 8080), command=COMMAND, complain=pytest.fail
        )  # of documents: RFC 5737


@pytest.mark.parametrize("host", ["no host", "", ".", "a" * 300])
def test_a_name_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(SpecError, match="a name or address of this host"):
        resolve(host, 8080)


@pytest.mark.parametrize(
    ("host", "loopback", "everywhere", "url"),
    [
        ("127.0.0.1", True, False, "http://127.0.0.1:80"),
        ("127.0.0.2", True, False, "http://127.0.0.2:80"),
        ("localhost", True, False, "http://localhost:80"),
        ("::1", True, False, "http://[::1]:80"),
        ("0.0.0.0", False, True, "http://127.0.0.1:80"),
        ("::", False, True, "http://[::1]:80"),
        ("192.0.2.1", False, False, "http://192.0.2.1:80"),
    ],
)
def test_who_reaches_an_address(host: str, loopback: bool, everywhere: bool, url: str) -> None:
    address = resolve(host, 80)
    assert (address.is_loopback, address.is_any, address.url(80)) == (loopback, everywhere, url)
    assert address.at(81).port == 81
