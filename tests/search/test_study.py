"""A study is opened from its name alone, on a host that has none of its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from skiptune.errors import (
    NetworkError,
    SkiptuneError,
    SpecError,
    StorageError,
    StudyChangedError,
)
from skiptune.search import artifacts
from skiptune.search.spec import load_spec
from skiptune.search.study import OpenStudy, check_study, open_stored
from skiptune.storage import ledger
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


@pytest.fixture(autouse=True)
def other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with an empty cache, and its folder of checkpoints, which `SKIPTUNE_PATH` names."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv("SKIPTUNE_PATH", str(folder))
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKIPTUNE_ARTIFACTS", raising=False)
    return folder


def files_go(tiny: Tiny, folder: Path) -> None:
    """Move what the spec names to another place."""
    for name in ("tiny.safetensors", "reference.npz"):
        (tiny.folder / name).rename(folder / f"moved-{name}")


def same(study: OpenStudy, first: OpenStudy) -> None:
    assert study.id == first.id
    assert study.series == first.series
    assert study.measure == first.measure
    assert study.checkpoint.sha256 == first.checkpoint.sha256
    assert study.checkpoint.name == first.checkpoint.name
    assert study.reference is not None and first.reference is not None
    assert study.reference.digest == first.reference.digest
    assert study.space.distributions() == first.space.distributions()


def test_small_files_come_from_the_store(
    tiny: Tiny, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.open()
    files_go(tiny, tmp_path)
    study = open_stored("tiny", storage=tiny.url)
    try:
        same(study, first)
        assert Path(study.spec.network.checkpoint).is_relative_to(tmp_path / "cache")
        assert crew_member(study, "other", limits=UNTIL_DONE).run() == "complete"
    finally:
        study.database.close()


def test_large_ones_are_found_by_content_in_the_path(
    tiny: Tiny, other_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SHARED_BYTES", 0)
    first = tiny.open()
    files_go(tiny, tmp_path)
    with pytest.raises(SkiptuneError) as caught:
        open_stored("tiny", storage=tiny.url)
    assert isinstance(caught.value, NetworkError)
    keys = [problem.where.split(":")[0] for problem in caught.value.problems]
    assert keys == ["network.checkpoint", "objective.reference"]
    assert first.checkpoint.sha256[:12] in caught.value.problems[0].where
    assert "SKIPTUNE_PATH" in caught.value.hint
    # The right names with other bytes do not pass, the digests as names do.
    (other_host / "tiny.safetensors").write_bytes(b"something else")
    (tmp_path / "moved-reference.npz").rename(other_host / "reference.npz")
    with pytest.raises(NetworkError) as caught:
        open_stored("tiny", storage=tiny.url)
    assert [p.where.split(":")[0] for p in caught.value.problems] == ["network.checkpoint"]
    checkpoint = f"{first.checkpoint.sha256}.safetensors"
    (tmp_path / "moved-tiny.safetensors").rename(other_host / checkpoint)
    study = open_stored("tiny", storage=tiny.url)
    same(study, first)
    study.database.close()


def test_a_store_without_the_marker_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny.open()
    with pytest.raises(StorageError) as caught:
        open_stored("tiny", storage=tiny.url, artifacts=tmp_path / "empty")
    assert "marker" in str(caught.value)
    assert not (tmp_path / "empty").exists()


def test_what_is_not_there_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny.open()
    with pytest.raises(StorageError, match="did you mean `tiny`"):
        open_stored("tinny", storage=tiny.url)
    with pytest.raises(StorageError):
        open_stored("tiny", storage=f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_files_of_another_meaning_are_refused(tiny: Tiny) -> None:
    """The row's hashes and its meaning must agree: a damaged row is no licence."""
    first = tiny.open()
    spec = dict(first.row.spec)
    spec["setting"] = {**spec["setting"], "steps": 4}
    row = ledger.set_study_spec(
        first.database,
        first.id,
        spec,
        files=first.row.files,
        board=first.row.board,
        budget=first.row.budget,
    )
    assert dataclasses.replace(row, spec=first.row.spec) == first.row
    with pytest.raises(StudyChangedError) as caught:
        open_stored("tiny", storage=tiny.url)
    assert [p.where for p in caught.value.problems] == ["study tiny: setting.steps"]


@pytest.mark.parametrize(
    ("rungs", "enough"), [("[250]", False), ("[500]", True), ("[250, 500]", True)]
)
def test_a_single_rung_is_no_screen_and_needs_images_for_all_features(
    rungs: str, enough: bool
) -> None:
    changes = ["objective.extractor=fashion-cnn", "confirm.second_opinion=null"]
    changes += ["objective.projection=16", f"search.rungs={rungs}"]
    spec = load_spec("fashion", overrides=changes)
    if enough:
        check_study(spec)
        return
    # 8 for each of 64 features, less half a chunk; 16 dimensions would need 3.
    with pytest.raises(SpecError, match="at least 387 images"):
        check_study(spec)
