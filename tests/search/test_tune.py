"""The whole engine on a tiny network: what is found, what is told, and what survives a crash."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from skiptune.errors import StudyChangedError
from skiptune.sampling.schedule import Schedule
from skiptune.search import chunks
from skiptune.search.events import ChunkDone, Event, Notice, Scored, Stage
from skiptune.search.plan import search_images
from skiptune.search.projection import DIVERGED, Board
from skiptune.search.promotion import WORSE
from skiptune.search.result import NO_GAIN
from skiptune.search.study import open_study
from skiptune.search.tune import run, tune
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import open_database

SCRIPT = Path(__file__).with_name("tiny_study.py")
# What belongs to a run and not to its result.
INCIDENTAL = frozenset(
    "id created finished completed committed seconds worker fence attempts lease_until renewed"
    " provenance doubled_images".split()
)


def command(folder: Path, *points: str) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPT), str(folder), *points]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}


def run_script(folder: Path, *points: str) -> str:
    done = subprocess.run(
        command(folder, *points), env=environment(), text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything our tables hold about the study, with evaluations by number in place of ids."""
    with contextlib.closing(sqlite3.connect(folder / "tiny.db")) as connection:
        connection.row_factory = sqlite3.Row
        names = [
            name
            for (name,) in connection.execute("select name from sqlite_master where type='table'")
            if name.startswith("skiptune_") and "alembic" not in name and "turns" not in name
        ]
        rows = {
            name: [dict(row) for row in connection.execute(f"select * from {name}")]
            for name in names
        }
    numbers = {row["id"]: row["number"] for row in rows["skiptune_evaluations"]}
    study = {row["id"]: row["name"] for row in rows["skiptune_studies"]}

    def plain(row: dict[str, Any]) -> tuple[Any, ...]:
        named = {**row}
        if "evaluation_id" in row:
            named["evaluation_id"] = numbers[row["evaluation_id"]]
        if "study_id" in row:
            named["study_id"] = study[row["study_id"]]
        return tuple(sorted((k, v) for k, v in named.items() if k not in INCIDENTAL))

    return {name: sorted(map(plain, rows[name]), key=repr) for name in names}


def trials(folder: Path, name: str = "tiny") -> list[tuple[Any, ...]]:
    """Optuna's finished trials, without those that were asked for and never entered."""
    found = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'tiny.db'}")
    return [
        (t.state, t.values, t.params, t.distributions, t.user_attrs, t.constraints)
        for t in found.trials
        if t.state != optuna.trial.TrialState.FAIL
    ]


def sampled(folder: Path) -> Counter[tuple[str, str]]:
    lines = (folder / "sampled.log").read_text().splitlines()
    return Counter((schedule, seed) for _, schedule, seed in map(str.split, lines))


@pytest.fixture
def undisturbed(study_folder: Path) -> Path:
    folder = study_folder.with_name("undisturbed")
    shutil.copytree(study_folder, folder)
    # The spec names files by path, so the undisturbed study lives where the disturbed one will.
    run_script(study_folder)
    for name in ("tiny.db", "result.json", "sampled.log"):
        shutil.move(study_folder / name, folder / name)
    shutil.rmtree(study_folder / "skiptune-artifacts")
    return folder


def test_a_crash_before_or_after_every_commit_and_rename_ends_in_the_same_tables(
    study_folder: Path, undisturbed: Path
) -> None:
    # Each process goes on from where the one before it died. A chunk that is lost three times
    # counts as poisoned, so most let a chunk be done before they die.
    points = [
        "create_study.before", "create_study.after", "add_evaluation.before",
        "add_evaluation.after", "claim_chunk.before:2", "claim_chunk.after",
        "break_lease.before", "break_lease.after", "store_file.before:2", "store_file.after:2",
        "commit_chunk.before:2", "commit_chunk.after", "put_score.before", "put_score.after",
        "promote.before", "promote.after", "search.asked", "search.asked:2",
        "add_evaluation.before:2", "add_evaluation.after:2", "put_score.before:2",
        "spend_block.before", "spend_block.after", "add_evaluation.after:4",
        "set_study_state.before", "set_study_state.after",
    ]  # fmt: skip
    died = dict(line.split() for line in run_script(study_folder, *points).splitlines())
    reached = [point for point in points if died[point] == str(int(signal.SIGKILL))]
    assert set(died.values()) <= {"0", str(int(signal.SIGKILL))}
    assert reached == points
    assert tables(study_folder) == tables(undisturbed)
    assert trials(study_folder) == trials(undisturbed)
    assert trials(study_folder, "tiny/500") == trials(undisturbed, "tiny/500")
    assert json.loads((study_folder / "result.json").read_text()) == json.loads(
        (undisturbed / "result.json").read_text()
    )


