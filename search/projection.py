"""Optuna's view of a study: told from our rows, at least once, and rebuildable from them.

One Optuna study per rung: `NAME` is the lowest and the one that is asked, `NAME/<images>` hold
the higher rungs, `NAME/confirmed` what was decided on fresh seeds. The higher ones receive
finished trials only, so nothing ever waits in state RUNNING there.

A trial and an evaluation belong together by the schedule's digest, which both carry; a trial's
number or id would not survive a rename in the dashboard. Who asks or tells holds the study's turn,
so nobody else does it at the same time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.storages._rdb.models import NOT_FOUND_MSG
from optuna.trial import FrozenTrial, Trial, TrialState

from skiptune.errors import StorageError, UnavailableError
from skiptune.objectives.catalogue import Better
from skiptune.search.bounded import BoundedStudy
from skiptune.search.history import DIVERGED, History, directions, inside, told_values
from skiptune.search.told import Scores, attached, attributes_of, constraints_of
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.optuna_rows import optuna_explained, optuna_storage
from skiptune.storage.optuna_trials import Mark, marks
from skiptune.storage.records import Evaluation, Score, Study

__all__ = ["DIVERGED", "SCHEDULE", "Asked", "Board", "board_names", "delete_optuna_studies"]

SCHEDULE = "skiptune:schedule"  # user attribute: digest of the schedule
_KIND = {"kind": "proposal"}  # what a running trial says beside its schedule
ENDS = {"diverged": TrialState.PRUNED, "failed": TrialState.FAIL}


def board_names(study: Study) -> tuple[str, ...]:
    """Return the names of a study's Optuna studies: by rung, lowest first, then the confirmed."""
    return (*_rung_names(study), f"{study.name}/confirmed")


def delete_optuna_studies(database: Database, names: Iterable[str]) -> None:
    """Delete those of Optuna's studies that are there.

    Arguments:
        database: Where they live.
        names: Their names, e.g. `board_names`.
    """
    storage = optuna_storage(database)
    with optuna_explained(database.url):
        there = {study.study_name for study in storage.get_all_studies()}
        for name in names:
            if name in there:
                optuna.delete_study(study_name=name, storage=storage)


@dataclass(frozen=True)
class Asked:
    """What Optuna has proposed.

    Arguments:
        params: Values by parameter name.
        trial: The running trial that it stands in already, None where there is none yet.
    """

    params: dict[str, Any]
    trial: Trial | None = None


@dataclass
class _Seen:
    """What is known of one of Optuna's studies.

    Arguments:
        finished: Schedules whose trial is finished and was not told FAIL.
        last: The largest identity of a trial.
        unended: Identities of those that waited or ran.
    """

    finished: set[str] = field(default_factory=set)
    last: int = -1
    unended: set[int] = field(default_factory=set)


