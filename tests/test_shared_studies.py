"""Commands by which many machines share a study: create, worker, pause, stop, delete, db."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bench.postgres import Server
from skiptune.commands.options import Options
from skiptune.errors import UnavailableError
from skiptune.sampling import images
from skiptune.search import chunks
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, open_database
from skiptune.storage.optuna_rows import optuna_storage
from tests.command_line import Outcome, write_spec
from tests.postgres import fresh_database

Command = Callable[..., Outcome]
OLD = Path(__file__).parent / "storage" / "data" / "schema-0001.db"
URL = "sqlite:///skiptune.db"


@pytest.fixture
def spec(tiny_study: ModuleType, study_folder: Path) -> Path:
    """A study file; the command runs in the folder above it."""
    changes = {"search__evaluations": 2, "search__rungs": [250], "confirm__images": 250}
    return write_spec(tiny_study, study_folder, **changes)


@pytest.fixture
def created(command: Command, spec: Path) -> str:
    """The name of a study that was created and not begun."""
    assert command("create", spec, "-q").code == 0
    return "tiny"


def counts(name: str = "tiny") -> dict[str, int]:
    with open_database(URL) as database:
        study = ledger.require_study(database, name)
        return {str(k): v for k, v in ledger.progress(database, study.id).chunks.items()}


def test_create_prints_the_name_and_what_comes_next(command: Command, spec: Path) -> None:
    outcome = command("create", spec)
    assert (outcome.code, outcome.out) == (0, "tiny\n")
    assert "skiptune worker tiny" in outcome.err
    again = command("create", spec)
    assert again.code == 2
    assert "one that exists" in again.err
    assert command("create", spec, "--exist-ok").out == "tiny\n"
    changed = command("create", spec, "--exist-ok", "-s", "setting.steps=4")
    assert changed.code == 2
    assert "setting.steps" in changed.err


def test_what_comes_next_finds_the_same_database_and_store(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    place = tmp_path / "it's my & place"
    place.mkdir()
    given = ("--storage", f"sqlite:///{place}/a.db", "--artifacts", str(place / "arrays"))
    worker, status = command("create", spec, *given).err.splitlines()[-2:]
    assert shlex.split(worker[worker.index("skiptune") :]) == [
        "skiptune",
        "worker",
        "tiny",
        *given,
    ]
    following = shlex.split(status[status.index("skiptune") :])
    assert following == ["skiptune", "status", "tiny", *given[:2]]
    assert command(*following[1:]).code == 0
    assert command("status", "tiny").code == 2
    # Without the option what the environment names is found again.
    assert command("create", spec).err.endswith("skiptune status tiny\n")


def test_a_password_is_in_no_command_that_is_proposed() -> None:
    assert Options(storage="postgresql://me:secret@host/db").there == ""
    assert Options(storage="postgresql://me@host/db").there == " --storage postgresql://me@host/db"
    assert Options().there == ""


def test_a_study_that_is_refused_makes_no_database(
    command: Command, spec: Path, study_folder: Path
) -> None:
    where = study_folder / "new.db"
    for wrong in ("network.checkpoint=nowhere.safetensors", "space.skips=[nope]"):
        outcome = command("create", spec, "-s", wrong, "--storage", f"sqlite:///{where}")
        assert outcome.code == 2, outcome.err
        assert not where.exists()


def test_a_worker_needs_only_database_and_name(
    command: Command, created: str, study_folder: Path
) -> None:
    # Not even the files where the spec said they were: the store keeps small ones.
    for path in study_folder.iterdir():
        path.unlink()
    outcome = command("worker", created)
    assert outcome.code == 0
    assert outcome.out == ""
    assert "Study tiny is complete" in outcome.err
    assert command("export", created).code == 0
    assert json.loads(Path("tuned.json").read_text())["network"]["name"] == "tiny.safetensors"
    again = command("worker", created)
    assert again.code == 0
    assert "Study tiny is complete: nothing to do" in again.err


def test_a_workers_own_limits(command: Command, created: str) -> None:
    outcome = command("worker", created, "--images", "250", "--json", "-q")
    assert json.loads(outcome.out) == {
        "study": "tiny",
        "ended": "limit reached",
        "images": 250,
        "trials": 0,
    }
    outcome = command("worker", created, "--trials", "1", "--json", "-q")
    assert json.loads(outcome.out)["trials"] == 1
    outcome = command("worker", created, "--timeout", "1000h", "--until-done", "--json", "-q")
    assert json.loads(outcome.out)["ended"] == "complete"


@pytest.mark.parametrize("words", [("--timeout", "soon"), ("--timeout", "0s"), ("--trials", "0")])
def test_limits_that_are_none_are_refused(
    command: Command, created: str, words: tuple[str, ...]
) -> None:
    outcome = command("worker", created, *words)
    assert outcome.code == 2
    assert words[0] in outcome.err
    assert counts() == {}


def test_an_unknown_study_lists_near_names(command: Command, created: str) -> None:
    for words in (("worker",), ("pause",), ("resume",), ("stop",), ("delete",), ("status",)):
        outcome = command(*words, "tinny")
        assert outcome.code == 2
        assert "`tiny`" in outcome.err


def test_stop_and_resume_from_elsewhere(
    command: Command, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = images.sample

    def stopping(*arguments: Any, **named: Any) -> Iterator[Any]:
        with open_database(URL) as database:
            row = ledger.require_study(database, "tiny")
            ledger.set_study_state(database, row.id, "stopped")
        yield from real(*arguments, **named)

    monkeypatch.setattr(chunks, "sample", stopping)
    outcome = command("worker", created)
    assert outcome.code == 0
    assert "The study was stopped. Go on with: skiptune resume tiny" in outcome.err
    assert counts() == {"done": 1}  # the chunk in hand was finished
    monkeypatch.setattr(chunks, "sample", real)
    refused = command("worker", created)
    assert refused.code == 0
    assert "nothing to do; go on with: skiptune resume tiny" in refused.err
    assert command("resume", created).code == 0
    assert command("worker", created).code == 0
    assert command("status", created, "--json").out


def test_another_confirm_elsewhere_finds_the_files_by_content(
    command: Command, created: str, study_folder: Path
) -> None:
    assert command("worker", created, "-q").code == 0
    for path in study_folder.iterdir():
        path.unlink()
    outcome = command("confirm", created, "-s", "confirm.images=500", "--json", "-q")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["baseline"]["images"] == 500
    with open_database(URL) as database:
        row = ledger.require_study(database, created)
    assert row.spec["confirm"]["images"] == 500
    assert len(row.files) == 2


def test_a_study_whose_baseline_was_given_up_can_be_tried_again(
    command: Command, created: str
) -> None:
    # The first worker enters the baseline, and three are lost over a chunk of it.
    assert command("worker", created, "--images", "250", "-q").code == 0
    with open_database(URL) as database:
        study = ledger.require_study(database, created)
        baseline = ledger.evaluations(database, study.id, kind="baseline")[0]
        ledger.reopen_chunks(database, str(ledger.chunks_of(database, baseline.id)[0].array))
        for number in range(3):
            leases.claim_chunk(database, study.id, worker=f"w{number}", seconds=0.0)
    refused = command("worker", created)
    assert refused.code == 2
    assert "3 leases of this chunk were lost" in refused.err
    assert f"skiptune resume {created} --retry" in refused.err

    outcome = command("resume", created, "--retry", "--json")
    assert json.loads(outcome.out)["retried"] == 1
    assert "1 failed evaluations run again" in outcome.err
    assert "complete" in command("worker", created).err


def test_a_patient_worker_may_be_started_before_the_database(
    command: Command, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = 2
    real = ledger.require_study

    def restarting(*arguments: Any) -> ledger.Study:
        nonlocal away
        if away:
            away -= 1
            raise UnavailableError("database", expected="answers", found="none", hint="wait")
        return real(*arguments)

    monkeypatch.setattr(ledger, "require_study", restarting)
    outcome = command("worker", created)
    assert outcome.code == 1
    assert "expected: answers" in outcome.err
    outcome = command("worker", created, "--until-done")
    assert outcome.code == 0
    assert "The database is away (none)" in outcome.err
    assert "Study tiny is complete" in outcome.err


def test_tune_tells_that_somebody_stopped_it(
    command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = images.sample

    def stopping(*arguments: Any, **named: Any) -> Iterator[Any]:
        assert command_stop()
        yield from real(*arguments, **named)

    def command_stop() -> bool:
        with open_database(URL) as database:
            row = ledger.require_study(database, "tiny")
            ledger.set_study_state(database, row.id, "stopped")
        return True

    monkeypatch.setattr(chunks, "sample", stopping)
    outcome = command("tune", spec, "-q")
    assert outcome.code == 1
    assert "skiptune resume tiny" in outcome.err
    monkeypatch.setattr(chunks, "sample", real)
    assert command("tune", spec, "-q").code == 0  # tune itself resumes


@pytest.mark.parametrize(("word", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_states_are_set_and_told(command: Command, created: str, word: str, state: str) -> None:
    outcome = command(word, created, "--json")
    assert json.loads(outcome.out) == {"study": "tiny", "state": state, "before": "running"}
    assert json.loads(command("status", created, "--json").out)["state"] == state
    assert state in command("status", created).out


def test_delete_takes_rows_optunas_studies_and_files(command: Command, created: str) -> None:
    assert command("worker", created, "-q").code == 0
    files = list(ArrayStore("skiptune-artifacts").files())
    refused = command("delete", created)
    assert refused.code == 2
    assert "--yes" in refused.err
    outcome = command("delete", created, "--yes", "--json")
    assert outcome.code == 0
    arrays = [file for file in files if file.suffix == ".safetensors"]
    assert json.loads(outcome.out)["files"] > 0
    assert command("status").err.startswith("No study yet")
    with open_database(URL) as database:
        assert optuna_storage(database).get_all_studies() == []
        kept = {file.digest for file in ArrayStore("skiptune-artifacts").files()}
        # The inputs stay for the day that garbage collection grants them.
        assert kept == {item.digest for item in ledger.artifacts(database)}
    assert len(arrays) > len(kept)


def test_gc_keeps_what_counts_and_drops_the_rest_on_request(
    command: Command, created: str
) -> None:
    assert command("worker", created, "-q").code == 0
    store = ArrayStore("skiptune-artifacts")
    orphan = store.write_bytes(b"nobody names me", ".bin")
    young = store.write_bytes(b"nor me, yet", ".bin")
    past = time.time() - 25 * 3600
    os.utime(store.path(orphan, suffix=".bin"), (past, past))
    dry = command("db", "gc", "--dry-run", "--json")
    assert json.loads(dry.out)["files"] == 1
    assert store.exists(orphan, suffix=".bin")
    before = len(list(store.files()))
    assert command("db", "gc", "-q").code == 0
    assert not store.exists(orphan, suffix=".bin")
    assert store.exists(young, suffix=".bin")
    assert len(list(store.files())) == before - 1
    # Two proposals are both among the ten best: nothing is dropped.
    assert json.loads(command("db", "gc", "--drop-arrays", "--json").out)["chunks"] == 0
    assert command("best", created).code == 0


def test_project_rebuilds_what_the_dashboard_lost(command: Command, created: str) -> None:
    assert command("worker", created, "-q").code == 0

    def trials() -> list[Any]:
        with open_database(URL) as database:
            study = optuna.load_study(study_name="tiny", storage=optuna_storage(database))
            return [(t.state, t.values, t.params, t.user_attrs) for t in study.trials]

    before = [trial for trial in trials() if trial[0] != TrialState.FAIL]
    with open_database(URL) as database:
        optuna.delete_study(study_name="tiny", storage=optuna_storage(database))
    assert command("db", "project", created, "-q").code == 0
    assert trials() == before
    assert command("db", "project", "--rebuild", "--json").code == 0
    assert trials() == before


def test_an_old_database_is_refused_upgraded_and_goes_on(command: Command, tmp_path: Path) -> None:
    shutil.copy(OLD, tmp_path / "skiptune.db")
    refused = command("status")
    assert refused.code == 2
    assert "skiptune db upgrade" in refused.err
    versions = json.loads(command("db", "version", "--json").out)
    assert (versions["schema"], versions["needed"]) == ("0001", "0005")
    assert json.loads(command("db", "upgrade", "--json").out)["before"] == "0001"
    assert "is up to date" in command("db", "upgrade").err
    assert "confirm 1" in command("status", "tiny").out


def test_check_compares_connections_with_workers(
    command: Command, postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(postgres_server) as url:
        monkeypatch.setenv("SKIPTUNE_STORAGE", url)
        assert "skiptune db init" in command("db", "check").err
        lost = command("db", "init")
        assert lost.code == 2
        assert "--artifacts" in lost.err
        monkeypatch.setenv("SKIPTUNE_ARTIFACTS", str(tmp_path / "arrays"))
        assert command("db", "init").code == 0
        good = command("db", "check", "--workers", "20", "--json")
        assert good.code == 0
        found = {row["check"]: row["found"] for row in json.loads(good.out)["checks"]}
        assert found["database"].startswith("postgresql://")
        assert postgres_server.password not in good.out
        many = command("db", "check", "--workers", "100000")
        assert many.code == 2
        assert "max_connections" in many.err
        (tmp_path / "arrays").rename(tmp_path / "elsewhere")
        unmounted = command("db", "check")
        assert unmounted.code == 2
        assert "no such folder" in unmounted.err


def test_a_study_runs_on_postgresql(
    command: Command,
    spec: Path,
    postgres_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fresh_database(postgres_server) as url:
        file = tmp_path / "url"
        file.write_text(url)
        file.chmod(0o600)
        monkeypatch.setenv("SKIPTUNE_STORAGE_FILE", str(file))
        nowhere = command("create", spec)
        assert nowhere.code == 2
        assert "a store that all workers share" in nowhere.err
        with Database(url) as database:
            assert database.revision() is None  # refused before a table was made
        monkeypatch.setenv("SKIPTUNE_ARTIFACTS", str(tmp_path / "arrays"))
        assert command("create", spec).code == 0
        outcome = command("worker", "tiny")
        assert (outcome.code, outcome.out) == (0, "")
        assert postgres_server.password not in outcome.err
        assert json.loads(command("status", "tiny", "--json").out)["state"] == "complete"
        assert command("db", "project", "--rebuild").code == 0
        assert command("delete", "tiny", "--yes").code == 0
        file.chmod(0o644)
        assert "mode 0644" in command("status").err
        with Database(url) as database:
            assert ledger.list_studies(database) == ()


def test_wrong_passwords_and_missing_databases_are_said(
    command: Command, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = postgres_server.url("postgres", password="wr0ng")
    outcome = command("status", "--storage", wrong)
    assert outcome.code == 2
    assert "a user and a password that the server accepts" in outcome.err
    assert "wr0ng" not in outcome.err
    outcome = command("status", "--storage", postgres_server.url("nowhere"))
    assert outcome.code == 2
    assert "createdb" in outcome.err
    outcome = command("status", "--storage", "postgressql://me@host/studies")
    assert outcome.code == 2
    assert "did you mean postgresql://?" in outcome.err
