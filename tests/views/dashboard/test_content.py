"""What the dashboard shows of a study is made of our rows: once, anew when gone, and bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard.artifact._backend import list_trial_artifacts

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.search.explanation import explain
from skiptune.search.overview import leaders, overview
from skiptune.search.projection import SCHEDULE, board_names
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.upkeep import delete
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.optuna_attributes import (
    change_attributes,
    optuna_studies,
    study_attributes,
)
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.turns import end_turn, take_turn
from skiptune.views.dashboard.content import MARK, refresh
from skiptune.views.dashboard.figures import MOST_POINTS, PREFIX
from skiptune.views.dashboard.note import BLANK, MOST_CHARACTERS
from tests.postgres import fresh_database
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member, empty_database, tiny
from tests.search.pictured import NAME, end_proposals, finished, quick, theirs

__all__ = ["empty_database", "quick", "tiny"]

ALL_FIGURES = {f"{PREFIX}{name}" for name in ("profile", "gain", "slice", "sensitivity")}


def shown(study: OpenStudy) -> None:
    refresh(study.database, study.arrays, study.row.name)


def said(study: OpenStudy) -> dict[str, dict[str, Any]]:
    """All that Optuna's studies say beside their trials."""
    there = optuna_studies(study.database, board_names(study.row))
    found = study_attributes(study.database, list(there.values()))
    return {name: found[key] for name, key in there.items()}


def figures(study: OpenStudy) -> dict[str, Any]:
    texts = get_plotly_graph_objects(said(study)[NAME])
    return {name: json.loads(text) for name, text in texts.items()}


def trace(figure: Any, name: str) -> Any:
    return next(one for one in figure["data"] if one.get("name", "").startswith(name))


def pictures(study: OpenStudy, trial: FrozenTrial, name: str = NAME) -> dict[str, str]:
    """What the dashboard shows at a trial: digests of PNGs by file name."""
    found = list_trial_artifacts(said(study)[name], trial.system_attrs, trial)
    assert {one["mimetype"] for one in found} == {"image/png"}
    return {one["filename"]: one["artifact_id"] for one in found}


