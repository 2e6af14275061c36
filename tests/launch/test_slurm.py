"""Slurm: the script, and the programs of Slurm as a real one of 22.05.8 has answered.

The fake programs on the PATH write down their words and print what was recorded. What the signals
do was seen with a real Slurm: see docs/launch.md.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skiptune.commands import placing
from skiptune.errors import LaunchError
from skiptune.launch.executor import Counts, Plan
from skiptune.launch.slurm import Slurm
from skiptune.search.launch_section import LaunchSpec, SlurmSpec
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from tests.command_line import Outcome

Command = Callable[..., Outcome]
Script = Callable[..., Path]
SLURM = ("--executor", "slurm", "-s", "launch.one_host=true")
UNKNOWN = "slurm_load_jobs error: Invalid job id specified"
REFUSED = (
    "sbatch: error: invalid partition specified: nope\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of whoever runs the tests gets into a script; the PATH is ours to fill."""
    for name in ("STORAGE_FILE", "ARTIFACTS", "GROUP_WRITABLE", "PATH", "CACHE", "STORAGE"):
        monkeypatch.delenv(f"SKIPTUNE_{name}", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(placing, "LOOK_SECONDS", 0.05)


@pytest.fixture
def fake(script: Script, tmp_path: Path) -> Callable[..., Path]:
    """Write a program that notes its words and answers as recorded."""

    def write(name: str, out: str = "", err: str = "", code: int = 0) -> Path:
        said = tmp_path / f"{name}.words"
        script(
            name,
            f'echo "$@" >>{said}\n'
            + (f"cat <<'OUT'\n{out}\nOUT\n" if out else "")
            + (f"cat >&2 <<'ERR'\n{err}\nERR\n" if err else "")
            + f"exit {code}",
        )
        return said

    return write


def launched(place: str = "slurm") -> ledger.Launch:
    from datetime import UTC, datetime

    return ledger.Launch("i", "s", "slurm", place, "41", 3, datetime.now(UTC))


def with_slurm(plan: Plan, **keys: object) -> Plan:
    return replace(plan, spec=LaunchSpec(slurm=SlurmSpec(**keys)))  # type: ignore[arg-type]


def test_the_script_is_what_a_shell_and_sbatch_read(plan: Plan) -> None:
    text = Slurm().text(
        with_slurm(
            replace(plan, device="auto"),
            partition="gpu",
            account="lab",
            time="04:00:00",
            gres="gpu:1",
            cpus=4,
            memory="16G",
            options=("--constraint=a100", "--exclusive"),
            setup=("module load cuda",),
        )
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    first, *lines = text.splitlines()
    assert first == "#!/bin/bash"
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert lines[: len(options)] == [f"#SBATCH {option}" for option in options]  # all on top
    assert {"--array=0-1", "--requeue", "--signal=USR1@60", "--open-mode=append"} <= set(options)
    assert {"--partition=gpu", "--account=lab", "--time=04:00:00", "--gres=gpu:1"} <= set(options)
    assert {"--cpus-per-task=4", "--mem=16G", "--constraint=a100", "--exclusive"} <= set(options)
    assert f"--output={plan.logs}/%A_%a.log" in options
    rest = lines[len(options) :]
    assert "OMP_NUM_THREADS=4" in rest[0] and "GOMP_SPINCOUNT=0" in rest[0]
    assert rest[1] == "module load cuda"
    assert rest[-1].startswith("exec srun --ntasks=1 --cpus-per-task=4 ")
    assert rest[-1].endswith(" worker tiny --until-done --device cuda")


def test_a_script_says_where_everything_is(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPTUNE_PATH", "/a folder")
    text = Slurm().text(replace(plan, storage="postgresql://me@host/studies", artifacts="/arrays"))
    assert "export SKIPTUNE_STORAGE=postgresql://me@host/studies\n" in text
    assert "export SKIPTUNE_PATH='/a folder'\n" in text
    assert "--device cpu --artifacts /arrays" in text
    monkeypatch.setenv("SKIPTUNE_STORAGE_FILE", "/secrets/url")
    text = Slurm().text(plan)
    assert "export SKIPTUNE_STORAGE_FILE=/secrets/url\n" in text
    assert "SKIPTUNE_STORAGE=" not in text


def test_a_password_never_gets_into_a_script(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:s3cret@host/studies"
    with pytest.raises(LaunchError, match="SKIPTUNE_STORAGE_FILE") as caught:
        Slurm().text(replace(plan, storage=url))
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("SKIPTUNE_STORAGE", url)
    with pytest.raises(LaunchError):
        Slurm().text(plan)


def test_a_number_and_a_gpu_are_asked_for(plan: Plan) -> None:
    with pytest.raises(LaunchError, match="--workers N"):
        Slurm().text(replace(plan, workers=None))
    with pytest.raises(LaunchError, match="gres=gpu:1"):
        Slurm().text(replace(plan, device="cuda"))


@pytest.mark.parametrize(
    ("keys", "device"),
    [
        ({"gres": "gpu:1"}, "cuda"),
        ({"gres": "lscratch:10,gpu:a100:2"}, "cuda"),
        ({"gres": "shard:4"}, "cuda"),
        ({"gres": "lscratch:10"}, "cpu"),
        ({"options": "--gpus=1"}, "cuda"),
        ({"options": "--gpus-per-task=a100:1"}, "cuda"),
        ({"options": "--gres=gpu"}, "cuda"),
        ({"options": "--tres-per-task=cpu:4,gres/gpu:1"}, "cuda"),
        # These name machines, and ask for none of their GPUs.
        ({"options": ["--exclude=gpu01", "--partition=gpu", "--gpu-freq=low"]}, "cpu"),
    ],
)
def test_a_worker_runs_on_the_gpu_that_is_asked_for(
    plan: Plan, keys: dict[str, object], device: str
) -> None:
    text = Slurm().text(replace(with_slurm(plan, **keys), device="auto"))
    assert text.endswith(f" --device {device}\n")


def test_folders_and_words_are_what_slurm_reads(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Seen with Slurm 22.05.8: quotes are a shell's, a bare # begins a comment, and %% in the name
    # of an output file is a percent sign.
    folder = tmp_path / 'it\'s 100%u #1 "x"'
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = Slurm().text(replace(with_slurm(plan, partition="a#b"), logs=folder / "logs"))
    options = [
        shlex.split(line.removeprefix("#SBATCH "), comments=True)
        for line in text.splitlines()
        if line.startswith("#SBATCH ")
    ]
    assert ["--partition=a#b"] in options
    assert [f"--chdir={folder}"] in options
    assert [f'--output={tmp_path}/it\'s 100%%u #1 "x"/logs/%A_%a.log'] in options


@pytest.mark.parametrize("name", ["a\\b", "a\n#SBATCH --account=other"])
def test_a_folder_that_slurm_cannot_be_told_is_refused(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pytest.raises(LaunchError, match="--logs"):
        Slurm().text(replace(plan, logs=tmp_path / name))
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(LaunchError, match="another folder"):
        Slurm().text(plan)


@pytest.mark.parametrize(
    ("answer", "place", "job"),
    [("41", "slurm", "41"), ("Welcome!\n41;tiny", "tiny", "41")],
)
def test_a_job_has_the_number_that_sbatch_prints(
    plan: Plan, fake: Callable[..., Path], answer: str, place: str, job: str
) -> None:
    said = fake("sbatch", answer)
    found = Slurm().start(plan)
    assert (found.place, found.name, found.workers) == (place, job, 2)
    [script] = plan.logs.glob("workers-*.sbatch")
    assert said.read_text() == f"--parsable {script}\n"
    assert script.read_text() == Slurm().text(plan)


@pytest.mark.parametrize("answer", ["", "Your job is number 41", "41 42"])
def test_a_job_without_a_number_is_not_noted(
    plan: Plan, fake: Callable[..., Path], answer: str
) -> None:
    fake("sbatch", answer)
    with pytest.raises(LaunchError, match="squeue --me") as caught:
        Slurm().start(plan)
    assert caught.value.problems[0].found == (answer or "nothing")


def test_what_sbatch_refuses_is_told_in_its_words(plan: Plan, fake: Callable[..., Path]) -> None:
    fake("sbatch", err=REFUSED, code=1)
    with pytest.raises(LaunchError) as caught:
        Slurm().start(plan)
    [problem] = caught.value.problems
    [script] = plan.logs.glob("workers-*.sbatch")
    assert (problem.where, problem.found) == (f"sbatch {script}", REFUSED)


@pytest.mark.parametrize(
    ("place", "answer", "expected"),
    [
        ("slurm", "RUNNING\nRUNNING\nPENDING", Counts(1, 2)),
        ("slurm", "COMPLETING", Counts(0, 1)),
        ("slurm", "", Counts(0, 0)),
        ("tiny", "CLUSTER: tiny\nPENDING", Counts(1, 0)),
    ],
)
def test_elements_are_counted(
    fake: Callable[..., Path], place: str, answer: str, expected: Counts
) -> None:
    said = fake("squeue", answer)
    assert Slurm().list(launched(place)) == expected
    words = "--noheader --array --jobs=41 --format=%T"
    assert said.read_text() == f"{words}{'' if place == 'slurm' else ' --clusters=tiny'}\n"


def test_a_job_that_squeue_has_forgotten_is_over(fake: Callable[..., Path]) -> None:
    fake("squeue", err=UNKNOWN, code=1)
    assert Slurm().list(launched()) == Counts(0, 0)
    fake("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    with pytest.raises(LaunchError, match="Unable to contact"):
        Slurm().list(launched())
    fake("squeue", code=1)
    with pytest.raises(LaunchError, match="found an error without words"):
        Slurm().list(launched())


def test_a_job_is_cancelled_on_its_cluster(fake: Callable[..., Path]) -> None:
    said = fake("scancel")
    Slurm().stop(launched("tiny"))
    assert said.read_text() == "--clusters=tiny 41\n"
    # Of a job that has ended a while ago nothing is left to cancel.
    fake(
        "scancel",
        err="scancel: error: Kill job error on job id 41: Invalid job id specified",
        code=1,
    )
    Slurm().stop(launched())
    fake(
        "scancel",
        err="scancel: error: Kill job error on job id 41: Access/permission denied",
        code=1,
    )
    with pytest.raises(LaunchError, match="Access/permission denied") as caught:
        Slurm().stop(launched())
    assert caught.value.problems[0].where == "scancel 41"


def test_without_slurm_the_program_is_named(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="the programs of Slurm") as caught:
        Slurm().start(plan)
    assert caught.value.problems[0].where == "sbatch"
    assert "--dry-run" in caught.value.hint


def test_a_job_is_noted_watched_and_cancelled(
    command: Command, created: str, fake: Callable[..., Path]
) -> None:
    sbatch, scancel = fake("sbatch", "41"), fake("scancel")
    fake("squeue", "RUNNING\nPENDING")
    printed = command("launch", created, *SLURM, "--workers", "2", "--dry-run")
    assert printed.out.startswith("#!/bin/bash\n#SBATCH --job-name=skiptune-tiny\n")
    assert not sbatch.exists()
    outcome = command("launch", created, *SLURM, "--workers", "2", "--detach", "--json")
    assert json.loads(outcome.out) == {
        "study": "tiny",
        "executor": "slurm",
        "place": "slurm",
        "job": "41",
        "workers": 2,
    }
    fake("sbatch", "42")
    again = command("launch", created, *SLURM, "--workers", "2", "--detach")
    assert "both go on: slurm 41 on slurm (1 running, 1 waiting)" in again.err
    stopped = command("launch", created, "--stop", "--json")
    assert json.loads(stopped.out)["ended"] == ["41", "42"]
    assert scancel.read_text() == "41\n42\n"
    with open_database("sqlite:///skiptune.db") as database:
        assert ledger.launches(database, ledger.require_study(database, created).id) == ()


def test_a_watch_ends_when_no_worker_is_left(
    command: Command, created: str, fake: Callable[..., Path]
) -> None:
    fake("sbatch", "41")
    fake("squeue", err=UNKNOWN, code=1)
    outcome = command("launch", created, *SLURM, "--workers", "2")
    assert outcome.code == 2
    assert "found: all of them have left" in outcome.err
    assert "workers: 0 running, 0 waiting" in outcome.err


def test_a_controller_that_does_not_answer_ends_no_watch(
    command: Command, created: str, fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("sbatch", "41")
    fake("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    real = placing._Look.at

    def later(look: placing._Look, workers: Callable[[], str]) -> None:
        real(look, workers)
        fake("squeue", err=UNKNOWN, code=1)

    monkeypatch.setattr(placing._Look, "at", later)
    outcome = command("launch", created, *SLURM, "--workers", "1")
    assert "slurm does not answer: slurm_load_jobs error: Unable to contact" in outcome.err
    assert "found: all of them have left" in outcome.err


def test_a_watch_ends_when_the_study_is_done(
    command: Command, created: str, fake: Callable[..., Path]
) -> None:
    fake("sbatch", "41")
    fake("squeue", "RUNNING")
    with open_database("sqlite:///skiptune.db") as database:
        study = ledger.require_study(database, created)
    real = placing._Look.at

    def complete(look: placing._Look, workers: Callable[[], str]) -> None:
        real(look, workers)
        with open_database("sqlite:///skiptune.db") as database:
            ledger.set_study_state(database, study.id, "complete")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing._Look, "at", complete)
        outcome = command("launch", created, *SLURM, "--workers", "1", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["state"] == "complete"
