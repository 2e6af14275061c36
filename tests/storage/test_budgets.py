"""Budgets: exact whoever asks at the same time, and blind to what others have paid for."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from skiptune.errors import BudgetSpentError, StorageError
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, Work, in_threads

THREADS = 8


def budgeted(database: Database, name: str = "thrifty", **limits: Any) -> ledger.Study:
    return ledger.create_study(
        database, name=name, spec={}, meaning={}, budget=ledger.Budget(**limits)
    )


def images_by_hand(database: Database, study: ledger.Study) -> int:
    """Count the images of a study's search chunk by chunk, those free that another has paid."""
    chunks = {
        chunk.id: chunk
        for made in ledger.evaluations(database, study.id, block="search")
        for chunk in ledger.chunks_of(database, made.id)
    }
    return sum(
        chunk.images
        for chunk in chunks.values()
        if not (chunk.state in ("done", "dropped") and chunk.study_id != study.id)
    )


def propose(
    database: Database, study_id: str, scale: float, *, images: int = 250
) -> ledger.Evaluation | None:
    """Enter a proposal as `add` does; None where the budget does not hold it."""
    try:
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
            params={"skip/a": scale},
        )
    except BudgetSpentError:
        return None


def test_without_limits_nothing_is_counted(database: Database, study: ledger.Study) -> None:
    assert ledger.budget_left(database, study.id) == ledger.Budget(None, None, None)


