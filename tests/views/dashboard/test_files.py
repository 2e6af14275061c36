from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bottle import HTTPError, HTTPResponse
from PIL import Image

from skiptune.errors import UnavailableError
from skiptune.storage.arrays import ArrayStore
from skiptune.views.dashboard import files
from skiptune.views.dashboard.files import SUFFIXES, StoredFiles, media_type, missing_picture
from tests.dashboards import picture
from tests.storage.buckets import bucket


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (picture(), "image/png"),
        (picture("JPEG"), "image/jpeg"),
        (b'{"a": [1, 2]}', "application/json"),
        (b"[]", "application/json"),
        (b"12", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        ("Größe\tin\r\nZeilen\f".encode(), "text/plain; charset=utf-8"),
        (b"<html><script>1</script>", "text/plain; charset=utf-8"),
        (b"[" * 100_000, "text/plain; charset=utf-8"),
        (picture("GIF"), None),
        (picture("WEBP"), None),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", None),
        (b"a\x00b", None),
        (b"\xff\xfe<\x00b\x00", None),
    ],
)
def test_the_bytes_decide_what_a_file_is(data: bytes, kind: str | None) -> None:
    assert media_type(data) == kind


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_found_by_its_digest(tmp_path: Path, suffix: str) -> None:
    store = ArrayStore(tmp_path / "store")
    digest = store.write_bytes(b"some text", suffix)
    found = StoredFiles(store, pytest.fail)
    assert found.open_reader(digest).read() == b"some text"
    assert found.open_reader(digest).read() == b"some text"


def test_files_of_a_bucket_are_shown_too() -> None:
    with bucket("pictures") as place:
        store = ArrayStore(place)
        digest = store.write_bytes(picture(), ".png")
        assert StoredFiles(store, pytest.fail).open_reader(digest).read() == picture()
        with pytest.raises(HTTPResponse) as raised:
            StoredFiles(store, lambda text: None).open_reader("0" * 64)
        assert raised.value.status_code == 404


@pytest.mark.parametrize("name", ["", "0" * 64, "..%2f", "../" * 21 + "x", "A" * 64, "0-0"])
def test_what_is_not_there_is_a_picture_that_says_so(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    with pytest.raises(HTTPResponse) as raised:
        StoredFiles(ArrayStore(tmp_path), said.append).open_reader(name)
    assert (raised.value.status_code, raised.value.body) == (404, missing_picture())
    shown = np.asarray(Image.open(io.BytesIO(missing_picture())).convert("L"))
    assert shown.shape == (96, 320)
    # Dark letters on light ground, in two lines that end before the edge.
    assert all(shown[top : top + 24, 9:311].min() < 90 for top in (22, 48))
    assert shown[1:95, 1:9].min() > 200


def test_a_damaged_file_is_missing_and_said(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    digest = store.write_bytes(picture(), ".png")
    store.path(digest, suffix=".png").write_bytes(picture()[:-1])
    said: list[str] = []
    found = StoredFiles(store, said.append)
    with pytest.raises(HTTPResponse) as raised:
        found.open_reader(digest)
    assert raised.value.status_code == 404
    assert len(said) == 1 and "damaged" in said[0]


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 10)
    store = ArrayStore(tmp_path)
    digest = store.write_bytes(b"12345678901", ".txt")
    said: list[str] = []
    with pytest.raises(HTTPResponse):
        StoredFiles(store, said.append).open_reader(digest)
    assert "11 bytes" in said[0]
    largest = store.write_bytes(b"1234567890", ".txt")
    assert StoredFiles(store, pytest.fail).open_reader(largest).read() == b"1234567890"


def test_a_store_that_is_away_is_not_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **named: object) -> None:
        raise UnavailableError("s3://b", expected="an answer", found="none", hint="wait")

    monkeypatch.setattr(ArrayStore, "size", away)
    said: list[str] = []
    with pytest.raises(HTTPResponse) as raised:
        StoredFiles(ArrayStore(tmp_path), said.append).open_reader("0" * 64)
    assert raised.value.status_code == 503
    assert "s3://b" in said[0]


def test_nothing_is_written_and_nothing_removed(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    digest = store.write_bytes(picture(), ".png")
    found = StoredFiles(store, pytest.fail)
    with pytest.raises(HTTPError) as raised:
        found.write("x", io.BytesIO(b"x"))
    assert raised.value.status_code == 403
    found.remove(digest)
    assert store.exists(digest, suffix=".png")
