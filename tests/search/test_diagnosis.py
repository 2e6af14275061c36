"""Every finding is planted into a tiny study and found; a sound study has none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.search import diagnosis as module
from skiptune.search.delivery import deliver_pending, stored
from skiptune.search.diagnosis import CHECKS, FREE_BYTES, Diagnosis, Finding, diagnose
from skiptune.search.events import silent
from skiptune.search.garbage import ORPHAN_SECONDS
from skiptune.search.liveness import worker_name
from skiptune.search.pending import PENDING
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import leases, ledger
from skiptune.storage.database import VERSION_TABLE
from skiptune.storage.server import ServerFacts
from skiptune.storage.tables import ChunkRow
from skiptune.storage.turns import held_turns, take_turn
from tests.postgres import fresh_database
from tests.search import test_delivery as delivery
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which there is space, whatever this machine has."""
    monkeypatch.setattr(module, "free_bytes", lambda folder: 10 * FREE_BYTES)


def look(tiny: Tiny, **options: Any) -> Diagnosis:
    return diagnose(tiny.url, artifacts=tiny.artifacts, **options)


def only(tiny: Tiny, check: str, **options: Any) -> Finding:
    """The one finding there is."""
    found = look(tiny, **options)
    assert [finding.check for finding in found.findings] == [check]
    assert check in CHECKS
    return found.findings[0]


