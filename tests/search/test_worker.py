"""One worker and what ends it: limits, states, signals, memory, failures and other versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from sqlalchemy import update

from skiptune.errors import NetworkError, StorageError, UnavailableError, WorkerError
from skiptune.search import chunks, scoring, worker
from skiptune.search.chunks import Sampled
from skiptune.search.course import confirming
from skiptune.search.events import ChunkDone, Event, Notice, Scored
from skiptune.search.stopping import Stop
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.worker import SAME_FAILURES, Limits
from skiptune.storage import leases, ledger
from skiptune.storage.database import VERSION_TABLE
from skiptune.storage.tables import ChunkRow
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

Sample = Callable[..., Sampled]


class Clock:
    """A clock that only waiting and sampling move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The worker's clock; its waits move it and take no time."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made.monotonic)

    def wait(self: Stop, seconds: float) -> bool:
        made.now += seconds
        return self.requested

    monkeypatch.setattr(Stop, "wait", wait)
    return made


def states(study: OpenStudy) -> Mapping[Any, int]:
    return ledger.progress(study.database, study.id).chunks


def failing(*errors: BaseException | None) -> Sample:
    """Raise these one after another, None for none, then sample."""
    left = list(errors)

    def sample(*arguments: Any, **named: Any) -> Sampled:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return made_up.sampled(*arguments, **named)

    return sample


def in_baseline(study: OpenStudy, images: int = 500) -> None:
    """Enter the baseline, so that there is something to claim."""
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=images)


