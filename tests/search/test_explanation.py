"""What a study has done and found, at every time of its life."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from skiptune.search import worker as workers
from skiptune.search.chunks import Sampled
from skiptune.search.course import whole_study
from skiptune.search.explanation import Explanation, explain
from skiptune.search.line_slice import place_on, predicted
from skiptune.search.overview import confirms
from skiptune.search.study import OpenStudy
from skiptune.search.tune import differentiated, run
from skiptune.storage import ledger
from skiptune.storage.leases import Claim
from tests.search import made_up
from tests.search.conftest import Tiny, crew_member


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.replace(monkeypatch.setattr)


def told(study: OpenStudy, tiny: Tiny) -> Explanation:
    return explain(study.database, "tiny", artifacts=tiny.artifacts)


def worked(study: OpenStudy, images: int) -> None:
    """Let one worker sample so many images and leave."""
    limits = workers.Limits(images=images)
    crew_member(study, "a", course=whole_study(study), limits=limits).run()


def test_a_study_is_told_at_any_time(tiny: Tiny) -> None:
    spec = {
        "search__evaluations": 3,
        "confirm__controls": ["epsilon scale"],
        "objective__constraints": ["fd <= 2 x baseline"],
    }
    study = tiny.open(**spec)
    new = told(study, tiny)
    assert new.steps == () and new.parameters == () and new.points == ()
    assert new.sensitivities.how == "nothing"
    assert new.unserved == "fewer than three schedules are scored"
    assert [rung.entered for rung in new.rungs] == [0, 0]

    worked(study, 500)  # the baseline's
    based = told(study, tiny)
    assert based.overview.baseline is not None and based.steps == ()

    worked(study, 250)
    searching = told(study, tiny)
    assert [step.spent for step in searching.steps] == [750]
    assert searching.parameters and len(searching.points) == 2
    assert searching.overview.confirms == ()

    result = run(study)
    assert result is not None and result.winner is not None
    done = told(study, tiny)
    first, last = done.rungs
    assert (first.entered, first.scored, first.promoted) == (3, 3, last.entered)
    assert done.steps[-1].spent == 500 + 250 * (3 + last.entered)
    best = done.overview.best
    assert best is not None
    assert done.steps[-1].best == best.measured.gain(best.baseline.value)
    assert done.unserved == ""
    assert [one.name for one in done.parameters] == list(study.space.scale_names)
    assert tuple(one.name for one in done.edges) == study.space.edges(done.best_params)
    assert done.space == "per-skip, 4 scales from 0.5 to 2"

    # As the confirm itself says.
    assert [c.label for c in done.evidence[1].controls] == [c.label for c in result.controls]
    assert [c.difference for c in done.evidence[1].controls] == [
        c.difference for c in result.controls
    ]
    (kept,) = done.evidence[1].beside
    assert kept.kind == "constraint" and not kept.violated
    _luck_is_what_the_search_saw_beyond_fresh_seeds(study, done)

    # The same seed proposes the same schedules, whose images are there.
    second = tiny.open(study="second", **spec)
    worked(second, 0)
    reused = explain(second.database, "second", artifacts=tiny.artifacts)
    assert [rung.reused for rung in reused.rungs] == [r.new_images for r in reused.rungs]
    assert [rung.reused for rung in done.rungs] == [0, 0]


def _luck_is_what_the_search_saw_beyond_fresh_seeds(study: OpenStudy, found: Explanation) -> None:
    (confirmed,) = confirms(study.database, "tiny")
    assert confirmed.winner is not None and confirmed.schedule is not None
    proposals = ledger.evaluations(study.database, study.id, kind="proposal")
    winner = next(e for e in proposals if e.schedule == confirmed.schedule.digest)
    seen = ledger.scores(study.database, study.id, evaluation_id=winner.id)[-1]
    luck, error = found.evidence[1].luck, found.evidence[1].luck_error
    assert confirmed.winner.difference is not None and seen.difference is not None
    assert confirmed.baseline is not None
    unit = confirmed.baseline.value  # as the result counts it
    assert luck == pytest.approx((confirmed.winner.difference - seen.difference) / unit)
    errors = seen.difference_error or 0.0, confirmed.winner.difference_error or 0.0
    assert error == pytest.approx(math.hypot(*errors) / unit)


def test_what_violates_a_constraint_is_never_the_best(tiny: Tiny) -> None:
    study = tiny.open(
        search__rungs=[250], search__evaluations=3, objective__constraints=["nfe <= 1"]
    )
    assert run(study) is not None
    found = told(study, tiny)
    assert found.overview.best is None and found.overview.states == {"scored": 3}
    assert [(step.leads, step.best_label) for step in found.steps] == [(False, "baseline")] * 3


def test_why_the_model_cannot_serve_a_study_whose_setting_is_searched(tiny: Tiny) -> None:
    study = tiny.open(
        search__rungs=[250], search__evaluations=3,
        space__setting={"epsilon_scale": [0.98, 1.04]},
    )  # fmt: skip
    worked(study, 4 * 250)
    assert told(study, tiny).unserved == (
        "the model is one of scales, and the setting's numbers are searched"
    )


def test_places_on_the_line_are_feet_of_perpendiculars() -> None:
    rng = np.random.default_rng(2)
    best = rng.normal(size=5)
    for logs in rng.normal(size=(20, 5)):
        place, away = place_on(best, logs)
        foot = place * best
        assert (logs - foot) @ best == pytest.approx(0, abs=1e-12)
        assert away == pytest.approx(np.linalg.norm(logs - foot) / np.linalg.norm(best))
    assert place_on(best, best) == pytest.approx((1.0, 0.0))


def test_the_model_passes_through_the_best_and_near_what_was_measured(tiny: Tiny) -> None:
    study = tiny.open(search__evaluations=6, search__rungs=[500])
    worked(study, 7 * 500)
    found = told(study, tiny)
    prediction = predicted(study, found.best_params)
    assert prediction is not None and prediction.schedules >= 4
    best = max(found.points, key=lambda point: point.gain)
    at = {round(place, 6): index for index, place in enumerate(prediction.places)}
    middle = prediction.gains[at[1.0]]
    # Made-up features move with the mean logarithm alone: a parabola that the model finds.
    assert middle == pytest.approx(best.gain, abs=0.02)
    assert prediction.errors[at[1.0]] < prediction.errors[0]
    assert prediction.gains[at[0.0]] == pytest.approx(0.0, abs=0.1)
    with_it = found.with_prediction(prediction)
    assert with_it.to_json()["prediction"]["schedules"] == prediction.schedules
    assert with_it.is_inside(1.0) and with_it.is_inside(0.0) and not with_it.is_inside(50.0)


def test_slopes_that_were_taken_are_told_by_skip(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sloped(study: OpenStudy, claim: Claim, **named: Any) -> Sampled:
        size = 4 * 3  # skips and levels
        made = np.random.default_rng(claim.first_seed).normal(size=(50, size)) + np.arange(size)
        arrays = {
            "slopes": made.astype(np.float32),
            "finite": np.ones(50, np.float32),
            "levels": np.array([[80.0, 3.0, 0.1]], np.float32),
        }
        return Sampled(arrays, made_up.NFE)

    monkeypatch.setattr(workers, "sloped_chunk", sloped)
    study = tiny.open(search__rungs=[500], search__evaluations=1)
    found = differentiated(study, "baseline")
    assert found is not None
    known = told(study, tiny).sensitivities
    assert known.how == "slopes" and "baseline" in known.of
    assert [row.name for row in known.rows] == [skip.address for skip in study.checkpoint.skips]
    values, errors = found[1].skips
    baseline = ledger.baseline_score(study.database, study.id)
    assert baseline is not None
    times = math.log(1.1) / baseline[1].value
    assert [row.change for row in known.rows] == pytest.approx((values * times).tolist())
    assert [row.error for row in known.rows] == pytest.approx((errors * times).tolist())

    elsewhere = explain(study.database, "tiny", artifacts=tiny.folder / "none").sensitivities
    assert elsewhere.how == "nothing" and "slopes of baseline are not here" in elsewhere.of


def test_slopes_are_told_by_noise_interval_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three intervals of one level each: their slopes are those of the levels."""
    rng = np.random.default_rng(0)
    made = (rng.normal(size=(50, 4 * 3)) + np.arange(12)).astype(np.float32)
    study = tiny.open(search__rungs=[500], search__evaluations=1, space__intervals=3)

    def sloped(*_: Any, **named: Any) -> Sampled:
        levels = np.array([study.space.sigmas], np.float32)
        arrays = {"slopes": made, "finite": np.ones(50, np.float32), "levels": levels}
        return Sampled(arrays, made_up.NFE)

    monkeypatch.setattr(workers, "sloped_chunk", sloped)
    assert differentiated(study, "baseline") is not None
    changes = {row.name: row.change for row in told(study, tiny).sensitivities.rows}
    baseline = ledger.baseline_score(study.database, study.id)
    assert baseline is not None
    by_hand = made.astype(float).mean(axis=0).reshape(4, 3) * math.log(1.1) / baseline[1].value
    for skip in study.checkpoint.skips:
        rows = [changes[f"{skip.address}@{place}"] for place in range(3)]
        assert rows == pytest.approx(by_hand[skip.index].tolist())
        assert changes[skip.address] == pytest.approx(by_hand[skip.index].sum())
    # Each parameter of the page finds its own row.
    assert {name.removeprefix("skip/") for name in study.space.scale_names} < set(changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search__sampler": "auto", "search__evaluations": 2}, "descent (auto)"),
        ({"search__sampler": "auto", "search__rungs": [250]}, "moments (auto)"),
        ({"search__sampler": "random"}, "random"),
    ],
    ids=str,
)
def test_who_proposes_is_told_also_where_it_was_left_to_us(
    tiny: Tiny, changes: dict[str, Any], words: str
) -> None:
    study = tiny.open(**changes)
    found = told(study, tiny)
    assert found.sampler == found.overview.sampler == words


def test_gains_of_a_screen_are_left_out(tiny: Tiny) -> None:
    study = tiny.open(objective__projection=8, search__evaluations=2)
    worked(study, 500 + 250)
    screened = told(study, tiny)
    assert [rung.scored for rung in screened.rungs] == [1, 0]
    assert screened.steps == ()
    worked(study, 250)  # it went on
    found = told(study, tiny)
    assert [rung.scored for rung in found.rungs] == [1, 1]
    # The screen's images count all the same.
    assert [(step.images, step.spent) for step in found.steps] == [(500, 1000)]
