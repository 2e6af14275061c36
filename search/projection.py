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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb.models import NOT_FOUND_MSG
from optuna.trial import FrozenTrial, Trial, TrialState

from skiptune.errors import StorageError, UnavailableError
from skiptune.search.bounded import BoundedStudy
from skiptune.search.scoring import told_value
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.optuna_rows import optuna_explained, optuna_storage
from skiptune.storage.records import Evaluation, Score, Study

__all__ = ["DIVERGED", "SCHEDULE", "Board", "board_names", "delete_optuna_studies"]

SCHEDULE = "skiptune:schedule"  # user attribute: digest of the schedule
DIVERGED = "diverged"  # constraint: above zero where images were not finite
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
        self._opened: dict[str, optuna.Study] = {}
        # By Optuna study: schedules whose trial is finished, and how many trials were looked at.
        self._finished: dict[str, set[str]] = {}
        self._seen: dict[str, int] = {}
        self._running: dict[str, int] = {}  # of the lowest: running trials by schedule
        self._unended: set[int] = set()  # of the lowest: what waited or ran at the last look

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

    def enter(self, trial: Trial, schedule: str) -> None:
        """Mark a running trial as the one of a schedule, before its evaluation is entered.

        Arguments:
            trial: What Optuna was asked for.
            schedule: Digest of its schedule.
        """
        with self.explained():
            trial.set_user_attr(SCHEDULE, schedule)
        self._running[schedule] = trial.number

    def fail_orphans(self) -> int:
        """Tell FAIL to every running trial that no evaluation row needs; return how many.

        A worker that died between asking and entering its evaluation leaves one. So does one that
        asked after it had lost its turn; its schedule may even be that of an evaluation, because
        the same question, asked by the next worker, has the same answer.
        """
        orphans = [trial.number for trial in self._running_trials() if not self._is_needed(trial)]
        self._fail(orphans)
        return len(orphans)

    def fail_running(self) -> None:
        """Tell FAIL to every running trial, because nobody will go on with it for now.

        An evaluation that is finished later after all is told as a new trial.
        """
        self._fail([trial.number for trial in self._running_trials()])
        self._running.clear()

    def project(self) -> None:
        """Tell Optuna whatever it has not been told; doing it twice changes nothing."""
        items = ledger.untold(self._database, self._study.id)
        if not items:
            return
        found = ledger.baseline_score(self._database, self._study.id)
        if found is None:
            return  # without it no value is on the common scale
        baseline, full = found
        with self.explained():
            names = _rung_names(self._study)
            for item in items:
                evaluation, score = item.evaluation, item.score
                if evaluation.kind == "baseline":
                    for name in names:
                        self._add(name, baseline, full, full)
                elif score is None or score.level == 0:
                    self._tell(evaluation, score, full)
                else:
                    self._add(names[score.level], evaluation, score, full)
        ledger.mark_told(self._database, items)

    def project_confirmed(self, baseline: Evaluation, winner: Evaluation) -> None:
        """Put a confirmed winner and its baseline into `NAME/confirmed`.

        Arguments:
            baseline: The baseline on the deciding block.
            winner: The winner on the same block.
        """
        database, study = self._database, self._study
        base = ledger.scores(database, study.id, evaluation_id=baseline.id)[0]
        with self.explained():
            name = f"{study.name}/confirmed"
            self._look(name)
            for evaluation in (baseline, winner):
                score = ledger.scores(database, study.id, evaluation_id=evaluation.id)[0]
                self._add(name, evaluation, score, base)

    def rebuild(self) -> None:
        """Delete Optuna's studies of the search and make them again from our rows."""
        delete_optuna_studies(self._database, _rung_names(self._study))
        self._forget()
        ledger.forget_told(self._database, self._study.id)
        self.refresh()
        # The scored ones first: as in an undisturbed study, the baseline comes before all.
        self.project()
        with self.explained():
            for evaluation in self._unfinished():
                trial = optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=dict(evaluation.params),
                    distributions=self.distributions,
                    user_attrs={SCHEDULE: evaluation.schedule},
                )
                self.lowest.add_trial(trial)
            self._look(self._study.name)

    def _forget(self) -> None:
        self._opened.clear()
        self._finished.clear()
        self._seen.clear()
        self._running.clear()
        self._unended.clear()

    def _unfinished(self) -> list[Evaluation]:
        """The proposals that have been entered and that Optuna holds no finished trial of."""
        finished = self._finished[self._study.name]
        return [
            evaluation
            for evaluation in ledger.evaluations(
                self._database, self._study.id, kind="proposal", block=SEARCH_BLOCK
            )
            if evaluation.schedule not in finished
        ]

    def _running_trials(self) -> list[FrozenTrial]:
        with self.explained():
            return self.lowest.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _is_needed(self, trial: FrozenTrial) -> bool:
        """Whether a running trial is the one in which an evaluation will be told."""
        schedule = trial.user_attrs.get(SCHEDULE)
        if schedule is None or self._running.get(schedule) != trial.number:
            return False
        found = ledger.find_evaluation(
            self._database, self._study.id, block=SEARCH_BLOCK, schedule=schedule
        )
        return found is not None and schedule not in self._finished[self._study.name]

    def _fail(self, numbers: list[int]) -> None:
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
            for kept in (self._opened, self._finished, self._seen):
                kept.pop(name, None)
            self._running.clear()
            self._unended.clear()
        return found is not None

    def _open(self, name: str) -> optuna.Study:
        if name not in self._opened:
            made = optuna.create_study(
                study_name=name, storage=self._storage, direction="minimize", load_if_exists=True
            )
            metric = [self._study.board["metric"]]
            if made.metric_names != metric:
                with warnings.catch_warnings():
                    # Experimental since 3.2; the dashboard reads it all the same.
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    made.set_metric_names(metric)
            self._opened[name] = BoundedStudy(name, self._storage)
            self._finished[name], self._seen[name] = set(), 0
            self._look(name)
        return self._opened[name]

    def _look(self, name: str) -> None:
        """Note the trials that came or ended since the last look."""
        opened = self._open(name)
        trials = opened.get_trials(deepcopy=False)
        fresh = trials[self._seen[name] :]
        lowest = name == self._study.name
        if lowest:
            # What waited at the last look may run by now, and what ran may have ended.
            fresh = [*(trials[number] for number in sorted(self._unended)), *fresh]
            self._running.clear()
            self._unended = {trial.number for trial in fresh if not trial.state.is_finished()}
        for trial in fresh:
            schedule = trial.user_attrs.get(SCHEDULE)
            if schedule is None:
                continue
            if trial.state == TrialState.RUNNING and lowest:
                self._running[schedule] = trial.number
            elif trial.state.is_finished() and trial.state != TrialState.FAIL:
                self._finished[name].add(schedule)
        self._seen[name] = len(trials)

    def _tell(self, evaluation: Evaluation, score: Score | None, full: Score) -> None:
        opened = self.lowest
        if evaluation.schedule in self._finished[opened.study_name]:
            return
        number = self._running.pop(evaluation.schedule, None)
        if number is None:
            opened.add_trial(self._trial(evaluation, score, full))
        else:
            trial = Trial(
                opened,
                self._storage.get_trial_id_from_study_id_trial_number(opened._study_id, number),
            )
            for key, item in _attributes(evaluation, score).items():
                trial.set_user_attr(key, item)
            if score is not None:
                opened.tell(number, told_value(score, full), skip_if_finished=True)
            else:
                if evaluation.state == "diverged" and DIVERGED not in trial.constraints:
                    trial.set_constraint(DIVERGED, 1.0)
                opened.tell(number, state=ENDS[evaluation.state], skip_if_finished=True)
        self._finished[opened.study_name].add(evaluation.schedule)

    def _add(self, name: str, evaluation: Evaluation, score: Score, full: Score) -> None:
        opened = self._open(name)
        if evaluation.schedule not in self._finished[name]:
            opened.add_trial(self._trial(evaluation, score, full))
            self._finished[name].add(evaluation.schedule)

    def _trial(self, evaluation: Evaluation, score: Score | None, full: Score) -> FrozenTrial:
        params = evaluation.params or self._study.board["baseline"]
        distributions = self.distributions
        if not _inside(params, distributions):
            # A space may leave the baseline out; then its trial carries the value alone.
            params, distributions = {}, {}
        return optuna.trial.create_trial(
            state=ENDS[evaluation.state] if score is None else TrialState.COMPLETE,
            value=None if score is None else told_value(score, full),
            params=dict(params),
            distributions=distributions,
            user_attrs={SCHEDULE: evaluation.schedule, **_attributes(evaluation, score)},
            constraints={DIVERGED: 1.0} if evaluation.state == "diverged" else None,
        )


def _rung_names(study: Study) -> tuple[str, ...]:
    rungs = study.spec["search"]["rungs"]
    return (study.name, *(f"{study.name}/{images}" for images in rungs[1:]))


def _inside(params: Mapping[str, float], distributions: Mapping[str, BaseDistribution]) -> bool:
    return all(
        key in params and item._contains(item.to_internal_repr(params[key]))
        for key, item in distributions.items()
    )


def _attributes(evaluation: Evaluation, score: Score | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {"kind": evaluation.kind}
    if evaluation.reason:
        attributes["reason"] = evaluation.reason
    if score is not None:
        attributes |= {
            "images": score.images,
            "raw": score.raw,
            "corrected": score.value,
            "standard error": score.standard_error,
        }
    if score is not None and score.difference is not None:
        attributes |= {
            "difference to baseline": score.difference,
            "its standard error": score.difference_error,
        }
    return attributes
