"""Which files a study lacks, what they must hash to, and who says that they are missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from skiptune.errors import NetworkError, ObjectiveError, OutputError
from skiptune.objectives.names import DINOV2_SHA256, INCEPTION_SHA256
from skiptune.search.fetching import (
    Missing,
    fetch,
    missing_error,
    missing_files,
    refuse_missing,
)
from skiptune.search.spec import StudySpec, load_spec

DIGEST = "ab" * 32


def spec(folder: Path, *, network: dict[str, Any] | None = None, **objective: Any) -> StudySpec:
    plain = {"extractor": "inception", "weights": str(folder / "w.pth")}
    plain |= {"reference": str(folder / "r.npz")} | objective
    named = {"checkpoint": str(folder / "net.safetensors")} | (network or {})
    return StudySpec.from_json({"study": "s", "network": named, "objective": plain})


def by_key(study: StudySpec) -> dict[str, Missing]:
    return {one.key: one for one in missing_files(study)}


def no_conversion(network: Path, checkpoint: Path) -> Path:
    raise AssertionError("nothing is converted")


def test_bundled_files_and_files_that_are_there_are_not_missing(tmp_path: Path) -> None:
    assert missing_files(load_spec("fashion")) == ()
    for name in ("net.safetensors", "w.pth"):
        (tmp_path / name).touch()
    # A link that leads nowhere is something else than a missing file: its reader says so.
    (tmp_path / "r.npz").symlink_to(tmp_path / "nowhere")
    assert missing_files(spec(tmp_path)) == ()


def test_each_file_has_its_address_and_its_hash(tmp_path: Path) -> None:
    urls = {"weights_url": "https://a.org/w", "reference_url": "https://a.org/r"}
    vae = tmp_path / "vae.safetensors"
    decoder = {"vae": str(vae), "url": "https://a.org/vae", "sha256": DIGEST}
    network = {"url": "https://a.org/net", "sha256": DIGEST, "decoder": decoder}
    found = by_key(spec(tmp_path, network=network, **urls))
    assert {key: (one.url, one.sha256) for key, one in found.items()} == {
        "network.checkpoint": ("https://a.org/net", DIGEST),
        "network.decoder.vae": ("https://a.org/vae", DIGEST),
        "network.decoder.config": (None, None),
        "objective.weights": ("https://a.org/w", INCEPTION_SHA256),
        "objective.reference": ("https://a.org/r", None),
    }
    assert not any(one.is_pickle for one in found.values())


@pytest.mark.parametrize(
    ("objective", "sha256"),
    [
        ({"extractor": "inception-768"}, INCEPTION_SHA256),
        ({"extractor": "dinov2"}, DINOV2_SHA256),
        ({"extractor": "dinov2", "weights_sha256": DIGEST}, DIGEST),
        ({"extractor": "efficientnet-lite0"}, None),
    ],
)
def test_published_weights_are_known_by_their_hash(
    tmp_path: Path, objective: dict[str, Any], sha256: str | None
) -> None:
    assert by_key(spec(tmp_path, **objective))["objective.weights"].sha256 == sha256


def test_an_address_of_the_checkpoint_itself_goes_before_that_of_a_pickle(tmp_path: Path) -> None:
    pickle = {"pickle_url": "https://a.org/net.pkl"}
    (one, *_) = missing_files(spec(tmp_path, network=pickle))
    assert (one.url, one.is_pickle) == (pickle["pickle_url"], True)
    (one, *_) = missing_files(spec(tmp_path, network={**pickle, "url": "https://a.org/net"}))
    assert (one.url, one.is_pickle) == ("https://a.org/net", False)


def test_files_without_an_address_are_left_to_their_readers(tmp_path: Path) -> None:
    refuse_missing(spec(tmp_path), source="s.yaml")
    with pytest.raises(NetworkError) as caught:
        refuse_missing(spec(tmp_path, reference_url="https://a.org/r?key=1"), source="s.yaml")
    where = [problem.where for problem in caught.value.problems]
    assert where == [
        "s.yaml: network.checkpoint",
        "s.yaml: objective.weights",
        "s.yaml: objective.reference",
    ]
    assert caught.value.problems[2].found == "no such file; it comes from https://a.org/r"
    assert caught.value.problems[0].found == "no such file, and no address (`network.url`)"
    assert caught.value.hint == (
        "fetch what is missing: `skiptune fetch s.yaml`; for the others give the path of a file "
        "that is there, or its address (`network.url`, `objective.weights_url`)"
    )


def test_no_command_fetches_what_has_no_address(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").touch()
    error = missing_error(missing_files(spec(tmp_path)), source="s.yaml", command="c")
    assert isinstance(error, ObjectiveError)
    assert error.hint.startswith("give the path of a file that is there, or its address")


def test_a_file_is_linked_or_copied_to_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "share").write_bytes(b"statistics")
    digest = hashlib.sha256(b"statistics").hexdigest()
    url = (tmp_path / "share").as_uri()
    one = Missing("objective.reference", tmp_path / "new" / "r.npz", url, None)
    got = fetch(one, convert=no_conversion)
    assert (got.path, got.sha256, got.checked) == (one.path, digest, False)
    assert one.path.read_bytes() == b"statistics" and one.path.stat().st_nlink > 1
    one.path.unlink()

    def no_links(*paths: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", no_links)
    fetch(one, convert=no_conversion)
    assert one.path.read_bytes() == b"statistics"
    assert [path.name for path in one.path.parent.iterdir()] == ["r.npz"]


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "share").write_bytes(b"statistics")
    one = Missing(
        "objective.reference", tmp_path / "share" / "r.npz", (tmp_path / "share").as_uri(), None
    )
    with pytest.raises(OutputError, match=r"the file lies in .*cache"):
        fetch(one, convert=no_conversion)
