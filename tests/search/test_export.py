"""tuned.json of a study that has no confirm yet."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from skiptune.errors import StorageError
from skiptune.search.evidence import SeedBlock, Verdict
from skiptune.search.export import best_so_far, tuned_of
from skiptune.search.overview import leaders
from skiptune.search.tuned import json_schema, load
from skiptune.search.worker import Limits
from tests.search.conftest import Tiny, crew_member


def test_before_a_confirm_it_is_the_best_of_the_search_and_claims_nothing(
    tiny: Tiny, quick: None, tmp_path: Path
) -> None:
    study = tiny.open(confirm__controls=False, search__evaluations=3)
    with pytest.raises(StorageError, match="at least one scored schedule"):
        best_so_far(study)
    assert crew_member(study, "one", limits=Limits(images=1500)).run() == "limit reached"
    first = leaders(study.database, "tiny", 1)[0]
    document = tuned_of(study, best_so_far(study))
    assert document.schedule == first.schedule
    assert document.verdict == Verdict(verdict="not confirmed")
    assert (document.verdict.gain, document.verdict.interval) == (None, None)
    assert document.tuned.value == first.measured.value
    assert document.tuned.difference == first.measured.difference
    assert document.baseline.value == first.baseline.value
    assert document.controls == ()
    assert list(document.seeds) == ["search"]
    assert document.seeds["search"].first == 1_000_000
    assert document.seeds["search"] == SeedBlock(first=1_000_000, images=first.baseline.images)
    document.write(tmp_path / "tuned.json")
    assert load(tmp_path / "tuned.json") == document
    jsonschema.validate(document.to_json(), json_schema())