@contextmanager
def writes(database: Database) -> Iterator[list[str]]:
    """The statements that change something, of any connection of this process."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *rest: Any) -> None:
        if re.match(r"\s*(INSERT|UPDATE|DELETE|REPLACE)", statement, re.IGNORECASE):
            found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_before_anything_is_evaluated_there_is_a_note(tiny: Tiny) -> None:
    study = tiny.open()
    shown(study)
    assert set(said(study)) == {NAME, f"{NAME}/500"}
    note = get_note(theirs(study))
    assert "nothing is scored yet" in note
    assert "Not measured yet" in note
    assert figures(study) == {}
    with writes(study.database) as found:
        shown(study)
    assert found == []


def test_an_unknown_study_is_refused(tiny: Tiny) -> None:
    study = tiny.open()
    with pytest.raises(StorageError, match="no-such"):
        refresh(study.database, study.arrays, "no-such")


def test_the_note_says_what_the_tables_say(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    note = get_note(theirs(study))
    now = overview(study.database, NAME)
    best = leaders(study.database, NAME, 1)[0]
    assert now.baseline is not None
    assert f"{now.baseline.value:.3f}"[:5] in note
    assert f"### Best schedule: {best.measured.label}" in note
    for term in best.schedule.terms:
        assert f"| {term.address} | {term.scale:.3f} |" in note.replace(BLANK, "")
    confirmed = now.confirms[-1]
    assert f"**Verdict:** confirm 1: {confirmed.verdict}" in note
    assert confirmed.verdict == "win"
    assert f"`skiptune export {NAME} -o tuned.json`" in note
    assert len(note) < MOST_CHARACTERS
    assert "went on, measured on 500 images" in get_note(theirs(study, f"{NAME}/500"))


def test_plotted_numbers_are_those_of_the_tables(tiny: Tiny, quick: None) -> None:
    study = finished(tiny, search__evaluations=9)
    shown(study)
    drawn = figures(study)
    assert set(drawn) == ALL_FIGURES
    best = leaders(study.database, NAME, 10)
    found = explain(study.database, NAME, artifacts=tiny.artifacts)

    profile = drawn[f"{PREFIX}profile"]
    assert len(profile["data"]) == 1 + len(best)
    assert set(trace(profile, "untouched")["y"]) == {1.0}
    for one in best:
        label = one.measured.label
        line = trace(profile, f"best: {label}" if one is best[0] else label)
        scales = {term.address: term.scale for term in one.schedule.terms}
        skips = profile["layout"]["xaxis"]["ticktext"]
        assert skips == study.row.board["skips"]
        assert line["x"] == profile["layout"]["xaxis"]["tickvals"] == list(range(len(skips)))
        assert line["y"] == pytest.approx([scales.get(skip, 1.0) for skip in skips], rel=1e-5)

    gain = drawn[f"{PREFIX}gain"]
    leading = trace(gain, "best: ")
    steps = sorted(
        (s for s in found.steps if s.number == best[0].number), key=lambda step: step.images
    )
    assert leading["x"] == [250, 500] == [step.images for step in steps]
    assert leading["y"] == pytest.approx([100 * step.gain for step in steps], rel=1e-5)
    assert leading["error_y"]["array"] == pytest.approx(
        [196 * step.error for step in steps], rel=1e-5
    )
    fraction = best[0].measured.gain(best[0].baseline.value)
    assert fraction is not None
    assert leading["y"][-1] == pytest.approx(100 * fraction, rel=1e-5)
    confirmed = found.overview.confirms[0]
    assert confirmed.winner is not None and confirmed.baseline is not None
    proved = trace(gain, "confirm 1")
    assert proved["y"] == pytest.approx(
        [100 * (confirmed.winner.gain(confirmed.baseline.value) or 0)], rel=1e-5
    )

    slice_ = drawn[f"{PREFIX}slice"]
    points = {
        text: (x, y)
        for one in slice_["data"]
        for text, x, y in zip(one["text"], one["x"], one["y"], strict=True)
    }
    assert len(points) == len(found.points)
    for point in found.points:
        name = f"proposal {point.number}" if point.number else "untouched"
        assert points[name] == pytest.approx((point.place, 100 * point.gain), rel=1e-5)

    bars = drawn[f"{PREFIX}sensitivity"]["data"][0]
    rows = {one.name: one for one in found.sensitivities.rows}
    unit = 1 if found.sensitivities.how == "ranks" else 100
    assert set(bars["y"]) == set(rows)
    for name, value in zip(bars["y"], bars["x"], strict=True):
        assert value == pytest.approx(unit * rows[name].change, rel=1e-5)


def test_the_best_trial_has_the_pair_beside_its_own_picture(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    best = leaders(study.database, NAME, 1)[0].schedule.digest
    paired = {}
    for name in board_names(study.row):
        for trial in theirs(study, name).trials:
            found = pictures(study, trial, name)
            own = study.arrays.read_bytes(found.pop("images.png"), ".png")
            assert trial.user_attrs[SCHEDULE].encode() in own
            if found:
                paired[name] = (trial.user_attrs[SCHEDULE], trial.user_attrs["kind"], *found)
    assert paired == {NAME: (best, "proposal", "best-and-untouched.png")}


def test_ends_that_are_no_values_stand_in_the_note(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(trials=1)).run()
    end_proposals(study, "diverged")
    shown(study)
    assert "1 diverged" in get_note(theirs(study))
    (trial,) = [t for t in theirs(study).trials if t.user_attrs.get("reason")]
    assert trial.user_attrs["feasible"] == "no"


def test_nothing_is_written_when_nothing_has_changed(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    before, files = said(study), sorted(file.name for file in study.arrays.files())
    with writes(study.database) as found:
        shown(study)
    assert found == []
    assert said(study) == before
    assert sorted(file.name for file in study.arrays.files()) == files


def test_what_is_deleted_comes_again_the_same(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    before = said(study)
    keys = optuna_studies(study.database, board_names(study.row))
    for name, key in keys.items():
        change_attributes(
            study.database, key, put={},
            remove=[k for k in before[name] if k.startswith(("dashboard:", MARK))],
        )  # fmt: skip
    assert get_note(theirs(study)) == ""
    shown(study)
    assert said(study) == before
    # One figure, the note as somebody else has written it, the pair's file.
    change_attributes(
        study.database,
        keys[NAME],
        put={"dashboard:note_str:0": "mine"},
        remove=[k for k in before[NAME] if k.startswith(f"dashboard:plot_data:{PREFIX}gain")],
    )
    pair = next(k for k in before[NAME] if k.startswith("dashboard:artifacts:"))
    study.arrays.remove(pair.rpartition(":")[2], suffix=".png")
    shown(study)
    again = said(study)
    assert again[NAME].pop("dashboard:note_ver") > before[NAME].pop("dashboard:note_ver")
    assert again == before
    assert study.arrays.exists(pair.rpartition(":")[2], suffix=".png")


def test_optuna_s_studies_that_were_deleted_are_told_anew(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    before = said(study)
    for name in before:
        optuna.delete_study(study_name=name, storage=optuna_storage(study.database))
    shown(study)
    after = said(study)
    assert set(after) == set(before) == set(board_names(study.row))
    for name, attributes in before.items():
        note = {key: value for key, value in attributes.items() if "note_str" in key}
        assert note.items() <= after[name].items()


def test_a_worker_that_tells_at_this_moment_is_not_waited_for(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    ledger.forget_told(study.database, study.id)
    turn = take_turn(study.database, study.id, task="propose", worker="b:0:1:1", seconds=60.0)
    assert turn is not None
    shown(study)
    assert ledger.untold(study.database, study.id)
    assert "### Best schedule" in get_note(theirs(study))
    end_turn(study.database, turn)
    shown(study)
    assert ledger.untold(study.database, study.id) == ()


def test_the_note_follows_the_rows(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(trials=2)).run()
    shown(study)
    first = get_note(theirs(study))
    assert "nothing is confirmed yet" in first
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    shown(study)
    second = get_note(theirs(study))
    assert second != first
    assert "confirm 1: win" in second
    assert "nothing is confirmed yet" not in second


def test_the_confirmed_study_holds_confirmed_numbers_only(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    confirmed = theirs(study, f"{NAME}/confirmed").trials
    now = overview(study.database, NAME).confirms[0]
    assert now.winner is not None and now.baseline is not None
    assert {t.user_attrs["kind"]: t.user_attrs["corrected"] for t in confirmed} == {
        "baseline": now.baseline.value,
        "confirm": now.winner.value,
    }
    searched = {s.value for e in ledger.evaluations(study.database, study.id, block=SEARCH)
                for s in ledger.scores(study.database, study.id, evaluation_id=e.id)}  # fmt: skip
    assert not searched & {t.user_attrs["corrected"] for t in confirmed}
    winner = next(t for t in confirmed if t.user_attrs["kind"] == "confirm")
    assert winner.user_attrs["verdict"] == "win on fresh seeds"
    assert "Nothing of the search stands here" in get_note(theirs(study, f"{NAME}/confirmed"))


def test_without_a_win_there_is_no_confirmed_study(tiny: Tiny, quick: None) -> None:
    study = finished(tiny, confirm__min_gain=0.99)
    shown(study)
    assert set(said(study)) == {NAME, f"{NAME}/500"}
    assert "no significant gain" in get_note(theirs(study))


def test_a_store_that_is_away_takes_only_the_pair(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    for file in list(study.arrays.files()):
        if file.suffix == ".png":
            study.arrays.remove(file.digest, suffix=".png")
    shown(study)
    found = said(study)[NAME]
    assert not any(key.startswith("dashboard:artifacts:") for key in found)
    assert "### Best schedule" in get_note(theirs(study))
    assert "No picture beside the untouched network's: No such file." in get_note(theirs(study))
    assert MARK not in found  # it is tried again
    with writes(study.database) as statements:
        shown(study)
    assert statements == []


def test_a_new_best_schedule_replaces_the_pair(tiny: Tiny, quick: None) -> None:
    study = tiny.open(search__evaluations=2)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    shown(study)
    first = leaders(study.database, NAME, 1)[0]
    more = tiny.open(search__evaluations=16)
    assert crew_member(more, "b", limits=UNTIL_DONE).run() == "complete"
    shown(more)
    second = leaders(study.database, NAME, 1)[0]
    assert second.number != first.number
    kinds = [artifact.kind for artifact in ledger.artifacts(study.database)]
    assert kinds.count("pair") == 1
    linked = [key for key in said(study)[NAME] if key.startswith("dashboard:artifacts:")]
    assert len(linked) == 1
    named = {artifact.digest for artifact in ledger.artifacts(study.database)}
    assert {f.digest for f in study.arrays.files() if f.suffix == ".png"} <= named


def test_deleting_a_study_takes_its_pictures(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    shown(study)
    other = finished(tiny, study="other", search__evaluations=2)
    delete(study.database, NAME, store=study.arrays)
    left = {f.digest for f in study.arrays.files() if f.suffix == ".png"}
    kept = {a.digest for a in ledger.artifacts(study.database) if a.kind == "grid"}
    assert (
        left
        == kept
        == set(
            ledger.grids(
                study.database, ledger.evaluations(study.database, other.id, block=SEARCH)
            ).values()
        )
    )
    delete(study.database, "other", store=study.arrays)
    assert not any(f.suffix == ".png" for f in study.arrays.files())


def test_many_schedules_stay_small(tiny: Tiny, quick: None) -> None:
    study = finished(tiny, search__evaluations=40, search__promote=0.34)
    shown(study)
    texts = get_plotly_graph_objects(said(study)[NAME])
    assert set(texts) == ALL_FIGURES
    assert all(len(text) < 16_000 for text in texts.values())
    assert MOST_POINTS >= 40
    trials = theirs(study).trials
    assert not any(re.search(r"dashboard:\d+:note", key) for key in said(study)[NAME])
    assert all(len(json.dumps(t.user_attrs)) < 1000 for t in trials)


def test_several_objectives_have_a_front(tiny: Tiny, quick: None, tiny_study: ModuleType) -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((1000, tiny_study.FEATURES)) + made_up.SHIFT
    reference = reference_of(
        features.astype(np.float32),
        extractor=tiny_study._factory(weights=None, sha256=None),
        name="made up",
        keep=1000,
    )
    save_reference(tiny.folder / "reference.npz", reference)
    study = finished(
        tiny,
        search__rungs=[1000],
        search__evaluations=8,
        confirm__images=1000,
        objective__metric=["fd", "maximize recall"],
    )
    shown(study)
    best = leaders(study.database, NAME, MOST_POINTS)
    front = [one for one in best if one.on_front]
    assert 0 < len(front) < len(best) + 1
    drawn = figures(study)[f"{PREFIX}front"]
    points = {
        text: (x, y)
        for one in drawn["data"]
        for text, x, y in zip(one["text"], one["x"], one["y"], strict=True)
    }
    assert set(trace(drawn, "on the Pareto front")["text"]) == {o.measured.label for o in front}
    for one in best:
        other = next(o for o in one.others if o.kind == "objective")
        assert points[one.measured.label] == pytest.approx(
            (one.measured.value, other.value), rel=1e-5
        )
    if len(front) > 1:
        assert f"### Pareto front: {len(front)} schedules" in get_note(theirs(study))


def test_it_is_the_same_on_postgresql(tiny: Tiny, quick: None, postgres_server: Server) -> None:
    with fresh_database(postgres_server) as url, tiny.elsewhere(url) as there:
        study = finished(there, search__evaluations=3)
        shown(study)
        before = said(study)
        assert set(before) == set(board_names(study.row))
        with writes(study.database) as found:
            shown(study)
        assert found == []
        key = optuna_studies(study.database, [NAME])[NAME]
        change_attributes(study.database, key, put={}, remove=list(before[NAME]))
        shown(study)
        again = {key for key in said(study)[NAME] if not key.startswith("study:")}
        assert again == {key for key in before[NAME] if not key.startswith("study:")}


def test_an_older_study_without_a_board_is_refused_with_a_hint(tiny: Tiny) -> None:
    study = tiny.open()
    with study.database.write() as session:
        session.execute(sqlalchemy.text("UPDATE skiptune_studies SET board = '{}'"))
    with pytest.raises(StorageError, match="older version"):
        shown(study)
