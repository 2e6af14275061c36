"""Ray: what is asked for and refused, and a real cluster on this machine.

The cluster is started for these tests, wants a token of theirs, and ends with them. In the place
of `skiptune worker` its node runs a shell script.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from skiptune.commands import placing
from skiptune.errors import LaunchError
from skiptune.launch import ray_cluster as module
from skiptune.launch.executor import Counts, Job, Plan
from skiptune.launch.ray_cluster import RayCluster
from skiptune.search.launch_section import LaunchSpec, RaySpec
from skiptune.storage import ledger
from tests.command_line import Outcome
from tests.launch.conftest import COMPLETE

Command = Callable[..., Outcome]
STEADY = "trap 'echo left; exit 143' TERM\necho at work\nwhile :; do sleep 0.05; done"

# Ray listens on every interface; others on the network are to run nothing here.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}

# Runs as the interpreter starts: what is to be `skiptune worker` becomes the script.
STAND_IN = """
import os, sys
if sys.orig_argv[1:4] == ["-m", "skiptune", "worker"]:
    os.execv("/bin/sh", ["sh", os.environ["STAND_IN"], *sys.orig_argv[3:]])
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKIPTUNE_STORAGE", "SKIPTUNE_STORAGE_FILE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(placing, "LOOK_SECONDS", 0.2)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def with_ray(plan: Plan, **keys: Any) -> Plan:
    return replace(plan, device="auto", spec=LaunchSpec(ray=RaySpec(**keys)))


def launched(job: Job) -> ledger.Launch:
    return ledger.Launch("i", "s", "ray", job.place, job.name, job.workers, datetime.now(UTC))


# What is asked for


def test_what_is_asked_for_is_plain_text(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPTUNE_STORAGE_FILE", "/secrets/url")
    asked = yaml.safe_load(
        RayCluster().text(
            with_ray(
                plan,
                address="head:6379",
                cpus=4,
                gpus=0.5,
                resources={"fast": 1},
                restarts=3,
                runtime_env={"pip": ["skiptune"]},
            )
        )
    )
    assert asked["job"].startswith("tiny-")
    assert (asked["address"], asked["workers"], asked["autoscaling"]) == ("head:6379", 2, False)
    assert asked["actor"] == {
        "num_cpus": 4,
        "num_gpus": 0.5,
        "resources": {"fast": 1},
        "max_restarts": 3,
    }
    assert asked["runtime_env"] == {"pip": ["skiptune"]}
    order = asked["order"]
    assert order["words"] == ["worker", "tiny", "--until-done", "--device", "cuda"]
    assert order["environment"]["OMP_NUM_THREADS"] == "4"
    assert order["environment"]["SKIPTUNE_STORAGE_FILE"] == "/secrets/url"
    assert "SKIPTUNE_STORAGE" not in order["environment"]
    assert (order["logs"], order["folder"]) == (str(plan.logs), os.getcwd())


def test_a_worker_runs_where_ray_puts_a_working_folder(plan: Plan) -> None:
    asked = yaml.safe_load(RayCluster().text(with_ray(plan, runtime_env={"working_dir": "."})))
    assert asked["order"]["folder"] is None
    assert asked["order"]["environment"]["SKIPTUNE_STORAGE"] == "sqlite:///skiptune.db"
    assert asked["order"]["words"][-1] == "cpu"


def test_a_cluster_is_named_by_the_study_or_the_environment(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "other:1")
    for given, expected in ((None, "other:1"), ("head:2", "head:2")):
        assert f"address: {expected}\n" in RayCluster().text(with_ray(plan, address=given))


def test_a_password_is_given_to_no_cluster(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = replace(with_ray(plan), storage="postgresql://me:s3cret@host/studies")
    for action in (RayCluster().text, RayCluster().start):
        with pytest.raises(LaunchError, match="SKIPTUNE_STORAGE_FILE") as caught:
            action(secret)
        assert "s3cret" not in str(caught.value)


def test_a_gpu_is_asked_for(plan: Plan) -> None:
    with pytest.raises(LaunchError, match=r"gpus=1"):
        RayCluster().text(replace(with_ray(plan), device="cuda"))


def test_without_ray_the_extra_is_named(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"skiptune\[ray\]"):
        RayCluster().start(with_ray(plan))
    assert "tiny" in RayCluster().text(with_ray(plan))


def test_an_address_where_nobody_listens(plan: Plan) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LaunchError, match="Connection refused") as caught:
            RayCluster().start(with_ray(plan, address=address))
    assert caught.value.problems[0].where == f"Ray at {address}"
    assert "ray start --head" in caught.value.hint


# A real cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """A cluster with 8 CPUs and 1 GPU in its books; its address, and the workers' script."""
    # Not in pytest's folder: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(STAND_IN)
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("RAY_", "SKIPTUNE_"))
        }
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--port=0", "--num-cpus=8", "--num-gpus=1"),
                *("--include-dashboard=false", "--include-log-monitor=false"),
                *("--object-store-memory=80000000", "--disable-usage-stats"),
            ],
            env={
                **inherited,
                **TOKEN,
                "RAY_TMPDIR": name,
                "STAND_IN": str(folder / "stand-in"),
                "PYTHONPATH": os.pathsep.join([name, os.environ.get("PYTHONPATH", "")]),
            },
            cwd=name,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = folder / "ray" / "ray_current_cluster"
            until(lambda: address.is_file() and bool(address.read_text().strip()))
            yield address.read_text().strip(), folder / "stand-in"
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                # What it has not ended itself is in its session.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()


