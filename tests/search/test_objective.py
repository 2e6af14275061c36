"""Studies of several metrics: what is measured, what Optuna is told, what a constraint does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.study import StudyDirection
from optuna.trial import TrialState

from skiptune.errors import NetworkError, ObjectiveError, SpecError
from skiptune.objectives import kid, neighbours
from skiptune.objectives.denoising import denoising_losses
from skiptune.objectives.paired import paired_difference
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.search.overview import leaders, overview
from skiptune.search.plan import confirm_images, search_images
from skiptune.search.scoring import Stored
from skiptune.search.tune import run
from skiptune.storage import ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.records import Evaluation
from tests.search.conftest import Tiny
from tests.search.made_up import SHIFT

Keep = Callable[[Tiny], None]


@pytest.fixture
def real_features(tiny: Tiny, tiny_study: ModuleType) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make the tiny study's reference keep its features, and return them."""
    rng = np.random.default_rng(1)
    features = (rng.standard_normal((1000, tiny_study.FEATURES)) + SHIFT).astype(np.float32)
    reference = reference_of(
        features,
        extractor=tiny_study._factory(weights=None, sha256=None),
        name="made up",
        keep=1000,
    )
    save_reference(tiny.folder / "reference.npz", reference)
    return features


def features_of(study: Any, evaluation: Evaluation, images: int) -> Any:
    return Stored(study, evaluation, images).sample.whole("features")


def proposals(study: Any) -> tuple[Evaluation, ...]:
    return ledger.evaluations(study.database, study.id, kind="proposal")


def every_score(study: Any, evaluation: Evaluation) -> dict[int, ledger.Score]:
    found = ledger.scores(
        study.database, study.id, evaluation_id=evaluation.id, level=0, every_place=True
    )
    return {score.place: score for score in found}


BESIDE = ("kid", "precision", "recall", "density", "coverage", "nfe")
ONE_RUNG: dict[str, Any] = {
    "search__rungs": [1000],
    "search__evaluations": 4,
    "confirm__images": 1000,
}


@pytest.mark.usefixtures("quick")
def test_one_pass_measures_everything(tiny: Tiny, real_features: Any) -> None:
    study = tiny.open(**ONE_RUNG, objective__beside=list(BESIDE))
    run(study)
    base = ledger.evaluations(study.database, study.id, kind="baseline")[0]
    at_base = features_of(study, base, 1000)
    for evaluation in proposals(study):
        found = every_score(study, evaluation)
        assert sorted(found) == [0, *range(1000, 1000 + len(BESIDE))]
        features = features_of(study, evaluation, 1000)
        assert study.reference is not None
        expected = paired_difference(features, at_base, study.reference)
        assert found[0].difference == pytest.approx(expected.value, rel=1e-9)
        assert found[0].difference_error == pytest.approx(expected.standard_error, rel=1e-9)
        assert found[1000].value == pytest.approx(kid.kid(features, real_features).value)
        change = kid.kid_difference(features, at_base, real_features)
        assert found[1000].difference == pytest.approx(change.value)
        assert found[1000].difference_error == pytest.approx(change.standard_error)
        for place, name in enumerate(BESIDE[1:5], start=1001):
            measured, other = (
                neighbours.neighbour_metric(name, rows, real_features)
                for rows in (features, at_base)
            )
            change = neighbours.difference(measured, other)
            assert found[place].value == pytest.approx(measured.value)
            assert found[place].difference == pytest.approx(change.value)
            assert found[place].difference_error == pytest.approx(change.standard_error)
            assert found[place].metric.startswith(name)
        assert (found[1005].value, found[1005].difference) == (5.0, 0.0)
    # One array of features: it was all made from the images once.
    assert study.measure["arrays"] == ["features"]
    trials = optuna.load_study(study_name="tiny", storage=optuna_storage(study.database)).trials
    told = next(t for t in trials if t.user_attrs["kind"] == "proposal")
    assert told.user_attrs["recall(pooled-pixels)-1k"] == [
        pytest.approx(value) for value in told.user_attrs["recall(pooled-pixels)-1k"]
    ]


