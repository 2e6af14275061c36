from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler as Handler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from skiptune.errors import DiskFullError, NetworkError, ObjectiveError, StorageError, render
from skiptune.search.files import URL_KEYS, SourceFile, locate, located, sources_of
from skiptune.search.spec import StudySpec, load_spec

DATA = bytes(range(256)) * 4000  # four blocks of a download
SIZE = len(DATA)
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[:-1] + b"?"
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()
NAME = "net.safetensors"

PROGRAM = """
import json, sys
from skiptune.search.files import SourceFile, locate
print("asking", flush=True)
print(locate(SourceFile.from_json(json.loads(sys.argv[1])), timeout=60), flush=True)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a host that has nothing yet."""
    for name in ("SKIPTUNE_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def source(**changes: Any) -> SourceFile:
    """A checkpoint of `DATA` that lies nowhere."""
    plain = {"key": "network.checkpoint", "name": NAME, "sha256": SHA256, "bytes": SIZE}
    return SourceFile.from_json(plain | {"url": None, "path": f"/nowhere/{NAME}"} | changes)


def put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def place(cache: Path, suffix: str = ".safetensors") -> Path:
    return cache / "files" / SHA256[:2] / f"{SHA256}{suffix}"


def kept(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def whole(cache: Path) -> list[Path]:
    """What is kept but for unfinished downloads."""
    return [path for path in kept(cache) if ".part" not in path.suffixes]


def refusal(one: SourceFile, **options: Any) -> str:
    """What `locate` says that it found in place of the file."""
    with pytest.raises(NetworkError) as caught:
        locate(one, **options)
    return caught.value.problems[0].found


class Answer(Handler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        server.answer(self)

    def log_message(self, format: str, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    """Answers as a test says, and counts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/{NAME}"
        self.answer: Callable[[Handler], None] = sends(DATA)
        self.asked: list[str] = []
        self.release = threading.Event()

    # Clients that go away are part of the tests.
    def handle_error(self, request: Any, client_address: Any) -> None: ...

    def stalls(self, after: int) -> None:
        """Answer with some bytes, and with the others when released."""

        def answer(handler: Handler) -> None:
            if after:
                sends(DATA[:after], length=SIZE)(handler)
            self.release.wait(60)
            handler.wfile.write(DATA[after:])

        self.answer = answer


def sends(data: bytes, *, length: int | None = -1, **headers: str) -> Callable[[Handler], None]:
    """An answer with a body and a `Content-Length`: the true one, a false one, none."""

    def answer(handler: Handler) -> None:
        handler.send_response(302 if "Location" in headers else 200)
        if length is not None:
            headers["Content-Length"] = str(len(data) if length < 0 else length)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.release.set()
        server.shutdown()


def spec(folder: Path, **objective: Any) -> StudySpec:
    given = {"extractor": "fashion-cnn", "weights": str(folder / "weights.pth")}
    given |= {"reference": str(folder / "reference.npz")}
    plain = {"study": "far", "network": {"checkpoint": str(folder / NAME)}}
    return StudySpec.from_json(plain | {"objective": given | objective})


@pytest.fixture
def created(tmp_path: Path) -> Path:
    """The folder of a study's files on the host that created it."""
    put(tmp_path / "created" / "weights.pth", b"weights")
    put(tmp_path / "created" / "reference.npz", b"reference")
    return put(tmp_path / "created" / NAME).parent


def test_sources_of_a_spec(created: Path) -> None:
    urls = {"network.checkpoint": "https://example.org/?key=1", "objective.weights": None}
    assert sources_of(load_spec("fashion")) == ()
    checkpoint, weights, reference = sources_of(spec(created), urls=urls)
    assert checkpoint == source(url=urls["network.checkpoint"], path=str(created / NAME))
    digest, path = hashlib.sha256(b"weights").hexdigest(), str(created / "weights.pth")
    assert weights == SourceFile("objective.weights", "weights.pth", digest, 7, None, path)
    assert (reference.key, reference.name) == ("objective.reference", "reference.npz")
    assert SourceFile.from_json(checkpoint.to_json() | {"later": 1}) == checkpoint


def test_a_file_that_cannot_be_read_or_found(created: Path) -> None:
    given = spec(created)
    for one in sources_of(given):
        path = Path(one.path)
        aside = path.rename(created / "aside")
        kind = NetworkError if one.name == NAME else ObjectiveError
        with pytest.raises(kind, match=f"{one.key}: {path}.*No such.*`{URL_KEYS[one.key]}`"):
            sources_of(given)
        with pytest.raises(kind, match=f"{one.key}: {path.name} .*`{URL_KEYS[one.key]}`"):
            locate(one)
        aside.rename(path)


def test_a_damaged_row_is_refused() -> None:
    for field, values in {
        "key": ("network.sha256", ["network.checkpoint"]),
        "name": ("../../net.safetensors", "..", "", "a\0b"),
        "sha256": (SHA256.upper(), f"../{SHA256[3:]}", f"{SHA256}\n"),
        "bytes": (-1, True, 1.0),
        "url": (7,),
        "path": (None, "/a\0b"),
    }.items():
        for value in values:
            with pytest.raises(StorageError) as caught:
                source(**{field: value})
            where = f"a stored file of the study: {field}"
            assert [problem.where for problem in caught.value.problems] == [where]
    with pytest.raises(StorageError, match=r"sha256.*bytes.*url.*path"):
        SourceFile.from_json({"key": "network.checkpoint", "name": NAME, "bytes": "1"})


def test_places_in_their_order(
    tmp_path: Path, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = source(path=str(tmp_path / "mine" / NAME), url=server.url)
    fetch = Mock(side_effect=(None, DATA))
    # From the last place to the first: each goes before those that have the file already.
    for _ in range(2):
        assert locate(one, fetch=fetch) == place(cache)
        place(cache).unlink()
    assert fetch.call_args_list == [((one,),)] * 2 and len(server.asked) == 1
    put(place(cache))
    assert locate(one, fetch=fetch) == place(cache)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("third", "~/second", f"{tmp_path / 'no'}::{tmp_path / 'first'}"):
        before = os.environ.get("SKIPTUNE_PATH", "")
        monkeypatch.setenv("SKIPTUNE_PATH", f"{folder}{os.pathsep}{before}")
        for name in (f"{SHA256}.safetensors", SHA256, NAME):
            path = put(tmp_path / folder.rpartition("/")[2] / name)
            assert locate(one, fetch=fetch) == path
    assert locate(one, fetch=fetch) != put(tmp_path / "mine" / NAME)
    assert locate(one, fetch=fetch) == tmp_path / "mine" / NAME


def test_a_user_without_home_needs_no_cache_for_what_is_found_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert locate(source(path=str(put(tmp_path / NAME)))) == tmp_path / NAME


def test_nothing_anywhere(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError) as caught:
        locate(source(), study="far")
    assert render(caught.value).splitlines() == [
        f"error: network.checkpoint: {NAME} (sha256 {SHA256[:12]}...)",
        f"       expected: a file of {SIZE} bytes with this SHA-256 on this host",
        f"       found: no file /nowhere/{NAME}; SKIPTUNE_PATH names no folder; "
        f"nothing in the cache {cache}; no url",
        "",
        "hint: put it into a folder of SKIPTUNE_PATH, e.g. `SKIPTUNE_PATH=/data/checkpoints "
        "skiptune worker far`, or give the study its address (`network.url`); this worker "
        "refuses, the study goes on elsewhere",
    ]
    assert not cache.exists()
    monkeypatch.setenv("SKIPTUNE_PATH", f"{tmp_path}{os.pathsep}{tmp_path / 'typo'}")
    assert f"; nothing in {tmp_path}; no folder {tmp_path / 'typo'};" in refusal(source())


def test_what_is_there_instead_is_told(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / NAME, OTHER)
    short = put(tmp_path / "short" / NAME, b"short")
    pipe, loop = put(tmp_path / "pipe" / NAME), put(tmp_path / "loop" / NAME)
    for each in (pipe, loop):
        each.unlink()
    os.mkfifo(pipe)  # reading it would never end
    loop.symlink_to(loop)
    damaged = put(place(cache), OTHER)
    folders = os.pathsep.join(str(each.parent) for each in (short, pipe, loop))
    monkeypatch.setenv("SKIPTUNE_PATH", folders)
    assert refusal(source(path=str(path))).split("; ") == [
        f"another file of this name: {path} (sha256 {OTHER_SHA256[:12]}...)",
        f"another file of this name: {short} (5 bytes)",
        f"no file but something else: {pipe}",
        f"{loop}: {os.strerror(errno.ELOOP)}",
        f"a damaged copy: {damaged} (sha256 {OTHER_SHA256[:12]}...)",
        "no url",
    ]
    # A wrong file hides no right one, and a damaged copy is replaced.
    assert locate(source(), fetch=lambda source: DATA) == damaged
    assert locate(source(path=str(path))) == damaged


def test_a_store_without_the_file(cache: Path, server: Server) -> None:
    for data, said in {
        None: "nothing",
        OTHER: f"another file, of {SIZE} bytes (sha256 {OTHER_SHA256[:12]}...)",
        DATA + b"?": f"another file, of more than {SIZE} bytes",
    }.items():
        found = refusal(source(), fetch=lambda _, data=data: data)
        assert found.endswith(f"; the study's store: {said}") and kept(cache) == []
    assert locate(source(url=server.url), fetch=lambda _: OTHER).read_bytes() == DATA


@pytest.mark.parametrize("length", [-1, None])
def test_a_download(cache: Path, server: Server, length: int | None) -> None:
    server.answer = sends(DATA, length=length)
    heard: list[tuple[int, int]] = []
    one = source(url=server.url)
    path = locate(one, on_bytes=lambda done, total: heard.append((done, total)))
    assert path == place(cache) and path.read_bytes() == DATA and kept(cache) == [path]
    assert len(heard) == 4 and heard[-1] == (SIZE, SIZE) and heard == sorted(heard)
    # Others may read it, like any file of this user.
    assert path.stat().st_mode == put(cache / "any").stat().st_mode
    assert locate(one) == path
    assert server.asked == [f"/{NAME}"]


def test_other_addresses(tmp_path: Path, cache: Path, server: Server) -> None:
    share = put(tmp_path / "share" / "net v2")
    assert locate(source(url=share.as_uri())) == place(cache)
    with Server() as moved:
        moved.answer = sends(b"", Location=server.url)
        threading.Thread(target=moved.handle_request).start()
        assert locate(source(url=moved.url, name="net")) == place(cache, "")
    empty = source(url=put(share, b"").as_uri(), sha256=hashlib.sha256(b"").hexdigest(), bytes=0)
    assert locate(empty).read_bytes() == b""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(OTHER), f"another file, of {SIZE} bytes (sha256 {OTHER_SHA256[:12]}...)"),
        (sends(DATA + b"?"), f"another file, of {SIZE + 1} bytes"),
        (sends(DATA + b"?", length=None), f"another file, of more than {SIZE} bytes"),
        (sends(DATA[:300_000], length=SIZE), f"cut off after 300000 of {SIZE} bytes"),
        (sends(DATA[:300_000], length=None), f"cut off after 300000 of {SIZE} bytes"),
        (sends(DATA[:300_000]), "another file, of 300000 bytes"),
        (sends(b"100\r\nshort", length=None, **{"Transfer-Encoding": "chunked"}), "Incomplete"),
        (lambda handler: handler.send_error(404), "HTTP status 404"),
        (lambda handler: handler.wfile.write(b"good morning\r\n\r\n"), "good morning"),
        (lambda handler: None, "Remote end closed connection without response"),
    ],
)
def test_a_download_that_brings_no_file(
    cache: Path, server: Server, answer: Callable[[Handler], None], said: str
) -> None:
    server.answer = answer
    assert f"; {server.url}: {said}" in refusal(source(url=server.url))
    assert whole(cache) == []
    # Nothing of it stands in the way of the next attempt.
    server.answer = sends(DATA)
    assert locate(source(url=server.url)).read_bytes() == DATA
    assert kept(cache) == [place(cache)]


@pytest.mark.parametrize("after", [0, 100, 600_000])
def test_a_server_that_hangs(cache: Path, server: Server, after: int) -> None:
    server.stalls(after)
    said = refusal(source(url=server.url), timeout=0.2)
    assert said.endswith(f"; {server.url}: no bytes for 0.2 s")
    assert whole(cache) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:{closed}/net", f"/net: {os.strerror(errno.ECONNREFUSED)}"),
        ("http://me:hunter2@127.0.0.1/net", "http://127.0.0.1/net: no address with http"),
        ("http://127.0.0.1:{closed}/net?key=hunter2#hunter2", "/net: "),
        ("http://127.0.0.1:hunter2/net", "no valid address"),
        ("http://[::hunter2/net", "the url: no valid address"),
    ],
)
def test_addresses_that_cannot_be_asked(cache: Path, url: str, said: str) -> None:
    closed = Server()
    closed.server_close()
    found = refusal(source(url=url.format(closed=closed.server_port)))
    assert said in found and "?" not in found
    # A password is not shown, a port is.
    assert "hunter2" not in found or ":hunter2/net: " in found
    assert kept(cache) == []