@pytest.fixture(scope="module")
def ray() -> RayCluster:
    """One connection to it for all tests."""
    return RayCluster()


@pytest.fixture
def on(
    plan: Plan, cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Plan]:
    """Return the plan on the cluster, with a script in the place of its workers."""
    for key, value in TOKEN.items():
        monkeypatch.setenv(key, value)

    def ready(body: str, workers: int | None = 2, **keys: Any) -> Plan:
        address, script = cluster
        script.write_text(body)
        return replace(with_ray(plan, address=address, **keys), workers=workers)

    return ready


def logs(plan: Plan, job: Job) -> list[str]:
    return [log.read_text() for log in sorted(plan.logs.glob(f"{job.name}-*.log"))]


@pytest.mark.slow
def test_workers_are_started_counted_made_anew_and_asked_to_leave(
    on: Callable[..., Plan], ray: RayCluster
) -> None:
    plan = on(f'echo "$@ $OMP_NUM_THREADS $PWD $PPID"\n{STEADY}', cpus=2)
    job = ray.start(plan)
    assert (job.workers, job.place) == (2, plan.spec.ray.address)
    launch = launched(job)
    until(lambda: [log.count("at work") for log in logs(plan, job)] == [1, 1])
    assert ray.list(launch) == Counts(0, 2)
    words, _, parent = logs(plan, job)[0].splitlines()[0].rpartition(" ")
    assert words == f"worker tiny --until-done --device cpu 2 {os.getcwd()}"
    os.kill(int(parent), signal.SIGKILL)  # the actor, as Linux does when memory is short
    until(lambda: logs(plan, job)[0].count("at work") == 2)
    assert "left" in logs(plan, job)[0]  # the worker did not outlive the actor
    until(lambda: ray.list(launch) == Counts(0, 2))
    ray.stop(launch)
    assert ray.list(launch) == Counts(0, 0)
    assert [log.splitlines()[-1] for log in logs(plan, job)] == ["left", "left"]
    ray.stop(launch)  # of which nothing is left