def test_killed_at_random_moments_it_resumes_to_the_same_numbers(
    study_folder: Path, undisturbed: Path
) -> None:
    once = sampled(undisturbed)
    assert set(once.values()) == {1}
    chance = random.Random(os.environ.get("SKIPTUNE_TEST_SEED", "7"))
    log = study_folder / "sampled.log"
    for _ in range(3):
        before = log.read_text().count("\n") if log.exists() else 0
        more = chance.randint(1, 1200)
        process = subprocess.Popen(
            command(study_folder), env=environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            now = log.read_text().count("\n") if log.exists() else 0
            if now - before >= more:
                time.sleep(chance.random() / 5)
                process.kill()
            time.sleep(0.01)
        process.wait()
    run_script(study_folder)
    assert tables(study_folder) == tables(undisturbed)
    assert (study_folder / "result.json").read_text() == (undisturbed / "result.json").read_text()
    # A killed process loses its open chunk, and nothing that was committed is sampled again.
    again = sampled(study_folder)
    assert again.keys() == once.keys()
    lost = sum(again.values()) - sum(once.values())
    assert lost <= 3 * ledger.CHUNK
    with open_database(f"sqlite:///{study_folder / 'tiny.db'}") as database:
        study = ledger.require_study(database, "tiny")
        assert ledger.spending(database, study.id).images == sum(once.values())


def collect(study_folder: Path, tiny_study: ModuleType, **changes: Any) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    torch.set_num_threads(1)
    result = tune(
        tiny_study.spec(study_folder, **changes),
        storage=f"sqlite:///{study_folder / 'tiny.db'}",
        on_event=events.append,
    )
    return result, events


def test_baseline_comes_first_and_optuna_is_told_paired_values_on_one_scale(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    result, events = collect(study_folder, tiny_study)
    scored = [event for event in events if isinstance(event, Scored)]
    assert (scored[0].kind, scored[0].number, scored[0].images) == ("baseline", 0, 500)
    first, second = trials(study_folder), trials(study_folder, "tiny/500")
    base = scored[0].value
    assert first[0][1] == second[0][1] == [base]
    assert all(value == 1.0 for value in first[0][2].values())
    told = [t[1][0] for t in first[1:]]
    lowest = [s for s in scored if s.kind == "proposal" and s.images == 250]
    assert told == pytest.approx([base + s.difference for s in lowest if s.difference], abs=1e-12)
    assert len(second) == 1 + len([s for s in scored if s.kind == "proposal" and s.images == 500])
    assert result.evaluations == 6


def test_no_more_images_are_sampled_than_planned(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    _, events = collect(study_folder, tiny_study)
    images, stage = Counter[str](), ""
    planned = {}
    for event in events:
        if isinstance(event, Stage):
            stage = event.name
            planned[stage] = event.images
        elif isinstance(event, ChunkDone):
            images[stage] += event.images
    assert images.keys() == planned.keys()
    assert images["confirm A"] == planned["confirm A"]
    assert images["confirm B"] == planned["confirm B"]
    # What is clearly worse than the baseline is not promoted, and its images are saved.
    assert images["search"] <= planned["search"]
    assert planned["search"] == search_images(tiny_study.spec(study_folder))


def test_what_is_clearly_worse_than_the_baseline_is_not_promoted(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    _, events = collect(study_folder, tiny_study, search__promote=1.0)
    scored = [e for e in events if isinstance(e, Scored) and e.kind == "proposal"]
    first = {e.number: e for e in scored if e.images == 250}
    promoted = {e.number for e in scored if e.images == 500}
    expected = {
        number
        for number, e in first.items()
        if (e.difference or 0.0) <= WORSE * (e.difference_error or 0.0)
    }
    assert promoted == expected
    assert 0 < len(promoted) < len(first)


def test_a_finished_study_reads_its_result_and_samples_nothing(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    first, _ = collect(study_folder, tiny_study)
    second, events = collect(study_folder, tiny_study)
    assert second == first
    assert not [event for event in events if isinstance(event, ChunkDone)]


def test_a_larger_budget_goes_on_and_new_candidates_get_a_fresh_block(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    first, _ = collect(study_folder, tiny_study)
    second, events = collect(study_folder, tiny_study, search__evaluations=14)
    assert second.evaluations == 14
    again = [e for e in events if isinstance(e, Scored) and e.kind == "proposal"]
    assert {event.number for event in again if event.images == 250}.isdisjoint(range(1, 7))
    if second.params != first.params:
        assert (second.confirm, second.alpha) == (2, first.alpha / 2)
        assert second.seeds == (2_200_000, 2_250_000)


def test_a_rung_that_is_added_on_resume_goes_on_from_the_images_there_are(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    collect(study_folder, tiny_study)
    _, events = collect(
        study_folder, tiny_study, search__rungs=[250, 500, 750], search__promote=1.0
    )
    scored = [e for e in events if isinstance(e, Scored) and e.images == 750]
    assert [e.kind for e in scored[:2]] == ["baseline", "proposal"]
    stages = [e for e in events if isinstance(e, Stage)]
    # Where the candidates are the same ones, their confirm is read and no stage begins.
    search = events[: events.index(stages[1]) if stages[1:] else None]
    made = [e.images for e in search if isinstance(e, ChunkDone)]
    # The baseline and whoever is promoted add one chunk a rung to what they have.
    promoted = [e for e in search if isinstance(e, Scored)]
    assert sum(made) == 250 * len(promoted)


def test_a_begun_confirm_keeps_its_number_of_images(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    first, _ = collect(study_folder, tiny_study)
    second, events = collect(study_folder, tiny_study, confirm__images=500)
    assert second == first
    assert not [event for event in events if isinstance(event, ChunkDone)]


@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_lost_file_is_said_once_and_sampled_again(
    study_folder: Path, tiny_study: ModuleType, damage: str
) -> None:
    collect(study_folder, tiny_study, search__evaluations=2)
    with open_database(f"sqlite:///{study_folder / 'tiny.db'}") as database:
        study = ledger.require_study(database, "tiny")
        baseline = ledger.evaluations(database, study.id, kind="baseline", block="search")[0]
        array = ledger.chunks_of(database, baseline.id)[0].array
    path = ArrayStore(study_folder / "skiptune-artifacts").path(array or "")
    data = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(data[:100])
    result, events = collect(study_folder, tiny_study, search__evaluations=3)
    assert result.evaluations == 3
    told = [e.text for e in events if isinstance(e, Notice)]
    assert len(told) == 1
    assert "sampled again" in told[0]
    assert [e.label for e in events if isinstance(e, ChunkDone)].count("baseline") >= 1
    assert path.read_bytes() == data


def test_optunas_studies_are_rebuilt_from_our_rows(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    collect(study_folder, tiny_study)
    before = trials(study_folder), trials(study_folder, "tiny/500")
    study = open_study(
        tiny_study.spec(study_folder), storage=f"sqlite:///{study_folder / 'tiny.db'}"
    )
    Board(study.database, study.row).rebuild()
    assert (trials(study_folder), trials(study_folder, "tiny/500")) == before


def test_a_diverging_schedule_is_pruned_with_its_reason_and_the_study_goes_on(
    study_folder: Path, tiny_study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chunks.sample  # type: ignore[attr-defined]

    def diverging(network: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
        bad = study_rows() == 3  # the third proposal
        for batch in real(network, *arguments, **named):
            if bad:
                batch.finite[0] = False
            yield batch

    def study_rows() -> int:
        with open_database(f"sqlite:///{study_folder / 'tiny.db'}") as database:
            study = ledger.require_study(database, "tiny")
            return len(ledger.evaluations(database, study.id, kind="proposal"))

    monkeypatch.setattr(chunks, "sample", diverging)
    result, events = collect(study_folder, tiny_study)
    states = [e.state for e in events if isinstance(e, Scored) and e.images == 250]
    assert result.evaluations == 6
    assert states.count("diverged") == 1
    pruned = [t for t in trials(study_folder) if t[0] == optuna.trial.TrialState.PRUNED]
    assert len(pruned) == 1
    assert pruned[0][5] == {DIVERGED: 1.0}
    assert "not finite" in pruned[0][4]["reason"]


def test_another_meaning_under_the_same_name_is_refused_field_by_field(
    study_folder: Path, tiny_study: ModuleType
) -> None:
    collect(study_folder, tiny_study)
    before = tables(study_folder)
    with pytest.raises(StudyChangedError) as caught:
        collect(study_folder, tiny_study, setting__steps=4, space__low=0.4)
    fields = {problem.where.split(": ")[1] for problem in caught.value.problems}
    assert fields == {"setting.steps", "space.low"}
    assert tables(study_folder) == before


def test_a_stopped_worker_hands_its_chunk_back(
    study_folder: Path, tiny_study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    study = open_study(
        tiny_study.spec(study_folder), storage=f"sqlite:///{study_folder / 'tiny.db'}"
    )
    monkeypatch.setattr(chunks, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(study)
    assert ledger.progress(study.database, study.id).chunks == {"open": 2}


def test_schedules_that_the_network_ignores_win_nothing(
    study_folder: Path, tiny_study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative known answer: every schedule makes the baseline's images."""

    @contextlib.contextmanager
    def ignored(network: torch.nn.Module, schedule: Schedule) -> Any:
        yield

    monkeypatch.setattr(chunks, "scaled", ignored)
    result, events = collect(study_folder, tiny_study)
    differences = [e.difference for e in events if isinstance(e, Scored) and e.difference]
    assert np.allclose(differences, 0.0)
    assert result.verdict == NO_GAIN
