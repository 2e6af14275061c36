"""The cost of a study before it begins, against studies counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.search.plan import (
    Cost,
    confirm_cost,
    confirm_images,
    rung_counts,
    search_cost,
    search_images,
    search_parts,
)
from skiptune.search.spec import StudySpec


def spec(**sections: Any) -> StudySpec:
    return StudySpec.from_json(
        {
            "study": "s",
            "network": {"checkpoint": "fashion"},
            "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
            **sections,
        }
    )


@pytest.mark.parametrize(
    ("evaluations", "rungs", "promote", "images"),
    [
        (1, [500], 1 / 3, 500 + 500),
        (6, [500, 2000], 0.3333, 2000 + 6 * 500 + 2 * 1500),
        # 40, then 13, then 4 schedules; the baseline at full size.
        (40, [500, 2000, 8000], 1 / 3, 8000 + 40 * 500 + 13 * 1500 + 4 * 6000),
        (5, [250, 500], 1.0, 500 + 5 * 500),
    ],
)
def test_a_search(evaluations: int, rungs: list[int], promote: float, images: int) -> None:
    search = {"evaluations": evaluations, "rungs": rungs, "promote": promote}
    assert search_images(spec(search=search)) == images


def test_a_search_is_told_part_by_part() -> None:
    study = spec(search={"evaluations": 40, "rungs": [500, 2000, 8000], "promote": 1 / 3})
    assert rung_counts(study) == (40, 13, 4)
    # Whatever is better goes on at once in a descent, to have its slopes taken.
    assert rung_counts(study.replaced("search.sampler", "descent")) == (40, 40, 13)
    assert search_parts(study) == {
        "baseline": Cost(8000, 48_000),
        "rung 500": Cost(20_000, 120_000),
        "rung 2000": Cost(19_500, 117_000),
        "rung 8000": Cost(24_000, 144_000),
    }
    assert sum(search_parts(study).values(), Cost()) == search_cost(study)


def test_a_confirm_measures_candidates_then_one_of_them_beside_the_baseline() -> None:
    def cost(candidates: int, *, evaluations: int = 40) -> int:
        confirm = {"candidates": candidates, "images": 2000, "controls": False}
        search = {"rungs": [500, 2000], "evaluations": evaluations}
        return confirm_images(spec(confirm=confirm, search=search))

    block_b = 2 * 2000
    # Two are compared on the whole block; of three, two go on from 750 images each.
    assert cost(2) == 2000 + 2 * 2000 + block_b
    assert cost(3) == 2000 + 3 * 750 + 2 * 1250 + block_b
    assert cost(4) == 2000 + 4 * 750 + 2 * 1250 + block_b
    # A lone one is looked at once, beside the baseline; a search of one has no other.
    assert cost(1) == cost(4, evaluations=1) == 500 + 500 + block_b


def test_controls_cost_a_first_look_each_and_one_full_row_per_family() -> None:
    search = {"rungs": [500, 2000]}
    bare = {"candidates": 1, "images": 1000, "controls": False}
    with_controls = confirm_images(spec(confirm={**bare, "controls": True}, search=search))
    # Seven solvers with their grids, three epsilon scales, two exponents; three families.
    assert with_controls - confirm_images(spec(confirm=bare, search=search)) == 12 * 500 + 3 * 1000


def test_only_the_named_families_of_controls_cost_images() -> None:
    search = {"rungs": [500, 2000]}
    bare = {"candidates": 1, "images": 1000, "controls": False}
    one = confirm_images(spec(confirm={**bare, "controls": ["epsilon scale"]}, search=search))
    assert one - confirm_images(spec(confirm=bare, search=search)) == 3 * 500 + 1 * 1000


def test_evaluations_are_counted_by_what_each_image_takes() -> None:
    heun = {"solver": "heun", "steps": 10}
    search = {"evaluations": 6, "rungs": [500, 2000], "promote": 0.3333}
    confirm = {"candidates": 1, "images": 1000, "controls": False}
    study = spec(setting=heun, search=search, confirm=confirm)
    assert search_cost(study) == Cost(8000, 19 * 8000)
    assert confirm_cost(study) == Cost(3000, 19 * 3000)
    guided = spec(setting={**heun, "guidance": 2}, search=search, confirm=confirm)
    assert search_cost(guided).evaluations == 38 * 8000
    half = spec(
        setting={**heun, "guidance": 2, "guidance_low": 100.0}, search=search, confirm=confirm
    )
    assert search_cost(half).evaluations == 19 * 8000


def test_controls_that_take_fewer_evaluations_cost_less() -> None:
    search = {"rungs": [500, 2000]}
    bare = {"candidates": 1, "images": 1000, "controls": False}
    given = {"setting": {"solver": "heun", "steps": 3}, "search": search}
    more = confirm_cost(spec(confirm={**bare, "controls": True}, **given))
    less = confirm_cost(spec(confirm=bare, **given))
    # Euler, dpmpp_2m and unipc take 5 steps and heun 3, of 5 evaluations: all cost the same.
    assert more.evaluations - less.evaluations == 5 * (more.images - less.images)
    # dpmpp_2m in 4 steps: heun gets 2 steps, 3 evaluations, on both grids.
    given["setting"] = {"solver": "dpmpp_2m", "steps": 4}
    more = confirm_cost(spec(confirm={**bare, "controls": True}, **given))
    less = confirm_cost(spec(confirm=bare, **given))
    full = 4 * (more.images - less.images)
    assert more.evaluations - less.evaluations == full - 2 * 500 * (4 - 3)


def test_a_teacher_and_denoising_losses_cost_what_they_take() -> None:
    search = {"evaluations": 3, "rungs": [500]}
    confirm = {"candidates": 1, "images": 1000, "controls": False}
    sections = {"search": search, "confirm": confirm}
    objective = {"extractor": "fashion-cnn", "reference": "fashion-train"}
    teacher = {"metric": "teacher_loss", "teacher": {"solver": "heun", "steps": 20}}
    taught = spec(objective={**objective, **teacher}, **sections)
    assert search_cost(taught) == Cost(500 * 5, 6 * 500 * 4 + 39 * 500)
    assert confirm_cost(taught) == Cost(3000 + 1500, 6 * 3000 + 39 * 1500)
    losses = spec(
        objective={**objective, "metric": "feature_loss", "images": "fashion-test"}, **sections
    )
    assert search_cost(losses, loss_nfe=4) == Cost(2000, 4 * 2000)
    assert confirm_cost(losses, loss_nfe=4) == Cost(3000, 4 * 3000)


def test_slopes_cost_four_evaluations_for_each_of_an_image() -> None:
    from skiptune.search.objective import load_objective
    from skiptune.search.sloped import origin_level, slopes_cost

    search = {"sampler": "descent", "evaluations": 12, "rungs": [500, 1500, 8000]}
    study = spec(search=search, setting={"steps": 6}, microbatch=25)
    objective = load_objective(
        study.objective, channels=1, size=32, classes=10, device="cpu", microbatch=25
    )
    # Blocks of 250 at d = 64: 8 of the baseline's 32, 6 of each of the 12 that may come to 1500.
    assert origin_level(study, 250) == 1
    cost = slopes_cost(study, objective)
    assert cost.images == (8 + 12 * 6) * 50
    assert cost.evaluations == cost.images * 4 * 6

    # Of pairs at nine noise levels, whatever is sampled beside.
    losses = {"metric": "feature_loss", "beside": ["fd"], "images": "fashion-test"}
    given = {**study.objective.model_dump(mode="json"), **losses}
    other = spec(search=search, setting={"steps": 6}, microbatch=25, objective=given)
    objective = load_objective(
        other.objective, channels=1, size=32, classes=10, device="cpu", microbatch=25
    )
    cost = slopes_cost(other, objective)
    assert cost.evaluations == cost.images * 4 * 9
