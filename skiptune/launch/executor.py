"""What every executor is given, what it answers, and where each one lives."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from skiptune.errors import LaunchError
from skiptune.storage.location import FILE_VARIABLE, URL_VARIABLE, has_password, masked_url

if TYPE_CHECKING:
    from skiptune.search.launch_section import LaunchSpec
    from skiptune.storage.records import Launch

__all__ = [
    "CARRIED",
    "EXECUTORS",
    "Counts",
    "Executor",
    "Job",
    "Plan",
    "counts_of",
    "executor_of",
    "log_end",
    "program",
]

EXECUTORS: Final = {
    "local": "skiptune.launch.local:Local",
    "slurm": "skiptune.launch.slurm:Slurm",
    "ray": "skiptune.launch.ray_cluster:RayCluster",
    "k8s": "skiptune.launch.k8s:K8s",
}
"""Module and class of each executor, by its name on the command line."""

CARRIED: Final = (
    URL_VARIABLE,
    FILE_VARIABLE,
    "SKIPTUNE_ARTIFACTS",
    "SKIPTUNE_GROUP_WRITABLE",
    "SKIPTUNE_PATH",
    "SKIPTUNE_CACHE",
)
"""Variables that a worker on another host is told: it has none of this process's."""

_TAIL_LINES: Final = 12


@dataclass(frozen=True)
class Plan:
    """Workers that are to be started.

    Arguments:
        study: The study's name; it is in the database.
        workers: How many; None where the executor counts devices itself.
        device: ``cpu``, ``cuda``, or ``auto``: GPUs where there are any.
        storage: The database's URL as given on the command line; None: the environment has it.
        artifacts: Where per-image arrays are, None: the default.
        group_writable: Let the group of the artifact folder write.
        spec: The section `launch` of the study.
        logs: Absolute path of the folder for the workers' output.
    """

    study: str
    workers: int | None
    device: str
    storage: str | None
    artifacts: str | None
    group_writable: bool
    spec: LaunchSpec
    logs: Path

    def worker_words(self, device: str) -> list[str]:
        """Return the words after `skiptune` that start one worker on a device."""
        words = ["worker", self.study, "--until-done", "--device", device]
        if self.artifacts is not None:
            words += ["--artifacts", self.artifacts]
        if self.group_writable:
            words.append("--group-writable")
        return words

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the URL in it: command lines can be read."""
        environment = dict(os.environ)
        if self.storage is not None:
            environment.pop(FILE_VARIABLE, None)
            environment[URL_VARIABLE] = self.storage
        return environment

    def carried(self) -> dict[str, str]:
        """Return the variables by which a worker on another host finds everything.

        Raises:
            LaunchError: The URL has a password in it: what a cluster is given others can read.
        """
        environment = self.environment()
        url = environment.get(URL_VARIABLE)
        if url is not None and has_password(url):
            raise LaunchError(
                masked_url(url),
                expected="a URL without a password, or one in a file of mode 0600 that all nodes"
                " see: what the cluster is given can be read by others",
                found="a password in it",
                hint="write the URL into a file, chmod 600 FILE, then export"
                f" {FILE_VARIABLE}=FILE and unset {URL_VARIABLE}",
            )
        return {name: environment[name] for name in CARRIED if environment.get(name)}

    def device_on(self, cluster: str, *, asks: bool, found: str, setting: str) -> str:
        """Return what a worker runs on that a cluster places: a GPU where one is asked for.

        Arguments:
            cluster: Who places it, in words.
            asks: Whether the study's section of the cluster asks for a GPU.
            found: What stands there where it does not.
            setting: What asks for one, as KEY=VALUE.

        Raises:
            LaunchError: It is to run on a GPU that nobody asks for.
        """
        if self.device == "cuda" and not asks:
            raise LaunchError(
                "--device cuda",
                expected=f"a GPU that is asked of {cluster}",
                found=found,
                hint=f"ask for one with -s {setting}",
            )
        return self.device if self.device != "auto" else "cuda" if asks else "cpu"


@dataclass(frozen=True)
class Job:
    """What was started: `place` is a host, a cluster or a namespace that knows it as `name`."""

    place: str
    name: str
    workers: int


@dataclass(frozen=True)
class Counts:
    """How many workers of a launch wait for a place, and how many run."""

    waiting: int
    running: int

    @property
    def over(self) -> bool:
        """Whether none is left."""
        return self.waiting + self.running == 0


class Executor(Protocol):
    """Who starts, counts and ends workers."""

    name: ClassVar[str]

    def text(self, plan: Plan) -> str:
        """Return what would be run or submitted: a script, a manifest, or commands.

        Raises:
            LaunchError: The plan asks for what is not there.
        """

    def start(self, plan: Plan) -> Job:
        """Start the workers, which outlive this process.

        Raises:
            LaunchError: The executor is not available or has refused.
        """

    def list(self, launch: Launch) -> Counts | None:
        """Count the workers of a launch; None where it cannot be asked from here.

        Raises:
            LaunchError: The executor is not available.
        """

    def stop(self, launch: Launch) -> None:
        """End the workers of a launch: each hands back or finishes the chunk in hand.

        Raises:
            LaunchError: The executor is not available, or the launch cannot be ended from here.
        """


def executor_of(name: str) -> Executor:
    """Return an executor by its name.

    Raises:
        LaunchError: A newer version has noted it.
    """
    if name not in EXECUTORS:
        raise LaunchError(
            f"executor {name}",
            expected=f"one of {', '.join(EXECUTORS)}",
            found="one that this version does not know",
            hint="update this installation: `pip install -U skiptune`",
        )
    module, _, kind = EXECUTORS[name].partition(":")
    executor: Executor = getattr(import_module(module), kind)()
    return executor


def counts_of(launch: Launch) -> Counts | None:
    """Count the workers of a launch; None where its executor cannot be asked from here."""
    try:
        return executor_of(launch.executor).list(launch)
    except LaunchError:
        return None


def program() -> list[str]:
    """Return the words that run this very installation: no other one on the path is meant."""
    return [sys.executable, "-m", "skiptune"]


def log_end(log: Path, *, since: int = 0) -> str:
    """Return the last lines of a log, indented for an error message.

    Arguments:
        log: The file; one that is missing has no lines.
        since: Bytes at its beginning that are of no interest.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    shown = [line for line in lines if line.strip()][-_TAIL_LINES:]
    return "".join(f"\n         {line}" for line in shown) or " (it is empty)"
