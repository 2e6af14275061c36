"""The files in docker/: built from what is there, run without rights, and their commands work.

No Docker engine is needed: the files are read, and the commands that they contain are run as
plain processes with the same environment, against a PostgreSQL server.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.postgres import Server
from skiptune.cli import COMMANDS
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from tests.postgres import fresh_database
from tests.sources import ROOMS

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()

# Instructions of the Dockerfile reference.
INSTRUCTIONS = (
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN SHELL STOPSIGNAL USER"
    " VOLUME WORKDIR".split()
)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def stages(text: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return base and instructions of each stage, by its name."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
            here = found[name][1]
        else:
            here.append((word, rest))
    return found


def faults(text: str) -> list[str]:
    """Return what is wrong with a Dockerfile."""
    found = []
    known = stages(text)
    for name, (base, steps) in known.items():
        if not name:
            found.append(f"{base}: a stage without a name")
        if base not in known and not re.fullmatch(r"[a-z0-9/_-]+:[\w.-]*\d[\w.-]*", base):
            found.append(f"{base}: not pinned to a version")
        for word, rest in steps:
            if word not in INSTRUCTIONS:
                found.append(f"{word}: no instruction")
            if word == "ADD":
                found.append(f"ADD {rest}: COPY is what copies")
            if "://" in rest:
                found.append(f"{word}: an address")
            if word == "ENV" and re.search(r"PASSWORD|SECRET|STORAGE=", rest):
                found.append("ENV: a secret")
            if word in ("CMD", "ENTRYPOINT") and not rest.startswith("["):
                found.append(f"{word}: a shell would get the signals")
    targets = set(known) - {source for source in known if f"--from={source}" in text}
    for name in targets:
        words: dict[str, str] = {}
        stage = name
        while stage in known:  # the nearest one counts
            stage, steps = known[stage]
            for word, rest in reversed(steps):
                words.setdefault(word, rest)
        if words.get("USER", "root").split(":")[0] in ("root", "0"):
            found.append(f"{name}: runs as root")
        found += [f"{name}: no {word}" for word in ("HEALTHCHECK", "CMD") if word not in words]
    return found


def filled(value: Any, environment: Mapping[str, str]) -> Any:
    """Return a value of a compose file with its `${NAME:-default}` replaced."""
    if isinstance(value, dict):
        return {key: filled(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, environment) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1], found[2]), value
    )


def project(name: str = "compose.yaml", **environment: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / name).read_text())
    return dict(filled(loaded, environment))


# The Dockerfile


def test_the_dockerfile_has_no_fault() -> None:
    assert faults(DOCKERFILE) == []
    assert {"cpu", "cuda"} <= set(stages(DOCKERFILE))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 10001:10001", "", "cpu: runs as root"),
        ("USER 10001:10001", "USER 0", "cpu: runs as root"),
        ("HEALTHCHECK", "LABEL", "cpu: no HEALTHCHECK"),
        ("COPY search search", "ADD https://host/x.tar x", "ADD: an address"),
        ("COPY search search", "COPPY search search", "COPPY: no instruction"),
        ("python:3.12-slim-bookworm AS build", "python:latest AS build", "python:latest: not"),
        ("python:3.12-slim-bookworm AS build", "host.io/x:1 AS build", "host.io/x:1: not pinned"),
        ('ENTRYPOINT ["skiptune"]', "ENTRYPOINT skiptune", "ENTRYPOINT: a shell"),
        ("HOME=/cache", "SKIPTUNE_STORAGE=x", "ENV: a secret"),
    ],
)
def test_a_fault_of_the_dockerfile_is_found(old: str, new: str, fault: str) -> None:
    assert old in DOCKERFILE
    assert any(found.startswith(fault) for found in faults(DOCKERFILE.replace(old, new)))


def test_the_image_is_built_from_what_the_wheel_needs_and_that_travels() -> None:
    _, steps = stages(DOCKERFILE)["build"]
    copied = [word for key, rest in steps if key == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    assert {"skiptune", *ROOMS} <= set(copied)
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


# The compose project


def test_services_wait_for_each_other_and_one_port_is_open_to_this_machine() -> None:
    services = project()["services"]
    waits = {
        name: {other: wish["condition"] for other, wish in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits == {
        "postgres": {},
        "init": {"postgres": "service_healthy"},
        "create": {"init": "service_completed_successfully"},
        "worker": {"create": "service_completed_successfully"},
        "dashboard": {"init": "service_completed_successfully"},
    }
    assert "test" in services["postgres"]["healthcheck"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"dashboard": ["127.0.0.1:8080:8080"]}
    assert any("max_connections=200" in word for word in services["postgres"]["command"])
    assert services["postgres"]["image"].count(":") == 1


def test_secrets_are_files_and_volumes_are_declared() -> None:
    whole = project()
    for name, service in whole["services"].items():
        assert set(service["secrets"]) <= set(whole["secrets"])
        text = json.dumps(service["environment"])
        assert "://" not in text and "PASSWORD" not in text.replace("PASSWORD_FILE", ""), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source.startswith("./") or source in whole["volumes"]
    assert all(secret["file"].startswith("./secrets/") for secret in whole["secrets"].values())
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/docker/secrets/", "/docker/k8s/secrets/"} <= set(ignored)


def test_targets_exist_and_workers_have_time_to_leave() -> None:
    whole, cuda = project(), project("compose.cuda.yaml")
    targets = {
        service["build"]["target"] for service in whole["services"].values() if "build" in service
    }
    assert targets | {cuda["services"]["worker"]["build"]["target"]} <= set(stages(DOCKERFILE))
    worker = whole["services"]["worker"]
    assert worker["build"]["dockerfile"] == "docker/Dockerfile"
    assert (DOCKER / worker["build"]["context"]).resolve() == ROOT
    assert int(worker["stop_grace_period"].removesuffix("s")) >= 20
    assert filled("${SKIPTUNE_WORKERS:-2}", {"SKIPTUNE_WORKERS": "7"}) == "7"
    assert cuda["services"]["worker"]["deploy"]["replicas"] == 1


def test_every_command_is_one_of_ours() -> None:
    from click import Context

    from skiptune.cli import cli

    commands = [
        service["command"]
        for name in ("compose.yaml", "compose.cuda.yaml")
        for key, service in project(name)["services"].items()
        if key != "postgres"
    ]
    for file in sorted((DOCKER / "k8s").rglob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            if item["kind"] in ("Job", "Deployment"):
                pod = item["spec"]["template"]["spec"]
                for container in (*pod.get("initContainers", ()), *pod["containers"]):
                    commands.append(container["args"])
    assert len(commands) >= 9
    for name, *words in commands:
        assert name in COMMANDS
        found = cli.get_command(Context(cli), name)
        assert found is not None
        found.make_context(name, list(words))  # raises on a word it does not know


def test_kustomizations_name_files_that_exist() -> None:
    for file in sorted((DOCKER / "k8s").rglob("kustomization.yaml")):
        named = yaml.safe_load(file.read_text())["resources"]
        others = {path.name for path in file.parent.glob("*.yaml")} - {file.name}
        assert set(named) == others


# The commands themselves


@pytest.fixture
def variables(postgres_server: Server, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of the containers, with folders of this machine in the place of volumes."""
    with fresh_database(postgres_server) as url:
        secret = tmp_path / "storage_url"
        secret.write_text(url)
        secret.chmod(0o600)
        places = {"/run/secrets/storage_url": str(secret)}
        for volume in ("/arrays", "/studies", "/cache"):
            places[volume] = str(tmp_path / volume[1:])
            Path(places[volume]).mkdir()
        given: dict[str, str] = project()["services"]["worker"]["environment"]
        image: dict[str, str] = {}
        for word, rest in stages(DOCKERFILE)["cpu"][1]:
            if word == "ENV":
                for item in shlex.split(rest):
                    key, _, value = item.partition("=")
                    image[key] = value
        image.pop("PATH")
        inside = {key: places.get(value, value) for key, value in {**image, **given}.items()}
        yield {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **inside}


