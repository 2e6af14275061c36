"""Evaluations, rungs and chunks: idempotent, shared, in order."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from skiptune.canonical import digest
from skiptune.errors import StorageError
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, Work, in_threads


def test_an_evaluation_comes_with_its_rung_and_chunks(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = add(0.8, images=750)
    assert made.schedule == digest(made.schedule_json)
    assert made.params == {"skip/a": 0.8}
    assert (made.state, made.finished) == ("running", None)
    [rung] = ledger.rungs(database, study.id)
    assert (rung.evaluation_id, rung.level, rung.images, rung.state) == (made.id, 0, 750, "open")
    chunks = ledger.chunks_of(database, made.id)
    assert [chunk.first_seed for chunk in chunks] == [1_000_000, 1_000_250, 1_000_500]
    assert {(chunk.images, chunk.state, chunk.fence) for chunk in chunks} == {(250, "open", 0)}
    assert ledger.evaluation(database, made.id) == made


def test_the_same_again_is_the_same_row(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work(1)
    assert add(0.8, kind="control", label="other", params={"x": 1.0}) == made
    assert ledger.evaluations(database, study.id) == (made,)
    assert [c.state for c in ledger.chunks_of(database, made.id)] == ["done", "open"]


def test_numbers_count_up_and_the_baseline_has_0(
    database: Database, study: ledger.Study, add: Add
) -> None:
    early = add(0.8)
    baseline = add(1.0)
    late = add(0.9)
    elsewhere = add(1.0, block="A1", first_seed=2_100_000)
    assert [e.number for e in (baseline, early, late, elsewhere)] == [0, 1, 2, 3]
    assert ledger.evaluations(database, study.id) == (baseline, early, late, elsewhere)
    assert ledger.evaluations(database, study.id, kind="proposal") == (early, late)
    assert ledger.evaluations(database, study.id, block="A1") == (elsewhere,)
    assert ledger.evaluations(database, study.id, "baseline", "search") == (baseline,)


def test_chunks_are_shared_by_evaluations_and_studies(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    first = add(1.0)
    work()
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    second = add(1.0, study_id=other.id, images=750)
    assert second.id != first.id
    shared, mine = ledger.chunks_of(database, first.id), ledger.chunks_of(database, second.id)
    assert mine[:2] == shared
    assert [chunk.state for chunk in mine] == ["done", "done", "open"]
    assert [claim.first_seed for claim in work(study_id=other.id)] == [1_000_500]


def test_what_is_stored_already_makes_a_rung_ready_at_once(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    add(1.0)
    work()
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    made = add(1.0, study_id=other.id)
    assert [rung.evaluation_id for rung in ledger.ready_rungs(database, other.id)] == [made.id]


@pytest.mark.parametrize(
    "change",
    [
        {"series": {"network": "m"}},
        {"measure": {"extractor": "f"}},
        {"schedule": {"terms": [{"address": "a", "scale": 0.7}]}},
    ],
)
def test_other_images_or_measures_share_nothing(
    database: Database, add: Add, work: Work, change: dict[str, Any]
) -> None:
    add(0.8, block="A")
    work()
    made = add(0.8, block="B", **change)
    assert {chunk.state for chunk in ledger.chunks_of(database, made.id)} == {"open"}


def test_promotion_goes_on_from_where_it_stood(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work()
    score(database, made, level=0, images=500)
    assert ledger.evaluation(database, made.id).state == "complete"
    rung = ledger.promote(database, made.id, 1000)
    assert rung is not None
    assert (rung.level, rung.images, rung.state) == (1, 1000, "open")
    assert ledger.promote(database, made.id, 1000) == rung
    assert ledger.evaluation(database, made.id) == made
    assert [c.state for c in ledger.chunks_of(database, made.id)] == ["done"] * 2 + ["open"] * 2
    assert len(ledger.chunks_of(database, made.id, 500)) == 2
    assert ledger.ready_rungs(database, study.id) == ()
    assert [claim.first_seed for claim in work()] == [1_000_500, 1_000_750]
    assert ledger.ready_rungs(database, study.id) == (rung,)


def test_promotion_to_fewer_images_is_refused(database: Database, add: Add) -> None:
    made = add(0.8, images=1000)
    with pytest.raises(ValueError, match="fewer"):
        ledger.promote(database, made.id, 500)


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_an_ended_evaluation_is_not_promoted(
    database: Database, study: ledger.Study, add: Add, state: ledger.EvaluationState
) -> None:
    made = add(0.8)
    ended = ledger.finish_evaluation(database, made.id, state, "why")
    assert (ended.state, ended.reason) == (state, "why")
    assert ended.finished is not None
    assert ledger.finish_evaluation(database, made.id, "failed", "again") == ended
    assert ledger.finish_evaluation(database, made.id, "complete") == ended
    assert ledger.promote(database, made.id, 1000) is None
    assert leases.claim_chunk(database, study.id, worker="w", seconds=1.0) is None


def test_an_evaluation_does_not_end_running(database: Database, add: Add) -> None:
    with pytest.raises(ValueError, match="complete, diverged or failed"):
        ledger.finish_evaluation(database, add(0.8).id, "running")


def test_ready_rungs_need_every_chunk_and_come_by_number(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    late, baseline = add(0.8), add(1.0, images=1000)
    assert [len(work(1)) and len(ledger.ready_rungs(database, study.id)) for _ in range(6)] == [
        0,
        0,
        0,
        1,
        1,
        2,
    ]
    ready = ledger.ready_rungs(database, study.id)
    assert [rung.evaluation_id for rung in ready] == [baseline.id, late.id]
    ledger.finish_evaluation(database, late.id, "diverged", "NaN")
    assert [r.evaluation_id for r in ledger.ready_rungs(database, study.id)] == [baseline.id]


def test_open_rungs_of_a_block(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    scored, ended, running = add(0.7), add(0.8), add(0.9)
    confirm = add(0.9, block="c/A", first_seed=2_100_000)
    work()
    score(database, scored, level=0, images=500)
    ledger.finish_evaluation(database, ended.id, "diverged", "NaN")
    ledger.promote(database, scored.id, 1000)
    found = [(rung.evaluation_id, rung.level) for rung in ledger.open_rungs(database, study.id)]
    assert found == [(scored.id, 1), (running.id, 0), (confirm.id, 0)]
    [rung] = ledger.open_rungs(database, study.id, block="c/A")
    assert rung.evaluation_id == confirm.id
    assert ledger.open_rungs(database, study.id, block="c/B") == ()


def test_an_evaluation_is_found_by_its_schedule(
    database: Database, study: ledger.Study, add: Add
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    made = add(0.8)
    add(0.8, study_id=other.id)
    confirm = add(0.8, block="c/A", first_seed=2_100_000)
    for block, expected in (("search", made), ("c/A", confirm), ("c/B", None)):
        found = ledger.find_evaluation(database, study.id, block=block, schedule=made.schedule)
        assert found == expected
    assert ledger.find_evaluation(database, study.id, block="search", schedule="0" * 64) is None


def test_workers_that_enter_the_same_at_once_enter_it_once(
    database: Database, url: str, study: ledger.Study
) -> None:
    """Also by way of two studies, whose descriptions and chunks are the same rows."""
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})

    def enter(own: Database, study_id: str) -> ledger.Evaluation:
        return ledger.add_evaluation(
            own,
            study_id,
            kind="proposal",
            label="",
            block="search",
            series={"a": 1},
            measure={"b": 1},
            schedule={"c": 1},
            first_seed=0,
            images=2500,
            params={},
        )

    calls = [partial(enter, study_id=item.id) for item in (study, other) * 3]
    entered = in_threads(url, calls)
    assert {made.id for made in entered} == {entered[0].id, entered[1].id}
    for item in (study, other):
        [made] = ledger.evaluations(database, item.id)
        assert len(ledger.rungs(database, item.id)) == 1
        assert len(ledger.chunks_of(database, made.id)) == 10
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM skiptune_chunks")) == 10


def test_a_lost_file_is_sampled_again_and_its_score_stays(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work()
    kept = score(database, made, level=0, images=500)
    [first, second] = ledger.chunks_of(database, made.id)
    assert first.array is not None
    assert ledger.reopen_chunks(database, first.array) == 1
    assert ledger.reopen_chunks(database, first.array) == 0
    assert ledger.evaluation(database, made.id).state == "running"
    assert [claim.first_seed for claim in work()] == [first.first_seed]
    [rung] = ledger.ready_rungs(database, study.id)
    assert score(database, made, level=rung.level, images=500) == kept
    assert ledger.evaluation(database, made.id).state == "complete"
    [again, untouched] = ledger.chunks_of(database, made.id)
    assert untouched == second
    assert again.doubled_images == 250
    assert ledger.spending(database, study.id).doubled_images == 250


def test_descriptions_are_found_by_digest(database: Database, add: Add) -> None:
    made = add(0.8)
    assert ledger.description(database, made.series) == {"network": "n", "steps": 6}
    assert ledger.description(database, made.measure) == {"extractor": "e"}
    assert ledger.description(database, made.schedule) == made.schedule_json
    with pytest.raises(StorageError, match="digest"):
        ledger.description(database, "0" * 64)


@pytest.mark.parametrize(
    "images, first_seed", [(0, 0), (-250, 0), (100, 0), (250, 10), (250, -250)]
)
def test_seeds_come_in_whole_chunks(add: Add, images: int, first_seed: int) -> None:
    with pytest.raises(ValueError, match="whole chunks"):
        add(0.8, images=images, first_seed=first_seed)


def test_an_unknown_evaluation_is_refused(database: Database) -> None:
    with pytest.raises(StorageError, match="an evaluation of this database"):
        ledger.chunks_of(database, "0" * 32)


def score(
    database: Database, evaluation: ledger.Evaluation, *, level: int, images: int
) -> ledger.Score:
    return ledger.put_score(
        database,
        evaluation.id,
        level=level,
        metric="FD(e)-corrected",
        reference="r",
        images=images,
        value=3.0,
        standard_error=0.1,
    )
