"""A confirm: who competes with how many images, what is tested, and resuming it anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from skiptune.sampling.levels import levels
from skiptune.sampling.networks import iDDPMPrecond
from skiptune.sampling.setting import Setting
from skiptune.search import controls, tune
from skiptune.search.candidates import candidates
from skiptune.search.confirm import (
    begin_confirm,
    confirm_number,
    halves,
    later_images,
    next_half,
    result_of,
)
from skiptune.search.controls import options
from skiptune.search.course import whole_study
from skiptune.search.events import Event, Stage
from skiptune.search.plan import confirm_cost
from skiptune.search.stored_result import stored_result
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.records import FIRST_CONSTRAINT, Evaluation, NewScore
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


def test_a_decided_confirm_meets_no_option_of_a_later_version(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def earlier(setting: Setting, *families: Sequence[str], **named: Any) -> Any:
        found = options(setting, *families, **named)
        return {
            family: tuple(option for option in choices if not option[0].startswith("euler"))
            for family, choices in found.items()
        }

    study = tiny.open(confirm__controls=True, search__evaluations=2)
    with monkeypatch.context() as patch:
        patch.setattr(controls, "options", earlier)
        assert crew_member(study, "earlier", limits=UNTIL_DONE).run() == "complete"
    before = ledger.evaluations(study.database, study.id)
    tried = {e.label for e in before if e.kind == "control" and e.block == "confirm-1/A"}
    assert {"unipc on edm, 3 steps", "unipc on logsnr, 3 steps"} < tried
    assert not any(label.startswith("euler") for label in tried)
    result = result_of(study, 1).to_json()

    again = tiny.open(confirm__controls=True, search__evaluations=2)
    assert next_half(again, 1) is None
    assert ledger.evaluations(again.database, again.id) == before
    assert result_of(again, 1).to_json() == result


def test_options_that_the_network_cannot_follow_are_left_out(tiny: Tiny) -> None:
    study = tiny.open()
    assert study.fits(study.setting)
    network: Any = study.checkpoint.network
    discrete = iDDPMPrecond(network.model, M=200).eval()
    checkpoint = dataclasses.replace(study.checkpoint, network=discrete)
    study = dataclasses.replace(study, checkpoint=checkpoint)
    setting = Setting(solver="heun", steps=8, sigma_min=0.02)
    assert study.fits(setting)
    found = options(setting, fits=study.fits)
    left_out = {
        label for label, _ in options(setting)["solver"] if label not in dict(found["solver"])
    }
    assert left_out
    for label, other in options(setting)["solver"]:
        rounded = levels(discrete, other)
        assert (label in left_out) == (len(set(rounded)) < len(rounded))


# In this made-up world larger scales are better, so all four are candidates.
RACE = {
    "space__low": 1.0,
    "search__evaluations": 4,
    "search__rungs": [250],
    "confirm__candidates": 4,
    "confirm__images": 750,
}


def on_block(study: OpenStudy, half: str) -> dict[str, Evaluation]:
    here = ledger.evaluations(study.database, study.id, block=f"confirm-1/{half}")
    return {e.label: e for e in here}


def differences(study: OpenStudy, level: int) -> dict[str, float]:
    """By schedule, of the candidates on block A that have a score at a level."""
    by_id = {e.id: e.schedule for e in on_block(study, "A").values() if e.kind == "confirm"}
    return {
        by_id[score.evaluation_id]: score.difference or 0.0
        for score in ledger.scores(study.database, study.id, level=level)
        if score.evaluation_id in by_id
    }


def test_block_a_halves_the_candidates_with_images_that_go_on(tiny: Tiny, quick: None) -> None:
    study = tiny.open(**RACE)
    events: list[Event] = []
    course = whole_study(study, on_event=events.append)
    assert crew_member(study, "a", course=course, limits=UNTIL_DONE).run() == "complete"
    here = on_block(study, "A")
    assert set(here) == {"baseline", *(f"candidate {n}" for n in (1, 2, 3, 4))}
    first, last = differences(study, 0), differences(study, 1)
    assert len(first) == 4
    assert set(last) == set(sorted(first, key=lambda key: first[key])[:2])
    winner = on_block(study, "B")["tuned"]
    assert winner.schedule == min(last, key=lambda key: last[key])
    sizes = sorted(study.images_of(e) for e in here.values())
    assert sizes == [250, 250, 750, 750, 750]
    wanted, stored = ledger.images_wanted(study.database, study.id, block="confirm-1/A")
    assert wanted == stored == 750 + 4 * 250 + 2 * 500
    # Whoever watches was told of all rounds when the first one began.
    (stage,) = [e for e in events if isinstance(e, Stage) and e.name == "confirm A"]
    assert stage.images == wanted
    assert later_images(study, "confirm-1/A") == later_images(study, "confirm-1/B") == 0
    assert confirm_cost(study.spec).images == wanted + 2 * 750


def test_a_confirm_that_stops_every_two_chunks_ends_the_same_and_samples_nothing_twice(
    tiny: Tiny, quick: None
) -> None:
    study = tiny.open(**RACE)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    undisturbed = result_of(study, 1).to_json()
    with tiny.elsewhere() as other:
        study = other.open(**RACE)
        ends = ["limit reached"]
        while ends[-1] == "limit reached":
            # Each one begins from the rows alone.
            again = crew_member(other.open(**RACE), f"w{len(ends)}", limits=Limits(images=500))
            ends.append(again.run())
        assert ends[-1] == "complete" and len(ends) > 10
        found = result_of(study, 1).to_json()
        for plain in (found, undisturbed):
            del plain["seconds"]
        assert found == undisturbed
        assert ledger.spending(study.database, study.id).doubled_images == 0


@pytest.mark.parametrize("begun", [1, 3])
def test_a_confirm_begun_with_all_images_for_each_ends_so(
    tiny: Tiny, quick: None, begun: int
) -> None:
    study = tiny.open(**RACE)
    search = crew_member(study, "a", limits=Limits(images=250 + 4 * 250))
    assert search.run() == "limit reached"
    half, _ = halves(begin_confirm(study, 1))
    place: dict[str, Any] = {"block": half.name, "first_seed": half.first_seed, "images": 750}
    study.baseline(**place)
    for rank, one in enumerate(candidates(study)[:begun], start=1):
        params = one.params
        schedule = study.space.schedule(params)
        label = f"candidate {rank}"
        study.evaluate(schedule, kind="confirm", label=label, params=params, **place)
    assert crew_member(study, "b", limits=UNTIL_DONE).run() == "complete"
    here = on_block(study, "A")
    assert {study.images_of(e) for e in here.values()} == {750}
    assert not differences(study, 1)
    first = differences(study, 0)
    assert len(first) == 4
    assert on_block(study, "B")["tuned"].schedule == min(first, key=lambda key: first[key])


def test_a_search_without_anything_better_spends_no_block(tiny: Tiny, quick: None) -> None:
    # Larger scales are better in this made-up world, and there are none.
    study = tiny.open(space__low=0.3, space__high=1.0, search__evaluations=3)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    assert candidates(study) == ()
    result = result_of(study, confirm_number(study))
    assert (result.tested, result.winner, result.verdict) == (False, None, "no significant gain")
    assert result.schedule.is_baseline
    assert (result.confirm, result.alpha) == (1, 0.025)
    assert ledger.spent_blocks(study.database, study.id) == ()
    # The baseline's number is that of the search, and no image was made for it.
    wanted, _ = ledger.images_wanted(study.database, study.id, block=SEARCH)
    assert result.images == wanted
    assert result.baseline.images == 500
    assert tune.confirm(study, number=1) == result
    assert ledger.spent_blocks(study.database, study.id) == ()
    assert result.to_json()["tested"] is False


def test_a_lone_candidate_is_looked_at_once_and_tested(tiny: Tiny, quick: None) -> None:
    study = tiny.open(**RACE | {"confirm__candidates": 1})
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    assert {study.images_of(e) for e in on_block(study, "A").values()} == {250}
    winner = on_block(study, "B")["tuned"]
    assert winner.schedule == on_block(study, "A")["candidate 1"].schedule
    assert result_of(study, 1).baseline.images == 750


LIMIT = "fd <= 2 x baseline"


def told(study: OpenStudy, one: Evaluation, difference: float | None, gap: float = -1.0) -> None:
    """Give an evaluation the scores of its highest rung, as if its images had been made.

    Arguments:
        study: The open study, with the constraint `LIMIT`.
        one: The evaluation.
        difference: To the baseline, whose value is 10.
        gap: By how many standard errors the limit is missed.
    """
    rung = ledger.rungs(study.database, study.id, evaluation_id=one.id)[-1]
    error = None if difference is None else 0.1
    value = 10.0 + (difference or 0.0)
    scores = [
        NewScore("m", "r", rung.images, value, 0.3, difference=difference, difference_error=error),
        NewScore(LIMIT, "r", rung.images, gap * 0.2, 0.2, place=FIRST_CONSTRAINT),
    ]
    ledger.put_scores(study.database, one.id, scores, level=rung.level)


def searched(study: OpenStudy, *differences: float) -> None:
    """Enter the baseline of a search and one proposal for each difference that it has shown."""
    told(study, study.baseline(block=SEARCH, first_seed=1_000_000, images=250), None)
    for number, difference in enumerate(differences, start=1):
        params = dict.fromkeys(study.space.scale_names, 1.0 + number / 10)
        proposal = study.evaluate(
            study.space.schedule(params),
            kind="proposal",
            label=f"proposal {number}",
            block=SEARCH,
            first_seed=1_000_000,
            images=250,
            params=params,
        )
        told(study, proposal, difference)


def test_who_joins_a_lone_candidate_competes_with_all_images(tiny: Tiny) -> None:
    """The baseline, entered for the lone one's look, has to have them too."""
    study = tiny.open(**RACE, objective__constraints=[LIMIT])
    searched(study, -3.0)
    half, _ = halves(begin_confirm(study, 1))
    assert next_half(study, 1) == half
    here = on_block(study, "A")
    assert {label: study.images_of(one) for label, one in here.items()} == {
        "baseline": 250,
        "candidate 1": 250,
    }
    told(study, here["baseline"], None)
    told(study, here["candidate 1"], -2.0)
    searched(study, -3.0, -2.5)
    assert next_half(study, 1) == half
    assert {label: study.images_of(one) for label, one in on_block(study, "A").items()} == {
        "baseline": 750,
        "candidate 1": 250,
        "candidate 2": 250,
    }
    told(study, on_block(study, "A")["baseline"], None)
    told(study, on_block(study, "A")["candidate 2"], -1.0)
    assert next_half(study, 1) == half
    assert {study.images_of(one) for one in on_block(study, "A").values()} == {750}


