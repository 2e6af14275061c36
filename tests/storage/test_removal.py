"""What may go: shared chunks stay, and what is dropped can be had again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import text

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.storage import database as module
from skiptune.storage import leases, ledger, removal
from skiptune.storage.database import Database
from skiptune.storage.removal import BEST_KEPT
from tests.storage.conftest import Add, Work, in_threads, on_postgresql

PARTS = ("evaluations", "rungs", "scores", "spent_seeds", "turns")


def rows(database: Database, table: str) -> int:
    with database.read() as session:
        return int(session.scalar(text(f"SELECT count(*) FROM skiptune_{table}")) or 0)


def score(
    database: Database, made: ledger.Evaluation, difference: float | None, *, images: int = 500
) -> None:
    rung = next(
        rung
        for rung in ledger.rungs(database, made.study_id, evaluation_id=made.id)
        if rung.images == images
    )
    ledger.put_score(
        database,
        made.id,
        level=rung.level,
        metric="m",
        reference="r",
        images=images,
        value=1.0,
        standard_error=0.1,
        difference=difference,
    )


def enter(
    database: Database, study_id: str, scale: float, *, images: int = 250
) -> ledger.Evaluation:
    """Enter a proposal as `add` does, by another database."""
    return ledger.add_evaluation(
        database,
        study_id,
        kind="proposal",
        label="",
        block="search",
        series={"network": "n", "steps": 6},
        measure={"extractor": "e"},
        schedule={"terms": [{"address": "a", "scale": scale}]},
        first_seed=1_000_000,
        images=images,
        params={},
    )


def arrays_of(database: Database, made: ledger.Evaluation) -> set[str]:
    return {chunk.array for chunk in ledger.chunks_of(database, made.id) if chunk.array}


Sample = Callable[..., int]


@pytest.fixture
def sample(database: Database, study: ledger.Study) -> Sample:
    """Claim and commit chunks until none is left; every chunk has arrays of its own."""

    def call(study_id: str | None = None) -> int:
        done = 0
        while claim := leases.claim_chunk(
            database, study_id or study.id, worker="w", seconds=60.0
        ):
            leases.commit_chunk(
                database, claim, array=f"{claim.chunk_id}{claim.fence:032x}", seconds=2.0, nfe=6.0
            )
            done += 1
        return done

    return call


# A whole study.


def test_a_study_goes_with_all_that_is_its_own(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    baseline, made = add(1.0), add(0.8)
    sample()
    score(database, made, -1.0)
    ledger.spend_block(database, study.id, block="c", images=250, alpha=0.05)
    arrays = arrays_of(database, baseline) | arrays_of(database, made)
    assert len(arrays) == 4
    assert ledger.delete_study(database, study.id) == tuple(sorted(arrays))
    assert ledger.list_studies(database) == ()
    assert {table: rows(database, table) for table in (*PARTS, "chunks")} == dict.fromkeys(
        (*PARTS, "chunks"), 0
    )
    assert ledger.named_files(database) == frozenset()
    with pytest.raises(StorageError, match="a study of this database"):
        ledger.delete_study(database, study.id)


def test_chunks_that_another_study_needs_survive(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    long, mine = add(1.0, images=1000), add(0.8)
    shared = add(1.0, images=500, study_id=other.id)
    theirs = add(0.7, images=250, study_id=other.id)
    sample()
    before = ledger.chunks_of(database, shared.id)
    expected = arrays_of(database, long) | arrays_of(database, mine)
    expected -= arrays_of(database, shared)
    assert len(expected) == 4
    assert ledger.delete_study(database, study.id) == tuple(sorted(expected))
    # Nobody has paid for them any more; else they are as they were.
    kept = ledger.chunks_of(database, shared.id)
    assert kept == tuple(replace(chunk, study_id=None) for chunk in before)
    assert ledger.spending(database, other.id).reused_images == 500
    assert rows(database, "chunks") == 3
    assert ledger.list_studies(database) == (other,)
    assert [made.id for made in ledger.evaluations(database, other.id)] == [shared.id, theirs.id]
    assert sample(other.id) == 1


def test_equal_arrays_of_another_chunk_keep_their_file(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    """`work` gives the first chunk of either study the same arrays."""
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    add(0.8)
    add(0.9, study_id=other.id, images=250)
    work()
    work(study_id=other.id)
    assert ledger.delete_study(database, study.id) == (f"{1:064x}",)
    assert ledger.named_files(database) == {f"{0:064x}"}


def test_artifacts_are_named_too(database: Database, study: ledger.Study) -> None:
    ledger.put_artifact(database, digest="a" * 64, kind="picture", bytes=1, name="p.png")
    assert ledger.delete_study(database, study.id) == ()
    assert ledger.named_files(database) == {"a" * 64}


def test_a_worker_of_a_deleted_study_learns_it(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8)
    claim = leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    assert claim is not None
    ledger.delete_study(database, study.id)
    assert leases.claim_chunk(database, study.id, worker="w", seconds=60.0) is None
    assert not leases.release(database, claim)
    with pytest.raises(StorageError, match="the lease of w"):
        leases.commit_chunk(database, claim, array="1" * 64, seconds=1.0, nfe=6.0)


# Arrays that no decision needs.


def test_the_best_and_all_that_is_no_proposal_are_kept(
    database: Database,
    study: ledger.Study,
    add: Add,
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(removal, "_TOGETHER", 3)  # the four arrays take two statements
    for kind, scale in (("baseline", 1.0), ("control", 0.2), ("confirm", 0.3)):
        add(scale, kind=kind)
    proposals = [add(0.5 + n / 100) for n in range(BEST_KEPT + 3)]
    sample()
    for n, made in enumerate(proposals):
        score(database, made, float(n))
    # The last but one has more images, and the last one is still at work.
    ledger.promote(database, proposals[-2].id, 1000)
    sample()
    score(database, proposals[-2], 99.0, images=1000)
    ledger.promote(database, proposals[-1].id, 750)
    # So the worst of the best is no longer among them.
    dropped = proposals[BEST_KEPT - 1 : BEST_KEPT + 1]
    arrays = {array for made in dropped for array in arrays_of(database, made)}
    named = ledger.named_files(database)
    assert len(arrays) == 4
    assert ledger.droppable_arrays(database) == (4, 1000)
    assert ledger.drop_arrays(database, dry_run=True) == tuple(sorted(arrays))
    assert ledger.named_files(database) == named
    assert ledger.drop_arrays(database) == tuple(sorted(arrays))
    assert ledger.drop_arrays(database) == ()
    assert ledger.droppable_arrays(database) == (0, 0)
    assert ledger.named_files(database) == named - arrays
    for made in dropped:
        assert {chunk.state for chunk in ledger.chunks_of(database, made.id)} == {"dropped"}
        # What was known of them stays known.
        assert len(ledger.scores(database, study.id, evaluation_id=made.id)) == 1
    assert ledger.spending(database, study.id).images == 250 * (2 * 16 + 2)


def test_a_chunk_that_two_studies_need_is_kept_for_one(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    lost = add(0.8, images=750)
    add(0.8, kind="control", study_id=other.id, images=500)
    sample()
    ledger.finish_evaluation(database, lost.id, "diverged", "NaN")
    [only] = ledger.drop_arrays(database, dry_run=True)
    assert ledger.drop_arrays(database) == (only,)
    states = [(chunk.state, chunk.array == only) for chunk in ledger.chunks_of(database, lost.id)]
    assert states == [("done", False), ("done", False), ("dropped", True)]


def test_dropped_chunks_that_are_asked_for_again_are_sampled_again(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    made = add(0.8)
    assert sample() == 2
    score(database, made, None)
    first = arrays_of(database, made)
    assert set(ledger.drop_arrays(database)) == first
    assert sample() == 0
    # By another study, or by the next rung of the same.
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    again = add(0.8, study_id=other.id, images=250)
    assert sample(other.id) == 1
    ledger.promote(database, made.id, 750)
    assert [chunk.state for chunk in ledger.chunks_of(database, made.id)] == [
        "done",
        "open",
        "open",
    ]
    assert sample() == 2
    assert len(ledger.ready_rungs(database, study.id)) == 1
    assert [rung.evaluation_id for rung in ledger.ready_rungs(database, other.id)] == [again.id]
    assert arrays_of(database, made).isdisjoint(first)
    assert ledger.drop_arrays(database) == ()


def test_what_failed_is_tried_again_with_the_chunks_that_were_dropped_meanwhile(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = add(0.8)
    for array in ("a" * 64, None):
        claim = leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
        assert claim is not None
        if array is None:
            leases.poison(database, claim, "it does not fit")
        else:
            leases.commit_chunk(database, claim, array=array, seconds=2.0, nfe=6.0)
    assert ledger.drop_arrays(database) == ("a" * 64,)
    assert ledger.retry_failed(database, study.id) == 1
    assert [chunk.state for chunk in ledger.chunks_of(database, made.id)] == ["open", "open"]


def test_a_lost_file_is_no_matter_to_who_has_dropped_the_rest(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    """It would run again and wait for chunks that nobody samples."""
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    made = add(0.8)
    kept = add(0.8, kind="control", study_id=other.id, images=250)
    sample()
    score(database, made, None)
    score(database, kept, None, images=250)
    ledger.drop_arrays(database)
    first, second = ledger.chunks_of(database, made.id)
    assert (first.state, second.state) == ("done", "dropped")
    assert ledger.reopen_chunks(database, str(first.array)) == 1
    assert ledger.evaluation(database, made.id).state == "complete"
    assert ledger.open_rungs(database, study.id) == ()
    assert ledger.evaluation(database, kept.id).state == "running"
    assert sample(other.id) == 1
    assert [rung.evaluation_id for rung in ledger.ready_rungs(database, other.id)] == [kept.id]


def test_the_newest_array_is_not_a_dropped_one(
    database: Database, study: ledger.Study, add: Add, sample: Sample
) -> None:
    assert ledger.newest_array(database) is None
    kept = add(1.0, images=250)
    sample()
    made = add(0.8, images=250)
    sample()
    assert {ledger.newest_array(database)} == arrays_of(database, made)
    ledger.finish_evaluation(database, made.id, "failed")
    ledger.drop_arrays(database)
    assert {ledger.newest_array(database)} == arrays_of(database, kept)


def needed_by_hand(database: Database, studies: list[ledger.Study]) -> set[str]:
    """Return the chunks that must stay, looking at one evaluation after the other."""
    kept = []
    for study in studies:
        ranked = []
        for made in ledger.evaluations(database, study.id):
            if made.kind != "proposal" or made.state == "running":
                kept.append(made.id)
            found = ledger.scores(database, study.id, evaluation_id=made.id)
            if found and made.kind == "proposal" and made.state in ("running", "complete"):
                top = max(found, key=lambda item: item.level)
                if top.difference is not None:
                    ranked.append((-top.level, top.difference, made.number, made.id))
        kept += [name for *_, name in sorted(ranked)[:BEST_KEPT]]
    return {chunk.id for name in kept for chunk in ledger.chunks_of(database, name)}


@pytest.mark.parametrize("seed", range(2))
def test_against_a_loop_over_everything(
    database: Database, study: ledger.Study, add: Add, sample: Sample, seed: int
) -> None:
    draw = random.Random(seed)
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    studies = [study, other]
    made = []
    for n in range(32):
        kind = draw.choice(["proposal"] * 9 + ["control"])
        # Few scales, so that the two studies share some.
        scale = 0.3 + draw.randrange(24) / 100
        owner = draw.choice(studies)
        made.append(add(scale, kind=kind, study_id=owner.id, images=250 * draw.randint(1, 2)))
        if n == 24:
            sample(study.id)
    sample(other.id)
    for item in {item.id: item for item in made}.values():
        for level in range(draw.randint(0, 2)):
            if level:
                ledger.promote(database, item.id, 1000)
            images = max(
                rung.images
                for rung in ledger.rungs(database, item.study_id, evaluation_id=item.id)
            )
            score(database, item, draw.choice([None, -1.0, 0.0, draw.gauss(0, 1)]), images=images)
        if draw.random() < 0.2:
            ledger.finish_evaluation(database, item.id, draw.choice(["diverged", "failed"]))
    sample(study.id)
    chunks = {chunk.id: chunk for item in made for chunk in ledger.chunks_of(database, item.id)}
    done = {name for name, chunk in chunks.items() if chunk.state == "done"}
    expected = done - needed_by_hand(database, studies)
    assert 0 < len(expected) < len(done)
    assert ledger.droppable_arrays(database) == (len(expected), 250 * len(expected))
    arrays = ledger.drop_arrays(database)
    assert set(arrays) == {str(chunks[name].array) for name in expected}
    after = {
        chunk.id: chunk.state for item in made for chunk in ledger.chunks_of(database, item.id)
    }
    assert after == {
        name: "dropped" if name in expected else chunk.state for name, chunk in chunks.items()
    }


# While others ask.


@pytest.fixture
def enter_meanwhile(
    database: Database, url: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Database], object]], ledger.Evaluation]:
    """Enter an evaluation of another study, and let something go just before it is committed."""

    def call(going: Callable[[Database], object]) -> ledger.Evaluation:
        thread = threading.Thread(target=lambda: in_threads(url, [going]))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        )

        def before(point: str) -> None:
            if point != "add_evaluation.before":
                return
            thread.start()
            deadline = time.monotonic() + 30
            while postgres_server.execute(waiting, url.rpartition("/")[2]) != [(1,)]:
                assert time.monotonic() < deadline and thread.is_alive()
                time.sleep(0.01)

        other = ledger.create_study(database, name="dogs", spec={}, meaning={})
        monkeypatch.setattr(module, "fail_point", before)
        made = enter(database, other.id, 0.8, images=500)
        thread.join()
        return made

    return call


@on_postgresql
def test_what_is_being_asked_for_is_not_dropped(
    database: Database,
    study: ledger.Study,
    add: Add,
    sample: Sample,
    enter_meanwhile: Callable[..., ledger.Evaluation],
) -> None:
    """It would stay dropped, and whoever has asked would wait for ever."""
    lost = add(0.8)
    sample()
    ledger.finish_evaluation(database, lost.id, "failed")
    made = enter_meanwhile(ledger.drop_arrays)
    assert {chunk.state for chunk in ledger.chunks_of(database, made.id)} == {"done"}
    assert len(ledger.ready_rungs(database, made.study_id)) == 1


@on_postgresql
def test_what_is_being_asked_for_does_not_go_with_a_study(
    database: Database,
    study: ledger.Study,
    add: Add,
    sample: Sample,
    enter_meanwhile: Callable[..., ledger.Evaluation],
) -> None:
    add(0.8)
    sample()
    made = enter_meanwhile(partial(ledger.delete_study, study_id=study.id))
    assert [chunk.state for chunk in ledger.chunks_of(database, made.id)] == ["done", "done"]
    assert ledger.find_study(database, "cats") is None


def test_workers_go_on_while_chunks_go(
    database: Database, url: str, study: ledger.Study, add: Add
) -> None:
    """Claims, commits, new evaluations and removal at once: nothing is lost, nobody gives up."""
    doomed = [
        ledger.create_study(database, name=f"doomed {n}", spec={}, meaning={}) for n in range(4)
    ]
    for n in range(8):
        add(0.5 + n / 100, images=750)
        for other in doomed:
            add(0.5 + n / 100, study_id=other.id, images=1000)
            add(0.7 + n / 100, study_id=other.id, images=250)

    def work(own: Database, number: int) -> int:
        done = 0
        while claim := leases.claim_chunk(own, study.id, worker=f"w{number}", seconds=60.0):
            array = f"{claim.chunk_id}{claim.fence:032x}"
            leases.commit_chunk(own, claim, array=array, seconds=1.0, nfe=6.0)
            done += 1
        return done

    def ask(own: Database) -> int:
        return len([enter(own, study.id, 0.7 + n / 100) for n in range(8)])

    def remove(own: Database) -> int:
        for other in doomed:
            ledger.delete_study(own, other.id)
            ledger.drop_arrays(own)
        return len(doomed)

    calls: list[Callable[[Database], int]] = [partial(work, number=n) for n in range(3)]
    in_threads(url, [*calls, ask, remove])
    work(database, 9)
    assert ledger.list_studies(database) == (study,)
    wanted, stored = ledger.images_wanted(database, study.id, block="search")
    assert wanted == stored == 8 * 750 + 8 * 250
    assert rows(database, "chunks") == wanted // 250
    assert len(ledger.ready_rungs(database, study.id)) == 16
