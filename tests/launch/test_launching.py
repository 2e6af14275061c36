"""`skiptune launch`: creates, starts, shows, restarts, stops, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.commands import placing
from skiptune.errors import StorageError
from skiptune.launch import crew, local
from skiptune.search import overview
from skiptune.search.liveness import process_name
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from skiptune.storage.records import StudyState
from tests.command_line import Outcome, write_spec
from tests.launch.conftest import COMPLETE

Command = Callable[..., Outcome]
Script = Callable[..., Path]
URL = "sqlite:///skiptune.db"
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "DELAYS", (0.01, 0.02))
    monkeypatch.setattr(placing, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(placing, "LOOK_SECONDS", 0.1)


@pytest.fixture
def spec(tiny_study: ModuleType, study_folder: Path) -> Path:
    """A study file; the command runs in the folder above it."""
    return write_spec(tiny_study, study_folder)


@pytest.fixture
def stand_in(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a shell script stand in for `skiptune`."""

    def use(body: str) -> None:
        program = [str(script("skiptune", body))]
        monkeypatch.setattr(local, "program", lambda: program)

    return use


def noted(name: str = "tiny") -> tuple[ledger.Launch, ...]:
    with open_database(URL) as database:
        return ledger.launches(database, ledger.require_study(database, name).id)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_creates_the_study_starts_workers_and_ends_with_them(
    command: Command,
    spec: Path,
    stand_in: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(f'echo "$@"\nuntil grep -q worker seen; do sleep 0.05; done\n{COMPLETE}')
    Path("seen").touch()
    tell = placing._Look.at

    def seen(look: placing._Look, workers: Callable[[], str]) -> None:
        tell(look, workers)
        Path("seen").write_text("workers")

    monkeypatch.setattr(placing._Look, "at", seen)
    outcome = command("launch", spec, *CPU, "--workers", "2", "--artifacts", "arrays")
    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    assert "Started 2 workers of tiny on cpu" in outcome.err
    assert "tiny running, 0 of 6 schedules (none yet), 0 images; workers: 2 running" in outcome.err
    assert "Study tiny is complete. See it: skiptune best tiny" in outcome.err
    logs = sorted((tmp_path / "skiptune-logs" / "tiny").iterdir())
    assert [log.name for log in logs] == [f"{os.getpid()}-{n}.log" for n in range(2)]
    words = "worker tiny --until-done --device cpu --artifacts arrays\n"
    assert [log.read_text() for log in logs] == [words] * 2
    assert noted() == ()
    again = command("launch", "tiny", *CPU, "--json")
    assert json.loads(again.out) == {"study": "tiny", "state": "complete", "workers": 0}
    assert "Study tiny is complete: nothing to launch" in again.err
    assert "skiptune resume tiny" in again.err


def test_a_dry_run_prints_the_commands_and_makes_nothing(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    outcome = command("launch", spec, *CPU, "--workers", "3", "--dry-run")
    assert outcome.code == 0
    assert outcome.out.count("worker tiny --until-done --device cpu >>") == 3
    plain = json.loads(command("launch", spec, *CPU, "--dry-run", "--json").out)
    assert (plain["study"], plain["executor"]) == ("tiny", "local")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_number_of_workers_is_the_studys_unless_said_otherwise(
    command: Command, spec: Path
) -> None:
    for words, expected in (
        ((), 2),
        (("--workers", "1"), 1),
        (("-s", "launch.workers=3"), 3),
    ):
        spec.write_text(f"{spec.read_text()}\n") if words else spec.write_text(
            f"{spec.read_text()}launch: {{workers: 2}}\n"
        )
        outcome = command("launch", spec, *CPU, "--dry-run", *words)
        assert outcome.out.count("worker tiny") == expected, outcome.err


def test_a_stored_study_is_launched_by_its_name_and_other_keys_are_refused(
    command: Command, created: str
) -> None:
    outcome = command("launch", created, *CPU, "--dry-run", "-s", "launch.workers=3")
    assert outcome.out.count("worker tiny") == 3
    refused = command("launch", created, "--dry-run", "-s", "search.evaluations=3")
    assert refused.code == 2
    assert "a key of `launch`" in refused.err
    assert "skiptune create FILE --exist-ok -s search.evaluations=3" in refused.err
    unknown = command("launch", "tinny", "--dry-run")
    assert unknown.code == 2
    assert "`tiny`" in unknown.err


def test_workers_that_keep_crashing_end_it_with_the_end_of_the_log(
    command: Command, created: str, stand_in: Callable[[str], None]
) -> None:
    stand_in("echo the card fell off the bus >&2; exit 1")
    outcome = command("launch", created, *CPU, "--workers", "1")
    assert outcome.code == 1
    assert outcome.err.count("crashed (exit 1): again in") == crew.MOST_CRASHES - 1
    assert "found: exit 1, 5 times in a row; its log ends with\n" in outcome.err
    assert "         the card fell off the bus\n\nhint: " in outcome.err
    assert noted() == ()


def test_workers_that_are_refused_end_it_at_once(
    command: Command, created: str, stand_in: Callable[[str], None]
) -> None:
    stand_in("echo 'hint: mount it'; exit 2")
    outcome = command("launch", created, *CPU, "--workers", "2")
    assert outcome.code == 2
    assert "hint: mount it" in outcome.err
    assert "again in" not in outcome.err


def test_one_lost_worker_does_not_fail_a_study_that_the_others_finish(
    command: Command, created: str, stand_in: Callable[[str], None]
) -> None:
    stand_in(f"if mkdir first 2>/dev/null; then exit 2; fi\nsleep 0.2\n{COMPLETE}")
    outcome = command("launch", created, *CPU, "--workers", "2", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["state"] == "complete"
    assert "is given up (exit 2)" in outcome.err


def test_workers_that_are_asked_to_leave_elsewhere(
    command: Command, created: str, stand_in: Callable[[str], None]
) -> None:
    stand_in("exit 143")
    outcome = command("launch", created, *CPU, "--workers", "1")
    assert outcome.code == 143
    assert outcome.err.splitlines()[-1] == (
        "All workers were asked to leave. Go on with: skiptune launch tiny"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_and_waited_for(
    command: Command,
    created: str,
    stand_in: Callable[[str], None],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    # The worker itself asks its parent, that is this process, to stop.
    stand_in(
        f"trap 'sleep 0.2; echo left >left; exit 143' {number.name[3:]}\n"
        f"kill -{number.name[3:]} $PPID\nwhile :; do sleep 0.05; done"
    )
    outcome = command("launch", created, *CPU, "--workers", "1")
    assert outcome.code == code
    assert (tmp_path / "left").read_text() == "left\n"
    assert outcome.err.splitlines()[-1] == "Stopped. Go on with: skiptune launch tiny"
    assert noted() == ()


def test_a_launch_that_lives_is_told_and_one_that_is_over_is_forgotten(
    command: Command, created: str, stand_in: Callable[[str], None]
) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        with open_database(URL) as database:
            study = ledger.require_study(database, created)
            alive = process_name(sleeper.pid)
            gone = alive.rpartition(":")[0] + ":1"
            for job, place in ((alive, "here"), (gone, "here"), ("else:0:1:1", "else")):
                ledger.add_launch(
                    database, study.id, executor="local", place=place, job=job, workers=3
                )
        stand_in(COMPLETE)
        outcome = command("launch", created, *CPU, "--workers", "1")
        assert outcome.code == 0
        assert f"both go on: local {alive} on here (3 running, 0 waiting)" in outcome.err
        assert "local else:0:1:1 on else (which cannot be asked from here)" in outcome.err
        assert {launch.job for launch in noted()} == {alive, "else:0:1:1"}
        stopped = command("launch", created, "--stop", "--json")
        assert stopped.code == 2
        assert json.loads(stopped.out)["ended"] == [alive]
        assert "expected: to be ended on else, where it was started" in stopped.err
        assert "hint: on else: kill 1;" in stopped.err
        assert sleeper.wait(60) == -signal.SIGTERM
    finally:
        sleeper.kill()
        sleeper.wait()


def test_looking_may_fail_and_leaves_the_workers_at_work(
    command: Command,
    created: str,
    stand_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, looks = overview.overview, iter([True])

    def away(*arguments: Any) -> Any:
        if next(looks, False):
            raise StorageError("database", expected="answers", found="none today", hint="wait")
        Path("seen").touch()
        return real(*arguments)

    monkeypatch.setattr(overview, "overview", away)
    stand_in(f"until [ -e seen ]; do sleep 0.05; done\n{COMPLETE}")
    outcome = command("launch", created, *CPU, "--workers", "1")
    assert outcome.code == 0, outcome.err
    assert "The database cannot be read: none today" in outcome.err


def test_a_bug_leaves_no_worker_behind(
    command: Command,
    created: str,
    stand_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any) -> Any:
        until(lambda: Path("ready").exists())
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(overview, "overview", broken)
    stand_in("trap 'echo >left; exit 143' TERM\necho >ready\nwhile :; do sleep 0.05; done")
    outcome = command("launch", created, *CPU, "--workers", "1")
    assert outcome.code == 1
    assert "RuntimeError: the sky fell" in outcome.err
    assert Path("left").exists()
    assert noted() == ()


def test_what_cannot_be_ended_is_forgotten_on_request(command: Command, created: str) -> None:
    with open_database(URL) as database:
        study = ledger.require_study(database, created)
        ledger.add_launch(
            database, study.id, executor="local", place="else", job="else:0:1:1", workers=3
        )
    assert command("launch", created, "--stop").code == 2
    assert len(noted()) == 1
    assert command("launch", created, "--stop", "--forget", "--executor", "slurm").code == 0
    assert len(noted()) == 1
    outcome = command("launch", created, "--stop", "--forget", "--json")
    assert outcome.code == 0
    plain = json.loads(outcome.out)
    assert plain == {"study": "tiny", "ended": [], "forgotten": ["else:0:1:1"]}
    assert "Forgot local else:0:1:1 on else, which cannot be ended: this host" in outcome.err
    assert noted() == ()


@pytest.mark.parametrize(
    ("state", "following"),
    [
        ("running", "Go on with: skiptune launch tiny"),
        ("stopped", "Go on with: skiptune resume tiny"),
        ("complete", "See it: skiptune best tiny"),
    ],
)
def test_what_comes_after_the_last_launch_is_said(
    command: Command, created: str, state: StudyState, following: str
) -> None:
    with open_database(URL) as database:
        study = ledger.require_study(database, created)
        ledger.set_study_state(database, study.id, state)
        gone = process_name(os.getpid()).rpartition(":")[0] + ":1"
        ledger.add_launch(database, study.id, executor="local", place="here", job=gone, workers=1)
    outcome = command("launch", created, "--stop")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1] == f"Study tiny is {state}. {following}"


def test_a_dry_run_ends_nothing(command: Command, created: str) -> None:
    with open_database(URL) as database:
        study = ledger.require_study(database, created)
        ledger.add_launch(
            database, study.id, executor="local", place="x", job="x:0:1:2", workers=1
        )
    outcome = command("launch", created, "--stop", "--forget", "--dry-run")
    assert outcome.code == 2
    assert "it goes without --stop" in outcome.err
    assert len(noted()) == 1


def test_forgetting_is_no_launch(command: Command, created: str) -> None:
    outcome = command("launch", created, "--forget")
    assert outcome.code == 2
    assert "--forget goes with --stop" in outcome.err


@pytest.mark.parametrize("executor", ["slurm", "ray", "k8s"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_sqlite_file_serves_one_host(
    command: Command, spec: Path, tmp_path: Path, executor: str, more: tuple[str, ...]
) -> None:
    words = ("launch", spec, "--executor", executor, "--workers", "2", *more)
    outcome = command(*words)
    assert outcome.code == 2
    assert f"error: --executor {executor}\n       expected: PostgreSQL, which" in outcome.err
    assert f"found: {URL}\n" in outcome.err
    assert "--storage postgresql://USER@HOST/DATABASE" in outcome.err
    assert ("-s launch.one_host=true" in outcome.err) == (executor != "k8s")
    assert not (tmp_path / "skiptune.db").exists()
    one_host = command(*words[:6], "--dry-run", "-s", "launch.one_host=true")
    assert one_host.code == (2 if executor == "k8s" else 0)


def test_a_server_serves_several_hosts(command: Command, spec: Path) -> None:
    words = ("--executor", "slurm", "--workers", "2", "--dry-run")
    outcome = command("launch", spec, *words, "--storage", "postgresql://me@host/studies")
    assert outcome.code == 0, outcome.err
    assert "export SKIPTUNE_STORAGE=postgresql://me@host/studies\n" in outcome.out


def test_nothing_to_stop(command: Command, created: str) -> None:
    outcome = command("launch", created, "--stop")
    assert outcome.code == 0
    assert "No launch of tiny is noted" in outcome.err


def test_a_detached_launch_is_stopped_by_its_name(
    command: Command, created: str, stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    # In the place of the second `skiptune launch`: it lives until it is told to leave.
    stand_in("echo \"$@\"\ntrap 'exit 143' TERM\nwhile :; do sleep 0.05; done")
    outcome = command("launch", created, *CPU, "--workers", "2", "--detach")
    assert outcome.code == 0
    [launch] = noted()
    assert (outcome.out, launch.workers) == (f"{launch.job}\n", 2)
    [log] = (tmp_path / "skiptune-logs" / "tiny").glob("launch-*.log")
    until(lambda: "launch tiny --executor local" in log.read_text())
    assert "--workers 2 --device cpu" in log.read_text()
    stopped = command("launch", created, "--stop")
    assert stopped.code == 0
    assert f"Ended local {launch.job}" in stopped.err
    assert noted() == ()
    os.waitpid(int(launch.job.split(":")[-2]), 0)


LAUNCHER = """
import sys
from skiptune.cli import main
from skiptune.launch import local
local.program = lambda: [sys.argv[1]]
sys.exit(main(["launch", "tiny", "--device", "cpu", "--workers", "2"]))
"""


def test_workers_leave_when_who_looks_after_them_is_killed(
    created: str, script: Script, tmp_path: Path
) -> None:
    """In the background it is the same: what `--detach` leaves behind is this very command."""
    program = script(
        "skiptune",
        f"trap 'touch {tmp_path}/left-$$; exit 143' TERM\ntouch {tmp_path}/here-$$\n"
        "while :; do sleep 0.02; done",
    )
    words = [sys.executable, "-c", LAUNCHER, str(program)]
    launcher = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    until(lambda: len([*tmp_path.glob("here-*")]) == 2)
    launcher.kill()
    assert launcher.wait(60) == -signal.SIGKILL
    until(lambda: len([*tmp_path.glob("left-*")]) == 2)


@pytest.mark.parametrize("logs", ["file", "file/below"])
def test_a_folder_for_logs_that_cannot_be_made(command: Command, created: str, logs: str) -> None:
    Path("file").touch()
    outcome = command("launch", created, *CPU, "--workers", "1", "--logs", logs)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: --logs {Path(logs).absolute()}\n")
    assert "Not a directory" in outcome.err or "No such file" in outcome.err


def test_no_gpu_where_one_is_asked(
    command: Command, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_visible_gpus", lambda: 0)
    outcome = command("launch", created, "--device", "cuda")
    assert outcome.code == 2
    assert "error: --device cuda\n       expected: a GPU that torch can see" in outcome.err


@pytest.mark.parametrize(
    "words", [("--workers", "0"), ("--workers", "many"), ("--executor", "pbs")]
)
def test_options_that_are_none_are_refused(
    command: Command, created: str, words: tuple[str, ...]
) -> None:
    outcome = command("launch", created, *words)
    assert outcome.code == 2
    assert words[0] in outcome.err


def test_help_shows_the_words_that_are_accepted(command: Command) -> None:
    assert "--workers N|auto " in command("launch", "-h").out
