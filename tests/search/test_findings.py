"""Everything that a report tells: what other readers of the rows tell, and no place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skiptune.errors import StorageError
from skiptune.search.explanation import explain
from skiptune.search.findings import find, without_places
from skiptune.search.overview import leaders
from skiptune.search.stored_result import stored_result
from skiptune.search.study import OpenStudy
from skiptune.search.tune import run
from skiptune.storage import ledger
from tests.search import made_up
from tests.search.conftest import Tiny
from tests.search.test_explanation import worked


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.replace(monkeypatch.setattr)


def test_it_is_what_others_tell(tiny: Tiny) -> None:
    study = tiny.open(search__evaluations=3, confirm__controls=["epsilon scale"])
    with pytest.raises(StorageError, match="skiptune worker tiny --until-done"):
        find(study.database, "tiny")
    worked(study, 500)  # the baseline's
    with pytest.raises(StorageError, match="no schedule"):
        find(study.database, "tiny")
    worked(study, 250)
    begun = find(study.database, "tiny", artifacts=tiny.artifacts)
    assert begun.result is None and len(begun.leaders) == 1

    run(study)
    found = find(study.database, "tiny", artifacts=tiny.artifacts)
    assert found.result == stored_result(study.database, "tiny") is not None
    assert found.explanation == explain(study.database, "tiny", artifacts=tiny.artifacts)
    assert found.leaders == leaders(study.database, "tiny", 5)
    assert found.skips == tuple(skip.address for skip in study.checkpoint.skips)
    _costs_add_up(study, found)
    _origin_is_whole(study, tiny, found)


def test_where_the_workers_run_is_nobodys_business(tiny: Tiny) -> None:
    variables = {"env_vars": {"HF_TOKEN": "hf_secret"}}
    launch = {
        "ray": {"address": "head.example:6379", "runtime_env": variables},
        "slurm": {"account": "physics"},
    }
    study = tiny.open(search__evaluations=1, launch=launch)
    worked(study, 750)
    assert "hf_secret" in json.dumps(study.row.spec)
    told = repr(find(study.database, "tiny"))
    assert not any(word in told for word in ("hf_secret", "head.example", "physics", "launch"))


def _costs_add_up(study: OpenStudy, found: Any) -> None:
    whole = ledger.spending(study.database, study.id)
    for field in ("images", "network_images", "doubled_images", "reused_images"):
        assert sum(getattr(c.spending, field) for c in found.costs) == getattr(whole, field)
    assert [cost.name for cost in found.costs] == [
        "search", "confirm 1, block A (chooses)", "confirm 1, block B (tests)",
    ]  # fmt: skip
    assert sum(device.images for device in found.origin.devices) == whole.images


def _origin_is_whole(study: OpenStudy, tiny: Tiny, found: Any) -> None:
    origin = found.origin
    hashes = {what: (name, digest) for what, name, digest in origin.hashes}
    assert hashes["network"] == ("tiny.safetensors", study.checkpoint.sha256)
    assert study.reference is not None
    assert hashes["reference"] == ("reference.npz", study.reference.digest)
    assert hashes["extractor"] == ("pooled-pixels", study.extractor.sha256)
    seeds = {block.name: (block.first, block.count) for block in origin.seeds}
    assert seeds == {
        "search": (1_000_000, 500),
        "confirm 1, block A": (2_100_000, 250),
        "confirm 1, block B": (2_150_000, 250),
    }
    assert {"skiptune", "torch", "numpy"} <= origin.versions.keys()
    assert str(tiny.folder) not in json.dumps(origin.spec)
    assert str(tiny.folder) not in repr(origin)


def test_comparable_studies_at_other_evaluations_make_a_frontier(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open(search__evaluations=3)
    worked(study, 750)
    tiny.open(study="empty", setting__steps=4)  # nothing is scored there
    worked(tiny.open(study="equal", search__evaluations=1, setting__exponent=5), 750)
    assert find(study.database, "tiny").frontier == ()  # one number of evaluations only
    monkeypatch.setattr(made_up, "NFE", 7.0)
    for name, changes in (("more", {}), ("class", {"setting__labels": 1})):
        worked(tiny.open(study=name, search__evaluations=1, setting__steps=5, **changes), 750)
    points = find(study.database, "tiny").frontier
    assert [(p.study, p.baseline.nfe, p.confirmed) for p in points] == [
        ("tiny", 5.0, False),
        ("more", 7.0, False),
        ("equal", 5.0, False),
    ]
    assert all(point.tuned is not None for point in points)

    # Fresh seeds count more than the search's own.
    monkeypatch.setattr(made_up, "NFE", 5.0)
    result = run(study)
    assert result is not None and result.tested
    first = find(study.database, "tiny").frontier[0]
    assert (first.study, first.confirmed) == ("tiny", True)
    assert (first.baseline, first.tuned) == (result.baseline, result.winner)


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("/data/me/net.safetensors", "net.safetensors"),
        ("~/net.pkl", "net.pkl"),
        ("../net.pkl", "net.pkl"),
        (r"C:\Users\me\net.pkl", "net.pkl"),
        (r"\\host\share\net.pkl", "net.pkl"),
        ("file:///data/me/net.pkl", "net.pkl"),
        ("https://me:word@host.example/net.pkl?token=1#x", "https://host.example/net.pkl"),
        ("s3://bucket/prefix/net.npz", "s3://bucket/prefix/net.npz"),
        ("fashion", "fashion"),
        ("fashion-cnn+random-patches:4", "fashion-cnn+random-patches:4"),
        ("recall >= 0.95 x baseline", "recall >= 0.95 x baseline"),
        (0.7, 0.7),
        (None, None),
    ],
)
def test_places_are_left_out(value: Any, left: Any) -> None:
    assert without_places(value) == left
    assert without_places({"a": [value, {"b": value}]}) == {"a": [left, {"b": left}]}