def test_an_interruption_leaves_no_file(cache: Path, server: Server) -> None:
    interrupt = Mock(side_effect=KeyboardInterrupt)
    for fetch, on_bytes in ((interrupt, None), (None, interrupt)):
        with pytest.raises(KeyboardInterrupt):
            locate(source(url=server.url), fetch=fetch, on_bytes=on_bytes)
        assert whole(cache) == []
    assert locate(source(url=server.url)).read_bytes() == DATA


def test_threads_that_ask_at_once_download_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = Mock(wraps=fcntl.flock)

    def answer(handler: Handler) -> None:
        while flock.call_count < 4:  # one holds the lock, the others wait for it
            time.sleep(0.01)
        sends(DATA)(handler)

    monkeypatch.setattr(fcntl, "flock", flock)
    server.answer = answer
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: locate(source(url=server.url), timeout=60), range(4)))
    assert [path.read_bytes() for path in paths] == [DATA]
    assert server.asked == [f"/{NAME}"]


def process(one: SourceFile) -> subprocess.Popen[str]:
    """Another process that locates a file; it has said that it asks."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(one.to_json())]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "asking\n"
    return child


def begun(cache: Path, child: subprocess.Popen[str]) -> None:
    """Wait until a process has written a part of the file."""
    while not any(part.stat().st_size for part in kept(cache) if part.suffix == ".part"):
        assert child.poll() is None
        time.sleep(0.01)


def test_processes_that_ask_at_once_download_once(cache: Path, server: Server) -> None:
    server.stalls(600_000)
    with process(source(url=server.url)) as first:
        begun(cache, first)
        with process(source(url=server.url)) as second:
            server.release.set()
            said = {child.communicate(timeout=60)[0] for child in (first, second)}
    assert said == {f"{place(cache)}\n"} and place(cache).read_bytes() == DATA
    assert server.asked == [f"/{NAME}"]


def test_what_a_killed_process_leaves_is_never_the_file(cache: Path, server: Server) -> None:
    server.stalls(600_000)
    with process(source(url=server.url)) as child:
        begun(cache, child)
        child.kill()
    assert len(kept(cache)) == 2 and whole(cache) == []
    assert refusal(source()).endswith("no url")
    server.answer = sends(DATA)
    assert locate(source(url=server.url)).read_bytes() == DATA
    assert kept(cache) == [place(cache)]


def test_a_read_only_cache(
    cache: Path, server: Server, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    put(place(cache, ".npz"))
    (cache / "files").chmod(0o555)
    said = rf"the cache {cache}: expected .* space for {NAME} \({SIZE} bytes\), found Permission "
    with unprivileged():
        with pytest.raises(StorageError, match=rf"{said}denied .*`export SKIPTUNE_CACHE=.*`"):
            locate(source(url=server.url))
        # Without a place to fetch the file from, the cache is not what is wrong.
        assert refusal(source()).endswith("no url")
        assert locate(source(url=server.url, name="net.npz")) == place(cache, ".npz")
    (cache / "files").chmod(0o755)
    assert server.asked == []


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("os.fsync", Mock(side_effect=full))
    with pytest.raises(DiskFullError, match="No space left"):
        locate(source(), fetch=lambda source: DATA)
    assert kept(cache) == []


def test_a_spec_of_another_host(
    tmp_path: Path, created: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spec(created)
    sources = sources_of(given, urls={"network.checkpoint": server.url})
    assert located(given, sources) == given
    there = created.rename(tmp_path / "there")
    put(there / NAME, OTHER)
    monkeypatch.setenv("SKIPTUNE_PATH", str(there))
    here = located(given, sources)
    assert Path(here.network.checkpoint).read_bytes() == DATA
    assert here.objective == spec(there).objective
    # It is a whole spec of the same files and meaning, and only paths differ.
    assert StudySpec.from_json(here.to_json()) == here and here.meaning() == given.meaning()
    assert [one.sha256 for one in sources_of(here)] == [one.sha256 for one in sources]
    back = {"network": given.network, "objective": given.objective}
    assert here.model_copy(update=back) == given


def test_keys_without_a_file_stay_and_missing_files_come_at_once(created: Path) -> None:
    given = spec(created)
    sources = sources_of(given)
    (created / "weights.pth").unlink()
    (created / "reference.npz").unlink()
    bundled = spec(created, weights=None, reference="fashion-train")
    assert located(bundled, sources) == bundled
    with pytest.raises(ObjectiveError) as caught:
        located(given, sources)
    keys = [problem.where.partition(":")[0] for problem in caught.value.problems]
    assert keys == ["objective.weights", "objective.reference"]
    assert "(`objective.weights_url`, `objective.reference_url`)" in caught.value.hint
    assert "skiptune worker far" in caught.value.hint
    (created / NAME).unlink()
    with pytest.raises(NetworkError, match=r"weights\.pth"):
        located(given, sources)
