"""The manifests and the compose files agree with the published schemas of what reads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from skiptune.launch.executor import Plan
from skiptune.launch.k8s import K8s
from skiptune.search.launch_section import K8sSpec, LaunchSpec
from tests.kustomize import built
from tests.test_docker import project

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "docker" / "k8s"
SECRETS = {
    "secrets/url": "postgresql://me@host/studies",
    "secrets/password": "secret",
    "secrets/token": "0123456789abcdef",
}
VERSIONS = ("1.31", kubernetes_validate.latest_version())

Json = dict[str, Any]


def checked(item: Json, version: str) -> None:
    """Refuse what a server of this version refuses, and words that it would not read."""
    kubernetes_validate.validate(item, version, strict=True)


# Kubernetes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [K8S, K8S / "workers"], ids=["all", "workers"])
def test_what_kustomize_builds(folder: Path, version: str) -> None:
    items = built(folder, SECRETS)
    for item in items:
        checked(item, version)
        assert item["metadata"]["namespace"] == "skiptune"
    kinds = sorted(item["kind"] for item in items)
    everything = ["Deployment", "Job", "PersistentVolumeClaim", "Secret", "Secret"]
    everything += ["Service", "Service", "StatefulSet"]
    assert kinds == (["Job"] if folder.name == "workers" else everything)


def test_pods_name_what_is_built() -> None:
    """Names that no schema knows of: claims, secrets and images."""
    items = [*built(K8S, SECRETS), *built(K8S / "workers", {})]
    names = {(item["kind"], item["metadata"]["name"]) for item in items}
    images = set()
    for item in items:
        pod = item.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            images.add(container["image"])
            for variable in container["env"]:
                if "valueFrom" in variable:
                    wanted = variable["valueFrom"]["secretKeyRef"]
                    assert ("Secret", wanted["name"]) in names
                    assert f"secrets/{wanted['key']}" in SECRETS
        for volume in pod.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in names
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in names
    assert images == {"skiptune:cpu", "postgres:17-bookworm"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "keys",
    [
        {"claim": "arrays"},
        {"claim": "arrays", "gpus": 2, "namespace": "ml", "environment": "aws", "cpu": "500m"},
        {},
    ],
)
def test_what_launch_writes(tmp_path: Path, version: str, keys: Json) -> None:
    plan = Plan(
        study="Tiny_1",
        workers=3,
        device="auto",
        storage=None,
        artifacts=None if keys else "s3://bucket/prefix",
        group_writable=False,
        spec=LaunchSpec(k8s=K8sSpec(image="registry/skiptune:1", **keys)),
        logs=tmp_path,
    )
    checked(yaml.safe_load(K8s().text(plan)), version)
    checked(yaml.safe_load(K8s().text(replace(plan, workers=1))), version)


def misspelt(job: Json) -> None:
    job["spec"]["podFailurePolice"] = job["spec"].pop("podFailurePolicy")


def number_for_text(job: Json) -> None:
    job["spec"]["template"]["spec"]["containers"][0]["env"][1]["value"] = 3


def text_for_number(job: Json) -> None:
    job["spec"]["parallelism"] = "two"


def without_name(job: Json) -> None:
    del job["spec"]["template"]["spec"]["containers"][0]["name"]


def without_action(job: Json) -> None:
    del job["spec"]["podFailurePolicy"]["rules"][0]["action"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "spoil", [misspelt, number_for_text, text_for_number, without_name, without_action]
)
def test_a_broken_manifest_is_found(version: str, spoil: Callable[[Json], None]) -> None:
    [job] = built(K8S / "workers", {})
    checked(job, version)
    spoil(job)
    with pytest.raises(kubernetes_validate.ValidationError):
        checked(job, version)


# Compose


@pytest.fixture(scope="module")
def compose() -> jsonschema.Draft7Validator:
    """The schema of compose-spec, see tests/data/README.md."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def merged(below: Any, above: Any) -> Any:
    """Return what Compose reads from two files: mappings by their keys, else the later one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys()}
    return {**below, **above, **both}


def with_cuda() -> Json:
    """The project with its file for GPUs; the one list in both is a command, which is replaced."""
    whole: Json = merged(project(), project("compose.cuda.yaml"))
    return whole


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml", "both"])
def test_compose_files(compose: jsonschema.Draft7Validator, name: str) -> None:
    whole = with_cuda() if name == "both" else project(name)
    compose.validate(whole)
    if name == "both":
        worker = whole["services"]["worker"]
        assert worker["command"][0] == "launch" and worker["build"]["target"] == "cuda"
        assert worker["build"]["dockerfile"] == "docker/Dockerfile"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("services.worker.comand", ["worker"]),
        ("services.worker.depends_on.create.condition", 3),
        ("services.worker.healthcheck", ["CMD"]),
        ("services.worker.deploy.replicas", [2]),
        ("services.postgres.secrets", "postgres_password"),
        ("secrets.storage_url.files", "x"),
        ("volume", {}),
    ],
)
def test_a_broken_compose_file_is_found(
    compose: jsonschema.Draft7Validator, path: str, value: Any
) -> None:
    whole = copy.deepcopy(with_cuda())
    *above, last = path.split(".")
    place = whole
    for key in above:
        place = place[key]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        compose.validate(whole)
