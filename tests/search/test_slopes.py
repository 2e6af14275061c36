"""Slopes within a study: equal to finite differences, shared, resumed, and walked down."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from skiptune.errors import NetworkError, SpecError
from skiptune.objectives.denoising import LEVELS
from skiptune.objectives.paired import corrected
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.schedule import Schedule
from skiptune.search import slopes as module
from skiptune.search.chunks import Sampled
from skiptune.search.slopes import Slopes, enter_slopes, slopes_of
from skiptune.search.study import SEARCH, OpenStudy, open_study
from skiptune.search.tune import differentiated, run
from skiptune.storage import ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.budgets import SLOPES_BLOCK
from tests.search.conftest import Tiny


def opened(
    tiny_study: ModuleType, folder: Path, name: str = "tiny.db", **changes: Any
) -> OpenStudy:
    spec = tiny_study.spec(folder, **changes)
    return open_study(spec, storage=f"sqlite:///{folder / name}")


def descended(tiny_study: ModuleType, folder: Path, name: str = "tiny.db") -> OpenStudy:
    """The tiny study after a whole descent."""
    changes = {"search__sampler": "descent", "search__evaluations": 4}
    study = opened(tiny_study, folder, name, **changes)
    assert run(study) is not None
    return study


def test_a_block_s_slopes_are_finite_differences_of_its_distance(
    tiny_study: ModuleType, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGES", 250)  # all of a chunk, so that there is no other noise
    study = opened(tiny_study, study_folder)
    end = differentiated(study, "baseline")
    assert end is not None
    found = end[1]
    assert found.blocks.shape == (2, len(study.checkpoint.skips), 3)
    assert study.reference is not None
    step = 0.05
    for skip in study.checkpoint.skips[:1]:
        ends = []
        for sign in (1, -1):
            schedule = Schedule.uniform({skip.address: math.exp(sign * step)})
            with scaled(study.checkpoint.network, schedule), torch.no_grad():
                images = sample_float(
                    study.checkpoint.network, study.setting, range(1_000_250, 1_000_500)
                )
                features = study.extractor.of_floats(images).numpy()
            ends.append(corrected(features, study.reference).value)
        expected = (ends[0] - ends[1]) / (2 * step)
        got = float(found.blocks[1, skip.index].sum())
        # The cotangents are those of the stored features, of images rounded to bytes.
        assert got == pytest.approx(expected, rel=0.05, abs=2e-3 * abs(ends[0]))
    study.database.close()


@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.03), ("bfloat16", 0.15)])
def test_a_study_in_half_precision_has_the_slopes_of_float32(
    tiny_study: ModuleType, study_folder: Path, dtype: str, error: float
) -> None:
    """Its cotangents are of its own images, which half precision makes a little otherwise."""
    found = []
    for name in ("float32", dtype):
        changes: dict[str, Any] = {"search__sampler": "descent", "setting__steps": 2}
        changes |= {"network__dtype": name, "study": f"tiny-{name}"}
        study = opened(tiny_study, study_folder, **changes)
        assert study.checkpoint.dtype == name and study.sampler == "descent"
        end = differentiated(study, "baseline")
        assert end is not None
        found.append(end[1].skips[0])
        study.database.close()
    away = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0])
    assert 0 < away < error


LOSS: dict[str, Any] = {"objective__metric": "feature_loss", "objective__reference": None}


def test_a_block_s_slopes_of_a_denoising_loss_are_finite_differences_of_it(
    tiny_study: ModuleType,
    study_folder: Path,
    real_images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IMAGES", 250)
    study = opened(tiny_study, study_folder, objective__images=str(real_images), **LOSS)
    end = differentiated(study, "baseline")
    assert end is not None
    found = end[1]
    assert found.levels == pytest.approx(LEVELS[::-1])
    assert found.nfe == 500 * 4 * len(LEVELS)
    step, seeds = 0.05, range(1_000_250, 1_000_500)
    base = study.objective.losses(study.checkpoint.network, seeds)["feature_loss"]
    for skip in study.checkpoint.skips[:2]:
        ends = []
        for sign in (1, -1):
            schedule = Schedule.uniform({skip.address: math.exp(sign * step)})
            with scaled(study.checkpoint.network, schedule):
                losses = study.objective.losses(study.checkpoint.network, seeds)["feature_loss"]
            ratio = losses.mean(axis=0, dtype=np.float64) / base.mean(axis=0, dtype=np.float64)
            ends.append(ratio / len(LEVELS))
        expected = (ends[0] - ends[1]) / (2 * step)
        got = found.blocks[1, skip.index, ::-1]
        assert got == pytest.approx(expected, rel=0.02, abs=0.01 * float(np.abs(expected).max()))
    study.database.close()


def test_a_denoising_loss_is_walked_down(
    tiny_study: ModuleType, study_folder: Path, real_images: Path
) -> None:
    changes = {"objective__images": str(real_images), "search__evaluations": 3, **LOSS}
    study = opened(tiny_study, study_folder, search__sampler="auto", **changes)
    assert study.sampler == "descent"
    assert run(study) is not None
    proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    scores = {s.evaluation_id: s.value for s in ledger.scores(study.database, study.id)}
    assert min(scores[one.id] for one in proposals) < 1
    study.database.close()


def test_a_descent_ends_in_the_same_rows_whoever_ran_it(
    tiny_study: ModuleType, study_folder: Path
) -> None:
    study = descended(tiny_study, study_folder)
    proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    known = ledger.evaluations(study.database, study.id, kind="slopes", block=SLOPES_BLOCK)
    assert len(proposals) == 4
    assert known and all(one.state == "complete" for one in known)
    # Slopes are of the baseline or of what was proposed, each once, and never a trial.
    schedules = [one.schedule for one in known]
    assert len(set(schedules)) == len(schedules)
    trials = ledger.scores(study.database, study.id)
    assert not {one.id for one in known} & {score.evaluation_id for score in trials}

    # A file that is lost is made again bit for bit.
    before = slopes_of(study, known[0])
    chunk = ledger.chunks_of(study.database, known[0].id)[0]
    for path in (study_folder / "skiptune-artifacts").rglob(f"*{str(chunk.array)[:40]}*"):
        path.unlink()
    with pytest.raises(LostFileError):
        slopes_of(study, known[0])
    assert run(study) is not None
    assert np.array_equal(slopes_of(study, known[0]).blocks, before.blocks)

    again = descended(tiny_study, study_folder, "again.db")
    repeated = ledger.evaluations(again.database, again.id, kind="proposal", block=SEARCH)
    assert [one.params for one in repeated] == [one.params for one in proposals]
    for database in (study.database, again.database):
        database.close()


def test_slopes_follow_the_space(tiny: Tiny) -> None:
    study = tiny.open(space__kind="linear")
    skips = len(study.checkpoint.skips)
    blocks = np.random.default_rng(0).standard_normal((3, skips, 2))
    found = Slopes(blocks, (10.0, 1.0), 0.0)
    values, errors = found.along(study.space, {"bottom": 0.8, "top": 1.25})
    step = 1e-6

    def logs(bottom: float, top: float) -> np.ndarray[Any, Any]:
        schedule = study.space.schedule({"bottom": bottom, "top": top})
        return np.log([schedule.scale(skip.address, 1.0) for skip in study.checkpoint.skips])

    moved = (logs(0.8 * math.exp(step), 1.25) - logs(0.8 * math.exp(-step), 1.25)) / (2 * step)
    by_hand = blocks.sum(axis=2) @ moved
    assert values[0] == pytest.approx(by_hand.mean(), rel=1e-6)
    assert errors[0] == pytest.approx(by_hand.std(ddof=1) / math.sqrt(3), rel=1e-6)


def test_slopes_of_parts_follow_a_decoupled_space(tiny: Tiny) -> None:
    study = tiny.open(space__part="decoupled", space__kind="uniform")
    skips = len(study.checkpoint.skips)
    blocks = np.random.default_rng(0).standard_normal((3, 2 * skips, 2))
    values, _ = Slopes(blocks, (10.0, 1.0), 0.0).along(
        study.space, {"shortcut/all": 0.8, "residual/all": 1.25}
    )
    by_part = blocks.sum(axis=2).reshape(3, 2, skips).sum(axis=2).mean(axis=0)
    assert values == pytest.approx(by_part)


def test_levels_outside_the_window_do_not_count(tiny: Tiny) -> None:
    study = tiny.open(space__window={"first": 1, "last": 2})
    levels = study.space.sigmas
    blocks = np.random.default_rng(0).standard_normal((2, len(study.checkpoint.skips), 3))
    params = study.space.baseline_params()
    values, _ = Slopes(blocks, levels, 0.0).along(study.space, params)
    assert values == pytest.approx(blocks[:, :, 1:].sum(axis=2).mean(axis=0))


def test_entering_twice_is_entering_once(tiny: Tiny) -> None:
    study = tiny.open()
    baseline = study.baseline(block=SEARCH, first_seed=1_000_000, images=500)
    first = enter_slopes(study, baseline, 500)
    assert enter_slopes(study, baseline, 500) == first
    assert first.kind == "slopes"
    assert study.images_of(first) == 500


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"objective__metric": ["fd", "nfe"]}, "objective.metric"),
        ({"search__rungs": [250]}, "search.rungs[0]"),
        (
            {"space__window": {"first": 1, "last": 1}, "setting__history": "restart"},
            "setting.history",
        ),
    ],
)
def test_a_descent_without_slopes_is_refused(
    tiny: Tiny, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(SpecError) as refused:
        tiny.open(search__sampler="descent", **changes)
    assert any(problem.where.endswith(where) for problem in refused.value.problems)


def test_slopes_of_too_few_images_are_refused(tiny: Tiny) -> None:
    study = tiny.open()
    baseline = study.baseline(block=SEARCH, first_seed=1_000_000, images=500)
    with pytest.raises(SpecError, match="at least 500 images"):
        enter_slopes(study, baseline, 250)
    assert not ledger.evaluations(study.database, study.id, kind="slopes")


def test_a_lost_file_is_made_again_before_the_next_step(
    tiny_study: ModuleType, study_folder: Path
) -> None:
    """The slopes that a proposal rests on are gone while the search goes on."""
    changes: dict[str, Any] = {"search__sampler": "descent", "search__evaluations": 1}
    study = opened(tiny_study, study_folder, **changes)
    assert run(study) is not None
    (known,) = ledger.evaluations(study.database, study.id, kind="slopes", block=SLOPES_BLOCK)
    for chunk in ledger.chunks_of(study.database, known.id):
        for path in (study_folder / "skiptune-artifacts").rglob(f"*{str(chunk.array)[:40]}*"):
            path.unlink()
    study.database.close()
    longer = opened(tiny_study, study_folder, **(changes | {"search__evaluations": 2}))
    assert run(longer) is not None
    proposals = ledger.evaluations(longer.database, longer.id, kind="proposal", block=SEARCH)
    assert len(proposals) == 2
    longer.database.close()


def test_derivatives_that_are_not_finite_are_refused(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()

    def broken(*_: Any, **__: Any) -> Sampled:
        ones = np.ones((50, 3), dtype=np.float32)
        return Sampled(
            {"slopes": ones * np.nan, "finite": ones[:, 0] * 0, "levels": ones[:1]}, 1.0
        )

    monkeypatch.setattr("skiptune.search.worker.sloped_chunk", broken)
    with pytest.raises(NetworkError, match="finite derivatives"):
        differentiated(study, "baseline")
