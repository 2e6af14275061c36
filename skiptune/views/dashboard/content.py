"""What the Optuna dashboard shows of a study beyond its trials, made from our rows.

A note and some figures for each of Optuna's studies of ours, and the pair of pictures at the best
trial. Optuna's own format is left to Optuna's own functions: they write into a study in memory,
and what differs from the database is stored in one transaction for each study. A mark beside it
says of which rows it was made, so that looking again costs a few counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import optuna
from optuna.trial import TrialState
from optuna_dashboard import save_note, save_plotly_graph_object

from skiptune import __version__
from skiptune.canonical import digest
from skiptune.errors import StorageError
from skiptune.search.explanation import Explanation, explain
from skiptune.search.overview import Leader, leaders
from skiptune.search.projection import SCHEDULE, board_names
from skiptune.search.result import WIN
from skiptune.search.told import attached
from skiptune.search.upkeep import project
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.changes import state_mark
from skiptune.storage.database import Database
from skiptune.storage.optuna_attributes import (
    change_attributes,
    optuna_studies,
    study_attributes,
)
from skiptune.storage.optuna_trials import marks
from skiptune.storage.pictures import PNG
from skiptune.storage.records import Study
from skiptune.views.dashboard.figures import MOST_LINES, MOST_POINTS, PREFIX, figures
from skiptune.views.dashboard.note import note, note_of_rung, note_of_the_confirmed
from skiptune.views.dashboard.pair import PAIR_NAME, keep_pair

__all__ = ["MARK", "refresh"]

MARK: Final = "skiptune:content"
"""System attribute of Optuna's studies: of which rows their note and figures were made."""

_FORM: Final = 3  # counts up where notes or figures of the same rows become others

# Keys of the dashboard, version 0.21: of a study's note, its figures, and artifacts of trials
# that are finished, which Optuna itself cannot add any more.
_VERSION: Final = "dashboard:note_ver"
_TEXT: Final = "dashboard:note_str:"
_FIGURES: Final = f"dashboard:plot_data:{PREFIX}"
_ARTIFACTS: Final = "dashboard:artifacts:"


def refresh(database: Database, store: ArrayStore, study: str) -> None:
    """Bring Optuna's side of one study up to date from our tables.

    Said again, nothing is written; what was deleted is made anew, the same. Trials that are not
    told yet are told, unless a worker is about to.

    Arguments:
        database: Where both live.
        store: Its store, in which the pictures are.
        study: The study's name.

    Raises:
        StorageError: There is no study of this name, or the database cannot be read or written.
    """
    row = ledger.require_study(database, study)
    if not row.board or _is_untold(database, row):
        project(database, study, patient=False)
    made_of = digest([__version__, _FORM, state_mark(database, row)])
    there = optuna_studies(database, board_names(row))
    stored = study_attributes(database, list(there.values()))
    if there and _is_current(stored, there, made_of) and _pairs_are_there(store, stored):
        return
    found = explain(database, study, artifacts=store.location)
    wanted_names = [*board_names(row)[:-1]]
    if any(one.verdict == WIN for one in found.overview.confirms):
        wanted_names.append(board_names(row)[-1])
    if not set(wanted_names) <= there.keys():
        project(database, study, patient=False)
        there = optuna_studies(database, board_names(row))
        stored = study_attributes(database, list(there.values()))
    shown = _Shown.of(database, store, row, found)
    for name, key in there.items():
        wanted = shown.attributes(database, name, key)
        mark = None
        if not shown.missing:
            mark = {"rows": made_of, "studies": sorted(there), "written": digest(wanted)}
        _write(database, key, stored[key], wanted, mark)


