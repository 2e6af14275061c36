"""Slurm: an array job, one element per worker; Slurm starts them again where nodes are lost.

Facts are those of sbatch(1), srun(1), squeue(1) and scancel(1): without ``B:`` the signal before
the time limit goes to the job's steps, that is to the worker below `srun`, not to the script.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from skiptune.errors import LaunchError
from skiptune.launch.executor import Counts, Job, Plan, program
from skiptune.launch.programs import asked

if TYPE_CHECKING:
    from skiptune.storage.records import Launch

__all__ = ["Slurm"]

SIGNAL: Final = "USR1@60"
"""A worker needs ten seconds to leave; Slurm looks once a minute, so it may come that much early.
The same signal twice would end it in the middle: Slurm's SIGTERM comes only at the limit."""

NO_CLUSTER: Final = "slurm"  # the place of a job where sbatch names no cluster

WAITING: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"})
GONE: Final = "Invalid job id"  # squeue of a job that ended a while ago

_JOB = re.compile(r"(?P<job>\d+)(;(?P<cluster>\S+))?")
_GPU = re.compile(r"(.*[,/])?(gpu|mps|shard)([:=,].*)?")  # in a list of generic resources
_GPU_OPTION = re.compile(r"--gpus(-per-(node|socket|task))?=.*")


class Slurm:
    """Workers as elements of an array job."""

    name: ClassVar[str] = "slurm"

    def text(self, plan: Plan) -> str:
        """Return the script that sbatch is given."""
        workers = _workers(plan)
        slurm = plan.spec.slurm
        options = [
            f"--job-name=skiptune-{plan.study}",
            f"--array=0-{workers - 1}",
            "--ntasks=1",
            f"--cpus-per-task={slurm.cpus}",
            "--requeue",
            f"--signal={SIGNAL}",
            "--open-mode=append",
            # A % of the folder's own is doubled: Slurm would read it as in %A.
            f"--output={_quoted(str(plan.logs).replace('%', '%%'))}/%A_%a.log",
            f"--chdir={_quoted(os.getcwd())}",
        ]
        for key, value in (
            ("partition", slurm.partition),
            ("account", slurm.account),
            ("time", slurm.time),
            ("gres", slurm.gres),
            ("mem", slurm.memory),
        ):
            if value is not None:
                options.append(f"--{key}={shlex.quote(value)}")  # a bare # begins a comment
        options += slurm.options
        worker = [*program(), *plan.worker_words(_device(plan))]
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in options),
                f"export OMP_NUM_THREADS={slurm.cpus} GOMP_SPINCOUNT=0 PYTHONUNBUFFERED=1",
                *_exports(plan),
                *slurm.setup,
                # exec: no shell stands between Slurm and the step. The CPUs are said again,
                # because since Slurm 22.05 srun does not take them from the job.
                f"exec srun --ntasks=1 --cpus-per-task={slurm.cpus} {shlex.join(worker)}",
                "",
            ]
        )

    def start(self, plan: Plan) -> Job:
        """Write the script beside the logs and submit it."""
        text = self.text(plan)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        script = plan.logs / f"workers-{stamp}-{os.getpid()}.sbatch"
        script.write_text(text, encoding="utf-8")
        answer = _run(["sbatch", "--parsable", str(script)])
        if answer.returncode != 0:
            raise LaunchError(
                f"sbatch {script}",
                expected="a script that Slurm accepts",
                found=answer.stderr.strip() or f"exit {answer.returncode}",
                hint="change the section `launch.slurm` of the study file, or for this time with"
                " e.g. -s launch.slurm.partition=NAME",
            )
        # `41` or `41;cluster`, on the last line: sites print greetings before it.
        answered = _JOB.fullmatch(answer.stdout.strip().rpartition("\n")[2].strip())
        if answered is None:
            raise LaunchError(
                f"sbatch {script}",
                expected="the number of the job, as `sbatch --parsable` prints it",
                found=answer.stdout.strip() or "nothing",
                hint="see with `squeue --me` whether there is a job, and end it with `scancel`",
            )
        return Job(answered["cluster"] or NO_CLUSTER, answered["job"], _workers(plan))

    def list(self, launch: Launch) -> Counts | None:
        """Ask squeue for the states of the elements."""
        words = ["squeue", "--noheader", "--array", f"--jobs={launch.job}", "--format=%T"]
        answer = _run([*words, *_cluster(launch)])
        if answer.returncode != 0:
            if GONE in answer.stderr:
                return Counts(0, 0)
            raise _refused(words, answer.stderr)
        states = [line.strip() for line in answer.stdout.splitlines()]
        # With --clusters a line names each cluster first.
        states = [state for state in states if state and not state.startswith("CLUSTER:")]
        waiting = sum(state in WAITING for state in states)
        return Counts(waiting, len(states) - waiting)

    def stop(self, launch: Launch) -> None:
        """Take back what waits and ask what runs to leave, as `skiptune worker` does on SIGTERM.

        Slurm kills what has not left after the site's KillWait, 30 seconds by default.
        """
        words = ["scancel", *_cluster(launch), launch.job]
        answer = _run(words)
        if answer.returncode != 0 and GONE not in answer.stderr:
            raise _refused(words, answer.stderr)