@pytest.mark.parametrize(
    ("difference", "gap", "verdict"),
    [
        (-2.0, -1.0, "win"),
        (-2.0, 1.95, "win"),  # its interval holds the limit
        (-2.0, 1.97, "no significant gain"),
        (-0.2, -1.0, "no significant gain"),  # two errors, and 2.24 are needed at alpha / 2
    ],
)
def test_who_violates_a_constraint_on_fresh_seeds_is_neither_chosen_nor_a_win(
    tiny: Tiny, difference: float, gap: float, verdict: str
) -> None:
    race = RACE | {"search__evaluations": 3, "confirm__controls": False}
    study = tiny.open(**race, objective__constraints=[LIMIT])
    searched(study, -3.0, -2.0, -1.0)
    assert next_half(study, 1) == halves(begin_confirm(study, 1))[0]
    here = on_block(study, "A")
    first, second, third = (here[f"candidate {rank}"] for rank in (1, 2, 3))
    told(study, here["baseline"], None)
    for one, seen, missed in ((first, -3.0, 5.0), (second, -2.0, -1.0), (third, -1.0, -1.0)):
        told(study, one, seen, missed)
    # The best one is out, so the two others go on; of these the better one is.
    assert next_half(study, 1) == halves(begin_confirm(study, 1))[0]
    assert [study.images_of(one) for one in (first, second, third)] == [250, 750, 750]
    told(study, second, -1.0)
    told(study, third, -2.5, 5.0)
    assert next_half(study, 1) == halves(begin_confirm(study, 1))[1]
    there = on_block(study, "B")
    assert set(there) == {"baseline", "tuned"}
    assert there["tuned"].schedule == second.schedule
    told(study, there["baseline"], None)
    told(study, there["tuned"], difference, gap)
    assert next_half(study, 1) is None
    result = result_of(study, 1)
    assert result.verdict == verdict
    assert result.violated == ((LIMIT,) if gap > 1.96 else ())
    assert (result.alpha, result.seeds) == (0.025, (2_100_000, 2_150_000))
    assert result.winner is not None and result.winner.difference == difference
    # It looked like 2 in the search.
    assert result.luck is not None and result.luck.luck == pytest.approx(difference + 2.0)
    assert stored_result(study.database, "tiny") == result