@dataclass(frozen=True)
class _Shown:
    """What is shown of a study.

    Arguments:
        row: The study.
        found: Its explanation.
        best: Its best schedules.
        pair: Digest of the pair of pictures, None where there is none.
        missing: Why there is no pair although there should be; it is tried again next time.
    """

    row: Study
    found: Explanation
    best: tuple[Leader, ...]
    pair: str | None
    missing: str = ""

    @classmethod
    def of(cls, database: Database, store: ArrayStore, row: Study, found: Explanation) -> _Shown:
        """Read what the explanation does not hold, and store the pair."""
        several = len(row.board.get("metrics", ())) > 1
        best = leaders(database, row.name, MOST_POINTS if several else MOST_LINES)
        try:
            pair = keep_pair(database, store, row.id, best[0]) if best else None
        except StorageError as error:
            # The page has to come up without the store, too.
            return cls(row, found, best, None, error.problems[0].found)
        return cls(row, found, best, pair)

    def attributes(self, database: Database, name: str, key: int) -> dict[str, Any]:
        """Return what one of Optuna's studies is to say.

        Arguments:
            database: Where it lives.
            name: Its name.
            key: Optuna's identity of it.
        """
        written = _Recorder()
        names = board_names(self.row)
        skips = [str(address) for address in self.row.board.get("skips", ())]
        if name == names[0]:
            text = note(self.found, self.best, addresses=skips, missing=self.missing)
            save_note(written, text)
            for figure_id, figure in figures(self.found, self.best, skips).items():
                save_plotly_graph_object(written, figure, graph_object_id=figure_id)
        elif name == names[-1]:
            save_note(written, note_of_the_confirmed(self.found))
        else:
            images = self.row.spec["search"]["rungs"][names.index(name)]
            save_note(written, note_of_rung(self.found, int(images)))
        wanted = {key: value for key, value in written.said.items() if key != _VERSION}
        if name == names[0] and self.pair is not None:
            trial = _trial_of(database, key, self.best[0])
            if trial is not None:
                (meta,) = attached(self.pair, PAIR_NAME).values()
                wanted[f"{_ARTIFACTS}{trial}:{self.pair}"] = meta
        return wanted


class _Recorder(optuna.Study):
    """A study that is nothing but its attributes: Optuna's functions write them here."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self._storage = cast(Any, self)
        self._study_id = 0

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Take an attribute."""
        self.said[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes."""
        return self.said


def _is_untold(database: Database, row: Study) -> bool:
    """Whether there is what Optuna can be told of: before the baseline is scored there is not."""
    if ledger.baseline_score(database, row.id) is None:
        return False
    return bool(ledger.untold(database, row.id))


def _is_current(
    stored: Mapping[int, Mapping[str, Any]], there: Mapping[str, int], made_of: str
) -> bool:
    """Whether all of Optuna's studies say what these rows let them say."""
    for key in there.values():
        mark = stored[key].get(MARK)
        if mark is None or mark["rows"] != made_of or mark["studies"] != sorted(there):
            return False
        if mark["written"] != digest(_ours(stored[key])):
            return False
    return True


def _pairs_are_there(store: ArrayStore, stored: Mapping[int, Mapping[str, Any]]) -> bool:
    pairs = {
        key.rpartition(":")[2]
        for attributes in stored.values()
        for key in attributes
        if key.startswith(_ARTIFACTS)
    }
    try:
        return all(store.exists(pair, suffix=PNG) for pair in pairs)
    except StorageError:
        return True  # nothing could be mended now


def _ours(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a study's attributes that are made here, without the note's version."""
    return {
        key: value
        for key, value in attributes.items()
        if key.startswith((_TEXT, _FIGURES, _ARTIFACTS))
    }


def _write(
    database: Database,
    key: int,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    mark: Mapping[str, Any] | None,
) -> None:
    """Store what differs; the page takes a note for another one where its version grows."""
    ours = _ours(stored)
    put = {name: value for name, value in wanted.items() if ours.get(name) != value}
    gone = set(ours.keys() - wanted.keys())
    if any(name.startswith(_TEXT) for name in (*put, *gone)) or _VERSION not in stored:
        put[_VERSION] = int(stored.get(_VERSION, 0)) + 1
    if mark is None:
        gone |= {MARK} & stored.keys()
    elif stored.get(MARK) != mark:
        put[MARK] = dict(mark)
    if put or gone:
        change_attributes(database, key, put=put, remove=gone)


def _trial_of(database: Database, key: int, best: Leader) -> int | None:
    """Return Optuna's identity of the trial in which a schedule was told."""
    return next(
        (
            mark.trial_id
            for mark in marks(database, key, attribute=SCHEDULE, after=-1)
            if mark.value == best.schedule.digest and mark.state == TrialState.COMPLETE
        ),
        None,
    )
