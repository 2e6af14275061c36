"""What the sampler of moments is told of a study, from its rows and stored features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skiptune.errors import SpecError
from skiptune.objectives.catalogue import FEATURES
from skiptune.objectives.projection import Projection
from skiptune.search import stored_moments
from skiptune.search.projection import Board
from skiptune.search.samplers import sampler_for
from skiptune.search.scoring import Stored
from skiptune.search.stored_moments import StoredMoments
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.surrogate import best, startup
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation
from tests.search.conftest import Tiny, crew_member


def proposals(study: OpenStudy) -> list[Evaluation]:
    return list(ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH))


def rows_of(study: OpenStudy, evaluation: Evaluation, images: int) -> np.ndarray[Any, Any]:
    return Stored(study, evaluation, images).sample.whole(FEATURES).astype(np.float64)


def worked(tiny: Tiny, trials: int, **changes: Any) -> OpenStudy:
    """The study after so many scores of proposals, some of them at the second rung."""
    study = tiny.open(search__sampler="moments", search__evaluations=20, **changes)
    assert crew_member(study, "a", limits=Limits(trials=trials)).run() == "limit reached"
    return study


@pytest.mark.usefixtures("quick")
def test_moments_are_those_of_the_images_on_the_footing_of_the_baseline(tiny: Tiny) -> None:
    study = worked(tiny, 11, search__promote=0.34)
    source = StoredMoments(study)
    assert source.reference is study.reference
    known = source.known()
    baseline = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)[0]
    assert [one.number for one in known] == list(range(len(known)))
    scores = ledger.scores(study.database, study.id)
    sizes = set()
    for one, evaluation in zip(known, [baseline, *proposals(study)], strict=False):
        score = [s for s in scores if s.evaluation_id == evaluation.id][-1]
        seen = one.seen()
        assert seen is not None
        assert seen.value == one.value == known[0].value + (score.difference or 0)
        assert np.array_equal(seen.logs, one.logs)
        params = {
            k: float(np.exp(v)) for k, v in zip(study.space.scale_names, one.logs, strict=True)
        }
        assert params == pytest.approx(evaluation.params or study.space.baseline_params())
        sizes.add(score.images)
        ours, base = (rows_of(study, e, score.images) for e in (evaluation, baseline))
        whole = rows_of(study, baseline, 500)
        mean = whole.mean(axis=0) + ours.mean(axis=0) - base.mean(axis=0)
        covariance = np.cov(whole.T) + np.cov(ours.T) - np.cov(base.T)
        np.testing.assert_allclose(seen.mean, mean, atol=1e-12)
        np.testing.assert_allclose(seen.covariance, covariance, atol=1e-12)
    assert sizes == {250, 500}  # some were promoted
    # Past the design it has moved to where the made-up images are better.
    assert best(known).number > startup(len(study.space.scale_names))
    found = source.left_out()
    assert found is not None
    assert len(found.values) == len(known) - 1
    # Features move by the mean logarithm alone, which few schedules show of many skips.
    assert found.error < 0.6 * found.values.std()
    # What is lost is left out, and sampled again.
    evaluation = proposals(study)[3]
    chunk = ledger.chunks_of(study.database, evaluation.id)[0]
    next(tiny.artifacts.rglob(f"*{str(chunk.array).split('/')[-1]}*")).unlink()
    again = StoredMoments(study).known()
    assert [one.number for one in again if one.seen() is None] == [4]
    assert ledger.chunks_of(study.database, evaluation.id)[0].state == "open"


@pytest.mark.usefixtures("quick")
def test_of_many_features_moments_are_taken_in_few_directions(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_moments, "WHOLE", 5)
    monkeypatch.setattr(stored_moments, "DIRECTIONS", 3)
    source = StoredMoments(tiny.open())
    assert source.known() == []
    assert source.left_out() is None
    study = worked(tiny, 2)
    source = StoredMoments(study)
    known = source.known()
    assert source.reference.dim == 3
    baseline = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)[0]
    assert study.reference is not None
    onto = Projection.of_features(rows_of(study, baseline, 250), study.reference, 3)
    assert source.reference.preprocess == onto.reference(study.reference).preprocess
    seen = known[0].seen()
    assert seen is not None
    rows = onto.project(rows_of(study, baseline, 500))
    np.testing.assert_allclose(seen.mean, rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(seen.covariance, np.cov(rows.T), atol=1e-12)
    assert source.left_out() is not None


@pytest.mark.usefixtures("quick")
def test_a_new_worker_proposes_what_the_old_one_would_have(tiny: Tiny) -> None:
    study = worked(tiny, 6, space__kind="linear")
    asked = []
    for one in (study, tiny.open(space__kind="linear", search__sampler="moments")):
        board = Board(one.database, one.row)
        board.refresh()
        asked.append(board.ask(sampler_for(one, number=7), stateless=True).params)
    assert asked[0] == asked[1]
    assert list(asked[0]) == ["bottom", "top"]
    # Larger is better in all, and the model has seen it.
    assert asked[0]["bottom"] * asked[0]["top"] > 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"objective__metric": "kid"}, "fd as the one metric"),
        ({"objective__metric": ["fd", "kid"]}, "fd as the one metric"),
        ({"objective__constraints": ["kid <= 1"]}, "without constraints"),
        ({"space__window": "search"}, "space.window is search"),
    ],
)
def test_what_it_cannot_model_is_refused(tiny: Tiny, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError) as caught:
        tiny.spec(search__sampler="moments", **changes)
    (problem,) = caught.value.problems
    assert problem.where.endswith("search.sampler")
    assert problem.expected.startswith("another sampler, e.g. tpe (moments models")
    assert why in problem.expected
    assert problem.found == '"moments"'
