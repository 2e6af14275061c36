"""Downloads against servers that know `Range`, ignore it, lie about it, break off and change."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skiptune.errors import StorageError
from skiptune.search.downloads import (
    DownloadError,
    Fetched,
    bring,
    cache_folder,
    cached,
    file_name,
    forget,
    without_secrets,
)

DATA = bytes(range(256)) * 4000
SIZE = len(DATA)
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = bytes(reversed(DATA))

PROGRAM = """
import sys
from skiptune.search.downloads import cached
print(cached(sys.argv[1], timeout=60).sha256, flush=True)
"""


class Answer(BaseHTTPRequestHandler):
    """Serves `server.data` as its server says."""

    def do_GET(self) -> None:
        server: Any = self.server
        asked = self.headers.get("Range")
        server.asked.append((asked, self.headers.get("If-Range")))
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0  # type: ignore[index]
        old = self.headers.get("If-Range") not in (None, server.validator)
        if not asked or not server.ranges or (old and server.compares):
            start = 0
            self.send_response(200)
        elif start >= len(server.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        else:
            self.send_response(206)
            first, last = start + server.shift, len(server.data) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.data)}")
        rest = server.data[start:]
        if server.told:
            self.send_header("Content-Length", str(len(rest)))
        if server.validator:
            name = "ETag" if server.validator.startswith(('"', "W/")) else "Last-Modified"
            self.send_header(name, server.validator)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest[: server.most])
        if server.stalls:
            self.wfile.flush()
            server.release.wait(60)

    def log_message(self, format: str, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/net.pkl"
        self.data = DATA
        self.validator: str | None = '"one"'
        self.headers: dict[str, str] = {}
        self.ranges, self.compares, self.told, self.stalls = True, True, True, False
        self.shift = 0
        self.most: int | None = None
        self.asked: list[tuple[str | None, str | None]] = []
        self.release = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def broken_off(server: Server, after: int, *, there: int = 0, **known: Any) -> None:
    """Let a download end after some bytes, which come after those that are there."""
    server.most = after
    with pytest.raises(DownloadError, match=f"cut off after {there + after} of {SIZE} bytes"):
        cached(server.url, **known)
    server.most = None


def parts(cache: Path) -> list[Path]:
    return [path for path in cache.rglob(".*") if ".part" in path.name]


def test_a_file_is_downloaded_once_and_its_hash_recorded(cache: Path, server: Server) -> None:
    heard: list[tuple[int, int]] = []
    first = cached(server.url + "?key=s3cret", on_bytes=lambda *told: heard.append(told))
    assert first == Fetched(first.path, SHA256, SIZE, fresh=True)
    assert first.path.read_bytes() == DATA and first.path.is_relative_to(cache / "downloads")
    assert heard[-1] == (SIZE, SIZE) and heard == sorted(heard)
    again = cached(server.url + "?key=s3cret")
    assert again == Fetched(first.path, SHA256, SIZE, fresh=False)
    assert server.asked == [(None, None)] and parts(cache) == []
    record = json.loads(first.path.with_name("net.pkl.json").read_text())
    assert (record["sha256"], record["bytes"], record["url"]) == (SHA256, SIZE, server.url)
    assert not any(b"s3cret" in path.read_bytes() for path in cache.rglob("*.json"))


def test_the_folder_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    for ours, shared, folder in (
        ("~/mine", "/xdg", tmp_path / "mine"),
        ("", "/xdg", Path("/xdg/skiptune")),
        ("", "relative", tmp_path / ".cache" / "skiptune"),
        ("", "", tmp_path / ".cache" / "skiptune"),
    ):
        monkeypatch.setenv("SKIPTUNE_CACHE", ours)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert cache_folder() == folder
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(StorageError, match="SKIPTUNE_CACHE"):
        cache_folder()


def test_the_cache_can_be_moved(
    tmp_path: Path, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(server.url)
    cache.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert not cached(server.url).fresh and len(server.asked) == 1


@pytest.mark.parametrize("validator", ['"one"', "Sat, 28 Nov 2026 12:00:00 GMT"])
def test_the_rest_is_asked_for(server: Server, cache: Path, validator: str) -> None:
    server.validator = validator
    broken_off(server, 300_000)
    broken_off(server, 300_001, there=300_000)
    heard: list[tuple[int, int]] = []
    assert cached(server.url, on_bytes=lambda *told: heard.append(told)).sha256 == SHA256
    assert server.asked[1:] == [("bytes=300000-", validator), ("bytes=600001-", validator)]
    assert heard[0][0] > 600_001 and heard[-1] == (SIZE, SIZE)
    assert parts(cache) == []


def test_a_known_hash_resumes_without_a_mark(server: Server) -> None:
    server.validator = None
    broken_off(server, 300_000, sha256=SHA256)
    assert cached(server.url, sha256=SHA256).sha256 == SHA256
    assert server.asked == [(None, None), ("bytes=300000-", None)]


@pytest.mark.parametrize("validator", [None, 'W/"weak"'])
def test_what_nothing_identifies_begins_anew(server: Server, validator: str | None) -> None:
    server.validator = validator
    broken_off(server, 300_000)
    assert cached(server.url).sha256 == SHA256
    assert server.asked == [(None, None)] * 2


def test_a_server_without_ranges_begins_anew(server: Server, cache: Path) -> None:
    server.ranges = False
    broken_off(server, 300_000)
    broken_off(server, 200_000)
    assert cached(server.url).path.read_bytes() == DATA
    assert [asked for asked, _ in server.asked] == [None, "bytes=300000-", "bytes=200000-"]
    assert parts(cache) == []


@pytest.mark.parametrize("compares", [True, False])
def test_a_file_that_changed_meanwhile_is_no_patchwork(server: Server, compares: bool) -> None:
    broken_off(server, 300_000)
    server.data, server.validator, server.compares = OTHER, '"two"', compares
    assert cached(server.url).path.read_bytes() == OTHER


def test_another_range_than_was_asked_for_begins_anew(server: Server) -> None:
    broken_off(server, 300_000)
    server.shift = 1
    assert cached(server.url).path.read_bytes() == DATA
    assert [asked for asked, _ in server.asked] == [None, "bytes=300000-", None]


def test_a_patchwork_is_found_by_its_hash_and_made_anew(server: Server) -> None:
    server.validator = None
    server.data = OTHER
    broken_off(server, 300_000, sha256=SHA256)
    server.data = DATA
    assert cached(server.url, sha256=SHA256).path.read_bytes() == DATA
    assert [asked for asked, _ in server.asked] == [None, "bytes=300000-", None]


@pytest.mark.parametrize("surplus", [0, 7])
def test_a_part_that_is_whole_already(server: Server, cache: Path, surplus: int) -> None:
    broken_off(server, 300_000)
    (part,) = (path for path in parts(cache) if path.suffix == ".part")
    part.write_bytes(DATA + b"?" * surplus)
    assert cached(server.url).path.read_bytes() == DATA
    assert len(server.asked) == (3 if surplus else 2)


def test_a_damaged_note_begins_anew(server: Server, cache: Path) -> None:
    broken_off(server, 300_000)
    (note,) = (path for path in parts(cache) if path.suffix == ".json")
    for text in ("", "[]", '{"address": "of another"}'):
        note.write_text(text)
        server.asked.clear()
        broken_off(server, 300_000)
        assert server.asked == [(None, None)]


def test_wrong_bytes_are_not_kept(server: Server, cache: Path) -> None:
    server.data = OTHER
    found = hashlib.sha256(OTHER).hexdigest()[:12]
    with pytest.raises(DownloadError, match=rf"another file, of {SIZE} bytes \(sha256 {found}"):
        cached(server.url, sha256=SHA256)
    assert parts(cache) == [] and len(server.asked) == 1
    assert not [path for path in cache.rglob("*") if path.name == "net.pkl"]


def test_an_address_that_brings_another_file_later_is_refused(server: Server) -> None:
    first = cached(server.url)
    server.data, server.validator = OTHER, '"two"'
    first.path.unlink()
    with pytest.raises(DownloadError, match=r"another file.*to take it, remove .*net\.pkl\.json"):
        cached(server.url)
    first.path.with_name("net.pkl.json").unlink()
    assert cached(server.url).path.read_bytes() == OTHER


def test_a_damaged_copy_is_fetched_again(server: Server) -> None:
    first = cached(server.url)
    first.path.write_bytes(DATA[:-1])
    assert cached(server.url) == first
    # A hash that somebody mistyped costs nothing that is there.
    with pytest.raises(DownloadError, match=f"another file .sha256 {SHA256}. was fetched"):
        cached(server.url, sha256="0" * 64)
    assert not cached(server.url).fresh and len(server.asked) == 2


def test_encoded_bytes_are_refused(server: Server) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="encoded bytes"):
        cached(server.url)


def test_a_web_page_does_not_pass_for_the_file(server: Server, cache: Path) -> None:
    broken_off(server, 300_000)
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DownloadError, match="a web page"):
        cached(server.url)
    # And what has arrived of the file before is not lost.
    server.headers = {}
    assert cached(server.url).sha256 == SHA256
    assert [asked for asked, _ in server.asked] == [None, "bytes=300000-", "bytes=300000-"]


def test_what_is_forgotten_is_downloaded_anew(server: Server) -> None:
    first = cached(server.url)
    forget(server.url)
    server.data, server.validator = OTHER, '"two"'
    assert cached(server.url).path == first.path and first.path.read_bytes() == OTHER


def test_a_size_that_nobody_tells(server: Server) -> None:
    server.told = False
    heard: list[tuple[int, int]] = []
    assert cached(server.url, on_bytes=lambda *told: heard.append(told)).bytes == SIZE
    assert heard[-1] == (SIZE, 0)


def test_a_killed_process_is_gone_on_with(server: Server, cache: Path) -> None:
    server.most, server.stalls = 600_000, True
    command = [sys.executable, "-c", PROGRAM, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        # Two blocks are written, the third one is waited for.
        while not any(path.stat().st_size == 2 << 18 for path in parts(cache)):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    server.most, server.stalls = None, False
    assert cached(server.url).path.read_bytes() == DATA
    assert server.asked == [(None, None), (f"bytes={2 << 18}-", '"one"')]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(cuts=[1, SIZE - 1, 1], ranges=True, validator='"one"', known=False)
@given(
    cuts=st.lists(st.integers(1, SIZE - 1), max_size=4),
    ranges=st.booleans(),
    validator=st.sampled_from(['"one"', 'W/"one"', None]),
    known=st.booleans(),
)
def test_any_interruptions_end_in_the_file(
    server: Server,
    tmp_path: Path,
    cuts: list[int],
    ranges: bool,
    validator: str | None,
    known: bool,
) -> None:
    server.ranges, server.validator = ranges, validator
    path = tmp_path / "file"
    path.unlink(missing_ok=True)
    sha256 = SHA256 if known else None
    whole = False  # what was cut off may have been all that was missing
    for cut in cuts:
        server.most = cut
        try:
            assert bring(server.url, path, sha256=sha256) == SHA256
            whole = True
        except DownloadError as error:
            assert "cut off after" in str(error) and path.exists() == whole
    server.most = None
    assert bring(server.url, path, sha256=sha256) == SHA256
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.org/edm/pretrained/net-vp.pkl?key=1#x", "net-vp.pkl"),
        ("https://a.org/", "file"),
        ("https://a.org/..", "file"),
        ("https://a.org/%2e%2e%2fpasswd", "passwd"),
        ("https://a.org/.hidden", "hidden"),
        ("https://a.org/a%20b%00.npz", "a_b_.npz"),
        ("https://[a.org/net", "file"),
        (f"https://a.org/{'n' * 300}.pkl", "n" * 96 + ".pkl"),
    ],
)
def test_names_of_files(url: str, name: str) -> None:
    assert file_name(url) == name


def test_addresses_without_their_secrets() -> None:
    assert without_secrets("https://me:pw@a.org:8/net?key=1#f") == "https://a.org:8/net"
    assert without_secrets("https://[a.org/net?key=1") == "the url"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://a.org/net", "no address with http, https, file"),
        ("https://me:pw@a.org/net", "no address with http, https, file, without password"),
        ("http://127.0.0.1:pw/net", "no valid address"),
        ("file:///nowhere/net.pkl", "No such file"),
        ("http://127.0.0.1/n\u00e9t", "no valid address"),
    ],
)
def test_addresses_that_bring_nothing(url: str, said: str) -> None:
    with pytest.raises(DownloadError, match=said):
        cached(url)
