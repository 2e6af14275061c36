"""Metrics that compare images with their prompts: what a study must say for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from skiptune.errors import SpecError
from skiptune.search.spec import StudySpec

GUARDS = ("clip_score >= 0.99 x baseline", "diversity >= 0.95 x baseline")


def plain(objective: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "study": "text",
        "network": {"checkpoint": "./pipeline", "prompts": "./prompts.txt"},
        "objective": {"extractor": "dct", "clip_model": "./clip", **objective},
        **changes,
    }


def refused(objective: Mapping[str, Any], **changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_json(plain(objective, **changes))
    return caught.value


def test_a_study_names_the_model_that_reads_its_prompts() -> None:
    spec = StudySpec.from_json(plain({"metric": "clip_score"}))
    assert spec.objective.clip_model == str(Path.cwd() / "clip")
    assert spec.objective.text_keys == ("clip_score",)
    assert spec.objective.samples
    assert StudySpec.from_json(spec.to_json()) == spec
    # Where none is named a study is written as earlier versions wrote it.
    other = plain({"metric": "teacher_loss", "clip_model": None})
    written = StudySpec.from_json(other).to_json()["objective"]
    assert not {"clip_model", "pick_model"} & written.keys()


def test_a_model_of_the_hub_is_the_folder_that_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--clip"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    spec = StudySpec.from_json(plain({"metric": "clip_score", "clip_model": "owner/clip"}))
    assert spec.objective.clip_model == str(snapshot)


@pytest.mark.parametrize("key", ["metric", "beside", "constraints"])
def test_a_study_without_prompts_has_none_to_compare_with(key: str) -> None:
    given = {
        "metric": "clip_score",
        "beside": ["clip_score"],
        "constraints": [GUARDS[0]],
    }
    objective = {"metric": "nfe", key: given[key]}
    refusal = refused(objective, network={"checkpoint": "./pipeline"})
    [problem] = refusal.problems
    assert problem.where == f"spec: objective.{key}"
    assert "network.prompts is null" in problem.expected
    assert "`network.prompts: ./prompts.txt`" in refusal.hint
    [problem] = refused(objective, setting={"labels": None}).problems
    assert "setting.labels is null" in problem.expected
    pick = {"metric": "nfe", "beside": ["pick_score"], "pick_model": "./pick"}
    [problem] = refused(pick, network={"checkpoint": "./pipeline"}).problems
    assert "network.prompts is null, not pick_score" in problem.expected


@pytest.mark.parametrize(
    ("objective", "where", "expected"),
    [
        ({"metric": "clip_score"}, "clip_model", "the folder of a CLIP model"),
        ({"metric": "nfe", "beside": ["clip_score"]}, "beside[0]", "`objective.clip_model` for"),
        ({"metric": "nfe", "beside": ["pick_score"]}, "beside[0]", "`objective.pick_model` for"),
        ({"metric": "nfe", "constraints": [GUARDS[0]]}, "constraints[0]", "`objective.clip_model"),
        ({"metric": "clip_score", "clip_model": "clip"}, "clip_model", "the path of a folder"),
    ],
)
def test_what_a_metric_needs_is_asked_for(
    objective: dict[str, Any], where: str, expected: str
) -> None:
    problems = refused({"clip_model": None, **objective}).problems
    assert [problem.where for problem in problems] == [f"spec: objective.{where}"]
    assert expected in problems[0].expected


PICK = {"metric": "pick_score", "pick_model": "./pick", "reference": "./reference.npz"}


def test_a_preference_score_alone_is_refused_with_the_lines_to_add() -> None:
    refusal = refused(PICK)
    [problem] = refusal.problems
    assert problem.where == "spec: objective.constraints"
    assert "limits on clip_score and on diversity, recall or coverage beside" in problem.expected
    assert refusal.hint == (
        'write `constraints: ["clip_score >= 0.99 x baseline", "diversity >= 0.95 x baseline"]` in'
        " `objective`, with `clip_model` for them"
    )
    assert StudySpec.from_json(plain({**PICK, "constraints": list(GUARDS)}))
    for measure in ("coverage", "recall"):
        other = [GUARDS[0], f"{measure} >= 0.9 x baseline", "nfe <= 90"]
        assert StudySpec.from_json(plain({**PICK, "constraints": other}))
    # Reported beside another metric it tempts nobody.
    beside = {**PICK, "metric": "clip_score", "beside": ["pick_score"]}
    assert StudySpec.from_json(plain(beside))


@pytest.mark.parametrize(
    "constraints",
    [
        [GUARDS[0]],
        [GUARDS[1]],
        ["clip_score >= 20", GUARDS[1]],
        ["clip_score <= 1 x baseline", GUARDS[1]],
        ["clip_score >= 0.5 x baseline", GUARDS[1]],
        [GUARDS[0], "precision >= 1 x baseline"],
        [GUARDS[0], "recall >= 0.89 x baseline"],
    ],
)
def test_limits_that_would_let_anything_pass_are_no_limits(constraints: list[str]) -> None:
    refusal = refused({**PICK, "constraints": constraints})
    assert refusal.problems[0].where == "spec: objective.constraints"
    for line in constraints:
        assert f'"{line}"' in refusal.hint
    two = {**PICK, "metric": ["pick_score", "clip_score"], "constraints": constraints}
    assert "limits on clip_score" in refused(two).problems[0].expected