def gone() -> str:
    """The name of a worker of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host, processes, *_ = worker_name().rsplit(":", 3)
    return f"{host}:{processes}:{process.pid}:1"


def claim(study: OpenStudy, worker: str, seconds: float = 600.0) -> leases.Claim:
    return delivery.claimed(study, worker, seconds=seconds)


def note(study: OpenStudy, job: str, *, executor: str = "slurm") -> None:
    ledger.add_launch(
        study.database, study.id, executor=executor, place="cluster", job=job, workers=2
    )


def noted(study: OpenStudy) -> tuple[ledger.Launch, ...]:
    return ledger.launches(study.database, study.id)


def known(launch: ledger.Launch) -> bool | None:
    """A scheduler that knows of two jobs."""
    return {"over": False, "at work": True}.get(launch.job)


def begun(study: OpenStudy, images: int = 500) -> None:
    """Sample the first images of the baseline, which has two chunks."""
    crew_member(study, "a", limits=Limits(images=images)).run()


# Sound


def test_a_sound_study_has_no_findings(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    begun(study, 250)
    # A worker of this host that lives, and one elsewhere of which nothing is known.
    claim(study, worker_name())
    take_turn(study.database, study.id, task="propose", worker="elsewhere:0:1:1", seconds=60.0)
    assert look(tiny) == Diagnosis(tiny.url, ("tiny",), ())


def test_a_complete_study_has_no_findings_and_nothing_is_written(tiny: Tiny, quick: None) -> None:
    assert crew_member(tiny.open(), "a", limits=UNTIL_DONE).run() == "complete"
    before = {path: path.stat().st_mtime_ns for path in tiny.artifacts.rglob("*")}
    for fix in (False, True):
        found = look(tiny, fix=fix)
        assert (found.findings, found.left, found.skipped) == ((), 0, ())
    assert {path: path.stat().st_mtime_ns for path in tiny.artifacts.rglob("*")} == before


def test_on_a_server(
    tiny: Tiny, postgres_server: Server, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(postgres_server) as url, tiny.elsewhere(url) as there:
        study = there.open()
        begun(study, 250)
        claim(study, gone())
        found = look(there)
        assert [finding.check for finding in found.findings] == ["leases"]
        assert postgres_server.password not in str(found)
        fixed = look(there, fix=True)
        assert (fixed.left, [finding.mended for finding in fixed.findings]) == (0, [True])
        # A server without a store's name: workers would not know where the arrays are.
        monkeypatch.delenv("SKIPTUNE_ARTIFACTS", raising=False)
        nowhere = diagnose(url)
        assert [finding.check for finding in nowhere.findings] == ["store"]
        assert "SKIPTUNE_ARTIFACTS" in nowhere.findings[0].mend


# Database, server, disk


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    found = diagnose(f"sqlite:///{tmp_path / 'none.db'}")
    assert [finding.check for finding in found.findings] == ["database"]
    assert "no such file" in found.findings[0].found
    assert found.skipped == CHECKS[1:]
    assert found.left == 1


def test_a_database_of_an_older_schema(tiny: Tiny) -> None:
    study = tiny.open()
    with study.database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0003'"))
    finding = only(tiny, "database")
    assert "schema 0003" in finding.found
    assert "skiptune db upgrade" in finding.mend


def test_a_database_of_another_optuna(tiny: Tiny) -> None:
    with tiny.open().database.write() as session:
        session.execute(text("UPDATE version_info SET library_version = '4.2.0'"))
    assert "Optuna 4.2.0" in only(tiny, "database").found


@pytest.mark.parametrize(
    ("facts", "check", "words"),
    [
        (ServerFacts("PostgreSQL 15", 97, 20, 5.5), "clock", "+5.5 s"),
        (ServerFacts("PostgreSQL 15", 97, 20, -60.0), "clock", "-60.0 s"),
        (ServerFacts("PostgreSQL 15", 97, 93, 0.0), "connections", "93 of 97"),
    ],
)
def test_what_a_server_tells(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, facts: ServerFacts, check: str, words: str
) -> None:
    tiny.open()
    monkeypatch.setattr(module, "server_facts", lambda database: facts)
    assert words in only(tiny, check).found


def test_a_server_with_enough_of_everything(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.open()
    facts = ServerFacts("PostgreSQL 15", 97, 92, 4.5)
    monkeypatch.setattr(module, "server_facts", lambda database: facts)
    assert look(tiny).findings == ()


def test_a_disk_that_is_nearly_full(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    begun(study, 250)
    size = next(iter(study.arrays.files())).bytes
    open_now = ledger.progress(study.database, study.id).chunks.get("open", 0)
    assert open_now == 1
    free = FREE_BYTES + size
    monkeypatch.setattr(module, "free_bytes", lambda folder: free)
    assert look(tiny).findings == ()
    monkeypatch.setattr(module, "free_bytes", lambda folder: free - 1)
    # Database and arrays lie on one disk: told once.
    assert "the database and the arrays" in only(tiny, "disk").found


def test_files_that_nobody_has_named_for_a_day(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    begun(study, 250)
    lost = study.arrays.write_bytes(b"x" * 2_000_000, ".png")
    assert look(tiny).findings == ()  # its worker may yet deliver the row
    old = time.time() - ORPHAN_SECONDS - 60
    place = study.arrays.place(lost, suffix=".png")
    os.utime(place, (old, old))
    finding = only(tiny, "orphans")
    assert finding.found == "1 file that no row has named for a day, 2.0 MB"
    assert Path(place).is_file() and finding.fixable
    fixed = look(tiny, fix=True)
    assert [each.mended for each in fixed.findings] == [True]
    assert not Path(place).exists()
    assert look(tiny).findings == ()


# The store


def test_a_store_that_is_another_folder(tiny: Tiny, tmp_path: Path, quick: None) -> None:
    begun(tiny.open())
    (tmp_path / "empty").mkdir()
    found = diagnose(tiny.url, artifacts=tmp_path / "empty")
    assert [finding.check for finding in found.findings] == ["store"]
    assert "without markers" in found.findings[0].found
    assert found.skipped == ("orphans", "files", "pending")
    assert list((tmp_path / "empty").iterdir()) == []


def test_stored_files_that_are_missing_are_named(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    begun(study)
    baseline = ledger.evaluations(study.database, study.id, kind="baseline")[0]
    chunk = ledger.chunks_of(study.database, baseline.id)[1]
    study.arrays.remove(str(chunk.array))
    finding = only(tiny, "files")
    assert finding.found.startswith("1 of 2 stored files")
    path = study.arrays.path(str(chunk.array))
    assert finding.details == (f"chunk from seed {chunk.first_seed}: {path}",)
    assert look(tiny, files=0).findings == ()


def test_a_store_that_breaks_off(tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny.open()
    begun(study)

    def away(*arguments: Any, **named: Any) -> None:
        raise StorageError("store", expected="an answer", found="none", hint="wait")

    monkeypatch.setattr("skiptune.storage.arrays.ArrayStore.size", away)
    assert only(tiny, "files").mend == "wait"


def test_a_chunk_that_was_not_delivered(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    held = claim(study, "elsewhere:0:1:1")
    array = stored(study, delivery.made(study, held), wait=delivery.no_wait, on_event=silent)
    note = {
        "study": study.id,
        "claim": vars(held),
        "values": {"array": array, "seconds": 2.0, "nfe": 5.0},
    }
    study.arrays.put_note(PENDING, f"{held.chunk_id}-{held.fence}", note)
    study.arrays.put_note(PENDING, "of-another-study", {**note, "study": "0" * 32})
    finding = only(tiny, "pending")
    assert finding.fixable and finding.found.startswith("1 chunk ")
    assert str(SEARCH_SEED) in finding.details[0]
    fixed = look(tiny, fix=True)
    assert [(each.check, each.mended) for each in fixed.findings] == [("pending", True)]
    assert fixed.left == 0
    chunk = ledger.chunks_of(study.database, held.evaluation_id)[0]
    assert (chunk.state, chunk.array) == ("done", array)
    assert [name for name, _ in study.arrays.notes(PENDING)] == ["of-another-study"]
    assert look(tiny).findings == ()


@pytest.mark.parametrize(
    "note",
    [{}, {"claim": {}, "values": {"array": "0" * 64, "seconds": 1.0, "nfe": 1.0}}, {"values": 3}],
)
def test_a_note_that_cannot_be_read_stays_and_is_told(tiny: Tiny, note: dict[str, Any]) -> None:
    study = tiny.open()
    study.arrays.put_note(PENDING, "odd", {"study": study.id, **note})
    for fix in (False, True):
        finding = only(tiny, "pending", fix=fix)
        assert finding.details == ("note odd: cannot be read",)
        assert finding.is_left
        assert str(tiny.artifacts) in finding.mend
    # Workers pass it over as well.
    assert deliver_pending(study) == 0


# Leases


def test_leases_and_turns_of_dead_workers_of_this_host(tiny: Tiny) -> None:
    study, dead = tiny.open(), gone()
    claim(study, dead)
    take_turn(study.database, study.id, task="propose", worker=dead, seconds=600.0)
    finding = only(tiny, "leases")
    assert finding.found.startswith("1 lease and 1 turn of")
    assert [dead in detail for detail in finding.details] == [True, True]
    # Only looked at.
    assert leases.leases(study.database, study.id)[0].remaining > 500
    fixed = look(tiny, study="tiny", fix=True)
    assert [(each.check, each.mended) for each in fixed.findings] == [("leases", True)]
    assert leases.leases(study.database, study.id)[0].remaining <= 0
    assert held_turns(study.database, study.id) == ()
    assert look(tiny).findings == ()


def test_leases_that_ended_long_ago_while_the_study_runs(tiny: Tiny) -> None:
    study = tiny.open()
    claim(study, "elsewhere:0:1:1", seconds=-599.0)
    assert look(tiny).findings == ()
    claim(study, "elsewhere:0:1:1", seconds=-700.0)
    finding = only(tiny, "idle", fix=True)
    assert finding.mend == "skiptune worker tiny"
    assert "elsewhere:0:1:1" in finding.details[0]
    ledger.set_study_state(study.database, study.id, "paused")
    assert look(tiny).findings == ()


def test_poisoned_chunks_are_told_with_their_reason(tiny: Tiny) -> None:
    study = tiny.open()
    leases.poison(study.database, claim(study, "a:0:1:1"), "CUDA error: illegal address")
    finding = only(tiny, "poisoned", fix=True)
    assert finding.details == (f"chunk from seed {SEARCH_SEED}: CUDA error: illegal address",)
    assert finding.mend.endswith("skiptune resume tiny --retry")
    ledger.retry_failed(study.database, study.id)
    assert look(tiny).findings == ()


# Launches


def test_launches_of_which_no_worker_is_left_are_forgotten(tiny: Tiny) -> None:
    study = tiny.open()
    note(study, "over")
    note(study, "at work")
    assert look(tiny, asked=known).findings[0].found.startswith("1 launch noted of which no")
    finding = only(tiny, "launches", asked=known)
    assert finding.fixable and finding.mend == "skiptune doctor tiny --fix"
    assert finding.details[0].startswith("slurm over on cluster: 2 workers, 20")
    note(study, "unknown")  # which stays, and is only told
    fixed = look(tiny, asked=known, fix=True)
    assert [(each.mended, each.is_notice) for each in fixed.findings] == [
        (True, False),
        (False, True),
    ]
    assert fixed.left == 0
    assert [launch.job for launch in noted(study)] == ["at work", "unknown"]


def test_a_launch_that_cannot_be_asked_is_told(tiny: Tiny) -> None:
    note(tiny.open(), "unknown")
    finding = only(tiny, "launches", asked=known)
    assert finding.found == "1 launch noted that cannot be asked from here"
    assert finding.mend.endswith("skiptune launch tiny --stop --forget")
    assert look(tiny, asked=known).left == 0


def test_launches_of_this_host_are_known_without_asking(tiny: Tiny) -> None:
    study = tiny.open()
    note(study, gone(), executor="local")
    assert only(tiny, "launches").fixable


# Versions


def test_several_versions_in_one_study_are_told_and_nothing_is_to_mend(tiny: Tiny) -> None:
    study = tiny.open()
    array = study.arrays.write({})
    for torch in ("2.5.1", "2.6.0"):
        held = claim(study, "a:0:1:1")
        facts = {"torch": torch, "skiptune": "1.0", "threads": 1}
        leases.commit_chunk(
            study.database, held, array=array, seconds=1.0, nfe=5.0, provenance=facts
        )
    finding = only(tiny, "versions")
    assert finding.details == ("torch 2.5.1: 1 chunk", "torch 2.6.0: 1 chunk")
    assert finding.is_notice
    assert look(tiny).left == 0


def test_chunks_of_a_format_that_is_not_known(tiny: Tiny) -> None:
    study = tiny.open()
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)
    with study.database.write() as session:
        session.execute(
            update(ChunkRow).where(ChunkRow.first_seed == SEARCH_SEED).values(format=2)
        )
    finding = only(tiny, "formats")
    assert finding.details == ("format 2: 1 chunk",)
    assert "pip install -U skiptune" in finding.mend


# Which studies


def test_one_study_of_several(tiny: Tiny) -> None:
    cats, dogs = tiny.open(study="cats"), tiny.open(study="dogs", setting__steps=4)
    dead = gone()
    for study in (cats, dogs):
        claim(study, dead)
    assert [finding.study for finding in look(tiny).findings] == ["cats", "dogs"]
    assert [finding.study for finding in look(tiny, study="dogs", fix=True).findings] == ["dogs"]
    assert only(tiny, "leases").study == "cats"
    with pytest.raises(StorageError, match="birds"):
        look(tiny, study="birds")


@pytest.mark.parametrize("wrong", ["studies", "mysql://me@host/studies"])
def test_what_is_no_url_is_refused(wrong: str) -> None:
    with pytest.raises(StorageError):
        diagnose(wrong)


def test_what_is_no_store_is_refused(tiny: Tiny) -> None:
    with pytest.raises(StorageError, match="ftp"):
        diagnose(tiny.url, artifacts="ftp://host/arrays")


def test_plain_data(tiny: Tiny) -> None:
    claim(tiny.open(), gone())
    plain = look(tiny).to_json()
    assert plain.keys() == {"storage", "studies", "findings", "skipped", "left"}
    assert plain["left"] == 1
    (finding,) = plain["findings"]
    assert finding.keys() == {
        "check",
        "study",
        "found",
        "why",
        "mend",
        "details",
        "fixable",
        "mended",
        "is_notice",
    }