def started(words: list[str], variables: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "skiptune", *words],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_services_run_as_plain_processes(variables: dict[str, str], tmp_path: Path) -> None:
    services = project()["services"]
    health = next(rest for word, rest in stages(DOCKERFILE)["cpu"][1] if word == "HEALTHCHECK")
    check = json.loads(health.partition("CMD ")[2])[1:]
    for words, code in (
        (services["init"]["command"], 0),
        (services["init"]["command"], 0),  # again, as after a restart
        (check, 0),
        (services["create"]["command"], 0),
        (services["create"]["command"], 0),
    ):
        process = started(list(words), variables, tmp_path)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == code, out
    with open_database(Path(variables["SKIPTUNE_STORAGE_FILE"]).read_text()) as database:
        study = ledger.require_study(database, "fashion")

        def held() -> bool:
            return bool(ledger.progress(database, study.id).workers)

        worker = started(list(services["worker"]["command"]), variables, tmp_path)
        try:
            end = time.monotonic() + 300
            while not held() and worker.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
            assert held()
            worker.send_signal(signal.SIGTERM)  # what `docker compose stop` sends
            out, _ = worker.communicate(timeout=60)
        finally:
            worker.kill()
            worker.wait()
        assert worker.returncode == 143, out
        assert "Stopped. Go on with: skiptune worker fashion" in out
        assert not held()  # the chunk in hand was finished, or is back in the queue


@pytest.mark.slow
def test_the_dashboard_runs_as_a_plain_process(variables: dict[str, str], tmp_path: Path) -> None:
    service = project()["services"]["dashboard"]
    process = started(["db", "init"], variables, tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    secret = tmp_path / "dashboard_token"
    secret.write_text("0123456789abcdef-token\n")
    secret.chmod(0o600)
    inside = "/run/secrets/dashboard_token"
    assert inside in service["command"]
    words = [str(secret) if word == inside else word for word in service["command"]]
    process = started([*words, "--port", "0"], variables, tmp_path)
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith("http://")).strip()
        assert url.endswith("/dashboard")
        _, python, *check = service["healthcheck"]["test"]
        there = [word.replace("http://127.0.0.1:8080", url.rpartition("/")[0]) for word in check]
        assert python == "python" and there != check
        subprocess.run([sys.executable, *there], check=True, timeout=60)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143, out


def test_on_kubernetes_the_dashboard_is_seen_inside_and_needs_its_token() -> None:
    documents = yaml.safe_load_all((DOCKER / "k8s" / "dashboard.yaml").read_text())
    service, deployment = documents
    assert (service["kind"], service["spec"]["type"]) == ("Service", "ClusterIP")
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    [container] = template["spec"]["containers"]
    token = {"secretKeyRef": {"name": "skiptune-dashboard", "key": "token"}}
    assert {"name": "SKIPTUNE_DASHBOARD_TOKEN", "valueFrom": token} in container["env"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    made = yaml.safe_load((DOCKER / "k8s" / "kustomization.yaml").read_text())["secretGenerator"]
    assert {"name": "skiptune-dashboard", "files": ["secrets/token"]} in made
