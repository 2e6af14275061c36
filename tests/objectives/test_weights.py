from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError
from skiptune.objectives.weights import cached, fill, read_tensors, verified

URL = "https://example.org/weights/some-file.pth"


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"numbers")
    digest = file_digest(path)
    assert verified(path, expected=digest, name="n") == verified(path, expected=None, name="n")
    with pytest.raises(ObjectiveError, match=digest):
        verified(path, expected="0" * 64, name="n")
    with pytest.raises(ObjectiveError, match="no such file"):
        verified(tmp_path / "other", expected=None, name="n")
    with pytest.raises(ObjectiveError, match="a folder"):
        verified(tmp_path, expected=None, name="n")


def test_a_published_file_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, path: str, *, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(path).write_bytes(b"numbers")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    path = cached(URL, sha256="abc", name="n")
    assert path == tmp_path / "checkpoints" / "some-file.pth"
    assert cached(URL, sha256="abc", name="n") == path
    assert asked == [(URL, "abc")]


@pytest.mark.parametrize("error", [URLError("no host"), OSError("full"), RuntimeError("hash")])
def test_a_failed_download_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ObjectiveError, match=URL) as caught:
        cached(URL, sha256="abc", name="n")
    assert str(tmp_path / "checkpoints" / "some-file.pth") in caught.value.hint


@pytest.mark.parametrize(
    "content", [nn.Linear(2, 2), [torch.zeros(2)], {"a": 1}, {1: torch.zeros(2)}, torch.zeros(2)]
)
def test_only_tensors_by_name_are_read(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ObjectiveError, match="something else"):
        read_tensors(path, name="n")


def test_networks_are_filled_in_float32_or_refused(tmp_path: Path) -> None:
    source = nn.Linear(2, 3)
    path = tmp_path / "weights.pth"
    torch.save(source.half().state_dict(), path)
    with torch.device("meta"):
        network, other = nn.Linear(2, 3), nn.Linear(3, 3)
    fill(network, path, name="n")
    assert torch.equal(network.weight, source.weight.float())
    with pytest.raises(ObjectiveError, match="something else"):
        fill(other, path, name="n")