def test_it_completes_so_many_scores_of_proposals_and_leaves(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    events: list[Event] = []
    member = crew_member(study, "a", limits=Limits(trials=2), on_event=events.append)
    assert member.run() == "limit reached"
    proposals = [e for e in events if isinstance(e, Scored) and e.kind == "proposal"]
    assert member.trials == len(proposals) == 2
    assert "leased" not in states(study)


@pytest.mark.parametrize(("images", "made"), [(249, 0), (250, 250), (1100, 1000)])
def test_it_never_samples_more_images_than_it_may(
    tiny: Tiny, quick: None, images: int, made: int
) -> None:
    study = tiny.open()
    member = crew_member(study, "a", limits=Limits(images=images))
    assert member.run() == "limit reached"
    assert member.images == made
    assert ledger.spending(study.database, study.id).images == made


def test_it_claims_no_chunk_that_would_take_it_beyond_its_time(
    tiny: Tiny, quick: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any, **named: Any) -> Sampled:
        clock.now += 60.0
        return made_up.sampled(*arguments, **named)

    made_up.replace(monkeypatch.setattr, slow)
    study = tiny.open(search__rungs=[250, 2500])
    in_baseline(study, 2500)
    member = crew_member(study, "a", limits=Limits(seconds=200.0))
    assert member.run() == "limit reached"
    # After three chunks 180 s are gone, and the fourth would end at 240 s.
    assert member.images == 750


def test_a_worker_that_finds_nothing_to_do_for_a_while_leaves(
    tiny: Tiny, quick: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 60.0)
    monkeypatch.setattr(worker, "POLL_SECONDS", (0.5, 5.0))
    study, other = tiny.open(search__rungs=[250]), tiny.open(search__rungs=[250])
    in_baseline(other, 250)
    held = leases.claim_chunk(other.database, other.id, worker="other:0:1:1", seconds=600.0)
    assert held is not None
    began = clock.now
    assert crew_member(study, "a").run() == "idle"
    assert 60.0 < clock.now - began <= 65.0 + 5.0


def test_one_that_stays_waits_for_what_others_hold(
    tiny: Tiny, quick: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(search__rungs=[250]), tiny.open(search__rungs=[250])
    in_baseline(other, 250)
    held = leases.claim_chunk(other.database, other.id, worker="other:0:1:1", seconds=600.0)
    assert held is not None
    real = Stop.wait

    def wait(self: Stop, seconds: float) -> bool:
        if clock.now > 2000.0 and states(other).get("leased"):
            leases.release(other.database, held)
        clock.now += 50.0
        return real(self, seconds)

    monkeypatch.setattr(Stop, "wait", wait)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    assert clock.now > 2000.0


def test_a_paused_study_waits_and_goes_on(
    tiny: Tiny, quick: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 1.0)
    study, other = tiny.open(), tiny.open()
    in_baseline(other)
    ledger.set_study_state(other.database, other.id, "paused")
    assert crew_member(study, "a").run() == "idle"
    assert states(other) == {"open": 2}
    assert len(ledger.evaluations(other.database, other.id)) == 1
    real = Stop.wait

    def wait(self: Stop, seconds: float) -> bool:
        if ledger.require_study(other.database, "tiny").state == "paused":
            assert ledger.spending(other.database, other.id).images == 0
            ledger.set_study_state(other.database, other.id, "running")
        return real(self, seconds)

    monkeypatch.setattr(Stop, "wait", wait)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"


def test_a_stopped_study_ends_its_workers(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()

    def on_event(event: Event) -> None:
        if isinstance(event, ChunkDone):
            ledger.set_study_state(other.database, other.id, "stopped")

    member = crew_member(study, "a", limits=UNTIL_DONE, on_event=on_event)
    assert member.run() == "study stopped"
    assert member.images == 250


def test_a_complete_study_ends_them_at_once(tiny: Tiny, quick: None) -> None:
    assert crew_member(tiny.open(), "a", limits=UNTIL_DONE).run() == "complete"
    member = crew_member(tiny.open(), "b", limits=UNTIL_DONE)
    assert (member.run(), member.images) == ("complete", 0)


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.31 GiB.\nMore lines.")


def test_memory_that_ran_out_once_is_no_matter(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    made_up.replace(monkeypatch.setattr, failing(None, out_of_memory(), None, out_of_memory()))
    study = tiny.open()
    events: list[Event] = []
    assert crew_member(study, "a", limits=UNTIL_DONE, on_event=events.append).run() == "complete"
    assert len(emptied) == 2
    assert not [event for event in events if isinstance(event, Notice)]
    made = [
        chunk.attempts
        for e in ledger.evaluations(study.database, study.id)
        for chunk in ledger.chunks_of(study.database, e.id)
    ]
    assert set(made) == {1}


def test_memory_that_runs_out_twice_refuses_the_worker_with_the_figure(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.replace(monkeypatch.setattr, failing(out_of_memory(), out_of_memory()))
    study = tiny.open()
    in_baseline(study)
    with pytest.raises(NetworkError) as caught:
        crew_member(study, "a").run()
    (problem,) = caught.value.problems
    assert problem.found == "CUDA out of memory. Tried to allocate 9.31 GiB."
    assert "one microbatch of 125 images" in problem.expected
    assert problem.where == "device cpu"
    assert states(study) == {"open": 2}
    chunk = ledger.chunks_of(study.database, ledger.evaluations(study.database, study.id)[0].id)
    assert [c.attempts for c in chunk] == [0, 0]


def test_the_same_failure_five_times_in_a_row_ends_the_worker(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [RuntimeError("cuBLAS is out of sorts") for _ in range(SAME_FAILURES)]
    made_up.replace(monkeypatch.setattr, failing(*same))
    study = tiny.open()
    in_baseline(study)
    events: list[Event] = []
    with pytest.raises(WorkerError) as caught:
        crew_member(study, "a", on_event=events.append).run()
    assert caught.value.__cause__ is same[-1]
    assert caught.value.exit_code == 1
    assert "5 times in a row: RuntimeError: cuBLAS is out of sorts" in str(caught.value)
    assert len([e for e in events if isinstance(e, Notice)]) == SAME_FAILURES - 1
    assert states(study) == {"open": 2}
    # The study goes on with another worker, and the chunk is not given up.
    assert crew_member(tiny.open(), "b", limits=UNTIL_DONE).run() == "complete"


def test_different_failures_and_those_with_a_success_between_do_not_add_up(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    different = [RuntimeError(f"{n % 2}") for n in range(8)]
    rare = [error for n in range(6) for error in (RuntimeError("rare"), None)]
    made_up.replace(monkeypatch.setattr, failing(*different, *rare))
    assert crew_member(tiny.open(), "a", limits=UNTIL_DONE).run() == "complete"


def stopping_after(stop: Stop, images: int, clock: Clock, seconds: float) -> Sample:
    """Ask to stop once so many images are made; each microbatch of 50 takes `seconds`."""

    def sample(*arguments: Any, on_images: Callable[[int], None], **named: Any) -> Sampled:
        def watched(made: int) -> None:
            clock.now += seconds
            if made == images:
                stop.request()
            on_images(made)

        return made_up.sampled(*arguments, on_images=watched, **named)

    return sample


@pytest.mark.parametrize(
    ("seconds", "at", "finished"),
    # Of 10 s there are 8 for sampling: four more microbatches of 1.9 s, not of 2.1 s.
    [(1.9, 50, True), (2.1, 50, False), (7.9, 200, True), (8.1, 200, False)],
)
def test_asked_to_stop_it_finishes_a_short_rest_and_hands_a_long_one_back(
    tiny: Tiny,
    quick: None,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    at: int,
    finished: bool,
) -> None:
    stop = Stop()
    made_up.replace(monkeypatch.setattr, stopping_after(stop, at, clock, seconds))
    study = tiny.open(microbatch=50)
    in_baseline(study)
    member = crew_member(study, "a", limits=UNTIL_DONE, stop=stop)
    assert member.run() == "stopped"
    assert member.images == (250 if finished else 0)
    assert states(study) == ({"done": 1, "open": 1} if finished else {"open": 2})
    # Handed back, not lost.
    attempts = [
        chunk.attempts
        for e in ledger.evaluations(study.database, study.id)
        for chunk in ledger.chunks_of(study.database, e.id)
    ]
    assert attempts == [int(finished), 0]


def test_asked_to_stop_while_it_waits_it_stops(tiny: Tiny, quick: None) -> None:
    study, other = tiny.open(search__rungs=[250]), tiny.open(search__rungs=[250])
    in_baseline(other, 250)
    held = leases.claim_chunk(other.database, other.id, worker="other:0:1:1", seconds=600.0)
    assert held is not None
    stop = Stop()
    real = stop.wait

    def wait(seconds: float) -> bool:
        stop.request()
        return real(seconds)

    stop.wait = wait  # type: ignore[method-assign]
    assert crew_member(study, "a", limits=UNTIL_DONE, stop=stop).run() == "stopped"
    assert states(other)["leased"] == 1


def test_a_chunk_that_went_to_another_worker_is_dropped_and_counted(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()
    in_baseline(other)
    taken: list[Any] = []

    def overtaken(*arguments: Any, **named: Any) -> Sampled:
        if not taken:
            (lease,) = leases.leases(other.database, other.id)
            leases.break_lease(other.database, lease)
            claim = leases.claim_chunk(
                other.database, other.id, worker="quick:0:1:1", seconds=60.0
            )
            assert claim is not None and claim.chunk_id == lease.chunk_id
            taken.append(claim)
            made = made_up.sampled(other, *arguments[1:])
            array = other.arrays.write(made.arrays)
            leases.commit_chunk(other.database, claim, array=array, seconds=1.0, nfe=5.0)
        return made_up.sampled(*arguments, **named)

    made_up.replace(monkeypatch.setattr, overtaken)
    events: list[Event] = []
    member = crew_member(study, "a", limits=UNTIL_DONE, on_event=events.append)
    assert member.run() == "complete"
    told = [e.text for e in events if isinstance(e, Notice)]
    assert told == ["baseline: the lease went to another worker"]
    spending = ledger.spending(study.database, study.id)
    assert spending.doubled_images == 250
    assert member.images == spending.images - 250


def test_the_database_away_for_a_while_is_said_once_each_way(
    tiny: Tiny, quick: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    away = UnavailableError("database", expected="an answer", found="server closed", hint="wait")
    real = leases.claim_chunk
    errors: list[Exception | None] = [None, away, away, away, None, None, away]

    def claim_chunk(*arguments: Any, **named: Any) -> Any:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(leases, "claim_chunk", claim_chunk)
    events: list[Event] = []
    assert crew_member(study, "a", limits=UNTIL_DONE, on_event=events.append).run() == "complete"
    told = [e.text for e in events if isinstance(e, Notice)]
    assert told == ["database: server closed; trying again", "the database is back"] * 2


def foreign(study: OpenStudy) -> None:
    """Let the study's chunks be of a format of the future."""
    with study.database.write() as session:
        session.execute(update(ChunkRow).values(format=99))


def newer(study: OpenStudy) -> None:
    """Let the schema be that of a newer version."""
    with study.database.write() as session:
        session.connection().exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")


@pytest.mark.parametrize(
    ("change", "said"), [(foreign, "format 99"), (newer, "9999")], ids=["format", "schema"]
)
def test_what_a_newer_version_has_written_refuses_this_worker(
    tiny: Tiny, quick: None, change: Callable[[OpenStudy], None], said: str
) -> None:
    study, other = tiny.open(), tiny.open()
    in_baseline(other)
    change(other)
    with pytest.raises(StorageError) as caught:
        crew_member(study, "a", limits=UNTIL_DONE).run()
    assert said in str(caught.value)
    (baseline,) = ledger.evaluations(other.database, other.id, kind="baseline")
    made = ledger.chunks_of(other.database, baseline.id)
    assert [(chunk.state, chunk.fence) for chunk in made] == [("open", 0)] * 2


def test_a_confirm_alone_may_be_worked_on(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    member = crew_member(study, "b", course=confirming(study, 2), limits=UNTIL_DONE)
    assert (member.run(), member.images > 0) == ("complete", True)
    assert [b.number for b in ledger.spent_blocks(study.database, study.id)] == [1, 2]


def test_a_chunk_of_another_series_is_refused_and_handed_back(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()
    in_baseline(study)
    monkeypatch.setattr(chunks, "canonical", lambda value: str(id(value)))
    with pytest.raises(StorageError, match="a series that this network and this version make"):
        crew_member(study, "a").run()
    assert states(study) == {"open": 2}


def test_scores_are_computed_while_the_next_chunk_is_sampled(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first score waits for the chunk that is sampled after it has begun."""
    real_score, real_sampled = scoring.score_ready, chunks.sampled
    sampled_again, began = threading.Event(), threading.Event()

    def score_ready(*arguments: Any, **named: Any) -> int:
        began.set()
        assert sampled_again.wait(60), "nothing was sampled beside the score"
        return real_score(*arguments, **named)

    def sampled(*arguments: Any, **named: Any) -> Any:
        if began.is_set():
            sampled_again.set()
        return real_sampled(*arguments, **named)

    monkeypatch.setattr(worker, "score_ready", score_ready)
    monkeypatch.setattr(chunks, "sampled", sampled)
    study = tiny.open(search__evaluations=2, search__rungs=[500])
    member = crew_member(study, "one", limits=Limits(images=1000))
    assert member.run() == "limit reached"
    assert sampled_again.is_set()
    assert len(ledger.scores(study.database, study.id)) == 2
