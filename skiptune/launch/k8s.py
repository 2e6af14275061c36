"""Kubernetes: one Job whose pods are the workers; the Job starts them again where nodes are lost.

Field names and their meaning are those of batch/v1 Job. Without `completions` a Job is a queue of
work: the first pod that ends well says that all is done, and no other is started after it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from skiptune.errors import LaunchError
from skiptune.launch.executor import Counts, Job, Plan
from skiptune.launch.programs import asked

if TYPE_CHECKING:
    from skiptune.storage.records import Launch

__all__ = ["K8s", "manifest"]

CONTEXT: Final = "default of kubectl"  # the place of a Job where the study names no namespace
USER: Final = 10001  # of docker/Dockerfile
GRACE: Final = 30  # seconds: three times what a worker needs to leave
KEPT: Final = 7 * 86400  # seconds for which a Job that is over can be looked at
ASKED: Final = (130, 143)  # exit codes of a worker that was asked to leave
REFUSED: Final = 2  # its exit code where something is to be mended


class K8s:
    """Workers as the pods of a Job."""

    name: ClassVar[str] = "k8s"

    def text(self, plan: Plan) -> str:
        """Return the manifest of the Job, as `kubectl apply -f -` takes it."""
        import yaml

        return str(yaml.safe_dump(manifest(plan), sort_keys=False, width=99))

    def start(self, plan: Plan) -> Job:
        """Write the manifest beside the logs and create what it describes."""
        described = manifest(plan)
        name = str(described["metadata"]["name"])
        file = plan.logs / f"{name}.yaml"
        file.write_text(self.text(plan), encoding="utf-8")
        words = ["kubectl", "create", "--filename", str(file)]
        answer = _run(words)
        if answer.returncode != 0:
            raise _refused(words, answer.stderr, hint=f"the manifest is {file}")
        return Job(plan.spec.k8s.namespace or CONTEXT, name, _workers(plan))

    def list(self, launch: Launch) -> Counts | None:
        """Read the Job's status."""
        words = ["kubectl", *_namespace(launch), "get", "job", launch.job, "--output=json"]
        answer = _run(words)
        if answer.returncode != 0:
            if "(NotFound)" in answer.stderr:
                return Counts(0, 0)
            raise _refused(words, answer.stderr)
        status = json.loads(answer.stdout).get("status", {})
        over = any(
            condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
            for condition in status.get("conditions", ())
        )
        active, ready = int(status.get("active", 0)), int(status.get("ready", 0))
        if over or active:
            return Counts(active - ready, ready)
        return Counts(launch.workers, 0)  # just created: its controller has not seen it yet

    def stop(self, launch: Launch) -> None:
        """Delete the Job; its pods get SIGTERM and half a minute."""
        words = ["kubectl", *_namespace(launch), "delete", "job", launch.job]
        words += ["--ignore-not-found", "--wait=false"]
        answer = _run(words)
        if answer.returncode != 0:
            raise _refused(words, answer.stderr)


def manifest(plan: Plan) -> dict[str, Any]:
    """Return the Job of a plan as plain data.

    Raises:
        LaunchError: The study says too little about where its pods shall run.
    """
    spec = plan.spec.k8s
    workers = _workers(plan)
    if spec.image is None:
        raise LaunchError(
            "launch.k8s.image",
            expected="the image of the workers, which the cluster can pull",
            found="null",
            hint="build it from docker/Dockerfile, push it, and say e.g. -s launch.k8s.image=NAME",
        )
    labels = {"app.kubernetes.io/name": "skiptune", "app.kubernetes.io/component": "worker"}
    metadata: dict[str, Any] = {"name": _name(plan.study), "labels": dict(labels)}
    if spec.namespace is not None:
        metadata["namespace"] = spec.namespace
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "parallelism": workers,
            "backoffLimit": 5 * workers,
            "ttlSecondsAfterFinished": KEPT,
            # Rules are tried in order; a worker that was refused would be refused again.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {"action": "Ignore", "onExitCodes": _codes(*ASKED)},
                    {"action": "FailJob", "onExitCodes": _codes(REFUSED)},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(plan)},
        },
    }


