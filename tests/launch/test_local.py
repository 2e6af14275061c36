"""One worker per GPU, or so many on the CPU with its cores divided."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skiptune.errors import LaunchError
from skiptune.launch import local as module
from skiptune.launch.executor import Counts, Plan
from skiptune.launch.local import Local, devices_of, members_of
from skiptune.search.liveness import process_name
from skiptune.storage import ledger


def with_machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int, cores: int) -> None:
    monkeypatch.setattr(module, "_visible_gpus", lambda: gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "cores", "expected"),
    [
        ("auto", None, 2, 8, ["cuda:0", "cuda:1"]),
        ("cuda", 1, 2, 8, ["cuda:0"]),
        ("cuda", 3, 2, 8, ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", None, 0, 9, ["cpu", "cpu"]),
        ("auto", None, 0, 2, ["cpu"]),
        ("auto", 3, 0, 2, ["cpu", "cpu", "cpu"]),
        ("cpu", None, 2, 8, ["cpu", "cpu"]),
    ],
)
def test_devices(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    workers: int | None,
    gpus: int,
    cores: int,
    expected: list[str],
) -> None:
    with_machine(monkeypatch, gpus=gpus, cores=cores)
    assert list(devices_of(replace(plan, device=device, workers=workers))) == expected


def test_a_gpu_that_is_not_there_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with_machine(monkeypatch, gpus=0, cores=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(LaunchError, match=r"none \(CUDA_VISIBLE_DEVICES=\)"):
        devices_of(replace(plan, device="cuda"))


@pytest.mark.parametrize(("cores", "threads"), [(8, "4"), (3, "1"), (1, "1")])
def test_cores_are_divided(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, cores: int, threads: str
) -> None:
    with_machine(monkeypatch, gpus=0, cores=cores)
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for member in members_of(plan):
        assert member.environment["OMP_NUM_THREADS"] == threads
        assert member.environment["GOMP_SPINCOUNT"] == "0"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert members_of(plan)[0].environment["OMP_NUM_THREADS"] == "7"


def test_each_worker_has_its_own_file(plan: Plan) -> None:
    logs = [member.log for member in members_of(plan)]
    assert len(set(logs)) == 2
    assert {log.parent for log in logs} == {plan.logs}


def test_a_url_goes_by_the_environment_and_is_not_shown_with_its_password(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPTUNE_STORAGE_FILE", "/nowhere")
    secret = replace(plan, storage="postgresql://me:s3cret@host/studies")
    for member in members_of(secret):
        assert member.environment["SKIPTUNE_STORAGE"] == secret.storage
        assert "SKIPTUNE_STORAGE_FILE" not in member.environment
        assert "s3cret" not in " ".join(member.words)
    assert "s3cret" not in Local().text(secret)
    assert "SKIPTUNE_STORAGE=sqlite:///x.db" in Local().text(
        replace(plan, storage="sqlite:///x.db")
    )


def test_a_shell_runs_the_lines_that_are_shown(
    plan: Plan, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A URL with a question mark or a blank has to be quoted, and stays an assignment.
    said = 'printf \'%s|\' "$SKIPTUNE_STORAGE" "$@"'
    program = [str(script("a program", said))]
    monkeypatch.setattr(module, "program", lambda: program)
    logs = tmp_path / "it's; $(touch here)"
    logs.mkdir()
    url = "postgresql://me@host/a b?sslmode=require&application_name=$HOME"
    odd = replace(plan, workers=1, storage=url, artifacts="/the arrays", logs=logs)
    text = Local().text(odd) + "wait\n"
    subprocess.run(["sh", "-euc", text], cwd=tmp_path, check=True)
    [log] = logs.iterdir()
    assert log.read_text() == (
        f"{url}|worker|tiny|--until-done|--device|cpu|--artifacts|/the arrays|"
    )
    assert not (tmp_path / "here").exists()


def test_a_process_that_outlives_us_is_told_everything_and_no_url_by_its_words(
    plan: Plan, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = [str(script("skiptune", f'echo "$SKIPTUNE_STORAGE" "$@" >{tmp_path}/said'))]
    monkeypatch.setattr(module, "program", lambda: program)
    url = "postgresql://me:s3cret@host/studies"
    whole = replace(plan, storage=url, artifacts="/arrays", group_writable=True)
    for given, more in ((plan, ""), (whole, " --artifacts /arrays --group-writable")):
        job = Local().start(replace(given, storage=url))
        os.waitpid(int(job.name.split(":")[-2]), 0)
        assert job.workers == 2
        assert (tmp_path / "said").read_text() == (
            f"{url} launch tiny --executor local --no-progress --workers 2 --device cpu"
            f" --logs {plan.logs}{more}\n"
        )
    assert "s3cret" not in "".join(log.read_text() for log in plan.logs.iterdir())


def launched(job: str) -> ledger.Launch:
    return ledger.Launch("i", "s", "local", "here", job, 3, datetime.now(UTC))


def test_a_process_of_this_machine_is_counted_and_ended() -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        launch = launched(process_name(sleeper.pid))
        assert Local().list(launch) == Counts(0, 3)
        Local().stop(launch)
        assert sleeper.wait(0) == -signal.SIGTERM  # it has been waited for
        assert Local().list(launch) == Counts(0, 0)
        Local().stop(launch)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_of_a_container_with_the_name_of_this_host_nothing_is_known() -> None:
    host, _, pid, start = process_name(os.getpid()).split(":")
    launch = launched(f"{host}:00000000:{pid}:{start}")
    assert Local().list(launch) is None
    with pytest.raises(LaunchError, match=f"kill {pid};"):
        Local().stop(launch)
