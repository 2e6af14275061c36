"""Every simulated evaluation is counted once, and leaves the rows that a real one leaves."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from bench.long_history import NAME, RUNGS, simulated_study, write_history
from bench.postgres import Server
from bench.simulated_workers import CHUNKS, Part, Plan, Way, serve
from bench.storage_scale import Load, measure, quantiles, server_seconds, whole_evaluations
from skiptune.search.projection import Board
from skiptune.search.promotion import promote
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger
from skiptune.storage.database import init_database
from skiptune.storage.optuna_rows import optuna_storage
from tests.postgres import fresh_database, postgres_server

__all__ = ["postgres_server"]

PARAMETERS = 3
HISTORY = 30


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    if request.param == "sqlite":
        yield database_url
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as made:
        yield made


@pytest.fixture
def study(url: str) -> Iterator[OpenStudy]:
    """A study with a history."""
    with init_database(url) as database:
        made = simulated_study(database, parameters=PARAMETERS)
        write_history(made, evaluations=HISTORY)
        yield made


def trials(study: OpenStudy, name: str = NAME) -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=optuna_storage(study.database)).trials


def plan(way: Way, url: str, *, seconds: float) -> Plan:
    return Plan(
        way=way,
        url=url,
        parameters=PARAMETERS,
        workers=(0, 1, 2),
        of=3,
        minute=0.8,
        seconds=seconds,
    )


def test_a_history_is_one_that_workers_would_have_left(study: OpenStudy) -> None:
    database = study.database
    proposals = ledger.evaluations(database, study.id, kind="proposal")
    assert len(proposals) == HISTORY
    assert {e.state for e in ledger.evaluations(database, study.id)} == {"complete"}
    assert not ledger.open_rungs(database, study.id)
    assert not ledger.untold(database, study.id)
    levels = Counter(score.level for score in ledger.scores(database, study.id))
    assert levels[0] == HISTORY + 1
    assert HISTORY / 4 < levels[1] <= HISTORY / 3
    for evaluation in ledger.evaluations(database, study.id):
        images = study.images_of(evaluation)
        chunks = ledger.chunks_of(database, evaluation.id)
        assert sum(chunk.images for chunk in chunks) == images
        assert {chunk.state for chunk in chunks} == {"done"}
    # Whoever goes on with it finds nothing to promote and nothing to tell,
    board = Board(database, study.row)
    board.refresh()
    assert board.fail_orphans() == promote(study) == 0
    # and what Optuna holds is what it would be told.
    names = (NAME, f"{NAME}/{RUNGS[1]}")
    before = [trials(study, name) for name in names]
    assert [len(found) for found in before] == [HISTORY + 1, levels[1] + 1]
    ledger.forget_told(database, study.id)
    board.project()
    assert [trials(study, name) for name in names] == before
    board.rebuild()
    for name, old in zip(names, before, strict=True):
        said = [
            [(t.values, t.params, t.user_attrs) for t in found]
            for found in (old, trials(study, name))
        ]
        assert sorted(said[0], key=repr) == sorted(said[1], key=repr)


def test_every_chunk_is_counted_once_and_every_rung_is_scored(url: str, study: OpenStudy) -> None:
    database = study.database
    board = {evaluation.number for evaluation in ledger.evaluations(database, study.id)}
    scored = len(ledger.scores(database, study.id))
    served = serve(plan("skiptune", url, seconds=4.0), time.time)

    by: dict[str, list[Part]] = defaultdict(list)
    for part in served.parts:
        by[part.evaluation].append(part)
    whole, unfinished = whole_evaluations("skiptune", served.parts, -math.inf, math.inf)
    assert sorted(map(id, (p for parts in whole for p in parts))) == sorted(
        id(p) for parts in by.values() if len(parts) == CHUNKS for p in parts
    )
    assert len(whole) + unfinished == len(by)
    assert len(whole) >= 4
    # Three workers hold a chunk each at the end, of what is not whole.
    assert unfinished <= 3

    new = [e for e in ledger.evaluations(database, study.id) if e.number not in board]
    assert new
    assert len(ledger.scores(database, study.id)) == scored + len(whole)
    done = Counter[str]()
    for evaluation in new:
        done.update(chunk.state for chunk in ledger.chunks_of(database, evaluation.id))
    promoted = [key for key in by if key.endswith("/1")]
    old = sum(len(by[key]) for key in promoted if int(key.split("/")[0]) in board)
    assert done["done"] + old == len(served.parts)
    # Nobody has died: each chunk was claimed once, and each trial belongs to an evaluation.
    states = Counter(trial.state for trial in trials(study))
    assert states[TrialState.COMPLETE] + states[TrialState.RUNNING] == HISTORY + 1 + len(new)
    assert states.keys() <= {TrialState.COMPLETE, TrialState.RUNNING}

    for part in served.parts:
        assert {"connect", "claim", "renew", "commit", "ready rungs"} <= part.steps.keys()
        assert 0 < sum(part.steps.values())
        assert 0 < part.processor
        assert sum(part.steps.values()) <= part.sojourn + part.waited + 0.5
    turns = sum("propose" in part.steps for part in served.parts)
    assert turns >= len(new) - 3
    assert sum("score" in part.steps for part in served.parts) == len(whole)


def test_loops_of_ask_and_tell_are_counted_once(url: str, study: OpenStudy) -> None:
    before = len(trials(study))
    served = serve(plan("bare Optuna", url, seconds=3.0), time.time)
    found = trials(study)
    told = [t for t in found[before:] if t.state == TrialState.COMPLETE]
    assert sorted(int(part.evaluation) for part in served.parts) == [t.number for t in told]
    assert Counter(t.state for t in found[before:])[TrialState.RUNNING] == 3
    assert all(part.steps.keys() == {"ask", "tell"} for part in served.parts)
    whole, unfinished = whole_evaluations("bare Optuna", served.parts, -math.inf, math.inf)
    assert (len(whole), unfinished) == (len(told), 0)
    # As from our side, one says what the other says.
    assert {frozenset(t.user_attrs) for t in told} == {frozenset(found[1].user_attrs)}


@pytest.mark.parametrize("way", get_args(Way))
def test_processes_serve_all_workers_from_one_begin(way: Way, database_url: str) -> None:
    with init_database(database_url) as database:
        study = simulated_study(database, parameters=PARAMETERS)
        write_history(study, evaluations=HISTORY)
    load = Load(
        workers=4, processes=2, parameters=PARAMETERS, minute=1.0, warm_up=0.5, seconds=3.0
    )
    measured = measure(way, database_url, history=HISTORY, load=load)
    assert measured.evaluations
    assert all(0.5 <= min(part.began for part in parts) < 3.5 for parts in measured.evaluations)
    assert measured.utilisation == {}
    plain = measured.to_json()
    assert plain["evaluations"] == len(plain["seconds"]["storage"]) == len(measured.evaluations)
    total = sum(plain["seconds"]["storage"]) / plain["evaluations"]
    assert sum(plain["steps"].values()) == pytest.approx(total, rel=0.01)
    assert plain["summary"]["storage"]["mean"] == pytest.approx(total, rel=0.01)


def test_what_begins_outside_the_measured_time_does_not_count() -> None:
    parts = [Part(began=10.0 + n, evaluation=f"{n // 4}/0") for n in range(12)]
    whole, unfinished = whole_evaluations("skiptune", parts[:-1], 12.0, 20.0)
    assert (whole, unfinished) == ([parts[4:8]], 1)
    assert whole_evaluations("bare Optuna", parts[::4], 12.0, 14.5) == ([[parts[4]]], 0)
    assert all(math.isnan(value) for value in quantiles([]).values())
    assert quantiles([1.0, 2.0, 6.0])["median"] == 2.0


def test_a_server_that_computes_spends_seconds(postgres_server: Server, tmp_path: Path) -> None:
    name = "seconds"
    postgres_server.create_database(name)
    before = server_seconds(postgres_server, name)
    postgres_server.execute("SELECT count(*) FROM generate_series(1, 3000000)", database=name)
    after = server_seconds(postgres_server, name)
    postgres_server.drop_database(name)
    assert after["processor"] > before["processor"]
    assert after["statements"] > before["statements"]
