"""Studies that begin from others: what is taken, into which space, once, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skiptune.errors import SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.search.confirm import begin_confirm, block_of
from skiptune.search.course import whole_study
from skiptune.search.events import Event, Listener, Notice, silent
from skiptune.search.overview import leaders
from skiptune.search.projection import Board
from skiptune.search.samplers import sampler_for
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy, open_stored
from skiptune.search.tune import run
from skiptune.search.tuned import load
from skiptune.search.warm_start import best_start, next_start, starts_of
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.budgets import SLOPES_BLOCK
from skiptune.storage.turns import end_turn, take_turn
from tests.search.conftest import Tiny, crew_member, together
from tests.search.test_tuned import make_tuned

pytestmark = pytest.mark.usefixtures("quick")


DIFFERENCES = (-0.1, 0.2, -0.3, -0.2, -0.05)  # of the earlier study's proposals, by number


def scored(
    study: OpenStudy, one: ledger.Evaluation, *, level: int, difference: float | None = None
) -> None:
    """Give an evaluation the score of a rung, as if its images had been made."""
    ledger.put_score(
        study.database,
        one.id,
        level=level,
        metric="m",
        reference="r",
        images=study.rungs[level],
        value=1.0,
        standard_error=0.1,
        difference=difference,
        difference_error=None if difference is None else 0.01,
    )


def earlier(tiny: Tiny, name: str = "earlier", **changes: Any) -> OpenStudy:
    """A study of another name whose proposals have scores."""
    study = tiny.open(study=name, **changes)
    scored(study, study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=250), level=0)
    rng = np.random.default_rng(3)
    for number, difference in enumerate(DIFFERENCES, start=1):
        params = {key: float(rng.uniform(0.8, 1.25)) for key in study.space.scale_names}
        evaluation = study.evaluate(
            study.space.schedule(params),
            kind="proposal",
            label=f"proposal {number}",
            block=SEARCH,
            first_seed=SEARCH_SEED,
            images=250,
            params=params,
        )
        scored(study, evaluation, level=0, difference=difference)
    return study


def decide(study: OpenStudy, times: int, on_event: Listener = silent) -> list[str]:
    """Take so many steps of a study's course; nothing is sampled between them."""
    course, board = whole_study(study, on_event=on_event), Board(study.database, study.row)
    steps: list[str] = []
    for _ in range(times):
        turn = take_turn(study.database, study.id, task="propose", worker="a:0:1:1", seconds=60)
        assert turn is not None
        try:
            steps.append(course(board, turn))
        finally:
            end_turn(study.database, turn)
    return steps


def best_of(study: OpenStudy) -> list[dict[str, float]]:
    """The parameters of the three best proposals of `earlier`."""
    by_number = {one.number: one.params for one in proposals(study)}
    return [by_number[3], by_number[4], by_number[1]]


def proposals(study: OpenStudy) -> tuple[ledger.Evaluation, ...]:
    return ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)


def refused(tiny: Tiny, *named: str, **changes: Any) -> list[str]:
    """What is said of names that are no warm start; nothing has been entered."""
    with pytest.raises(SpecError) as caught:
        tiny.open(search__warm_start=list(named), **changes)
    assert "`skiptune status`" in caught.value.hint
    return [str(problem) for problem in caught.value.problems]


def write_tuned(folder: Path, schedule: Schedule, study: OpenStudy | None = None) -> Path:
    skips = () if study is None else (study.checkpoint.skips,)
    make_tuned(schedule, *skips).write(folder / "tuned.json")
    return folder / "tuned.json"


def test_the_best_of_another_study_are_the_first_proposals(tiny: Tiny) -> None:
    other = earlier(tiny)
    best = best_of(other)
    study, events = tiny.open(search__warm_start="earlier"), list[Event]()
    # The first step enters the baseline.
    assert decide(study, 5, events.append) == ["entered"] * 5
    entered = [one.params for one in proposals(study)]
    assert entered[:3] == best
    assert entered[3] not in [one.params for one in proposals(other)]
    told = [event.text for event in events if isinstance(event, Notice)]
    assert told == [
        f"proposal {number} is a warm start: proposal {theirs} of earlier"
        for number, theirs in ((1, 3), (2, 4), (3, 1))
    ]


