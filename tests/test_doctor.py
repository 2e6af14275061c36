"""`skiptune doctor`: what it prints, what it mends, and how it ends."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import update

from skiptune.commands.examining import doctor
from skiptune.search import diagnosis
from skiptune.search.diagnosis import CHECKS, FILES, FREE_BYTES, Diagnosis, Finding
from skiptune.search.liveness import worker_name
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from skiptune.storage.tables import ChunkRow
from skiptune.storage.turns import take_turn
from skiptune.views.diagnosis import SHOWN, diagnosis_lines
from tests.command_line import Outcome, write_spec

Command = Callable[..., Outcome]
URL = "sqlite:///skiptune.db"


@pytest.fixture
def created(
    command: Command, tiny_study: ModuleType, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of a study that was created and not begun; there is space on the disk."""
    monkeypatch.setattr(diagnosis, "free_bytes", lambda folder: 10 * FREE_BYTES)
    assert command("create", write_spec(tiny_study, study_folder), "-q").code == 0
    return "tiny"


def leave_a_turn() -> None:
    """Leave a turn behind, as a worker of this host does that is killed."""
    with open_database(URL) as database:
        study = ledger.require_study(database, "tiny")
        # This process's number with another start: a process that is no more.
        dead = f"{worker_name().rpartition(':')[0]}:1"
        assert take_turn(database, study.id, task="propose", worker=dead, seconds=600.0)


def test_a_sound_database(command: Command, created: str) -> None:
    for words in ((), (created,), ("--fix",)):
        outcome = command("doctor", *words)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out == f"{URL}: 1 study looked at, nothing to mend\n"


def test_a_finding_is_told_then_mended(command: Command, created: str) -> None:
    leave_a_turn()
    outcome = command("doctor")
    assert outcome.code == 1
    assert outcome.out.splitlines()[0] == f"problem: leases of study {created}"
    assert f"  mend: skiptune doctor {created} --fix" in outcome.out.splitlines()
    assert outcome.out.endswith("1 study looked at, 1 to mend\n")
    assert command("doctor", "--json").code == 1  # nothing was mended by looking
    outcome = command("doctor", created, "--fix")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == f"mended: leases of study {created}"
    assert outcome.out.endswith("1 study looked at, 1 mended, nothing to mend\n")
    assert command("doctor").code == 0


def test_a_launch_of_which_no_worker_is_left_is_forgotten(command: Command, created: str) -> None:
    gone = f"{worker_name().rpartition(':')[0]}:1"
    with open_database(URL) as database:
        study = ledger.require_study(database, created)
        for executor, job in (("local", gone), ("pbs", "41")):  # and one of a newer version
            ledger.add_launch(
                database, study.id, executor=executor, place="here", job=job, workers=2
            )
    outcome = command("doctor")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[:2] == [
        f"problem: launches of study {created}",
        "  found: 1 launch noted of which no worker is left",
    ]
    assert f"notice: launches of study {created}" in lines
    assert command("doctor", "--fix").code == 0
    with open_database(URL) as database:
        assert [launch.job for launch in ledger.launches(database, study.id)] == ["41"]


def test_plain_data(command: Command, created: str) -> None:
    leave_a_turn()
    outcome = command("doctor", created, "--json")
    assert (outcome.code, outcome.err) == (1, "")
    plain = json.loads(outcome.out)
    (finding,) = plain.pop("findings")
    assert plain == {"storage": URL, "studies": [created], "skipped": [], "left": 1}
    assert {finding["check"], finding["study"]} == {"leases", created}
    assert (finding["fixable"], finding["mended"], finding["is_notice"]) == (True, False, False)
    fixed = json.loads(command("doctor", created, "--json", "--fix").out)
    assert (fixed["left"], fixed["findings"][0]["mended"]) == (0, True)


def test_how_it_ends(command: Command, created: str) -> None:
    assert command("doctor", "tinny").code == 2
    assert command("doctor", "--storage", "studies").code == 2
    assert command("doctor", "--artifacts", "ftp://host/x").code == 2
    assert command("doctor", "--files", "-1").code == 2
    outcome = command("doctor", "--storage", "sqlite:///none.db")
    assert outcome.code == 1
    assert outcome.out.startswith("problem: database\n")
    assert "not looked at: clock" in outcome.out


def test_a_study_that_was_worked_on_is_sound_until_its_rows_change(
    command: Command, created: str
) -> None:
    assert command("worker", created, "--images", "500", "-q").code == 0
    assert command("doctor").code == 0
    with open_database(URL) as database, database.write() as session:
        session.execute(update(ChunkRow).values(array="0" * 64))
    outcome = command("doctor")
    assert outcome.code == 1
    assert outcome.out.splitlines()[0] == "problem: files of study tiny"
    assert "0" * 64 in outcome.out
    assert command("doctor", "--files", "0").code == 0


def test_the_shown_default_is_the_librarys() -> None:
    (option,) = (each for each in doctor.params if each.name == "files")
    assert (
        option.default
        == FILES
        == inspect.signature(diagnosis.diagnose).parameters["files"].default
    )


def test_many_cases_are_cut_and_notices_are_no_problems() -> None:
    details = tuple(f"case {number}" for number in range(SHOWN + 3))
    finding = Finding("versions", "tiny", "what", "why", "how", details, is_notice=True)
    lines = list(diagnosis_lines(Diagnosis(URL, ("tiny", "other"), (finding,), CHECKS[-2:])))
    assert lines == [
        "notice: versions of study tiny",
        "  found: what",
        *(f"         case {number}" for number in range(SHOWN)),
        "         and 3 more",
        "  why: why",
        "  mend: how",
        "",
        "not looked at: files, pending",
        f"{URL}: 2 studies looked at, nothing to mend",
    ]
