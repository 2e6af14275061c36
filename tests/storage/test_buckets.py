"""What can go wrong with a bucket ends in an error that says what to do, and never in a guess."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skiptune.errors import DiskFullError, StorageError, UnavailableError
from skiptune.storage import buckets
from skiptune.storage.arrays import ArrayStore, open_store
from skiptune.storage.buckets import BucketShelf
from tests.storage.buckets import Answer, bucket, client, environment, service

LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>images</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>
</ListBucketResult>"""

USES: dict[str, Callable[[BucketShelf], object]] = {
    "find": lambda shelf: shelf.find("a"),
    "get": lambda shelf: shelf.get("a"),
    "put": lambda shelf: shelf.put("a", b"data"),
    "remove": lambda shelf: shelf.remove("a"),
    "entries": lambda shelf: list(shelf.entries()),
    "exists": lambda shelf: shelf.exists(),
    "now": lambda shelf: shelf.now(),
}


@pytest.fixture
def location() -> Iterator[str]:
    with bucket() as found:
        yield found


def test_objects_lie_below_the_prefix(location: str) -> None:
    shelf = BucketShelf(f"{location}/some/where/")
    shelf.put("ab/x.png", b"picture")
    [item] = client().list_objects_v2(Bucket="images")["Contents"]
    assert item["Key"] == "some/where/ab/x.png"
    answer = client().get_object(Bucket="images", Key=item["Key"])
    assert answer["Body"].read() == b"picture"
    assert shelf.location == "s3://images/some/where"
    assert shelf.place("ab/x.png") == "s3://images/some/where/ab/x.png"


def test_prefixes_do_not_see_each_other(location: str) -> None:
    shelves = [BucketShelf(location + end) for end in ("/a", "/ab", "/a/b")]
    for number, shelf in enumerate(shelves):
        shelf.put("x", bytes([number]))
    assert [shelf.get("x") for shelf in shelves] == [b"\0", b"\1", b"\2"]
    assert [entry.name for entry in shelves[0].entries()] == ["b/x", "x"]
    assert [entry.name for entry in shelves[1].entries()] == ["x"]


def test_a_name_that_begins_others_is_found(location: str) -> None:
    shelf = BucketShelf(location)
    shelf.put("ab", b"")
    assert shelf.find("a") is None
    shelf.put("a", b"123")
    found = shelf.find("a")
    assert found is not None and (found.name, found.bytes) == ("a", 3)


def test_a_listing_of_many_pages(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiptune.storage.buckets._PAGE", 2)
    shelf = BucketShelf(f"{location}/p")
    names = [f"{number:02x}/x" for number in range(7)]
    for name in names:
        shelf.put(name, b"")
    assert [entry.name for entry in shelf.entries()] == names


def test_a_missing_bucket(location: str) -> None:
    shelf = BucketShelf("s3://elsewhere/p")
    for use in USES.values():
        with pytest.raises(StorageError, match="no such bucket") as raised:
            use(shelf)
        assert raised.value.problems[0].where == "s3://elsewhere/p"
        assert "aws s3 mb s3://elsewhere" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "AccessDenied", StorageError, "AWS_PROFILE"),
        (403, "InvalidAccessKeyId", StorageError, "AWS_PROFILE"),
        (403, "SignatureDoesNotMatch", StorageError, "AWS_PROFILE"),
        (400, "ExpiredToken", StorageError, "AWS_PROFILE"),
        (403, "RequestTimeTooSkewed", StorageError, "clock"),
        (400, "InvalidArgument", StorageError, "aws s3 ls"),
        (400, "RequestTimeout", UnavailableError, "again"),
        (429, "TooManyRequests", UnavailableError, "again"),
        (500, "InternalError", UnavailableError, "again"),
        (503, "SlowDown", UnavailableError, "again"),
        (507, "XMinioStorageFull", DiskFullError, "free some space"),
    ],
)
def test_a_refusal(status: int, code: str, kind: type[StorageError], hint: str) -> None:
    with service(Answer.refusal(status, code)):
        shelf = BucketShelf("s3://images/p")
        for use in USES.values():
            with pytest.raises(StorageError) as raised:
                use(shelf)
            assert type(raised.value) is kind
            assert hint in raised.value.hint
            assert code in raised.value.problems[0].found


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with environment(
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
    ):
        shelf = BucketShelf("s3://images/p")
        for use in USES.values():
            with pytest.raises(UnavailableError, match=r"127\.0\.0\.1") as raised:
                use(shelf)
            assert "AWS_ENDPOINT_URL" in raised.value.hint


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "READ_SECONDS", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        environment(
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}",
        ),
        pytest.raises(UnavailableError, match="imeout"),
    ):
        BucketShelf("s3://images/p").get("a")


