"""Optuna's view of a study: told from our rows, at least once, and rebuildable from them.

One Optuna study per rung: `NAME` is the lowest and the one that is asked, `NAME/<images>` hold
the higher rungs, `NAME/confirmed` what was decided on fresh seeds. The higher ones receive
finished trials only, so nothing ever waits in state RUNNING there.

A trial and an evaluation belong together by the schedule's digest, which both carry; a trial's
number or id would not survive a rename in the dashboard.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from skiptune.search.scoring import told_value
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.records import Evaluation, Score

__all__ = ["DIVERGED", "SCHEDULE", "Board"]

SCHEDULE = "skiptune:schedule"  # user attribute: digest of the schedule
DIVERGED = "diverged"  # constraint: above zero where images were not finite
ENDS = {"diverged": TrialState.PRUNED, "failed": TrialState.FAIL}


class Board:
    """The Optuna studies of one skiptune study.

    Arguments:
        study: The open study.
    """

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self._storage = optuna_storage(study.url)
        self._opened: dict[str, optuna.Study] = {}
        # By Optuna study: schedules whose trial is finished, and running trials by schedule.
        self._finished: dict[str, set[str]] = {}
        self._running: dict[str, int] = {}

    @property
    def lowest(self) -> optuna.Study:
        """The Optuna study that is asked."""
        return self._open(self._study.spec.study)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What is searched, by parameter name."""
        return self._study.space.distributions()

    def enter(self, trial: Trial, schedule: str) -> None:
        """Mark a running trial as the one of a schedule, before its evaluation is entered.

        Arguments:
            trial: What Optuna was asked for.
            schedule: Digest of its schedule.
        """
        trial.set_user_attr(SCHEDULE, schedule)
        self._running[schedule] = trial.number

    def fail_orphans(self) -> int:
        """Tell FAIL to every running trial that no evaluation row knows; return how many.

        A worker that died between asking and entering its evaluation leaves one.
        """
        known = {evaluation.schedule for evaluation in self._proposals()}
        orphans = [
            trial.number
            for trial in self.lowest.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.user_attrs.get(SCHEDULE) not in known
        ]
        for number in orphans:
            self.lowest.tell(number, state=TrialState.FAIL)
        return len(orphans)

    def project(self) -> None:
        """Tell Optuna whatever it has not been told; doing it twice changes nothing."""
        study = self._study
        scores = {(s.evaluation_id, s.level): s for s in ledger.scores(study.database, study.id)}
        baselines = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
        full = scores.get((baselines[0].id, 0)) if baselines else None
        if full is None:
            return
        evaluations = self._proposals()
        for level, name in enumerate(self._rung_names()):
            self._add(name, baselines[0], full, full)
            for evaluation in evaluations:
                score = scores.get((evaluation.id, level))
                if level == 0:
                    self._tell(evaluation, score, full)
                elif score is not None:
                    self._add(name, evaluation, score, full)

    def project_confirmed(self, baseline: Evaluation, winner: Evaluation) -> None:
        """Put a confirmed winner and its baseline into `NAME/confirmed`.

        Arguments:
            baseline: The baseline on the deciding block.
            winner: The winner on the same block.
        """
        study = self._study
        scores = {s.evaluation_id: s for s in ledger.scores(study.database, study.id)}
        name = f"{study.spec.study}/confirmed"
        for evaluation in (baseline, winner):
            self._add(name, evaluation, scores[evaluation.id], scores[baseline.id])

    def rebuild(self) -> None:
        """Delete Optuna's studies of the search and make them again from our rows."""
        for name in self._rung_names():
            self._open(name)
            optuna.delete_study(study_name=name, storage=self._storage)
        self._opened.clear()
        self._finished.clear()
        self._running.clear()
        # The scored ones first: as in an undisturbed study, the baseline comes before all.
        self.project()
        for evaluation in self._proposals():
            if evaluation.schedule not in self._finished[self.lowest.study_name]:
                trial = optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=dict(evaluation.params),
                    distributions=self.distributions,
                    user_attrs={SCHEDULE: evaluation.schedule},
                )
                self.lowest.add_trial(trial)
        self._opened.clear()

    def _proposals(self) -> tuple[Evaluation, ...]:
        study = self._study
        return ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)

    def _rung_names(self) -> list[str]:
        name = self._study.spec.study
        return [name, *(f"{name}/{images}" for images in self._study.rungs[1:])]

    def _open(self, name: str) -> optuna.Study:
        if name not in self._opened:
            opened = optuna.create_study(
                study_name=name, storage=self._storage, direction="minimize", load_if_exists=True
            )
            metric = [f"FD({self._study.extractor.name})"]
            if opened.metric_names != metric:
                with warnings.catch_warnings():
                    # Experimental since 3.2; the dashboard reads it all the same.
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    opened.set_metric_names(metric)
            self._opened[name] = opened
            trials = [t for t in opened.get_trials(deepcopy=False) if SCHEDULE in t.user_attrs]
            self._finished[name] = {
                t.user_attrs[SCHEDULE]
                for t in trials
                if t.state.is_finished() and t.state != TrialState.FAIL
            }
            self._running |= {
                t.user_attrs[SCHEDULE]: t.number for t in trials if t.state == TrialState.RUNNING
            }
        return self._opened[name]

    def _tell(self, evaluation: Evaluation, score: Score | None, full: Score) -> None:
        opened = self.lowest
        if evaluation.schedule in self._finished[opened.study_name]:
            return
        if score is None and evaluation.state not in ENDS:
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
        params = evaluation.params or self._study.space.baseline_params()
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