@pytest.mark.slow
def test_who_is_done_or_refused_is_not_started_again_and_who_crashes_is(
    on: Callable[..., Plan], ray: RayCluster
) -> None:
    plan = on(
        f"""echo once more
case $2 in
refused) exit 2 ;;
crashes) [ $(grep -c 'once more' {on("").logs}/crashes-*.log) = 2 ] || kill -9 $$ ;;
esac""",
        workers=1,
    )
    expected = {"done": 1, "refused": 1, "crashes": 2}
    jobs = [ray.start(replace(plan, study=study)) for study in expected]
    for job, starts in zip(jobs, expected.values(), strict=True):
        while ray.list(launched(job)) != Counts(0, 0):
            time.sleep(0.05)
        assert [log.count("once more") for log in logs(plan, job)] == [starts], job.name


@pytest.mark.slow
def test_gpus_are_shared_as_asked_and_counted(on: Callable[..., Plan], ray: RayCluster) -> None:
    plan = on(f'echo "$CUDA_VISIBLE_DEVICES $@"\n{STEADY}', workers=None, gpus=0.5)
    job = ray.start(plan)
    assert job.workers == 2  # as many as fit
    words = "0 worker tiny --until-done --device cuda"
    until(lambda: [log.splitlines()[:1] for log in logs(plan, job)] == [[words]] * 2)
    more = on(STEADY, workers=2, gpus=1)
    with pytest.raises(LaunchError) as caught:
        ray.start(more)
    [problem] = caught.value.problems
    assert problem.expected == "a cluster that holds 2 workers with 1 CPU, 1 GPU each"
    assert problem.found == "room for 1: 8 CPU, 1 GPU on 1 node"
    assert "autoscaling=true" in caught.value.hint
    ray.stop(launched(job))


@pytest.mark.slow
def test_workers_without_a_place_wait_and_are_ended(
    on: Callable[..., Plan], ray: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 2.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    plan = on(STEADY, workers=2, cpus=8, autoscaling=True)
    job = ray.start(plan)
    assert ray.list(launched(job)) == Counts(1, 1)
    ray.stop(launched(job))
    assert ray.list(launched(job)) == Counts(0, 0)


@pytest.mark.slow
def test_what_no_node_can_do_is_told_and_leaves_nothing(
    on: Callable[..., Plan], ray: RayCluster
) -> None:
    plan = replace(on(STEADY), logs=Path("/dev/null/logs"))
    with pytest.raises(LaunchError, match="Not a directory: '/dev/null/logs'") as caught:
        ray.start(plan)
    assert "--logs" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"runtime_env": {"env_vars": {"A": 1}}}, "must be of type"),
        ({"runtime_env": {"working_dir": "/nowhere"}}, "/nowhere"),
        ({"resources": {"CPU": 1}}, "CPU"),
    ],
)
def test_what_ray_does_not_take_is_told(
    on: Callable[..., Plan], keys: dict[str, Any], found: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        RayCluster().start(on(STEADY, **keys))
    [problem] = caught.value.problems
    [key] = keys
    assert problem.expected == f"a value of launch.ray.{key} that Ray takes"
    assert found in problem.found


@pytest.mark.slow
def test_a_folder_is_sent_to_the_cluster(on: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "file").write_text("what was sent\n")
    plan = on("cat file", workers=1, runtime_env={"working_dir": str(tmp_path / "sent")})
    job = RayCluster().start(plan)
    until(lambda: logs(plan, job) == ["what was sent\n"])


@pytest.mark.slow
def test_the_command_sees_a_study_to_its_end(
    command: Command, created: str, on: Callable[..., Plan]
) -> None:
    plan = on(COMPLETE)
    words = ("--executor", "ray", "--workers", "1", "-s", "launch.one_host=true")
    outcome = command(
        "launch", created, *words, "-s", f"launch.ray.address={plan.spec.ray.address}"
    )
    assert outcome.code == 0, outcome.err
    assert f"Started 1 worker of {created} by ray: tiny-" in outcome.err
    assert "Study tiny is complete" in outcome.err
