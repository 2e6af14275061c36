"""What a person reads at a trial, and the picture that belongs to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from optuna.trial import TrialState

from skiptune.search.projection import SCHEDULE
from skiptune.search.study import OpenStudy
from skiptune.search.told import Scores, attached, attributes_of
from skiptune.search.upkeep import project
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.records import FIRST_CONSTRAINT, Evaluation, Score
from tests.search import made_up
from tests.search.conftest import Tiny, crew_member
from tests.search.pictured import NAME, end_proposals, finished, quick, theirs

__all__ = ["quick"]

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def evaluation(kind: Any = "proposal", state: Any = "complete") -> Evaluation:
    return Evaluation(
        id="e", study_id="s", number=1, kind=kind, label="", block="search", series="",
        measure="", schedule="", schedule_json={}, first_seed=1_000_000, params={}, state=state,
        reason=None, created=BEGAN, finished=None,
    )  # fmt: skip


def score(
    difference: float | None, *, place: int = 0, level: int = 0, value: float = 9.0
) -> Score:
    return Score(
        id="s", evaluation_id="e", level=level, place=place, metric=f"metric {place}",
        reference="r", images=500, value=value, standard_error=0.5, raw=None,
        difference=difference, difference_error=None if difference is None else 0.2,
        baseline_images=None, created=BEGAN,
    )  # fmt: skip


FULL = Scores([score(None, value=10.0)])


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (-1.0, "better in the search, not confirmed"),
        (-0.39, "not told apart from the baseline"),
        (0.39, "not told apart from the baseline"),
        (0.4, "worse"),
        (None, "no paired difference"),
    ],
)
def test_a_verdict_in_words(difference: float | None, words: str) -> None:
    found = attributes_of(evaluation(), Scores([score(difference)]), FULL, nfe=5.5)
    assert found["verdict"] == words
    assert found["NFE"] == 5.5
    if difference is None:
        assert "gain %" not in found
    else:
        assert found["gain %"] == pytest.approx(-10 * difference)


def test_only_fresh_seeds_make_a_win() -> None:
    found = attributes_of(evaluation("confirm"), Scores([score(-1.0)]), FULL)
    assert found["verdict"] == "win on fresh seeds"


def test_a_violated_constraint_is_named() -> None:
    # By 1.96 standard errors of 0.5 a gap may miss its limit.
    kept, missed = (
        score(None, place=FIRST_CONSTRAINT, value=0.97),
        score(None, place=FIRST_CONSTRAINT + 1, value=0.99),
    )
    found = attributes_of(evaluation(), Scores([score(-1.0), kept, missed]), FULL)
    assert found["feasible"] == "no"
    assert found["violated"] == [missed.metric]
    assert found["verdict"] == "infeasible"
    found = attributes_of(evaluation(), Scores([score(-1.0), kept]), FULL)
    assert found["feasible"] == "yes"
    assert "violated" not in found


def test_a_screen_s_gain_is_in_no_unit_of_the_baseline() -> None:
    low, high = Scores([score(-1.0)]), Scores([score(-1.0, level=1)])
    assert "gain %" not in attributes_of(evaluation(), low, FULL, screened=True)
    assert attributes_of(evaluation(), high, FULL, screened=True)["gain %"] == 10.0
    near_zero = Scores([score(None, value=-0.1)])
    assert "gain %" not in attributes_of(evaluation(), high, near_zero)


def test_a_picture_is_an_artifact_of_optuna_s() -> None:
    ((key, text),) = attached("a" * 64).items()
    assert key == f"artifacts:{'a' * 64}"
    assert json.loads(text) == {
        "artifact_id": "a" * 64, "filename": "images.png", "mimetype": "image/png",
        "encoding": None,
    }  # fmt: skip
    assert attached(None) == {}


def test_trials_speak_for_themselves(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    full = ledger.baseline_score(study.database, study.id)
    assert full is not None
    scores = {(s.evaluation_id, s.level): s for s in ledger.scores(study.database, study.id)}
    proposals = {
        e.schedule: e for e in ledger.evaluations(study.database, study.id, kind="proposal")
    }
    for level, name in enumerate((NAME, f"{NAME}/500")):
        trials = theirs(study, name).trials
        assert theirs(study, name).metric_names == ["FD(pooled-pixels)"]
        for trial in trials:
            attributes = trial.user_attrs
            assert attributes["NFE"] == made_up.NFE
            assert attributes["feasible"] == "yes"
            if attributes["kind"] == "baseline":
                assert attributes["verdict"] == "baseline"
                continue
            score = scores[proposals[attributes[SCHEDULE]].id, level]
            assert attributes["rung"] == level + 1
            assert attributes["images"] == score.images
            assert score.difference is not None and score.difference_error is not None
            assert attributes["gain %"] == -100 * score.difference / full[1].value
            clear = abs(score.difference) > 1.96 * score.difference_error
            words = "better in the search, not confirmed" if score.difference < 0 else "worse"
            assert attributes["verdict"] == (
                words if clear else "not told apart from the baseline"
            )


def test_a_diverged_and_a_failed_trial_say_why(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(trials=1)).run()
    end_proposals(study, "diverged", "failed")
    project(study.database, NAME)
    trials = {t.user_attrs.get("reason"): t for t in theirs(study).trials}
    diverged, failed = trials["it diverged"], trials["it failed"]
    assert diverged.state == TrialState.PRUNED
    assert diverged.user_attrs["feasible"] == "no"
    assert diverged.user_attrs["violated"] == ["diverged"]
    assert diverged.user_attrs["verdict"] == "diverged"
    assert failed.user_attrs["verdict"] == "failed"


def picture(trial: Any) -> str:
    (digest,) = [
        json.loads(value)["artifact_id"]
        for key, value in trial.system_attrs.items()
        if key.startswith("artifacts:")
    ]
    return str(digest)


def test_studies_that_share_images_share_their_pictures(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    other = finished(tiny, study="other", search__evaluations=3)

    def by_schedule(one: OpenStudy) -> dict[str, str]:
        trials = theirs(one, one.row.name).trials
        return {t.user_attrs[SCHEDULE]: picture(t) for t in trials}

    ours, others = by_schedule(study), by_schedule(other)
    assert len(others) == 4
    assert len(set(others.values())) == 4
    shared = ours.keys() & others.keys()
    assert shared  # the baseline at least, for which the second one samples nothing
    assert {ours[key] for key in shared} == {others[key] for key in shared}


def test_what_is_told_anew_has_its_pictures_again(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    before = {t.user_attrs[SCHEDULE]: picture(t) for t in theirs(study).trials}
    project(study.database, NAME, rebuild=True)
    assert {t.user_attrs[SCHEDULE]: picture(t) for t in theirs(study).trials} == before
