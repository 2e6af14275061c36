"""When a search ends early: counted by hand, predicted in a world that is known, and said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import SpecError
from skiptune.objectives.moment_model import MomentModel
from skiptune.search import origins, stopping_rule
from skiptune.search.course import whole_study
from skiptune.search.descent import Origin
from skiptune.search.events import Event, Notice
from skiptune.search.origins import expected_decrease
from skiptune.search.projection import Board
from skiptune.search.slopes import enter_slopes
from skiptune.search.stopping_rule import NEXT, PROVABLE, least_gain, reason_to_end, since_improved
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.surrogate import FIRST, Question, best, design, expected_improvement, nearest
from skiptune.storage import ledger
from skiptune.storage.ledger import Standing
from skiptune.storage.turns import end_turn, take_turn
from tests.search.conftest import Tiny, crew_member
from tests.search.made_up import SHIFT
from tests.search.test_surrogate import HIGH, LOW, SKIPS, Memory, World


def scored(study: OpenStudy, one: ledger.Evaluation, difference: float | None = None) -> None:
    """Give an evaluation the score of the lowest rung, the baseline that of its only one."""
    images = study.rungs[-1] if difference is None else study.rungs[0]
    ledger.put_score(
        study.database, one.id, level=0, metric="m", reference="r", images=images, value=1.0,
        standard_error=0.1, difference=difference,
        difference_error=None if difference is None else 0.02,
    )  # fmt: skip


def enter(study: OpenStudy, *differences: float | None) -> list[ledger.Evaluation]:
    """The baseline with its score, and proposals; None is one that is still being sampled."""
    base = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=study.rungs[-1])
    scored(study, base)
    entered = []
    for number, difference in enumerate(differences, start=1):
        params = {name: 1 + number / 100 for name in study.space.scale_names}
        one = study.evaluate(
            study.space.schedule(params),
            kind="proposal",
            label=f"proposal {number}",
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=study.rungs[0],
            params=params,
        )
        if difference is not None:
            scored(study, one, difference)
        entered.append(one)
    return [base, *entered]


def decide(study: OpenStudy, events: list[Event]) -> str:
    turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60)
    assert turn is not None
    try:
        board = Board(study.database, study.row)
        return whole_study(study, on_event=events.append)(board, turn)
    finally:
        end_turn(study.database, turn)


@given(
    st.lists(st.integers(-20, 20).map(lambda n: n / 10), max_size=12),
    st.integers(1, 10).map(lambda n: n / 10),
)
def test_patience_counts_since_the_last_improvement(
    differences: list[float], least: float
) -> None:
    improved = [
        place
        for place, one in enumerate(differences, start=1)
        if one <= min([0.0, *differences[: place - 1]]) - least
    ]
    assert since_improved(differences, least=least) == len(differences) - max(improved, default=0)


def test_an_improvement_that_counts_is_half_of_what_a_confirm_tells() -> None:
    standings = [Standing("a", 1, -0.5, 0.4), Standing("b", 2, -0.9, 0.2)]
    # The best one's error at 500 images is half as large at 2000, and half of that counts.
    assert least_gain(standings, images=500, confirm=2000) == pytest.approx(0.2 / 2 * PROVABLE)
    assert PROVABLE == 0.5
    # An error that counts prompts falls no faster than with their root, however many images.
    least = least_gain(standings, images=500, confirm=2000, prompts=(140, 35))
    assert least == pytest.approx(0.2 * 2 * PROVABLE)
    least = least_gain(standings, images=500, confirm=2000, prompts=(140, 1400))
    assert least == pytest.approx(0.2 / 2 * PROVABLE)
    # A share without a line is as one with a single line; another problem tells of it.
    least = least_gain(standings, images=500, confirm=2000, prompts=(140, 0))
    assert least == pytest.approx(0.2 * math.sqrt(140) * PROVABLE)
    # Of a large file of prompts each image has its own: then they are as good as images.
    least = least_gain(standings, images=500, confirm=2000, prompts=(20_000, 20_000))
    assert least == pytest.approx(0.2 / 2 * PROVABLE)


def test_without_patience_a_search_goes_on(tiny: Tiny) -> None:
    study = tiny.open()
    enter(study, -0.3, *[0.2] * 4)
    assert reason_to_end(study) is None
    assert reason_to_end(tiny.open(search__patience=4)) is not None


@pytest.mark.parametrize(("patience", "ends"), [(4, True), (5, False)])
def test_a_search_whose_patience_is_over_says_so_and_is_confirmed(
    tiny: Tiny, patience: int, ends: bool
) -> None:
    study = tiny.open(search__patience=patience, search__promote=0.1, search__evaluations=9)
    # The fourth and the last are better than the first by less than counts: 0.02 / 2.
    enter(study, -0.3, 0.2, 0.1, -0.305, -0.309)
    events: list[Event] = []
    assert decide(study, events) == "entered"
    proposals = ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    told = [event.text for event in events if isinstance(event, Notice)]
    begun = [block.block for block in ledger.spent_blocks(study.database, study.id)]
    if ends:
        assert proposals == 5 and begun == ["confirm-1"]
        assert told == [
            "the search ends early: none of the last 4 schedules improved on the best by 0.01,"
            " half of what a confirm can tell (search.patience is 4)"
        ]
    else:
        assert proposals == 6 and not begun and not told


def test_what_is_still_sampled_may_be_a_reason_to_go_on(tiny: Tiny) -> None:
    study = tiny.open(search__patience=2, search__promote=0.1, search__evaluations=9)
    *_, last = enter(study, -0.3, 0.2, 0.1, None)
    events: list[Event] = []
    assert decide(study, events) == "waiting"  # nothing new is proposed, and nothing is over
    assert not [event for event in events if isinstance(event, Notice)]
    scored(study, last, -0.5)
    assert decide(study, events) == "entered"
    assert ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH) == 5
    assert not ledger.spent_blocks(study.database, study.id)


def test_a_model_expects_what_no_point_of_its_box_exceeds() -> None:
    world = World()
    source = Memory(world, [world.seen(np.zeros(SKIPS))])
    box = np.full(SKIPS, math.log(LOW)), np.full(SKIPS, math.log(HIGH))
    assert expected_improvement(source, 2, box=box) is None  # the design comes first
    for number in range(1, 9):
        source.evaluated.append(world.seen(design(Question(7, number), SKIPS)))
    expected = expected_improvement(source, 9, box=box)
    assert expected is not None and expected > 0
    known = source.known()
    centre = best(known)
    model = MomentModel(nearest(known, centre), world.reference)
    rng = np.random.default_rng(1)
    points = centre.logs + rng.uniform(-FIRST, FIRST, size=(200, SKIPS))
    values = [model.value(point) for point in points]
    assert min(values) >= model.value(centre.logs) - expected - 1e-9
    # In a box of no width there is nothing to expect.
    nothing = expected_improvement(source, 9, box=(centre.logs, centre.logs))
    assert nothing == pytest.approx(0.0, abs=1e-9)
    # And where the best is known, next to nothing.
    source.evaluated += [world.seen(world.best)]
    later = expected_improvement(source, 10, box=box)
    assert later is not None and later < 0.1 * expected


def test_a_step_of_a_descent_is_expected_to_gain_its_clear_slopes() -> None:
    slopes, errors = np.array([4.0, -2.0, 0.5]), np.array([0.0, 1.0, 1.0])
    here = Origin(np.zeros(3), slopes, errors, np.array([0.1, 0.2, 0.3]))
    # The second is shrunk by 1 - (1/2)^2 in its slope and in its step; the third is not clear.
    assert here.expected(-1.0, 1.0) == pytest.approx(4.0 * 0.1 + 1.5 * 0.2 * 0.75)
    # No step leads out of the box.
    assert here.expected(-0.05, 1.0) == pytest.approx(4.0 * 0.05 + 1.5 * 0.2 * 0.75)
    assert Origin(np.zeros(3), slopes, 9 * np.ones(3), np.ones(3)).expected(-1.0, 1.0) == 0.0


class Given:
    """Slopes that a test has chosen."""

    def __init__(self, size: float, parameters: int) -> None:
        self._slopes = np.full(parameters, size)

    def along(self, space: Any, params: Any) -> tuple[Any, Any]:
        return self._slopes, np.full_like(self._slopes, 1e-5)


def test_a_descent_ends_where_two_origins_in_a_row_promise_little(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open(search__sampler="descent", search__patience="auto", search__promote=0.1)
    base, one = enter(study, -0.3)
    given: dict[str, float] = {}
    count = len(study.space.scale_names)
    monkeypatch.setattr(origins, "slopes_of", lambda study, e: Given(given[e.schedule], count))
    assert expected_decrease(study) is None and reason_to_end(study) is None

    def known(evaluation: ledger.Evaluation, slope: float) -> None:
        entered = enter_slopes(study, evaluation, study.rungs[-1])
        ledger.finish_evaluation(study.database, entered.id, "complete")
        given[evaluation.schedule] = slope

    known(base, -0.002)
    ledger.promote(study.database, one.id, study.rungs[1])
    assert expected_decrease(study) is None  # the best one's own are not there yet
    ledger.put_score(
        study.database, one.id, level=1, metric="m", reference="r", images=study.rungs[1],
        value=1.0, standard_error=0.1, difference=-0.3, difference_error=0.02,
    )  # fmt: skip
    assert expected_decrease(study) is None
    known(one, -0.004)
    # Steps of 0.06 for each parameter, a fifth more at the second origin; the larger counts.
    least = least_gain(
        [*ledger.standings(study.database, study.id, level=0, objectives=1)],
        images=study.rungs[0],
        confirm=study.spec.confirm.images,
    )
    expected = expected_decrease(study)
    assert expected is not None and expected < NEXT * least
    assert expected == pytest.approx(0.004 * 0.06 * 1.2 * count, rel=1e-2)
    reason = reason_to_end(study)
    assert reason is not None and reason.startswith("the search ends early: the next schedule is")
    given[base.schedule] = -2.0
    larger = expected_decrease(study)
    assert larger is not None and larger > least
    assert larger == pytest.approx(2.0 * 0.06 * count, rel=1e-2)
    assert reason_to_end(study) is None


@pytest.mark.parametrize(
    ("changes", "decrease", "expected", "asked", "ends"),
    [
        # Of the two expectations of the model the larger counts; 0.0025 is an eighth.
        ({"sampler": "moments"}, None, (0.002, 0.001), True, "0.002"),
        ({"sampler": "moments"}, None, (0.001, 0.002), True, "0.002"),
        ({"sampler": "moments"}, None, (0.003, 0.001), True, ""),
        ({"sampler": "moments"}, None, (0.001, 0.003), True, ""),
        ({"sampler": "moments"}, None, (0.001, None), True, ""),
        ({"sampler": "moments"}, None, (None, 0.001), True, ""),
        # A descent is asked first, and the model, without a design, once that has arrived.
        ({"sampler": "descent"}, None, (0.001, 0.001), None, ""),
        ({"sampler": "descent"}, 0.002, (0.003, 0.003), None, "0.002"),
        ({"sampler": "descent"}, 0.003, (0.001, 0.001), None, ""),
        ({"sampler": "descent"}, 0.0, (0.001, 0.002), False, "0.002"),
        ({"sampler": "descent"}, 0.0, (0.003, 0.003), False, ""),
        # Of this loss there is no model that could go on.
        ({"sampler": "descent", "metric": "teacher_loss"}, 0.0, (9.0, 9.0), None, "0"),
    ],
)
def test_what_the_next_proposal_may_gain_is_asked_of_whoever_makes_it(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    decrease: float | None,
    expected: tuple[float | None, float | None],
    asked: bool | None,
    ends: str,
) -> None:
    questions = []

    def improvement(source: Any, number: int, *, box: Any, designed: bool) -> float | None:
        questions.append((number, designed, type(source).__name__))
        assert [float(np.exp(end[0])) for end in box] == pytest.approx([0.5, 2.0])
        return expected[len(questions) - 1]

    monkeypatch.setattr(stopping_rule, "expected_decrease", lambda study: decrease)
    monkeypatch.setattr(stopping_rule, "expected_improvement", improvement)
    study = tiny.open(
        search__sampler=changes["sampler"],
        search__patience="auto",
        objective__metric=changes.get("metric", "fd"),
    )
    enter(study, -0.3, 0.2)
    reason = reason_to_end(study)
    # Proposal 3 by all that is known, and 2 by what was known before the newest.
    assert questions == (
        [] if asked is None else [(3, asked, "StoredMoments"), (2, asked, "Before")]
    )
    if ends:
        assert reason == (
            f"the search ends early: the next schedule is expected to improve on the best by"
            f" {ends}, below 0.0025, an eighth of what a confirm can tell"
        )
    else:
        assert reason is None


def test_before_the_newest_evaluation_all_others_were_known() -> None:
    world = World()
    source = Memory(world, [world.seen(np.zeros(SKIPS)), world.seen(world.best)])
    before = stopping_rule.Before(source)
    assert [len(one.known()) for one in (source, before)] == [2, 1]
    assert before.known()[0].number == source.known()[0].number
    assert before.reference is source.reference


@pytest.mark.parametrize(
    ("given", "sampler", "expected"),
    [
        (0, "tpe", "a whole number of schedules"),
        ("soon", "tpe", "a whole number of schedules"),
        ("auto", "tpe", "tpe expects no gain"),
    ],
)
def test_what_is_no_patience_is_refused(
    tiny: Tiny, given: Any, sampler: str, expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        tiny.spec(search__patience=given, search__sampler=sampler)


def test_several_metrics_have_no_best_to_improve_on(tiny: Tiny) -> None:
    with pytest.raises(SpecError, match="null: of several metrics") as caught:
        tiny.spec(search__patience=3, objective__metric=["fd", "nfe"])
    assert [problem.where for problem in caught.value.problems] == ["spec: search.patience"]


def test_a_spec_without_patience_is_written_as_before(tiny: Tiny) -> None:
    assert "patience" not in tiny.spec().to_json()["search"]
    patient = tiny.spec(search__patience=3)
    assert patient.to_json()["search"]["patience"] == 3
    assert patient.meaning() == tiny.spec().meaning()
    assert tiny.spec(search__patience="auto", search__sampler="moments").search.patience == "auto"


def test_a_search_by_moments_ends_where_its_model_expects_no_more(tiny: Tiny, quick: None) -> None:
    """In the made-up world a distance hangs on one number, which a few schedules pin down."""
    changes = {"search__sampler": "moments", "search__patience": "auto", "search__promote": 0.1}
    study = tiny.open(search__evaluations=30, **changes)
    events: list[Event] = []
    worker = crew_member(study, "a", course=whole_study(study, on_event=events.append))
    assert worker.run() == "complete"
    count = ledger.count_evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    assert count < 25
    told = [event.text for event in events if isinstance(event, Notice)]
    assert len(told) == 1 and told[0].startswith("the search ends early: the next schedule is")
    # What is left is indeed nothing: the best mean log scale is 0.3.
    best_one = min(ledger.standings(study.database, study.id, level=0, objectives=1),
                   key=lambda one: one.difference)  # fmt: skip
    params = ledger.evaluation(study.database, best_one.evaluation_id).params
    assert np.mean(np.log([*params.values()])) == pytest.approx(SHIFT, abs=0.05)