def test_an_unknown_study(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        ledger.budget_left(database, "0" * 32)


def test_evaluations_are_exact(database: Database, url: str, add: Add) -> None:
    """Eight workers that each ask three times: five proposals are entered, not one more."""
    study = budgeted(database, evaluations=5)
    baseline = add(1.0, study_id=study.id)

    def ask(own: Database, number: int) -> list[ledger.Evaluation | None]:
        return [propose(own, study.id, 0.5 + (3 * number + n) / 100) for n in range(3)]

    asked = in_threads(url, [partial(ask, number=number) for number in range(THREADS)])
    entered = {made.id for each in asked for made in each if made is not None}
    assert len(entered) == 5
    stored = ledger.evaluations(database, study.id)
    assert {made.id for made in stored} == {baseline.id, *entered}
    assert [made.number for made in stored] == list(range(6))
    assert ledger.budget_left(database, study.id) == ledger.Budget(0, None, None)
    # Refused proposals have left no rung and no chunk behind.
    assert len(ledger.rungs(database, study.id)) == 6
    assert images_by_hand(database, study) == 500 + 5 * 250


def test_what_was_entered_is_found_when_nothing_is_left(database: Database, add: Add) -> None:
    study = budgeted(database, evaluations=1, images=500)
    made = add(0.8, study_id=study.id)
    assert add(0.8, study_id=study.id) == made
    with pytest.raises(BudgetSpentError) as raised:
        add(0.9, study_id=study.id)
    [problem] = raised.value.problems
    assert (problem.expected, problem.found) == ("at most 1 evaluations", "1 entered")
    assert "study thrifty" in problem.where and "skiptune tune" in raised.value.hint


def test_baselines_and_controls_are_no_proposals(database: Database, add: Add) -> None:
    study = budgeted(database, evaluations=0)
    add(1.0, study_id=study.id)
    add(0.8, study_id=study.id, kind="control")
    with pytest.raises(BudgetSpentError):
        add(0.9, study_id=study.id)


def test_images_are_exact(database: Database, url: str, add: Add) -> None:
    """Proposals and rungs at the same time share what is left."""
    study = budgeted(database, images=4000)
    add(1.0, study_id=study.id, images=1000)
    climbing = [add(0.9 - n / 100, study_id=study.id, images=250) for n in range(4)]

    def climb(own: Database, made: ledger.Evaluation) -> int:
        try:
            return 500 if ledger.promote(own, made.id, 750) is not None else 0
        except BudgetSpentError:
            return 0

    def ask(own: Database, number: int) -> int:
        asked = [
            propose(own, study.id, 0.5 + (3 * number + n) / 100, images=500) for n in range(3)
        ]
        return 500 * sum(made is not None for made in asked)

    spent = in_threads(
        url,
        [
            *(partial(climb, made=made) for made in climbing),
            *(partial(ask, number=number) for number in range(4)),
        ],
    )
    assert sum(spent) == 2000
    assert images_by_hand(database, study) == 4000
    assert ledger.images_wanted(database, study.id, block="search") == (4000, 0)
    assert ledger.budget_left(database, study.id) == ledger.Budget(None, 0, None)


def test_a_rung_that_does_not_fit_is_not_entered(database: Database, add: Add) -> None:
    study = budgeted(database, images=1000)
    made = add(0.8, study_id=study.id)
    with pytest.raises(BudgetSpentError) as raised:
        ledger.promote(database, made.id, 1250)
    assert raised.value.problems[0].found == "rungs that ask for 1,250"
    assert len(ledger.rungs(database, study.id)) == 1
    assert len(ledger.chunks_of(database, made.id)) == 2
    assert ledger.promote(database, made.id, 1000) is not None
    assert ledger.budget_left(database, study.id).images == 0


def test_images_that_two_evaluations_share_count_once(database: Database, add: Add) -> None:
    study = budgeted(database, images=1000)
    add(0.8, study_id=study.id)
    ledger.promote(database, add(0.8, study_id=study.id).id, 750)
    assert ledger.budget_left(database, study.id).images == 250


def test_confirming_costs_the_search_nothing(database: Database, add: Add, work: Work) -> None:
    study = budgeted(database, images=250, evaluations=1, seconds=2.0)
    add(0.8, study_id=study.id, images=250)
    confirm = add(
        0.8, study_id=study.id, kind="confirm", block="c/A", first_seed=2_100_000, images=750
    )
    assert ledger.promote(database, confirm.id, 1000) is not None
    assert len(work(study_id=study.id)) == 5
    assert ledger.budget_left(database, study.id) == ledger.Budget(0, 0, 0.0)
    ledger.set_study_spec(database, study.id, {}, budget=ledger.Budget(1, 250, 5.0))
    assert ledger.budget_left(database, study.id) == ledger.Budget(0, 0, 3.0)


def test_a_smaller_budget_than_what_is_spent_keeps_no_confirm_from_going_on(
    database: Database, add: Add
) -> None:
    study = budgeted(database, images=1000)
    add(0.8, study_id=study.id, images=1000)
    ledger.set_study_spec(database, study.id, {}, budget=ledger.Budget(images=500))
    with pytest.raises(BudgetSpentError):
        add(0.9, study_id=study.id, images=250)
    place: dict[str, Any] = {"kind": "confirm", "block": "c/A", "first_seed": 2_100_000}
    confirm = add(0.8, study_id=study.id, images=250, **place)
    assert ledger.promote(database, confirm.id, 500) is not None


def test_images_that_only_another_study_asks_for_count_there_alone(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(0.8, images=1000)
    thrifty = budgeted(database, images=1000)
    add(0.8, study_id=thrifty.id, images=500)
    assert images_by_hand(database, thrifty) == 500
    assert ledger.budget_left(database, thrifty.id).images == 500


def test_what_another_study_has_sampled_is_free(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    add(0.8)
    work()
    thrifty = budgeted(database, images=500)
    add(0.8, study_id=thrifty.id)
    assert ledger.budget_left(database, thrifty.id).images == 500
    late = add(0.7, study_id=thrifty.id)
    assert ledger.budget_left(database, thrifty.id).images == 0
    with pytest.raises(BudgetSpentError):
        add(0.6, study_id=thrifty.id, images=250)
    assert images_by_hand(database, thrifty) == 500
    assert ledger.evaluations(database, thrifty.id)[-1] == late


def test_it_stays_free_whatever_becomes_of_the_other(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    add(0.8)
    work()
    thrifty = budgeted(database, images=500)
    made = add(0.8, study_id=thrifty.id)
    ledger.finish_evaluation(database, made.id, "failed", "so that its arrays may go")
    ledger.finish_evaluation(database, ledger.evaluations(database, study.id)[0].id, "failed")
    assert len(ledger.drop_arrays(database)) == 2
    assert ledger.budget_left(database, thrifty.id).images == 500
    ledger.delete_study(database, study.id)
    assert ledger.budget_left(database, thrifty.id).images == 500


def test_what_another_study_only_asks_for_is_not_free(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    """Whoever comes first samples it: until then it may become ours to pay."""
    add(0.8)
    thrifty = budgeted(database, images=500)
    add(0.8, study_id=thrifty.id)
    assert ledger.budget_left(database, thrifty.id).images == 0
    work(1)
    assert ledger.budget_left(database, thrifty.id).images == 250


def test_nothing_is_claimed_once_the_seconds_are_spent(
    database: Database, add: Add, work: Work
) -> None:
    study = budgeted(database, seconds=5.0)
    add(0.8, study_id=study.id, images=2500)
    held = leases.claim_chunk(database, study.id, worker="slow", seconds=60.0)
    assert held is not None
    # Two seconds each: the third one ends beyond, and is paid for all the same.
    assert len(work(study_id=study.id)) == 3
    assert ledger.budget_left(database, study.id) == ledger.Budget(None, None, 0.0)
    assert leases.claim_chunk(database, study.id, worker="w", seconds=60.0) is None
    # Also whoever holds one gets no new lease, but may deliver.
    assert leases.claim_chunk(database, study.id, worker="slow", seconds=60.0) is None
    leases.commit_chunk(database, held, array="1" * 64, seconds=2.0, nfe=6.0)
    assert ledger.spending(database, study.id).seconds == 8.0
    # What confirms the study is not bound.
    add(0.8, study_id=study.id, kind="confirm", block="c/A", first_seed=2_100_000, images=500)
    assert [item.first_seed for item in work(study_id=study.id)] == [2_100_000, 2_100_250]
    # A larger budget lets the search go on.
    ledger.set_study_spec(database, study.id, {}, budget=ledger.Budget(seconds=8.5))
    assert ledger.budget_left(database, study.id) == ledger.Budget(None, None, 0.5)
    assert len(work(study_id=study.id)) == 1


def test_other_studies_have_seconds_of_their_own(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    spent = budgeted(database, seconds=2.0)
    add(0.8, study_id=spent.id)
    add(0.9)
    assert len(work(study_id=spent.id)) == 1
    assert len(work()) == 2
    # The chunk that the one may not sample, the other does, and pays for it.
    add(0.8)
    assert len(work()) == 1
    assert ledger.budget_left(database, spent.id).seconds == 0.0
    assert len(ledger.ready_rungs(database, spent.id)) == 1


def test_the_seconds_of_dropped_chunks_stay_spent(
    database: Database, add: Add, work: Work
) -> None:
    study = budgeted(database, seconds=4.0)
    made = add(0.8, study_id=study.id)
    work(study_id=study.id)
    ledger.finish_evaluation(database, made.id, "failed", "so that its arrays may go")
    assert ledger.drop_arrays(database) != ()
    assert ledger.budget_left(database, study.id).seconds == 0.0
