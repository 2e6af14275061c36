"""The cost of a study before it begins, against studies counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.search.plan import confirm_images, search_images
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


def test_a_confirm_measures_candidates_then_one_of_them_beside_the_baseline() -> None:
    confirm = {"candidates": 3, "images": 2000, "controls": False}
    assert confirm_images(spec(confirm=confirm)) == 4 * 2000 + 2 * 2000


def test_controls_cost_a_first_look_each_and_one_full_row_per_family() -> None:
    search = {"rungs": [500, 2000]}
    bare = {"candidates": 1, "images": 1000, "controls": False}
    with_controls = confirm_images(spec(confirm={**bare, "controls": True}, search=search))
    # Five solvers with their grids, three epsilon scales, two exponents; three families.
    assert with_controls - confirm_images(spec(confirm=bare, search=search)) == 10 * 500 + 3 * 1000