@pytest.mark.usefixtures("quick", "real_features")
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_several_objectives_are_optuna_s_several_objectives(tiny: Tiny, sampler: str) -> None:
    study = tiny.open(
        search__rungs=[1000, 1250],
        search__evaluations=9,
        search__sampler=sampler,
        search__promote=0.5,
        confirm__images=1000,
        objective__metric=["fd", "maximize recall"],
    )
    run(study)
    theirs = optuna.load_study(study_name="tiny", storage=optuna_storage(study.database))
    assert theirs.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    assert theirs.metric_names == ["FD(pooled-pixels)", "recall(pooled-pixels)"]
    base = ledger.evaluations(study.database, study.id, kind="baseline", block="search")[0]
    full = every_score(study, base)
    complete = [t for t in theirs.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 10
    by_schedule = {t.user_attrs["skiptune:schedule"]: t.values for t in complete}
    for evaluation in proposals(study):
        found = every_score(study, evaluation)
        fd, recall = found[0].difference, found[1].difference
        assert fd is not None and recall is not None
        assert by_schedule[evaluation.schedule] == pytest.approx(
            [full[0].value + fd, full[1].value - recall]
        )
    # Who goes on: those of the first front before those of the second.
    levels = {
        e.id: max(r.level for r in ledger.rungs(study.database, study.id, evaluation_id=e.id))
        for e in proposals(study)
    }
    assert 1 in levels.values()
    shown = leaders(study.database, "tiny", top=1)
    assert shown and all(leader.on_front for leader in shown)
    for one in shown:
        for other in shown:
            better = (
                other.measured.difference < one.measured.difference  # type: ignore[operator]
                and other.others[0].difference < one.others[0].difference  # type: ignore[operator]
            )
            assert not better


@pytest.mark.usefixtures("quick", "real_features")
def test_a_violated_constraint_reaches_optuna_and_keeps_from_going_on(tiny: Tiny) -> None:
    study = tiny.open(
        search__rungs=[1000, 1250],
        search__evaluations=6,
        confirm__images=1000,
        # Scales that lower precision are found often enough, and never all of them.
        objective__constraints=["precision >= 0.97 x baseline", "nfe <= 9"],
    )
    result = run(study)
    assert result is not None
    theirs = optuna.load_study(study_name="tiny", storage=optuna_storage(study.database))
    trials = {t.user_attrs["skiptune:schedule"]: t for t in theirs.trials}
    violated = set()
    base = ledger.evaluations(study.database, study.id, kind="baseline", block="search")[0]
    at_base = features_of(study, base, 1000)
    assert study.reference is not None
    real = study.reference.require_features()
    for evaluation in proposals(study):
        gap = every_score(study, evaluation)[100]
        ours, other = (
            neighbours.neighbour_metric("precision", rows, real)
            for rows in (features_of(study, evaluation, 1000), at_base)
        )
        assert gap.value == pytest.approx(0.97 * other.value - ours.value)
        parts = ours.parts - 0.97 * other.parts
        error = parts.std(ddof=1) / np.sqrt(1000)
        assert gap.standard_error == pytest.approx(error)
        told = trials[evaluation.schedule].constraints
        assert told["precision >= 0.97 x baseline"] == pytest.approx(gap.value - 1.96 * error)
        assert told["nfe <= 9"] == -4.0
        if gap.value > 1.96 * error:
            violated.add(evaluation.id)
    assert 0 < len(violated) < 6
    rungs = ledger.rungs(study.database, study.id)
    assert not {r.evaluation_id for r in rungs if r.level == 1} & violated
    shown = leaders(study.database, "tiny", top=9)
    numbers = {e.number for e in proposals(study) if e.id in violated}
    assert not {leader.number for leader in shown} & numbers
    assert {other.kind for other in shown[0].others} == {"constraint"}


@pytest.mark.usefixtures("quick", "real_features")
def test_a_metric_that_is_better_when_higher_is_maximised(tiny: Tiny) -> None:
    study = tiny.open(**ONE_RUNG, objective__metric="density")
    result = run(study)
    assert result is not None and result.better == "higher"
    theirs = optuna.load_study(study_name="tiny", storage=optuna_storage(study.database))
    assert theirs.direction == StudyDirection.MAXIMIZE
    [best] = leaders(study.database, "tiny", top=1)
    values = [every_score(study, e)[0].value for e in proposals(study)]
    assert best.measured.value == max(values)
    assert best.measured.difference == pytest.approx(best.baseline.value - max(values))


@pytest.mark.usefixtures("quick")
def test_the_first_rung_may_be_a_screen_in_fewer_dimensions(tiny: Tiny) -> None:
    study = tiny.open(search__rungs=[250, 500], search__evaluations=12, objective__projection=4)
    run(study)
    names = {
        (score.level, score.metric)
        for e in proposals(study)
        for score in ledger.scores(study.database, study.id, evaluation_id=e.id)
    }
    assert names == {
        (0, "FD(pooled-pixels,pca-4)-250-corrected"),
        (1, "FD(pooled-pixels)-500-corrected"),
    }
    base = ledger.evaluations(study.database, study.id, kind="baseline", block="search")[0]
    assert every_score(study, base)[0].metric == "FD(pooled-pixels)-500-corrected"
    ranking = overview(study.database, "tiny").ranking
    on = [e for e in proposals(study) if study.images_of(e) == 500]
    assert ranking is not None and ranking.pairs == len(on) < 12


def test_feature_loss_is_what_denoising_the_real_images_gives(
    tiny: Tiny, real_images: Path
) -> None:
    study = tiny.open(
        search__rungs=[250],
        search__evaluations=2,
        confirm__images=250,
        objective__metric="feature_loss",
        objective__beside=["pixel_loss"],
        objective__images=str(real_images),
        objective__reference=None,
    )
    result = run(study)
    assert result is not None
    assert result.baseline.value == 1.0 and result.metric == "feature loss(pooled-pixels)-250"
    assert result.controls == ()  # no image was sampled, so no solver takes part
    assert study.measure["arrays"] == ["pixel_loss", "feature_loss"]
    pixels = np.load(real_images)
    images = torch.from_numpy(pixels["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(pixels["labels"])
    network, seeds = study.checkpoint.network, range(1_000_000, 1_000_250)
    means = {}
    chosen = proposals(study)[0]
    for name, schedule in (
        ("base", Schedule.baseline()),
        ("tuned", Schedule.from_json(chosen.schedule_json)),
    ):
        with torch.inference_mode(), scaled(network, schedule):
            found = denoising_losses(
                network, study.extractor, images, labels, seeds, microbatch=125
            )
        means[name] = {key: losses.double().mean(0) for key, losses in found.items()}
    scores = every_score(study, chosen)
    for place, key in ((0, "feature_loss"), (1000, "pixel_loss")):
        expected = float((means["tuned"][key] / means["base"][key]).mean())
        assert scores[place].value == pytest.approx(expected, rel=1e-6)
        assert scores[place].difference == pytest.approx(expected - 1, rel=1e-4)
    assert scores[0].metric == "feature loss(pooled-pixels)-250"
    assert scores[1000].metric == "pixel loss-250"


def test_teacher_loss_compares_with_many_steps_from_the_same_noise(tiny: Tiny) -> None:
    study = tiny.open(
        search__rungs=[250],
        search__evaluations=2,
        confirm__images=250,
        objective__metric="teacher_loss",
        objective__teacher={"solver": "heun", "steps": 5},
        objective__reference=None,
    )
    result = run(study)
    assert result is not None and result.baseline.value > 0
    network = study.checkpoint.network
    [teacher] = ledger.evaluations(study.database, study.id, kind="teacher", block="search")
    seeds = range(1_000_000, 1_000_250)
    features = {}
    chosen = proposals(study)[0]
    for name, schedule, setting in (
        ("teacher", Schedule.baseline(), study.teacher_setting),
        ("tuned", Schedule.from_json(chosen.schedule_json), study.setting),
    ):
        with scaled(network, schedule):
            batches = list(sample(network, setting, seeds, microbatch=125))
        features[name] = torch.cat([study.extractor(b.images) for b in batches]).double()
    expected = (features["tuned"] - features["teacher"]).square().mean(1)
    score = every_score(study, chosen)[0]
    assert score.value == pytest.approx(float(expected.mean()), rel=1e-6)
    assert score.standard_error == pytest.approx(float(expected.std() / 250**0.5), rel=1e-6)
    # The teacher is its own teacher.
    assert every_score(study, teacher)[0].value == 0.0
    chunk = ledger.chunks_of(study.database, teacher.id)[0]
    assert chunk.nfe == 9.0


def test_the_teacher_has_nothing_of_the_study_s_own_solver(tiny: Tiny) -> None:
    study = tiny.open(
        objective__metric="teacher_loss",
        setting={"solver": "unipc", "steps": 4, "order": 3, "history": "restart"},
    )
    teacher = study.teacher_setting
    assert (teacher.solver, teacher.steps) == ("heun", 50)
    with pytest.raises(SpecError) as raised:
        tiny.spec(objective__teacher={"solver": "dpmpp_2m_sde", "steps": 50})
    assert "dpmpp_2m_sde" not in raised.value.problems[0].expected.split("did you mean")[0]


@pytest.mark.usefixtures("quick")
def test_a_teacher_that_was_not_entered_is_waited_for(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies between baseline and teacher; others have sampled the baseline since."""
    study = tiny.open(
        search__evaluations=2,
        search__rungs=[250],
        confirm__images=250,
        confirm__controls=False,
        objective__metric="teacher_loss",
    )
    real = ledger.add_evaluation
    with monkeypatch.context() as patch:

        def dying(*arguments: Any, **named: Any) -> Evaluation:
            if named["kind"] == "teacher":
                raise KeyboardInterrupt
            return real(*arguments, **named)

        patch.setattr(ledger, "add_evaluation", dying)
        with pytest.raises(KeyboardInterrupt):
            study.baseline(block="search", first_seed=1_000_000, images=250)
    assert ledger.evaluations(study.database, study.id, kind="teacher") == ()
    run(study)
    [teacher] = ledger.evaluations(study.database, study.id, kind="teacher", block="search")
    assert every_score(study, teacher)[0].value == 0.0
    assert all(every_score(study, e)[0].value > 0 for e in proposals(study))


@pytest.mark.usefixtures("quick")
def test_a_teacher_that_was_given_up_ends_the_study_with_its_reason(tiny: Tiny) -> None:
    study = tiny.open(search__rungs=[250], objective__metric="teacher_loss")
    study.baseline(block="search", first_seed=1_000_000, images=250)
    [teacher] = ledger.evaluations(study.database, study.id, kind="teacher")
    ledger.finish_evaluation(study.database, teacher.id, state="failed", reason="three were lost")
    with pytest.raises(NetworkError, match=r"teacher.*three were lost"):
        run(study)


@pytest.mark.parametrize("twice", ["nfe <= 9.0", "nfe<=9"])
def test_a_constraint_that_is_said_twice_is_refused(tiny: Tiny, twice: str) -> None:
    with pytest.raises(SpecError) as raised:
        tiny.spec(objective__constraints=["nfe <= 9", twice])
    assert raised.value.problems[0].where.endswith("objective.constraints[1]")


@pytest.mark.usefixtures("quick")
def test_the_teacher_follows_when_a_rung_is_added(tiny: Tiny) -> None:
    changes: dict[str, Any] = {
        "search__evaluations": 3,
        "confirm__images": 250,
        "confirm__controls": False,
        "objective__metric": "teacher_loss",
    }
    run(tiny.open(**changes, search__rungs=[250]))
    study = tiny.open(**changes, search__rungs=[250, 500])
    run(study)
    [teacher] = ledger.evaluations(study.database, study.id, kind="teacher", block="search")
    assert study.images_of(teacher) == 500
    assert 1 in {s.level for s in ledger.scores(study.database, study.id)}
    # Counted before it begins; who is worse than the baseline goes on no further.
    wanted, stored = ledger.images_wanted(study.database, study.id, block="search")
    on = sum(study.images_of(e) == 500 for e in proposals(study))
    assert wanted == stored == 2 * 500 + 3 * 250 + on * 250
    assert search_images(study.spec) == wanted + (3 - on) * 250
    assert confirm_images(study.spec) == 250 * (2 + 2) + 250 * 3


@pytest.mark.parametrize(
    ("changes", "where", "expected"),
    [
        ({"objective__beside": ["recall"]}, "search.rungs", "at least 1000 images"),
        ({"objective__projection": 16}, "objective.projection", "below the 16 features"),
    ],
)
@pytest.mark.usefixtures("real_features")
def test_too_little_for_a_metric_is_refused_before_a_row_is_written(
    tiny: Tiny, changes: dict[str, Any], where: str, expected: str
) -> None:
    with pytest.raises(SpecError) as raised:
        tiny.open(**changes)
    assert any(where in p.where and expected in p.expected for p in raised.value.problems)


def test_a_reference_without_features_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ObjectiveError, match="features"):
        tiny.open(objective__beside=["kid"])


@pytest.mark.parametrize("wrong", ["size", "labels", "classes"])
def test_real_images_of_something_else_are_refused(
    tiny: Tiny, real_images: Path, wrong: str
) -> None:
    pixels = dict(np.load(real_images))
    if wrong == "size":
        pixels["images"] = np.zeros((9, 16, 16, 1), dtype=np.uint8)
        pixels["labels"] = np.zeros(9, dtype=np.int64)
    elif wrong == "labels":
        del pixels["labels"]
    else:
        pixels["labels"] = np.full(300, 3)
    np.savez(real_images, **pixels)
    with pytest.raises(ObjectiveError, match="images" if wrong == "size" else "labels"):
        tiny.open(objective__metric="pixel_loss", objective__images=str(real_images))


def test_weights_of_your_own_are_taken_by_their_hash(
    tiny: Tiny, tiny_study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def load(name: str, **named: Any) -> Any:
        asked.update(named)
        return tiny_study._factory(weights=None, sha256=None)

    monkeypatch.setattr("skiptune.search.objective.load_extractor", load)
    tiny.open(objective__weights_sha256="a" * 64)
    assert asked["sha256"] == "a" * 64


def test_workers_elsewhere_find_the_real_images_by_content(
    tiny: Tiny, real_images: Path, tmp_path: Path
) -> None:
    study = tiny.open(
        objective__metric="pixel_loss",
        objective__images=str(real_images),
        search__rungs=[250],
    )
    assert {file["key"] for file in study.row.files} >= {"objective.images"}
    shutil.move(real_images, tmp_path / "moved.npz")
    from skiptune.search.study import open_stored

    again = open_stored("tiny", storage=tiny.url, artifacts=tiny.artifacts)
    try:
        assert again.measure == study.measure
    finally:
        again.database.close()