class Board:
    """The Optuna studies of one skiptune study.

    Arguments:
        database: Where both live.
        study: Our row of it.

    Raises:
        StorageError: The row says nothing of what Optuna is asked for, because a version before
            0002 wrote it and nobody has worked on the study since; or Optuna's tables are missing.
    """

    def __init__(self, database: Database, study: Study) -> None:
        if not study.board:
            raise StorageError(
                f"study {study.name}",
                expected="a study that says what Optuna is asked for",
                found="one that an older version wrote",
                hint="open it once with `skiptune tune FILE`, which adds it",
            )
        self._database = database
        self._study = study
        self._storage = optuna_storage(database)
        self._distributions = {
            key: json_to_distribution(text) for key, text in study.board["distributions"].items()
        }
        # Boards of earlier versions have one metric, a distance.
        metrics = study.board.get("metrics") or [{"name": study.board["metric"]}]
        self._metrics = [metric["name"] for metric in metrics]
        self._better: list[Better] = [metric.get("better", "lower") for metric in metrics]
        self._places = study.board.get("places", 1)
        self._history = History(
            database,
            study.id,
            distributions=self._distributions,
            baseline=study.board["baseline"],
            better=self._better,
            constrained=bool(study.board.get("constraints")),
        )
        self._opened: dict[str, optuna.Study] = {}
        self._seen: dict[str, _Seen] = {}  # by Optuna study
        self._nfe: dict[str, float] = {}  # by evaluation, as `_note_facts` found it
        self._pictures: dict[str, str] = {}
        self._screened = study.meaning.get("objective.projection") is not None
        self._running: dict[str, int] = {}  # of the lowest: identities of trials by schedule
        self._fresh: tuple[Mark, ...] | None = None  # of the lowest: the last look, if it holds

    @property
    def lowest(self) -> optuna.Study:
        """The Optuna study that is asked."""
        return self._open(self._study.name)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What is searched, by parameter name."""
        return self._distributions

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what Optuna's storage raises in the block into a StorageError."""
        try:
            with optuna_explained(self._database.url):
                yield
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise UnavailableError(
                f"Optuna's study {self._study.name}",
                expected="the trial that ran a moment ago",
                found="one that somebody has ended meanwhile",
                hint="nothing to do: what was begun is dropped, and Optuna is looked at again",
            ) from error
        except KeyError as error:
            # Optuna's word for a study that was deleted while we spoke of it.
            if error.args != (NOT_FOUND_MSG,):
                raise
            raise UnavailableError(
                f"Optuna's study {self._study.name}",
                expected="the study or trial that was there a moment ago",
                found="none: it was deleted meanwhile",
                hint="nothing to do: it is made anew from skiptune's rows",
            ) from error

    def refresh(self) -> None:
        """Look again at what Optuna holds, because somebody else may have asked or told.

        Studies that were deleted or renamed in the dashboard are made anew from our rows.
        """
        with self.explained():
            gone = False
            for name in _rung_names(self._study):
                gone |= not self._is_there(name)
            if gone:
                ledger.forget_told(self._database, self._study.id)
            for name in _rung_names(self._study):
                self._look(name)

    def ask(self, sampler: BaseSampler, *, stateless: bool) -> Asked:
        """Ask for a proposal; a point that somebody has enqueued comes before the sampler's own.

        Arguments:
            sampler: Who is asked.
            stateless: It needs nothing of Optuna's study but finished and running trials. Then
                it is asked in memory, and no trial is made before `enter`.
        """
        with self.explained():
            lowest = self.lowest
            if stateless and not self._is_waiting():
                self._history.refresh()
                return Asked(self._history.ask(sampler))
            lowest.sampler = sampler
            self._fresh = None
            trial = lowest.ask(fixed_distributions=self._distributions)
            return Asked(trial.params, trial)

    def enter(self, asked: Asked, schedule: str) -> None:
        """Let a running trial be the one of a schedule, before its evaluation is entered.

        Arguments:
            asked: From `ask`.
            schedule: Digest of its schedule.
        """
        attributes = {SCHEDULE: schedule, **_KIND}
        self._fresh = None
        with self.explained():
            if asked.trial is not None:
                for key, value in attributes.items():
                    asked.trial.set_user_attr(key, value)
                self._running[schedule] = asked.trial._trial_id
                return
            trial = self._running_trial(asked.params, schedule)
            self._running[schedule] = self._storage.create_new_trial(
                self.lowest._study_id, template_trial=trial
            )

    def drop(self, asked: Asked) -> None:
        """Tell FAIL to what is not entered."""
        if asked.trial is not None:
            with self.explained():
                self.lowest.tell(asked.trial, state=TrialState.FAIL, skip_if_finished=True)

    def fail_orphans(self) -> int:
        """Tell FAIL to every running trial that no evaluation row needs; return how many.

        A worker that died between asking and entering its evaluation leaves one. So does one that
        asked after it had lost its turn; its schedule may even be that of an evaluation, because
        the same question, asked by the next worker, has the same answer.
        """
        self._history.refresh()
        orphans = [mark.number for mark in self._running_marks() if not self._is_needed(mark)]
        self._fail(orphans)
        return len(orphans)

    def fail_running(self) -> None:
        """Tell FAIL to every running trial, because nobody will go on with it for now.

        An evaluation that is finished later after all is told as a new trial.
        """
        self._fail([mark.number for mark in self._running_marks()])
        self._running.clear()

    def project(self, *, keep: Callable[[], object] = lambda: None) -> None:
        """Tell Optuna whatever it has not been told; doing it twice changes nothing.

        Arguments:
            keep: Called before each step: keeps the turn, or raises where another worker has it,
                who would tell the same.
        """
        items = ledger.untold(self._database, self._study.id)
        if not items:
            return
        found = ledger.baseline_scores(self._database, self._study.id)
        if found is None:
            return  # without it no value is on the common scale
        baseline, full = found[0], Scores(found[1])
        self._note_facts([baseline, *(item.evaluation for item in items)])
        with self.explained():
            names = _rung_names(self._study)
            for item in items:
                keep()
                evaluation = item.evaluation
                scores = None if item.score is None else self._scores(evaluation, item.score)
                if evaluation.kind == "baseline":
                    for name in names:
                        self._add(name, baseline, full, full)
                elif item.score is None or item.score.level == 0:
                    self._tell(evaluation, scores, full)
                else:
                    self._add(names[item.score.level], evaluation, scores, full)
        ledger.mark_told(self._database, items)

    def project_confirmed(self, baseline: Evaluation, winner: Evaluation) -> None:
        """Put a confirmed winner and its baseline into `NAME/confirmed`.

        Arguments:
            baseline: The baseline on the deciding block.
            winner: The winner on the same block.
        """
        database, study = self._database, self._study
        found = {}
        for evaluation in (baseline, winner):
            first = ledger.scores(database, study.id, evaluation_id=evaluation.id)[0]
            found[evaluation.id] = self._scores(evaluation, first)
        self._note_facts([baseline, winner])
        with self.explained():
            name = f"{study.name}/confirmed"
            self._look(name)
            for evaluation in (baseline, winner):
                self._add(name, evaluation, found[evaluation.id], found[baseline.id])

    def _scores(self, evaluation: Evaluation, first: Score) -> Scores:
        """Return what there is at all places of a rung, where there is more than one."""
        if self._places == 1:
            return Scores((first,))
        return Scores(
            ledger.scores(
                self._database,
                self._study.id,
                evaluation_id=evaluation.id,
                level=first.level,
                every_place=True,
            )
        )

    def rebuild(self, *, keep: Callable[[], object] = lambda: None) -> None:
        """Delete Optuna's studies of the search and make them again from our rows.

        Arguments:
            keep: As for `project`.
        """
        delete_optuna_studies(self._database, _rung_names(self._study))
        self._forget()
        ledger.forget_told(self._database, self._study.id)
        self.refresh()
        # The scored ones first: as in an undisturbed study, the baseline comes before all.
        self.project(keep=keep)
        with self.explained():
            for evaluation in self._unfinished():
                trial = self._running_trial(evaluation.params, evaluation.schedule)
                self.lowest.add_trial(trial)
            self._look(self._study.name)

    def _note_facts(self, evaluations: Sequence[Evaluation]) -> None:
        """Look up what is told beside the scores: network evaluations, and the pictures."""
        keys = [evaluation.id for evaluation in evaluations]
        self._nfe = ledger.network_images(self._database, keys)
        self._pictures = ledger.grids(self._database, evaluations)

    def _forget(self) -> None:
        self._opened.clear()
        self._seen.clear()
        self._running.clear()

    def _unfinished(self) -> list[Evaluation]:
        """The proposals that have been entered and that Optuna holds no finished trial of."""
        finished = self._seen[self._study.name].finished
        return [
            evaluation
            for evaluation in ledger.evaluations(
                self._database, self._study.id, kind="proposal", block=SEARCH_BLOCK
            )
            if evaluation.schedule not in finished
        ]

    def _running_trial(self, params: Mapping[str, Any], schedule: str) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=self._distributions,
            user_attrs={SCHEDULE: schedule, **_KIND},
        )

    def _marks(self) -> tuple[Mark, ...]:
        """The trials of the lowest that came or ended before this turn's last look."""
        with self.explained():
            return self._fresh or self._look(self._study.name)

    def _running_marks(self) -> list[Mark]:
        return [mark for mark in self._marks() if mark.state == TrialState.RUNNING]

    def _is_waiting(self) -> bool:
        return any(mark.state == TrialState.WAITING for mark in self._marks())

    def _is_needed(self, mark: Mark) -> bool:
        """Whether a running trial is the one in which an evaluation will be told."""
        schedule = mark.value
        if schedule is None or self._running.get(schedule) != mark.trial_id:
            return False
        return schedule in self._history and schedule not in self._seen[self._study.name].finished

    def _fail(self, numbers: list[int]) -> None:
        if numbers:
            self._fresh = None
        with self.explained():
            for number in numbers:
                self.lowest.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _id(self, name: str) -> int | None:
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            return None

    def _is_there(self, name: str) -> bool:
        """Whether Optuna still has the study that we know, and forget it otherwise."""
        found = self._id(name)
        known = self._opened.get(name)
        if known is not None and known._study_id != found:
            self._opened.pop(name, None)
            self._running.clear()
        return found is not None

    def _open(self, name: str) -> optuna.Study:
        if name not in self._opened:
            made = optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=directions(self._better),
                load_if_exists=True,
            )
            if made.metric_names != self._metrics:
                with warnings.catch_warnings():
                    # Experimental since 3.2; the dashboard reads it all the same.
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    made.set_metric_names(self._metrics)
            self._seen[name] = _Seen()
            self._opened[name] = BoundedStudy(name, self._storage)
            self._look(name)
        return self._opened[name]

    def _look(self, name: str) -> tuple[Mark, ...]:
        """Note the trials that came or ended since the last look, and return them."""
        opened, seen = self._open(name), self._seen[name]
        # What waited at the last look may run by now, and what ran may have ended.
        fresh = marks(
            self._database,
            opened._study_id,
            attribute=SCHEDULE,
            after=seen.last,
            again=sorted(seen.unended),
        )
        seen.unended = {mark.trial_id for mark in fresh if not mark.state.is_finished()}
        lowest = name == self._study.name
        if lowest:
            self._running.clear()
            self._fresh = fresh
        for mark in fresh:
            seen.last = max(seen.last, mark.trial_id)
            if mark.value is None:
                continue
            if mark.state == TrialState.RUNNING and lowest:
                self._running[mark.value] = mark.trial_id
            elif mark.state.is_finished() and mark.state != TrialState.FAIL:
                seen.finished.add(mark.value)
        return fresh

    def _tell(self, evaluation: Evaluation, scores: Scores | None, full: Scores) -> None:
        opened, seen = self.lowest, self._seen[self._study.name]
        if evaluation.schedule in seen.finished:
            return
        running = self._running.pop(evaluation.schedule, None)
        if running is None:
            opened.add_trial(self._trial(evaluation, scores, full))
        else:
            # Not through `optuna.Trial`, which reads the whole trial at each step.
            storage, trial = self._storage, self._trial(evaluation, scores, full)
            for key, item in trial.user_attrs.items():
                if key not in (SCHEDULE, *_KIND):
                    storage.set_trial_user_attr(running, key, item)
            for key, item in trial.system_attrs.items():  # constraints and the picture
                storage.set_trial_system_attr(running, key, item)
            storage.set_trial_state_values(running, trial.state, trial.values)
        seen.finished.add(evaluation.schedule)

    def _told(self, scores: Scores, full: Scores) -> list[float]:
        return told_values(scores.differences, full.values, self._better)

    def _add(self, name: str, evaluation: Evaluation, scores: Scores | None, full: Scores) -> None:
        opened, seen = self._open(name), self._seen[name]
        if evaluation.schedule not in seen.finished:
            opened.add_trial(self._trial(evaluation, scores, full))
            seen.finished.add(evaluation.schedule)

    def _trial(self, evaluation: Evaluation, scores: Scores | None, full: Scores) -> FrozenTrial:
        params = evaluation.params or self._study.board["baseline"]
        distributions = self.distributions
        if not inside(params, distributions):
            # A space may leave the baseline out; then its trial carries the value alone.
            params, distributions = {}, {}
        nfe = self._nfe.get(evaluation.id)
        told = attributes_of(evaluation, scores, full, nfe=nfe, screened=self._screened)
        return optuna.trial.create_trial(
            state=ENDS[evaluation.state] if scores is None else TrialState.COMPLETE,
            values=None if scores is None else self._told(scores, full),
            params=dict(params),
            distributions=distributions,
            user_attrs={SCHEDULE: evaluation.schedule, **told},
            system_attrs=attached(self._pictures.get(evaluation.id)),
            constraints=constraints_of(evaluation, scores) or None,
        )


def _rung_names(study: Study) -> tuple[str, ...]:
    rungs = study.spec["search"]["rungs"]
    return (study.name, *(f"{study.name}/{images}" for images in rungs[1:]))
