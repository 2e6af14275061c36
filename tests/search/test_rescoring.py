"""A finished study, scored by other metrics and another reference without sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skiptune.errors import ObjectiveError, StorageError
from skiptune.objectives import kid, paired
from skiptune.objectives.reference import Reference, reference_of
from skiptune.search import chunks
from skiptune.search.rescoring import rescored
from skiptune.search.scoring import Stored
from skiptune.search.study import OpenStudy
from skiptune.search.tune import run
from skiptune.storage import ledger
from tests.search.conftest import Tiny


@pytest.fixture
def finished(tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch) -> OpenStudy:
    """A finished study that cannot sample any more."""
    study = tiny.open(search__rungs=[500], search__evaluations=4, confirm__images=500)
    run(study)

    def sampled(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("an image was sampled")

    monkeypatch.setattr(chunks, "sampled", sampled)
    return study


@pytest.fixture
def other(finished: OpenStudy) -> Reference:
    """Statistics of other real images, with their features."""
    rows = np.random.default_rng(9).standard_normal((900, finished.extractor.dim)) - 0.2
    return reference_of(
        rows.astype(np.float32), extractor=finished.extractor, name="other", keep=900
    )


def test_another_reference_and_metric(finished: OpenStudy, other: Reference) -> None:
    rows = rescored(finished, ["fd", "kid"], reference=other, top=2)
    search = [row for row in rows if row.block == "search"]
    assert [row.metric for row in search] == [
        "FD(pooled-pixels)-500-corrected",
        "KID(pooled-pixels)-500",
    ] * 3
    here = ledger.evaluations(finished.database, finished.id, block="search")
    evaluations = {e.label: e for e in here}
    base = Stored(finished, evaluations["baseline"], 500).sample.whole("features")
    real = other.require_features()
    for row in search:
        features = Stored(finished, evaluations[row.label], 500).sample.whole("features")
        if row.metric.startswith("FD"):
            value: Any = paired.corrected(features, other)
            change = paired.paired_difference(features, base, other)
        else:
            value, change = kid.kid(features, real), kid.kid_difference(features, base, real)
        assert row.value == pytest.approx(value.value)
        if row.label == "baseline":
            assert row.difference is None
        else:
            assert row.difference == pytest.approx(change.value)
            assert row.difference_error == pytest.approx(change.standard_error)
    confirmed = {row.label for row in rows if row.block == "confirm-1/B"}
    assert confirmed == {"baseline", "tuned"}


def test_the_study_s_own_reference_gives_its_own_scores(finished: OpenStudy) -> None:
    stored = {
        e.label: score
        for e in ledger.evaluations(finished.database, finished.id, block="search")
        for score in ledger.scores(finished.database, finished.id, evaluation_id=e.id)
    }
    for row in rescored(finished, ["fd"], top=4):
        if row.block == "search":
            assert (row.value, row.difference) == (
                stored[row.label].value,
                stored[row.label].difference,
            )


@pytest.mark.parametrize("key", ["feature_loss", "teacher_loss"])
def test_what_was_not_stored_cannot_be_scored(finished: OpenStudy, key: str) -> None:
    with pytest.raises(ObjectiveError, match="beside"):
        rescored(finished, [key])


def test_nothing_scored_yet(tiny: Tiny) -> None:
    with pytest.raises(StorageError, match="skiptune tune tiny"):
        rescored(tiny.open(), ["fd"])