def test_a_confirmed_winner_comes_first(tiny: Tiny) -> None:
    # Every schedule of this space is better, and the confirm proves it.
    changes = {"space__low": 1.0, "space__high": 1.2, "confirm__images": 1000}
    other = tiny.open(study="earlier", search__evaluations=1, **changes)
    assert run(other) is not None
    (leader,) = leaders(other.database, "earlier")
    assert leader.confirmed
    (start,) = starts_of(tiny.open(search__warm_start="earlier").row.board)
    assert (start.params, start.of) == (leader.params, "proposal 1 of earlier, confirmed")


def test_what_becomes_of_the_other_study_changes_nothing(tiny: Tiny) -> None:
    other = earlier(tiny)
    before = starts_of(tiny.open(search__warm_start=["earlier"]).row.board)
    ledger.delete_study(other.database, other.id)
    again = tiny.open(search__warm_start=["earlier"], search__evaluations=2)
    assert starts_of(again.row.board) == before
    stored = open_stored("tiny", storage=tiny.url, artifacts=tiny.artifacts)
    assert starts_of(stored.row.board) == before
    stored.database.close()


def test_a_name_that_is_added_on_resume_comes_next_and_one_that_is_taken_out_is_forgotten(
    tiny: Tiny,
) -> None:
    decide(tiny.open(), 3)
    best = best_of(earlier(tiny))
    later = tiny.open(search__warm_start="earlier")
    decide(later, 2)
    assert [one.params for one in proposals(later)[2:]] == best[:2]
    without = tiny.open()
    assert starts_of(without.row.board) == ()
    assert next_start(without) is None


def test_three_workers_propose_each_start_once(tiny: Tiny) -> None:
    best = best_of(earlier(tiny))
    changes = {"search__warm_start": "earlier", "search__evaluations": 6}
    limits = Limits(trials=2)  # of the twelve that there will be
    crew = [crew_member(tiny.open(**changes), f"host{n}", limits=limits) for n in range(3)]
    assert together([member.run for member in crew]) == ["limit reached"] * 3
    entered = [one.params for one in proposals(tiny.open(**changes))]
    assert entered[:3] == best
    assert all(entered.count(params) == 1 for params in best)


