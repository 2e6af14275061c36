"""The section `launch` of a study spec: where workers are started. Never what a study means."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from skiptune.search.problems import refusal
from skiptune.search.sections import Section

__all__ = ["K8sSpec", "LaunchSpec", "RaySpec", "SlurmSpec"]

_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=\S.*)?")
# As Kubernetes takes them: a label of RFC 1123, and a name of labels and dots.
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _one_line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise refusal("one line each")
    return text


def _option(text: str) -> str:
    if not _OPTION.fullmatch(_one_line(text)):
        raise refusal("an option of sbatch each, e.g. --constraint=a100")
    return text


def _above_zero(amount: float) -> float:
    if amount <= 0:
        raise refusal("a number above 0")
    return amount


Lines = Annotated[
    tuple[Annotated[str, AfterValidator(_one_line)], ...],
    BeforeValidator(_listed),
    Field(strict=False),
]
Options = Annotated[
    tuple[Annotated[str, AfterValidator(_option)], ...],
    BeforeValidator(_listed),
    Field(strict=False),
]
# What sbatch reads up to the end of a line: no blanks, so that no second option hides in one.
Word = Annotated[str, Field(pattern=r"^\S+$")]
ObjectName = Annotated[str, Field(pattern=_NAME, max_length=253)]


class SlurmSpec(Section):
    """What a Slurm job asks for; each key is the option of sbatch of the same name."""

    partition: Word | None = Field(default=None, description="a partition's name, or null")
    account: Word | None = Field(default=None, description="an account's name, or null")
    time: Word | None = Field(
        default=None,
        description="a text in quotes as sbatch reads it, e.g. '04:00:00' or '240', or null",
    )
    gres: Word | None = Field(
        default=None, description="generic resources of each worker, e.g. gpu:1, or null"
    )
    cpus: int = Field(default=1, ge=1, description="CPUs of each worker, a whole number above 0")
    memory: Word | None = Field(
        default=None, description="memory of each worker, e.g. 8G, or null for the site's default"
    )
    options: Options = Field(
        default=(), description="a list of further options of sbatch, e.g. --constraint=a100"
    )
    setup: Lines = Field(
        default=(), description="a list of shell lines before the worker, e.g. module load cuda"
    )


class RaySpec(Section):
    """What each worker asks of a Ray cluster, and how that is reached."""

    address: Word | None = Field(
        default=None,
        description="HOST:PORT or ray://HOST:PORT of a Ray cluster, or null for RAY_ADDRESS, else"
        " the cluster of this machine",
    )
    cpus: int = Field(default=1, ge=1, description="CPUs of each worker, a whole number above 0")
    gpus: float = Field(
        default=0.0, ge=0, le=1, description="GPUs of each worker, from 0 to 1; 0.5 shares one"
    )
    resources: dict[str, Annotated[float, AfterValidator(_above_zero)]] | None = Field(
        default=None,
        description="a mapping from further resources of Ray to numbers above 0, or null",
    )
    restarts: int = Field(
        default=20,
        ge=0,
        description="how often Ray starts a worker again whose node or process is lost, a whole"
        " number",
    )
    autoscaling: bool = Field(
        default=False,
        description="true where the cluster gets nodes as they are asked for, or false",
    )
    runtime_env: dict[str, Any] | None = Field(
        default=None,
        description="a mapping as Ray reads it, e.g. {working_dir: ., pip: [skiptune]}, or null;"
        " others can read it",
    )


class K8sSpec(Section):
    """What a Job on Kubernetes asks for."""

    image: Word | None = Field(
        default=None, description="the container image of the workers, or null"
    )
    namespace: Annotated[str, Field(pattern=_LABEL)] | None = Field(
        default=None, description="a namespace's name, or null for that of kubectl's context"
    )
    secret: ObjectName = Field(
        default="skiptune-storage",
        description="the name of a Secret whose key `url` holds the URL of the database",
    )
    claim: ObjectName | None = Field(
        default=None,
        description="the name of a PersistentVolumeClaim for the arrays, or null with a bucket",
    )
    environment: ObjectName | None = Field(
        default=None,
        description="the name of a Secret with further variables, e.g. those of AWS, or null",
    )
    gpus: int = Field(default=0, ge=0, description="GPUs of each worker, a whole number")
    cpu: Word = Field(default="1", description="CPUs of each worker, e.g. '2' or 500m")
    memory: Word = Field(default="4Gi", description="memory of each worker, e.g. 8Gi")


class LaunchSpec(Section):
    """Where `skiptune launch` starts workers; may differ each time."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="auto, or a whole number of at least 1"
    )
    one_host: bool = Field(
        default=False,
        description="true where Slurm or Ray is this one host, which a SQLite file serves, or"
        " false",
    )
    slurm: SlurmSpec = Field(
        default=SlurmSpec(), description="a mapping with `partition`, `gres`, `time`, ..."
    )
    ray: RaySpec = Field(
        default=RaySpec(), description="a mapping with `address`, `gpus`, `resources`, ..."
    )
    k8s: K8sSpec = Field(
        default=K8sSpec(), description="a mapping with `image`, `namespace`, `claim`, ..."
    )