def test_a_file_that_breaks_off_is_not_a_damaged_one() -> None:
    answer = Answer(body=b"half of it", headers={"Content-Length": "20"})
    with service(answer), pytest.raises(UnavailableError):
        ArrayStore("s3://images/p").read("0" * 64)
    assert answer.asked == [f"GET /images/p/00/{'0' * 64}.safetensors"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        # boto takes an answer that it cannot parse for a failure of the service.
        (Answer(200, b"<html><p>Welcome"), UnavailableError),
        (Answer(404, b"<html><p>Nothing here"), StorageError),
        (Answer(404, b""), StorageError),
    ],
)
def test_a_service_of_something_else(answer: Answer, kind: type[StorageError]) -> None:
    with service(answer):
        shelf = BucketShelf("s3://images/p")
        for use in (shelf.exists, lambda: shelf.find("a")):
            with pytest.raises(StorageError) as raised:
                use()
            assert type(raised.value) is kind
        if answer.status == 404:
            # Not "there is no such file": nothing here speaks of files.
            with pytest.raises(StorageError, match="404"):
                shelf.get("a")


def test_the_time_is_that_of_the_service() -> None:
    answer = Answer(body=LISTING, headers={"Date": "Sun, 09 Sep 2001 01:46:40 GMT"})
    with service(answer):
        assert BucketShelf("s3://images/p").now() == 1_000_000_000.0


@pytest.mark.parametrize("headers", [{}, {"Date": "noon"}])
def test_a_service_that_does_not_say_the_time(headers: dict[str, str]) -> None:
    with (
        service(Answer(body=LISTING, headers=headers)),
        pytest.raises(StorageError, match=r"Date|header"),
    ):
        BucketShelf("s3://images/p").now()


def test_no_credentials() -> None:
    with environment():
        shelf = BucketShelf("s3://images/p")
        for use in USES.values():
            with pytest.raises(StorageError, match="redentials") as raised:
                use(shelf)
            assert "AWS_ACCESS_KEY_ID" in raised.value.hint
            assert type(raised.value) is StorageError


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": "key"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "no address"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_wrong_settings(settings: dict[str, str], hint: str) -> None:
    with environment(**settings), pytest.raises(StorageError) as raised:
        BucketShelf("s3://images/p").get("a")
    assert hint in raised.value.hint


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(StorageError, match="boto3") as raised:
        open_store("s3://images/p")
    assert raised.value.hint == "pip install 'skiptune[s3]'"


def test_a_folder_needs_no_boto(run_python: Callable[..., str], tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from skiptune.storage.arrays import open_store\n"
        "open_store(sys.argv[1]).write_bytes(b'picture', '.png')\n"
        "print(json.dumps([name for name in ('boto3', 'botocore') if name in sys.modules]))"
    )
    assert json.loads(run_python(program, str(tmp_path / "store"))) == []


@pytest.mark.parametrize(
    "location",
    [
        "s3://",
        "s3:///prefix",
        "s3://images//prefix",
        "s3://images/../other",
        "s3://images/./prefix",
        "s3://images/prefix?versionId=1",
        "s3://images/prefix#part",
        "s3://key:secret@images/prefix",
        "s3://im ages",
    ],
)
def test_a_location_of_another_form(location: str) -> None:
    with environment(), pytest.raises(StorageError, match="s3://BUCKET/PREFIX") as raised:
        open_store(location)
    assert "secret" not in str(raised.value)
