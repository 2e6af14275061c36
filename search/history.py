"""What a sampler is told of a study, made from our rows, and the question to it in memory.

Optuna's own way reads every trial that any worker has told since, a row for each parameter and
attribute, and writes a proposal parameter by parameter, a transaction each; a worker that has just
begun reads the whole study. Here a row is an evaluation, and nothing is written.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from skiptune.objectives.catalogue import Better
from skiptune.search.bounded import LONGEST, bounded, lasting
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.outcomes import Outcome, outcomes

__all__ = ["DIVERGED", "STATELESS", "History", "directions", "inside", "told_values"]

DIVERGED = "diverged"  # constraint: above zero where images were not finite

STATELESS = frozenset({"tpe", "random", "gp", "moments", "descent"})
"""Samplers that keep nothing in Optuna's study between two proposals; the others are asked there
(nsgaii notes generations on trials, qmc its place in the sequence)."""


class History:
    """The baseline and the proposals of a search as trials, in the order of their numbers.

    A proposal whose lowest rung is scored is COMPLETE, with the value that Optuna is told; one
    that diverged is PRUNED and infeasible; one that has not ended is RUNNING; a failed one is not
    there.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        distributions: What is searched, by parameter name.
        baseline: The parameters of the untouched network.
        better: Which way each objective is better.
        constrained: The study has constraints.
    """

    def __init__(
        self,
        database: Database,
        study_id: str,
        *,
        distributions: Mapping[str, BaseDistribution],
        baseline: Mapping[str, float],
        better: Sequence[Better] = ("lower",),
        constrained: bool = False,
    ) -> None:
        self._database = database
        self._study_id = study_id
        # One mapping for all trials: none of them is changed.
        self._distributions = dict(distributions)
        self._baseline = dict(baseline)
        self._better = tuple(better)
        self._every_place = constrained or len(self._better) > 1
        self._full: tuple[float, ...] | None = None  # the baseline's values
        self._ended: dict[int, FrozenTrial] = {}
        self._running: dict[int, FrozenTrial] = {}
        self._unended: set[str] = set()  # identities of evaluations
        self._last = -1
        self._schedules: set[str] = set()

    def refresh(self) -> None:
        """Read what has been entered or has ended since the last time."""
        if self._full is None:
            found = ledger.baseline_scores(self._database, self._study_id)
            if found is not None:
                self._full = tuple(score.value for score in found[1][: len(self._better)])
        fresh = outcomes(
            self._database,
            self._study_id,
            after=self._last,
            again=sorted(self._unended),
            every_place=self._every_place,
        )
        self._running.clear()
        self._unended.clear()
        for outcome in fresh:
            self._schedules.add(outcome.schedule)
            self._last = max(self._last, outcome.number)
            trial = self._trial(outcome)
            # One that has failed may be tried again.
            over = outcome.scored or outcome.state == "diverged"
            if self._full is None or not over:
                self._unended.add(outcome.evaluation_id)
            if trial is not None:
                ended = trial.state.is_finished()
                (self._ended if ended else self._running)[outcome.number] = trial
        if len(self._ended) > 3 * LONGEST:
            ended_ones = [self._ended[number] for number in sorted(self._ended)]
            best_high = self._better[0] == "higher"
            kept = lasting(ended_ones, highest=best_high)
            self._ended = {trial.number - 1: trial for trial in kept}

    def __contains__(self, schedule: object) -> bool:
        """Whether an evaluation of this schedule, by digest, was there at the last `refresh`."""
        return schedule in self._schedules

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials, by number."""
        numbered = {**self._ended, **self._running}
        return [numbered[number] for number in sorted(numbered)]

    def ask(self, sampler: BaseSampler) -> dict[str, Any]:
        """Return what a sampler proposes next; nothing is entered anywhere.

        Arguments:
            sampler: A `STATELESS` one.
        """
        shown = bounded(self.trials, highest=self._better[0] == "higher")
        study = _MemoryStudy(shown, sampler, directions(self._better))
        return study.ask(fixed_distributions=self._distributions).params

    def _trial(self, outcome: Outcome) -> FrozenTrial | None:
        params = self._baseline if outcome.kind == "baseline" else outcome.params
        if not inside(params, self._distributions):
            return None  # a space may leave the baseline out
        values = None
        if self._full is not None and outcome.scored:
            state = TrialState.COMPLETE
            # The baseline has no differences.
            changes = (outcome.difference, *outcome.further, *(None for _ in self._full))
            values = told_values(changes, self._full, self._better)
        elif outcome.kind == "baseline" or (outcome.state == "failed" and not outcome.scored):
            return None
        elif self._full is not None and outcome.state == "diverged":
            state = TrialState.PRUNED
        else:
            state = TrialState.RUNNING
        trial = FrozenTrial(
            # Behind the number 0, which the trial has that is being asked for.
            number=outcome.number + 1,
            trial_id=outcome.number + 1,
            state=state,
            value=None,
            values=values,
            params=params,
            distributions=self._distributions,
            datetime_start=None,
            datetime_complete=None,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        if state == TrialState.PRUNED:
            trial.set_constraint(DIVERGED, 1.0)
        for name, gap in outcome.gaps.items():
            trial.set_constraint(name, gap)
        return trial


class _MemoryStudy(optuna.Study):
    """A study in memory that shows samplers given trials.

    Arguments:
        trials: In their order, all of one search space.
        sampler: Who is asked.
        ways: Direction of each objective.
    """

    def __init__(
        self, trials: list[FrozenTrial], sampler: BaseSampler, ways: Sequence[StudyDirection]
    ) -> None:
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study(ways, study_name="asked")
        super().__init__("asked", storage, sampler=sampler)
        self._given = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if states is None:
            # A sampler that asks for trials of all states looks for the parameters that they have
            # in common. They have all of them: the last ones that have ended tell it (some ask
            # only the COMPLETE), and to compare a thousand takes as long as the proposal itself.
            ends = {trial.state: trial for trial in self._given if trial.state.is_finished()}
            given = list(ends.values())
        else:
            given = [trial for trial in self._given if trial.state in states]
        return copy.deepcopy(given) if deepcopy else given


def told_values(
    changes: Sequence[float | None], full: Sequence[float], better: Sequence[Better]
) -> list[float]:
    """Return what Optuna is told: the baseline's values at full size with the differences.

    Arguments:
        changes: Differences at any rung, negative is better; None of the baseline. Longer ones
            are cut.
        full: Values of the search's baseline at full size, one per objective.
        better: Which way each is better.
    """
    signs = (1.0 if way == "lower" else -1.0 for way in better)
    return [
        value + sign * (change or 0.0)
        for value, sign, change in zip(full, signs, changes, strict=False)
    ]


def directions(better: Sequence[Better]) -> list[StudyDirection]:
    """Return Optuna's direction of each objective."""
    ways = {"lower": StudyDirection.MINIMIZE, "higher": StudyDirection.MAXIMIZE}
    return [ways[way] for way in better]


def inside(params: Mapping[str, float], distributions: Mapping[str, BaseDistribution]) -> bool:
    """Return whether there is a value for each parameter, within its range."""
    return all(
        key in params and item._contains(item.to_internal_repr(params[key]))
        for key, item in distributions.items()
    )
