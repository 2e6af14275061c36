"""The part of a long history that a sampler looks at, so that a proposal costs the same for ever.

TPE compares at most 25 good trials with all others (`optuna.samplers.TPESampler`, default gamma:
min(ceil(0.1 n), 25)), and its cost grows with the others: two in ten thousand differ little from
one in a thousand. So of a history longer than `LONGEST` it is shown the best and the latest.
"""

from __future__ import annotations

import heapq
from collections.abc import Container

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["BEST", "LONGEST", "BoundedStudy", "bounded", "lasting"]

LONGEST = 1000
"""Finished trials that a sampler is shown at most; running ones are always shown."""

BEST = 250
"""How many of them are the best ones; the rest are the latest."""


def bounded(trials: list[FrozenTrial], *, highest: bool = False) -> list[FrozenTrial]:
    """Return the best and the latest of many finished trials, and all others, in their order.

    Arguments:
        trials: By number.
        highest: The first objective is better when higher.
    """
    finished = [trial for trial in trials if trial.state.is_finished()]
    if len(finished) <= LONGEST:
        return trials
    kept = _best(finished, highest=highest)
    for trial in reversed(finished):
        if len(kept) >= LONGEST:
            break
        kept.add(trial.number)
    return [trial for trial in trials if not trial.state.is_finished() or trial.number in kept]


def lasting(finished: list[FrozenTrial], *, highest: bool = False) -> list[FrozenTrial]:
    """Return those of many finished trials that `bounded` may ever show, whatever comes later.

    Arguments:
        finished: By number.
        highest: The first objective is better when higher.
    """
    kept = _best(finished, highest=highest)
    kept |= {trial.number for trial in finished[-LONGEST:]}
    return [trial for trial in finished if trial.number in kept]


def _best(finished: list[FrozenTrial], *, highest: bool) -> set[int]:
    sign = -1 if highest else 1
    complete = [t for t in finished if t.state == TrialState.COMPLETE and t.values is not None]
    best = heapq.nsmallest(
        BEST, complete, key=lambda trial: (sign * trial.values[0], trial.number)
    )
    return {trial.number for trial in best}


class BoundedStudy(optuna.Study):
    """An Optuna study whose samplers see at most `LONGEST` finished trials.

    `get_trials` and `trials` still return all of them.
    """

    _asking = False

    def ask(
        self, fixed_distributions: dict[str, optuna.distributions.BaseDistribution] | None = None
    ) -> optuna.Trial:
        """Create a trial; what a sampler reads meanwhile is bounded."""
        self._asking = True
        try:
            return super().ask(fixed_distributions)
        finally:
            self._asking = False

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
        highest = self._asking and self.directions[0] == StudyDirection.MAXIMIZE
        return bounded(trials, highest=highest) if self._asking else trials
