"""Kubernetes: what the manifest asks for, and kubectl in the words it was recorded with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from skiptune.errors import LaunchError
from skiptune.launch.executor import Counts, Plan
from skiptune.launch.k8s import K8s, manifest
from skiptune.search.launch_section import K8sSpec, LaunchSpec
from skiptune.storage import ledger

Script = Callable[..., Path]
NOT_FOUND = 'Error from server (NotFound): jobs.batch "skiptune-tiny" not found'
WORKERS = Path(__file__).resolve().parents[2] / "docker" / "k8s" / "workers" / "job.yaml"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


def launched(place: str = "ml") -> ledger.Launch:
    return ledger.Launch("i", "s", "k8s", place, "skiptune-tiny", 3, datetime.now(UTC))


def with_k8s(plan: Plan, **keys: Any) -> Plan:
    usual = {"image": "skiptune:cpu", "claim": "arrays"}
    return replace(plan, device="auto", spec=LaunchSpec(k8s=K8sSpec(**(usual | keys))))


def pod(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = manifest(plan)["spec"]["template"]["spec"]
    return found


def test_a_worker_that_was_asked_to_leave_is_replaced_and_one_that_was_refused_is_not(
    plan: Plan,
) -> None:
    job = manifest(with_k8s(plan))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["parallelism"] == 2 and "completions" not in spec  # a queue of work
    by_code = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert by_code == {130: "Ignore", 143: "Ignore", 2: "FailJob"}
    # What the server demands of a policy: batch/v1, PodFailurePolicy.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"values": [1]})["values"]
        assert codes == sorted(set(codes)) and 0 not in codes
        assert rule.get("onExitCodes", {}).get("containerName", "worker") == "worker"


def test_a_pod_has_time_to_leave_no_rights_and_its_url_from_a_secret(plan: Plan) -> None:
    found = pod(with_k8s(plan, secret="mine", environment="aws"))
    assert found["terminationGracePeriodSeconds"] >= 20
    assert found["securityContext"]["runAsNonRoot"] is True
    [container] = found["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["env"][0] == {
        "name": "SKIPTUNE_STORAGE",
        "valueFrom": {"secretKeyRef": {"name": "mine", "key": "url"}},
    }
    assert container["envFrom"] == [{"secretRef": {"name": "aws"}}]
    names = {volume["name"] for volume in found["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names


def test_devices_and_resources(plan: Plan) -> None:
    [container] = pod(with_k8s(plan, gpus=1, memory="16Gi", cpu="4"))["containers"]
    assert container["args"] == ["worker", "tiny", "--until-done", "--device", "cuda"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "16Gi"}
    [container] = pod(with_k8s(plan))["containers"]
    assert container["args"][-1] == "cpu"
    with pytest.raises(LaunchError, match=r"gpus=1"):
        manifest(replace(with_k8s(plan), device="cuda"))


def test_arrays_are_on_a_claim_or_in_a_bucket(plan: Plan) -> None:
    claimed = pod(with_k8s(plan))
    assert {"name": "SKIPTUNE_ARTIFACTS", "value": "/arrays"} in claimed["containers"][0]["env"]
    assert claimed["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "arrays"}
    bucket = replace(with_k8s(plan, claim=None), artifacts="s3://bucket/x")
    assert pod(bucket)["containers"][0]["env"][1]["value"] == "s3://bucket/x"
    assert len(pod(bucket)["volumes"]) == 2
    with pytest.raises(LaunchError, match="null with a bucket"):
        manifest(replace(with_k8s(plan), artifacts="s3://bucket/x"))
    # A folder is where this host has the claim's volume mounted.
    here = replace(with_k8s(plan), artifacts="/mnt/arrays")
    assert pod(here)["containers"][0]["env"] == claimed["containers"][0]["env"]
    with pytest.raises(LaunchError, match="a claim that all pods mount"):
        manifest(replace(with_k8s(plan, claim=None), artifacts="/here"))


def test_what_is_missing_is_said(plan: Plan) -> None:
    with pytest.raises(LaunchError, match=r"launch\.k8s\.image"):
        manifest(with_k8s(plan, image=None))
    with pytest.raises(LaunchError, match="--workers N"):
        manifest(replace(with_k8s(plan), workers=None))


@pytest.mark.parametrize("study", ["tiny", "A_Study.of~mine-" + 80 * "x", "~", "é"])
def test_names_are_labels_of_dns(plan: Plan, study: str) -> None:
    name = manifest(replace(with_k8s(plan), study=study))["metadata"]["name"]
    assert len(name) <= 63 and name.isascii()
    assert all(part.isalnum() and part == part.lower() for part in name.split("-") if part)
    assert name[0].isalnum() and name[-1].isalnum()


def test_the_manifest_is_yaml_without_anchors_and_the_bundled_one_is_current(plan: Plan) -> None:
    plan = replace(
        with_k8s(plan, image="skiptune", claim="skiptune-arrays"), study="fashion", workers=4
    )
    text = K8s().text(plan)
    assert "&" not in text
    written = yaml.safe_load(text)
    bundled = yaml.safe_load(WORKERS.read_text())
    written["metadata"]["name"] = bundled["metadata"]["name"]
    assert bundled == written


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"active": 3, "ready": 2}, Counts(1, 2)),
        ({}, Counts(3, 0)),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, Counts(0, 0)),
        ({"active": 1, "conditions": [{"type": "Failed", "status": "True"}]}, Counts(1, 0)),
    ],
)
def test_pods_are_counted(
    script: Script, tmp_path: Path, status: dict[str, Any], expected: Counts
) -> None:
    script(
        "kubectl", f"echo \"$@\" >>{tmp_path}/said\ncat <<'J'\n{json.dumps({'status': status})}\nJ"
    )
    assert K8s().list(launched()) == expected
    said = "--namespace=ml get job skiptune-tiny --output=json\n"
    assert (tmp_path / "said").read_text() == said


def test_a_job_is_created_and_deleted(plan: Plan, script: Script, tmp_path: Path) -> None:
    script("kubectl", f'echo "$@" >>{tmp_path}/said')
    job = K8s().start(with_k8s(plan, namespace="ml"))
    assert (job.place, job.workers) == ("ml", 2)
    [file] = plan.logs.glob("*.yaml")
    assert yaml.safe_load(file.read_text())["metadata"] == {
        "name": job.name,
        "labels": {
            "app.kubernetes.io/name": "skiptune",
            "app.kubernetes.io/component": "worker",
        },
        "namespace": "ml",
    }
    K8s().stop(launched())
    assert (tmp_path / "said").read_text().splitlines() == [
        f"create --filename {file}",
        "--namespace=ml delete job skiptune-tiny --ignore-not-found --wait=false",
    ]


def test_without_a_namespace_kubectl_takes_that_of_its_context(
    plan: Plan, script: Script, tmp_path: Path
) -> None:
    script("kubectl", f'echo "$@" >>{tmp_path}/said')
    job = K8s().start(with_k8s(plan))
    assert job.place == "default of kubectl"
    K8s().stop(launched(job.place))
    assert (tmp_path / "said").read_text().splitlines() == [
        f"create --filename {plan.logs}/{job.name}.yaml",
        "delete job skiptune-tiny --ignore-not-found --wait=false",
    ]


def test_what_kubectl_says_is_passed_on(
    plan: Plan, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("kubectl", f"echo '{NOT_FOUND}' >&2; exit 1")
    assert K8s().list(launched()) == Counts(0, 0)
    script("kubectl", "echo 'The connection to the server was refused' >&2; exit 1")
    for action in (lambda: K8s().list(launched()), lambda: K8s().start(with_k8s(plan))):
        with pytest.raises(LaunchError, match="The connection to the server was refused"):
            action()
    script("kubectl", "exit 1")
    with pytest.raises(LaunchError, match="found an error without words"):
        K8s().stop(launched())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="--dry-run"):
        K8s().start(with_k8s(plan))
