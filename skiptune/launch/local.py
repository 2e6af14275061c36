"""This machine: one worker per GPU, or so many on the CPU with its cores divided among them."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from skiptune.errors import LaunchError
from skiptune.launch.crew import LAST_SECONDS, Member
from skiptune.launch.executor import Counts, Job, Plan, program
from skiptune.search.liveness import is_gone, process_name
from skiptune.storage.location import has_password

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skiptune.storage.records import Launch

__all__ = ["Local", "devices_of", "members_of"]

CORES_EACH: Final = 4
"""Cores per worker where nobody says how many workers a machine without GPUs shall have."""


class Local:
    """Workers on this machine, looked after by one process of `skiptune launch`."""

    name: ClassVar[str] = "local"

    def text(self, plan: Plan) -> str:
        """Return one shell line per worker."""
        hidden = {"SKIPTUNE_STORAGE"} if has_password(plan.storage or "") else set()
        lines = []
        for member in members_of(plan):
            changed = {
                key: value
                for key, value in member.environment.items()
                if os.environ.get(key) != value and key not in hidden
            }
            # The value alone is quoted: a shell takes a quoted NAME=VALUE for a program.
            words = [f"{key}={shlex.quote(value)}" for key, value in sorted(changed.items())]
            words += [shlex.join(member.words), f">>{shlex.quote(str(member.log))} 2>&1 &"]
            lines.append(" ".join(words) + "\n")
        return "".join(lines)

    def start(self, plan: Plan) -> Job:
        """Start a process that looks after the workers, in a session of its own."""
        workers = len(devices_of(plan))
        words = [*program(), "launch", plan.study, "--executor", "local", "--no-progress"]
        words += ["--workers", str(workers), "--device", plan.device, "--logs", str(plan.logs)]
        if plan.artifacts is not None:
            words += ["--artifacts", plan.artifacts]
        if plan.group_writable:
            words.append("--group-writable")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        log = plan.logs / f"launch-{stamp}-{os.getpid()}.log"
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not Popen, which warns of a child that outlives it.
        pid = os.posix_spawn(
            words[0],
            words,
            plan.environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        return Job(socket.gethostname(), process_name(pid), workers)

    def list(self, launch: Launch) -> Counts | None:
        """Count them all while the process that looks after them lives."""
        if is_gone(launch.job):
            return Counts(0, 0)
        return Counts(0, launch.workers) if self._is_here(launch) else None

    def stop(self, launch: Launch) -> None:
        """Ask the process that looks after the workers to end them, and wait until it has."""
        if is_gone(launch.job):
            return
        if not self._is_here(launch):
            raise LaunchError(
                f"launch on {launch.place}",
                expected=f"to be ended on {launch.place}, where it was started",
                found=f"this host, {socket.gethostname()}",
                hint=f"on {launch.place}: kill {launch.job.split(':')[-2]}; or let the workers of"
                " all machines leave with `skiptune stop`",
            )
        os.kill(int(launch.job.split(":")[-2]), signal.SIGTERM)
        until = time.monotonic() + LAST_SECONDS + 5.0
        while not is_gone(launch.job) and time.monotonic() < until:
            time.sleep(0.1)

    def _is_here(self, launch: Launch) -> bool:
        # Host and processes are the same: not another container that has the host's name.
        here = process_name(os.getpid()).split(":")[:-2]
        return launch.job.split(":")[:-2] == here


def members_of(plan: Plan) -> tuple[Member, ...]:
    """Return the workers of a plan on this machine.

    Raises:
        LaunchError: GPUs are asked for and none is visible.
    """
    devices = devices_of(plan)
    usual = {
        "OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // len(devices), 1)),
        # Threads that spin while they wait make two busy processes run many times slower.
        "GOMP_SPINCOUNT": "0",
    }
    environment = {**usual, **plan.environment()}
    environment |= {"PYTHONUNBUFFERED": "1", "SKIPTUNE_NO_PROGRESS": "1"}
    return tuple(
        Member(
            number=number,
            words=[*program(), *plan.worker_words(device)],
            environment=environment,
            log=plan.logs / f"{os.getpid()}-{number}.log",
        )
        for number, device in enumerate(devices)
    )


def devices_of(plan: Plan) -> Sequence[str]:
    """Return the torch device of each worker: GPUs in turn, or all of them the CPU.

    Raises:
        LaunchError: GPUs are asked for and none is visible.
    """
    if plan.device == "cpu":
        return ["cpu"] * (plan.workers or max(len(os.sched_getaffinity(0)) // CORES_EACH, 1))
    gpus = _visible_gpus()
    if gpus == 0 and plan.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        raise LaunchError(
            "--device cuda",
            expected="a GPU that torch can see",
            found=f"none{because}",
            hint="see what is there with `skiptune env`, or use --device cpu",
        )
    if gpus == 0:
        return devices_of(replace(plan, device="cpu"))
    return [f"cuda:{number % gpus}" for number in range(plan.workers or gpus)]


def _visible_gpus() -> int:
    import torch  # it knows of CUDA_VISIBLE_DEVICES, MIG and ROCm, and makes no context to count

    return torch.cuda.device_count()