def test_a_worker_that_dies_before_it_enters_a_start_leaves_it_to_the_next(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = best_of(earlier(tiny))
    study = tiny.open(search__warm_start="earlier")
    decide(study, 1)

    class KilledError(BaseException):
        pass

    def dies(point: str) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("skiptune.search.proposals.fail_point", dies)
        with pytest.raises(KilledError):
            decide(study, 1)
    assert proposals(study) == ()
    again = tiny.open(search__warm_start="earlier")
    decide(again, 4)
    assert [one.params for one in proposals(again)][:3] == best
    states = [trial.state.name for trial in Board(again.database, again.row).lowest.trials]
    assert states == ["FAIL"] + ["RUNNING"] * 4


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_every_sampler_goes_on_from_there(tiny: Tiny, sampler: str) -> None:
    best = best_of(earlier(tiny))
    study = tiny.open(search__warm_start="earlier", search__sampler=sampler)
    assert decide(study, 5) == ["entered"] * 5
    assert [one.params for one in proposals(study)][:3] == best


def test_moments_lay_their_design_around_the_best_start(tiny: Tiny) -> None:
    best, *_ = best_of(earlier(tiny))
    study = tiny.open(search__sampler="moments", search__warm_start="earlier")
    decide(study, 4)
    board = Board(study.database, study.row)

    def asked() -> Any:
        found = board.ask(sampler_for(study, number=4), stateless=True).params
        return np.log([found[name] for name in study.space.scale_names])

    usual = asked()
    assert best_start(study) is None  # nothing is known of it yet
    for one, difference in zip(proposals(study), (-0.3, -0.1, 0.1), strict=True):
        scored(study, one, level=0, difference=difference)
    around = np.log([best[name] for name in study.space.scale_names])
    assert best_start(study) == pytest.approx(around)
    low, high = np.log([study.space.low, study.space.high])
    assert asked() == pytest.approx(np.clip(usual + around, low, high))


def test_a_descent_takes_its_first_slopes_at_the_best_start(tiny: Tiny) -> None:
    best = best_of(earlier(tiny))
    study = tiny.open(
        search__warm_start="earlier", search__sampler="descent", search__promote=0.34
    )
    decide(study, 1)
    (baseline,) = ledger.evaluations(study.database, study.id, kind="baseline")
    ledger.put_score(
        study.database, baseline.id, level=0, metric="m", reference="r", images=500,
        value=1.0, standard_error=0.1,
    )  # fmt: skip
    assert decide(study, 4) == ["entered"] * 3 + ["waiting"]
    starts = proposals(study)
    assert [one.params for one in starts] == best
    # The second one turns out best, so it goes on to the rung that bears slopes.
    for one, difference in zip(starts, (-0.1, -0.3, -0.2), strict=True):
        scored(study, one, level=0, difference=difference)
    assert decide(study, 2) == ["entered", "waiting"]
    assert study.images_of(starts[1]) == study.rungs[1]
    assert not ledger.evaluations(study.database, study.id, kind="slopes")
    scored(study, starts[1], level=1, difference=-0.25)
    assert decide(study, 2) == ["entered", "waiting"]
    (slopes,) = ledger.evaluations(study.database, study.id, kind="slopes")
    assert (slopes.schedule, slopes.block) == (starts[1].schedule, SLOPES_BLOCK)
    assert study.images_of(slopes) == study.rungs[1]
    # Where its derivatives are no numbers, those of the untouched network serve.
    ledger.finish_evaluation(study.database, slopes.id, "diverged", "not finite")
    assert decide(study, 2) == ["entered", "waiting"]
    further = ledger.evaluations(study.database, study.id, kind="slopes")[-1]
    assert further.schedule == baseline.schedule


def test_confirms_pass_over_the_seeds_of_what_a_study_begins_from(
    tiny: Tiny, tmp_path: Path
) -> None:
    other = earlier(tiny)
    for number in (1, 2):
        begin_confirm(other, number)
    study = tiny.open(search__warm_start="earlier")
    spent = begin_confirm(study, 1)
    assert (spent.first_seed, spent.alpha) == (2_300_000, study.spec.confirm.alpha / 2)
    assert (block_of(study, 1), block_of(study, 2)) == (3, 4)
    # What the other confirms later changes nothing; nor that it is named no more.
    begin_confirm(other, 3)
    assert block_of(tiny.open(search__warm_start=["earlier"]), 2) == 4
    assert begin_confirm(tiny.open(), 2).first_seed == 2_400_000
    # By way of a study that has confirmed nothing, and of a file.
    between = earlier(tiny, "between", search__warm_start="earlier")
    assert block_of(between, 1) == 4
    assert block_of(tiny.open(study="last", search__warm_start="between"), 1) == 4
    addresses = [skip.address for skip in study.checkpoint.skips]
    path = write_tuned(tmp_path, Schedule.uniform({addresses[0]: 0.9}), study)
    named = tiny.open(study="of-a-file", search__warm_start=str(path))
    last = max(block.first for block in load(path).seeds.values())
    assert last > 2_000_000
    assert begin_confirm(named, 1).first_seed == last // 100_000 * 100_000 + 100_000


def test_a_file_is_a_warm_start_too(tiny: Tiny, tmp_path: Path) -> None:
    addresses = [skip.address for skip in tiny.open(study="other").checkpoint.skips]
    scales = dict(zip(addresses, [0.9, 1.1, 0.8, 1.2], strict=True))
    path = write_tuned(tmp_path, Schedule.uniform(scales), tiny.open(study="other"))
    study = tiny.open(search__warm_start=str(path))
    (start,) = starts_of(study.row.board)
    assert start.of == "tuned scales of study fashion" and start.notes == ()
    assert study.space.schedule(start.params) == Schedule.uniform(scales)
    # Of a network with other skips.
    linear = tiny.open(study="linear", space__kind="linear", search__warm_start=str(path))
    (fitted,) = starts_of(linear.row.board)
    assert "fitted to a linear space" in fitted.notes[0]


def test_a_file_of_another_network_is_mapped_by_depth(tiny: Tiny, tmp_path: Path) -> None:
    path = write_tuned(tmp_path, Schedule.uniform({"8x8_block1": 1.21}))
    theirs = [skip.address for skip in make_tuned().skips]
    study = tiny.open(search__warm_start=str(path))
    here = [skip.address for skip in study.checkpoint.skips]
    (start,) = starts_of(study.row.board)
    if theirs == here:
        assert start.notes == ()
    else:
        assert start.notes == (
            f"mapped by relative depth from {len(theirs)} skips to {len(here)}",
        )
    logs = np.zeros(len(theirs))
    logs[theirs.index("8x8_block1")] = np.log(1.21)
    expected = np.interp(np.linspace(0, 1, len(here)), np.linspace(0, 1, len(theirs)), logs)
    assert np.log([*start.params.values()]) == pytest.approx(expected)


def test_what_is_no_warm_start_is_refused_all_at_once_and_nothing_is_written(
    tiny: Tiny, tmp_path: Path
) -> None:
    earlier(tiny)
    tiny.open(study="empty")
    (tmp_path / "broken.json").write_text('{"format": "skiptune.tuned", ')
    untouched = write_tuned(tmp_path, Schedule.baseline(), tiny.open(study="empty"))
    names = ["erlier", "empty", "tiny", str(tmp_path / "no.json")]
    names += [str(tmp_path / "broken.json"), str(untouched), "earlier"]
    found = refused(tiny, *names)
    assert [text.split(": expected")[0] for text in found] == [
        "spec: search.warm_start[0]: erlier",
        "spec: search.warm_start[1]: empty",
        "spec: search.warm_start[2]: tiny",
        f"spec: search.warm_start[3]: {tmp_path / 'no.json'}",
        f"spec: search.warm_start[4]: {tmp_path / 'broken.json'}:1",
        "spec: search.warm_start[5]: tuned scales of study fashion: schedule",
    ]
    assert "(did you mean `earlier`?), found no such study" in found[0]
    assert "a study with a scored schedule, found one without" in found[1]
    assert "another study than this one" in found[2]
    assert "found no such file" in found[3]
    assert "complete JSON" in found[4]
    assert "found the untouched network" in found[5]
    study = tiny.open(study="empty")
    assert ledger.find_study(study.database, "tiny") is None


def test_a_study_of_other_skips_is_refused(tiny: Tiny) -> None:
    deepest, *rest = [skip.address for skip in tiny.open(study="other").checkpoint.skips]
    earlier(tiny, space__skips=[deepest])
    (problem,) = refused(tiny, "earlier", space__skips=rest)
    assert "a schedule that scales a skip of this space" in problem


def test_a_study_of_an_older_version_says_nothing_of_its_skips(tiny: Tiny) -> None:
    other = earlier(tiny)
    board = {key: value for key, value in other.row.board.items() if key != "skips"}
    changed = dict(other.row.spec)
    ledger.set_study_spec(other.database, other.id, changed, board=board, budget=other.row.budget)
    # The same checkpoint has the same skips.
    assert starts_of(tiny.open(search__warm_start="earlier").row.board)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "list of them"),
        (7, "list of them"),
        (["a", "a"], "each study or file once"),
        ("no such/../name with spaces?", None),
        ("spaces here", "the name of a study, or the path of a tuned.json or start.json"),
    ],
)
def test_what_is_no_name_is_refused_when_the_spec_is_read(
    tiny: Tiny, given: Any, expected: str | None
) -> None:
    if expected is None:  # a path with a slash may be any
        assert tiny.spec(search__warm_start=given).search.warm_start[0].startswith("/")
        return
    with pytest.raises(SpecError, match=expected):
        tiny.spec(search__warm_start=given)


def test_a_spec_without_one_is_written_as_before(tiny: Tiny) -> None:
    assert "warm_start" not in tiny.spec().to_json()["search"]
    given = tiny.spec(search__warm_start="earlier")
    assert given.to_json()["search"]["warm_start"] == ["earlier"]
    assert type(given).from_json(given.to_json()) == given
    assert given.meaning() == tiny.spec().meaning()
    assert "warm_start" not in tiny.open(study="cold").row.board


def test_a_file_s_path_begins_at_the_spec_s_folder(tiny: Tiny, tmp_path: Path) -> None:
    from skiptune.search.spec import load_spec

    plain = tiny.spec().to_json()
    plain["search"]["warm_start"] = ["here/tuned.json", "earlier"]
    (tmp_path / "study.yaml").write_text(json.dumps(plain))
    spec = load_spec(tmp_path / "study.yaml")
    assert spec.search.warm_start == (str(tmp_path / "here" / "tuned.json"), "earlier")
    with pytest.raises(SpecError, match=r"search\.warm_start"):
        load_spec(tmp_path / "study.yaml", overrides=["search.warm_start=[a, a]"])
