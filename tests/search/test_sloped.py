"""Slopes that an objective does not have are refused before an image is sampled, all at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skiptune.errors import SpecError
from skiptune.objectives.cotangents import SLOPED
from skiptune.search.objective import Objective
from skiptune.search.sloped import without_slopes
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import check_study
from tests.search.conftest import Tiny

DESCENT = {"search__sampler": "descent"}


def refused(spec: StudySpec, objective: Objective) -> dict[str, tuple[str, str]]:
    """What is said by key: expected and found."""
    return {p.where: (p.expected, p.found) for p in without_slopes(spec, objective)}


def loaded(tiny: Tiny, **changes: Any) -> tuple[StudySpec, Objective]:
    spec = tiny.spec(**changes)
    return spec, check_study(spec)[1]


def test_the_tiny_study_has_slopes(tiny: Tiny) -> None:
    assert refused(*loaded(tiny)) == {}


# Noise of each seed is fixed, so a path with noise is differentiable like any other.
@pytest.mark.parametrize(
    "setting",
    [
        {"solver": "dpmpp_2m_sde", "steps": 3},
        {"solver": "euler", "steps": 3, "churn": {"amount": 0.5}},
    ],
)
def test_paths_with_the_noise_of_each_seed_have_slopes(
    tiny: Tiny, setting: dict[str, Any]
) -> None:
    spec, objective = loaded(tiny, setting=setting, **DESCENT)
    assert refused(spec, objective) == {}


@pytest.mark.parametrize("metric", ["recall", ["fd", "kid"]])
def test_metrics_without_slopes_are_named(tiny: Tiny, metric: Any) -> None:
    spec, objective = loaded(tiny)
    other = spec.replaced("objective.metric", metric)
    keys = [metric] if isinstance(metric, str) else metric
    found = refused(other, objective)
    assert found["objective.metric"] == (
        f"one of {', '.join(SLOPED)}, which have slopes",
        ", ".join(keys),
    )


def test_an_extractor_that_takes_bytes_only_passes_no_gradients_on(tiny: Tiny) -> None:
    spec, objective = loaded(tiny)
    deaf = replace(objective, extractor=replace(objective.extractor, floats=False))
    assert refused(spec, deaf) == {
        "objective.extractor": (
            "one that passes gradients on",
            "pooled-pixels, which takes bytes only",
        )
    }


def test_a_history_that_jumps_at_a_window_has_no_slope_there(tiny: Tiny) -> None:
    changes = {"space__window": {"first": 1, "last": 1}, "setting__history": "restart"}
    spec, objective = loaded(tiny, **changes)
    assert [*refused(spec, objective)] == ["setting.history"]


@pytest.mark.parametrize("metric", ["feature_loss", "pixel_loss"])
def test_a_denoising_loss_meets_no_path_that_jumps(
    tiny: Tiny, real_images: Path, metric: str
) -> None:
    changes = {"space__window": {"first": 1, "last": 1}, "setting__history": "restart"}
    loss = {"objective__metric": metric, "objective__images": str(real_images)}
    assert refused(*loaded(tiny, **changes, **loss, **DESCENT)) == {}


def test_one_branch_of_guidance_has_no_slopes(tiny: Tiny) -> None:
    spec, objective = loaded(tiny, setting__guidance=2.0)
    assert refused(spec.replaced("space.branches", "cond"), objective) == {
        "space.branches": ("both", "cond")
    }


def test_too_few_images_have_no_error(tiny: Tiny) -> None:
    spec, objective = loaded(tiny, search__rungs=[250])
    assert refused(spec, objective) == {
        "search.rungs[0]": ("at least 500 images, two blocks with an error between them", "250")
    }


def test_everything_is_said_at_once_and_by_the_descent_alone(tiny: Tiny) -> None:
    changes = {
        "search__rungs": [250],
        "space__window": {"first": 1, "last": 1},
        "setting__history": "restart",
    }
    check_study(tiny.spec(**changes))
    with pytest.raises(SpecError) as caught:
        check_study(tiny.spec(**changes, **DESCENT), source="study.yaml")
    assert [problem.where for problem in caught.value.problems] == [
        "study.yaml: setting.history",
        "study.yaml: search.rungs[0]",
    ]
    assert caught.value.hint == "edit study.yaml, then `skiptune check study.yaml`"


def test_a_searched_window_is_refused_when_the_spec_is_read(tiny: Tiny) -> None:
    with pytest.raises(SpecError, match="window is search"):
        tiny.spec(space__window="search", **DESCENT)


def test_one_rung_that_is_too_short_is_one_fault() -> None:
    given = ["search.sampler=descent", "search.rungs=[250]", "search.promote=1.0"]
    given += ["objective.extractor=fashion-cnn"]  # 64 features
    with pytest.raises(SpecError) as caught:
        check_study(load_spec("fashion", overrides=given))
    (problem,) = caught.value.problems
    assert problem.where == "spec: search.rungs[0]"
    assert problem.expected.startswith("at least 500 images")
