"""Optuna samplers that propose all scales of a space at once, in log scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

__all__ = ["LogScaleSampler"]


class LogScaleSampler(BaseSampler):
    """A sampler whose proposals are one vector of logarithms.

    Arguments:
        distributions: What is searched: floats in log scale.
        seed: Of what is drawn for a parameter that is not one of the study's.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], *, seed: int) -> None:
        self._ranges: dict[str, FloatDistribution] = {}
        for name, item in distributions.items():
            assert isinstance(item, FloatDistribution) and item.log  # the spec's own check
            self._ranges[name] = item
        self._others = RandomSampler(seed=seed)

    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and the highest logarithms, float64 [P] each."""
        low, high = np.log([(item.low, item.high) for item in self._ranges.values()]).T
        return low, high

    @abstractmethod
    def propose(
        self, study: Study, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the logarithms of a proposal, float64 [P].

        Arguments:
            study: Whose trials may be looked at.
            low: Lowest logarithms, float64 [P], in the order of the distributions.
            high: Highest ones.
        """

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return everything that is searched, whatever has been tried."""
        return dict(self._ranges)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a proposal."""
        if not search_space:
            return {}
        logs = self.propose(study, *self.box())
        return {
            name: min(max(math.exp(value), item.low), item.high)
            for (name, item), value in zip(self._ranges.items(), logs, strict=True)
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value of a parameter that is not one of the study's."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)