def _pod(plan: Plan) -> dict[str, Any]:
    spec = plan.spec.k8s
    url = {"name": spec.secret, "key": "url"}
    mounts = [{"name": "cache", "mountPath": "/cache"}, {"name": "tmp", "mountPath": "/tmp"}]
    volumes: list[dict[str, Any]] = [
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if spec.claim is not None:
        mounts.append({"name": "arrays", "mountPath": "/arrays"})
        volumes.append({"name": "arrays", "persistentVolumeClaim": {"claimName": spec.claim}})
    limits = {"memory": spec.memory} | ({"nvidia.com/gpu": str(spec.gpus)} if spec.gpus else {})
    container: dict[str, Any] = {
        "name": "worker",
        "image": spec.image,
        "args": ["worker", plan.study, "--until-done", "--device", _device(plan)],
        "env": [
            {"name": "SKIPTUNE_STORAGE", "valueFrom": {"secretKeyRef": url}},
            {"name": "SKIPTUNE_ARTIFACTS", "value": _artifacts(plan)},
        ],
        "resources": {"requests": {"cpu": spec.cpu, "memory": spec.memory}, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if spec.environment is not None:
        container["envFrom"] = [{"secretRef": {"name": spec.environment}}]
    return {
        "restartPolicy": "Never",  # a policy for failures needs it: the Job makes the next pod
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def _codes(*codes: int) -> dict[str, Any]:
    return {"containerName": "worker", "operator": "In", "values": list(codes)}


def _workers(plan: Plan) -> int:
    if plan.workers is None:
        raise LaunchError(
            "--workers auto",
            expected="a number: how many pods shall run at a time",
            found="auto, which counts the GPUs of one machine",
            hint="say it with --workers N, or in the study file: launch: {workers: N}",
        )
    return plan.workers


def _device(plan: Plan) -> str:
    asks = bool(plan.spec.k8s.gpus)
    found, setting = "launch.k8s.gpus: 0", "launch.k8s.gpus=1"
    return plan.device_on("Kubernetes", asks=asks, found=found, setting=setting)


def _artifacts(plan: Plan) -> str:
    """Return where pods keep arrays: the claim that they mount, or a bucket."""
    given, claim = plan.artifacts or "", plan.spec.k8s.claim
    if given.startswith("s3://") and claim is not None:
        raise LaunchError(
            "launch.k8s.claim",
            expected="null with a bucket: pods keep arrays in one place",
            found=f"{claim}, and --artifacts {given}",
            hint="-s launch.k8s.claim=null, or leave --artifacts out",
        )
    if claim is not None:
        return "/arrays"  # a folder that is given is where this host has the claim's volume
    if given.startswith("s3://"):
        return given
    raise LaunchError(
        "launch.k8s.claim",
        expected="a claim that all pods mount, or a bucket",
        found=f"null, and --artifacts {given}" if given else "null",
        hint="-s launch.k8s.claim=NAME, or --artifacts s3://BUCKET/PREFIX",
    )


def _name(study: str) -> str:
    """Return a name for a Job: a DNS label of at most 63 characters that no other one has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    plain = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:24].strip("-")
    # Two names may look alike once they are plain.
    mark = hashlib.sha256(study.encode()).hexdigest()[:4]
    return f"skiptune-{plain}-{mark}-{stamp}"


def _namespace(launch: Launch) -> list[str]:
    return [] if launch.place == CONTEXT else [f"--namespace={launch.place}"]


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run kubectl.

    Raises:
        LaunchError: It is not installed here, or the cluster does not answer.
    """
    missing = LaunchError(
        words[0],
        expected="the program kubectl on the PATH",
        found="none",
        hint="write the manifest with --dry-run, and apply it where kubectl is",
    )
    return asked(words, missing=missing, refused=_refused)


def _refused(words: Sequence[str], found: str, *, hint: str = "") -> LaunchError:
    return LaunchError(
        " ".join(words),
        expected="a cluster that does as it is asked",
        found=found.strip() or "an error without words",
        hint=hint or "see what kubectl speaks to with `kubectl cluster-info`",
    )
