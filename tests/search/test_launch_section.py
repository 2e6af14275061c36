"""The section `launch`: what it accepts, and that it is no part of what a study means."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.errors import SpecError
from skiptune.search.launch_section import LaunchSpec
from skiptune.search.spec import StudySpec, difference, load_spec


def with_launch(**keys: Any) -> StudySpec:
    return StudySpec.from_json({**load_spec("fashion").to_json(), "launch": keys})


def test_a_study_without_it_is_written_as_before() -> None:
    spec = load_spec("fashion")
    assert "launch" not in spec.to_json()
    assert spec.launch == LaunchSpec() and spec.launch.workers == "auto"


def test_it_changes_no_meaning_and_survives_a_round_trip() -> None:
    spec = with_launch(
        workers=8,
        slurm={"partition": "gpu", "gres": "gpu:1", "time": "04:00:00", "setup": "module load x"},
        k8s={"image": "me/skiptune:1", "gpus": 1},
        ray={"gpus": 1, "resources": {"fast": 0.5}, "runtime_env": {"pip": ["skiptune"]}},
        one_host=True,
    )
    assert spec.launch.ray.gpus == 1.0
    assert spec.launch.slurm.setup == ("module load x",)
    assert difference(load_spec("fashion").meaning(), spec.meaning()) == []
    assert StudySpec.from_json(spec.to_json()) == spec
    assert load_spec("fashion", overrides=["launch.workers=3"]).launch.workers == 3


@pytest.mark.parametrize(
    ("keys", "where", "expected"),
    [
        ({"workers": 0}, "launch.workers", "auto, or a whole number of at least 1"),
        ({"slurm": {"partition": "a b"}}, "launch.slurm.partition", "a partition's name"),
        ({"slurm": {"time": 14400}}, "launch.slurm.time", "a text in quotes as sbatch reads it"),
        ({"slurm": {"options": ["-N 2"]}}, "launch.slurm.options[0]", "an option of sbatch"),
        ({"slurm": {"options": "--a=b\n#"}}, "launch.slurm.options", "one line each"),
        ({"slurm": {"setup": ["a\nb"]}}, "launch.slurm.setup[0]", "one line each"),
        ({"slurm": {"gpus": 1}}, "launch.slurm.gpus", "one of partition, account"),
        ({"ray": {"gpus": 2}}, "launch.ray.gpus", "GPUs of each worker, from 0 to 1"),
        ({"ray": {"resources": {"fast": 0}}}, "launch.ray.resources.fast", "a number above 0"),
        ({"ray": {"runtime_env": ["pip"]}}, "launch.ray.runtime_env", "a mapping as Ray reads it"),
        ({"one_host": 1}, "launch.one_host", "true where Slurm or Ray is this one host"),
        ({"k8s": {"namespace": "No_Name"}}, "launch.k8s.namespace", "a namespace's name"),
        ({"k8s": {"namespace": "a.b"}}, "launch.k8s.namespace", "a namespace's name"),
        ({"k8s": {"namespace": "a" * 64}}, "launch.k8s.namespace", "a namespace's name"),
        ({"k8s": {"secret": "a..b"}}, "launch.k8s.secret", "the name of a Secret"),
        ({"k8s": {"claim": "a\n"}}, "launch.k8s.claim", "a PersistentVolumeClaim"),
        ({"k8s": {"environment": "a" * 254}}, "launch.k8s.environment", "the name of a Secret"),
    ],
)
def test_what_is_wrong_is_said(keys: dict[str, Any], where: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        with_launch(**keys)
    [problem] = caught.value.problems
    assert problem.where.endswith(where)
    assert expected in problem.expected


def test_secrets_and_claims_are_named_as_kubernetes_names_them() -> None:
    # Names of a Secret and of a claim are DNS subdomains, a namespace's is one label of them.
    spec = with_launch(k8s={"secret": "db.url-1", "claim": "arrays.v2", "environment": "a" * 253})
    assert (spec.launch.k8s.secret, spec.launch.k8s.claim) == ("db.url-1", "arrays.v2")
