"""Where a study stands, from rows that are written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from skiptune.errors import StorageError
from skiptune.sampling.schedule import Schedule
from skiptune.search.overview import Overview, confirms, leaders, overview, overviews
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database, init_database
from skiptune.storage.records import Budget, Evaluation, Kind
from skiptune.views.study import confirm_text, overview_view
from tests.views.printed import printed

SPEC = {"search": {"evaluations": 40}}
MEANING = {"confirm.min_gain": 0.01}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with init_database(database_url) as opened:
        ledger.create_study(opened, name="s", spec=SPEC, meaning=MEANING)
        yield opened


def enter(
    database: Database,
    scale: float,
    *,
    kind: Kind = "proposal",
    label: str = "proposal",
    block: str = "search",
    first_seed: int = 1_000_000,
    images: int = 500,
    study: str = "s",
) -> Evaluation:
    return ledger.add_evaluation(
        database,
        ledger.require_study(database, study).id,
        kind=kind,
        label=label,
        block=block,
        series={"network": "n"},
        measure={"extractor": "e"},
        schedule=Schedule.uniform({"8x8_block0": scale}).to_json(),
        first_seed=first_seed,
        images=images,
        params={} if scale == 1 else {"all": scale},
    )


def score(
    database: Database, evaluation: Evaluation, difference: float | None, *, level: int = 0
) -> None:
    images = (500, 2000)[level]
    ledger.put_score(
        database,
        evaluation.id,
        level=level,
        metric=f"FD(e)-{images}-corrected",
        reference="0" * 64,
        images=images,
        value=10.0 + (difference or 0.0),
        standard_error=0.1,
        difference=difference,
        difference_error=None if difference is None else 0.05,
    )


def test_what_the_search_may_still_spend(database: Database) -> None:
    assert overview(database, "s").left == Budget()
    words = page(overview(database, "s"))
    assert "left to spend" not in words
    budget = Budget(evaluations=40, images=20_000, seconds=3600.0)
    study = ledger.create_study(
        database, name="limited", spec=SPEC, meaning=MEANING, budget=budget
    )
    assert overview(database, "limited").left == budget
    enter(database, 0.5, study="limited")
    claim = leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    assert claim is not None
    leases.commit_chunk(database, claim, array="0" * 64, seconds=60.0, nfe=6.0)
    found = overview(database, "limited")
    assert found.left == Budget(evaluations=39, images=19_500, seconds=3540.0)
    assert found.to_json()["left"] == {"evaluations": 39, "images": 19_500, "seconds": 3540.0}
    assert re.search(r"left to spend +19,500 images, 59 min 00 s of sampling", page(found))


def test_rounds_of_a_confirm_rank_nothing_of_the_search(database: Database) -> None:
    for number, scale in enumerate((1.1, 1.2, 1.3)):
        made = enter(database, scale)
        ledger.promote(database, made.id, 2000)
        for level in (0, 1):
            score(database, made, -0.1 * (number + 1), level=level)
    found = overview(database, "s").ranking
    assert found is not None and found.pairs == 3 and found.value == pytest.approx(1)
    for number, scale in enumerate((1.4, 1.5, 1.6)):
        made = enter(database, scale, kind="confirm", label=f"candidate {number}",
                     block="confirm-1/A", first_seed=2_100_000)  # fmt: skip
        ledger.promote(database, made.id, 2000)
        for level in (0, 1):
            score(database, made, 0.1 * (-1) ** level * (number + 1), level=level)
    assert overview(database, "s").ranking == found


def test_who_works_on_it(database: Database) -> None:
    study = ledger.require_study(database, "s")
    assert re.search("workers now +none", page(overview(database, "s")))
    for scale in range(2, 12):
        enter(database, 0.1 * scale)
    first = leases.claim_chunk(database, study.id, worker="node0:1", seconds=60.0)
    assert first is not None
    facts = {"device": "cuda:0", "gpu": "L4"}
    leases.commit_chunk(database, first, array="0" * 64, seconds=20.0, nfe=6.0, provenance=facts)
    for number in range(10):
        leases.claim_chunk(database, study.id, worker=f"node{number}:1", seconds=60.0)
    found = overview(database, "s")
    assert tuple(member.name for member in found.crew) == found.workers
    words = page(found)
    assert re.search(
        r"workers now +node0:1: cuda:0 \(L4\), 12\.5 images/s, stored \d+ s ago,"
        r" seen \d+ s ago\n",
        words,
    )
    assert "node7:1: nothing stored yet, seen" in words
    assert "node8:1" not in words and "and 2 more" in words
    plain = json.loads(json.dumps(found.to_json()))["crew"]
    assert (len(plain), plain[0]["rate"], plain[1]["rate"]) == (10, 12.5, None)


def page(study: Overview) -> str:
    """The page of `skiptune status`, as text."""
    return printed(*overview_view(study), width=100)


def test_a_new_study_has_nothing_yet(database: Database) -> None:
    found = overview(database, "s")
    assert (found.evaluations, found.budget, dict(found.states)) == (0, 40, {})
    assert (found.metric, found.baseline, found.best, found.confirms) == (None, None, None, ())
    assert leaders(database, "s") == ()
    assert json.loads(json.dumps(found.to_json()))["study"] == "s"


def test_an_unknown_study_is_refused(database: Database) -> None:
    for read in (overview, leaders, confirms):
        with pytest.raises(StorageError):
            read(database, "t")


def test_all_studies_are_read(database: Database) -> None:
    ledger.create_study(database, name="t", spec=SPEC, meaning=MEANING)
    assert [found.study for found in overviews(database)] == ["s", "t"]


def test_states_are_counted_and_leaders_ranked_by_rung_then_value(database: Database) -> None:
    base = enter(database, 1.0, kind="baseline", label="baseline")
    score(database, base, None)
    good, better, promoted, waiting, untouched, diverged, failed = (
        enter(database, 1.1 + 0.1 * place) for place in range(7)
    )
    score(database, good, -0.5)
    score(database, better, -1.0)
    score(database, promoted, -0.2)
    ledger.promote(database, promoted.id, 2000)
    score(database, promoted, -0.1, level=1)
    score(database, waiting, -0.3)
    ledger.promote(database, waiting.id, 2000)
    score(database, diverged, -9.0)
    ledger.finish_evaluation(database, diverged.id, "diverged", "an image is not finite")
    ledger.finish_evaluation(database, failed.id, "failed", "lost")

    found = overview(database, "s")
    assert found.evaluations == 7
    assert dict(found.states) == {"scored": 3, "open": 2, "diverged": 1, "failed": 1}
    assert found.baseline is not None
    assert found.baseline.value == 10.0
    top = leaders(database, "s", 9)
    assert [leader.number for leader in top] == [
        promoted.number, better.number, good.number, waiting.number,
    ]  # fmt: skip
    assert found.best == top[0]
    assert top[0].metric == "FD(e)-2000-corrected"
    assert top[1].measured.gain(top[1].baseline.value) == pytest.approx(0.1)
    assert top[1].schedule == Schedule.uniform({"8x8_block0": better.params["all"]})
    assert not any(leader.confirmed for leader in top)
    assert len(leaders(database, "s", 2)) == 2
    assert untouched.number not in {leader.number for leader in top}


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(-0.5, "win"), (-0.05, "no significant gain"), (0.5, "no significant gain")],
)
def test_a_confirm_runs_until_its_second_half_is_scored(
    database: Database, difference: float, verdict: str
) -> None:
    study = ledger.require_study(database, "s")
    score(database, enter(database, 1.0, kind="baseline", label="baseline"), None)
    score(database, enter(database, 1.5), -1.0)
    block = ledger.spend_block(database, study.id, block="confirm-1", images=100_000, alpha=0.05)
    assert [c.verdict for c in confirms(database, "s")] == ["running"]
    half: dict[str, Any] = {"block": "confirm-1/B", "first_seed": block.first_seed + 50_000}
    base = enter(database, 1.0, kind="baseline", label="baseline", **half)
    winner = enter(database, 1.5, kind="confirm", label="tuned", **half)
    score(database, base, None)
    (running,) = confirms(database, "s")
    assert (running.verdict, running.finished, running.winner) == ("running", False, None)
    score(database, winner, difference)
    (done,) = confirms(database, "s")
    assert (done.verdict, done.finished) == (verdict, True)
    assert (done.number, done.alpha, done.first_seed) == (1, 0.025, 2_100_000)
    assert done.schedule == Schedule.uniform({"8x8_block0": 1.5})
    assert done.to_json()["gain"] == pytest.approx(-difference / 10)
    assert leaders(database, "s")[0].confirmed == (verdict == "win")
    # The confirm's own rows are no leaders of the search.
    assert len(leaders(database, "s")) == 1


@pytest.mark.parametrize(("gap", "verdict"), [(0.5, "no significant gain"), (0.1, "win")])
def test_a_gain_that_violates_a_constraint_is_no_win(
    database: Database, gap: float, verdict: str
) -> None:
    board = {"places": 2, "metrics": [{"name": "FD(e)"}], "constraints": ["recall >= 0.4"]}
    ledger.create_study(database, name="t", spec=SPEC, meaning=MEANING, board=board)
    study = ledger.require_study(database, "t")
    block = ledger.spend_block(database, study.id, block="confirm-1", images=100_000, alpha=0.05)
    rows: tuple[tuple[Kind, str, float], ...] = (
        ("baseline", "baseline", 1.0), ("confirm", "tuned", 1.5),
    )  # fmt: skip
    for kind, label, scale in rows:
        made = enter(database, scale, kind=kind, label=label, block="confirm-1/B",
                     first_seed=block.first_seed + 50_000, study="t")  # fmt: skip
        score(database, made, None if kind == "baseline" else -0.5)
        if kind == "confirm":
            ledger.put_score(
                database, made.id, level=0, metric="recall >= 0.4", reference="0" * 64,
                images=500, value=gap, standard_error=0.1, place=100,
            )  # fmt: skip
    (found,) = confirms(database, "t")
    assert found.verdict == verdict
    # Whoever prints the verdict can say why it is no win.
    broken = ("recall >= 0.4",) if verdict != "win" else ()
    assert found.violated == broken
    said = confirm_text(found)
    assert said.startswith("no win: gain " if broken else "win: gain ")
    assert said.endswith("but it violates recall >= 0.4" if broken else "on 500 images")