def _workers(plan: Plan) -> int:
    if plan.workers is None:
        raise LaunchError(
            "--workers auto",
            expected="a number: how many elements the array job shall have",
            found="auto, which counts the GPUs of one machine",
            hint="say it with --workers N, or in the study file: launch: {workers: N}",
        )
    return plan.workers


def _quoted(folder: str) -> str:
    """Return a folder as sbatch reads it in a script, where quotes are those of a shell.

    Raises:
        LaunchError: It cannot be said: a line break ends an option, and a backslash in the name
            of an output file keeps Slurm from replacing anything in it.
    """
    if "\\" in folder or len(folder.splitlines()) > 1:
        raise LaunchError(
            repr(folder),
            expected="a folder without backslashes and line breaks, which Slurm cannot be told",
            found="one with them",
            hint="launch from another folder, or name another one with --logs",
        )
    return shlex.quote(folder)


def _device(plan: Plan) -> str:
    """Return what a worker runs on: a GPU where one is asked of Slurm."""
    slurm = plan.spec.slurm
    words = [option.partition("=") for option in slurm.options]
    resources = [value for name, _, value in words if name in ("--gres", "--tres-per-task")]
    asks = any(_GPU.fullmatch(text) for text in (slurm.gres or "", *resources))
    asks = asks or any(_GPU_OPTION.fullmatch(option) for option in slurm.options)
    return plan.device_on(
        "Slurm",
        asks=asks,
        found="none in launch.slurm.gres or launch.slurm.options",
        setting="launch.slurm.gres=gpu:1",
    )


def _exports(plan: Plan) -> list[str]:
    """Return the shell lines that tell a worker on any node where everything is.

    They are written out because some sites submit with `--export=NONE`.
    """
    return [f"export {name}={shlex.quote(value)}" for name, value in plan.carried().items()]


def _cluster(launch: Launch) -> list[str]:
    return [] if launch.place == NO_CLUSTER else [f"--clusters={launch.place}"]


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of Slurm.

    Raises:
        LaunchError: It is not installed here, or its controller does not answer.
    """
    missing = LaunchError(
        words[0],
        expected="the programs of Slurm on the PATH",
        found="none of this name",
        hint="run it on a login node of the cluster, or see the script with --dry-run",
    )
    return asked(words, missing=missing, refused=_refused)


def _refused(words: Sequence[str], found: str) -> LaunchError:
    return LaunchError(
        shlex.join(words),
        expected="an answer of Slurm's controller",
        found=found.strip() or "an error without words",
        hint="see whether it lives with `scontrol ping`, then try again",
    )
