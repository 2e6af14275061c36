"""Branches of guidance in a study; `test_spec` tests what the section's other keys accept."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.errors import SpecError
from skiptune.sampling.schedule import BRANCHES
from skiptune.search.space_section import SPACE_PARTS
from skiptune.search.spec import StudySpec, difference


def spec(**changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "study": "s",
        "network": {"checkpoint": "fashion"},
        "setting": {"guidance": 2.0},
        "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
        "search": {"rungs": [500, 1000]},
        "confirm": {"images": 500},
    }
    return StudySpec.from_json({**values, **changes}, source="study.yaml")


def test_studies_without_branches_keep_what_is_stored_of_them() -> None:
    plain = spec()
    assert plain.space.branches == "both"
    assert "branches" not in plain.to_json()["space"]
    assert "space.branches" not in plain.meaning()
    assert spec(space={"branches": "both"}) == plain


@pytest.mark.parametrize("branches", BRANCHES[1:])
def test_one_branch_is_part_of_what_a_study_means(branches: str) -> None:
    one = spec(space={"branches": branches})
    assert StudySpec.from_json(one.to_json()) == one
    assert one.meaning()["space.branches"] == branches
    for problems in (
        difference(spec().meaning(), one.meaning()),
        difference(one.meaning(), spec().meaning()),
    ):
        assert [problem.where for problem in problems] == ["space.branches"]


@pytest.mark.parametrize("part", SPACE_PARTS)
def test_the_part_is_written_where_it_is_not_both(part: str) -> None:
    one = spec(space={"part": part})
    assert StudySpec.from_json(one.to_json()) == one
    assert ("part" in one.to_json()["space"]) == (part != "both")
    assert one.meaning().get("space.part", "both") == part
    where = [problem.where for problem in difference(spec().meaning(), one.meaning())]
    assert where == ([] if part == "both" else ["space.part"])
    with pytest.raises(SpecError, match="did you mean `shortcut`"):
        spec(space={"part": "shortcuts"})


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"space": {"branches": "unconditional"}}, "did you mean `uncond`?", '"unconditional"'),
        ({"space": {"branches": None}}, "one of both, cond, uncond", "null"),
        ({"space": {"branches": "cond"}, "setting": {}}, "without guidance", '"cond"'),
        ({"space": {"branches": "uncond"}, "setting": {"guidance": 1.0}}, "is 1", '"uncond"'),
    ],
)
def test_what_is_no_branch_is_refused_at_its_key(
    changes: dict[str, Any], expected: str, found: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**changes)
    (problem,) = caught.value.problems
    assert problem.where == "study.yaml: space.branches"
    assert expected in problem.expected
    assert problem.found == found
