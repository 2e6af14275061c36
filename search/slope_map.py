"""Slopes of an objective by skip and noise level, as numbers: read without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.cotangents import over_blocks

if TYPE_CHECKING:
    from skiptune.search.space import Space

__all__ = ["Slopes"]


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives of the objective in the logarithm of each scale, block by block.

    Arguments:
        blocks: float64 [R, parts x skips, levels] in the metric's unit, part by part of the
            study's space, skips deepest first.
        levels: The noise levels at which the network is evaluated, decreasing.
        nfe: What they took, in evaluations of the network, all images together.
    """

    blocks: NDArray[np.float64]
    levels: tuple[float, ...]
    nfe: float

    @classmethod
    def of_chunks(
        cls, arrays: Sequence[Mapping[str, NDArray[Any]]], *, together: int, nfe: float
    ) -> Slopes:
        """Return the slopes of stored chunks.

        Arguments:
            arrays: Of each chunk in seed order: ``slopes`` [J, skips x levels] and ``levels``
                [1, levels].
            together: Chunks in a block.
            nfe: As for the class.
        """
        levels = arrays[0]["levels"][0].tolist()
        means = np.array([one["slopes"].mean(axis=0, dtype=np.float64) for one in arrays])
        blocks = means.reshape(-1, together, means.shape[1]).mean(axis=1)
        return cls(blocks.reshape(len(blocks), -1, len(levels)), tuple(levels), nfe)

    @cached_property
    def map(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slopes and their standard errors by scale and level, each [parts x skips, levels]."""
        return over_blocks(self.blocks)

    @cached_property
    def skips(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slopes and their standard errors by scale, all levels together."""
        return over_blocks(self.blocks.sum(axis=2))

    def within(
        self, bounds: Sequence[tuple[float, float]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return slopes and their standard errors by scale and noise interval.

        Arguments:
            bounds: Noise levels [low, high) of each interval (`Space.interval_bounds`).

        Returns:
            float64 [parts x skips, intervals] each.
        """
        levels = np.array(self.levels)
        parts = [
            self.blocks[:, :, (low <= levels) & (levels < high)].sum(axis=2)
            for low, high in bounds
        ]
        return over_blocks(np.stack(parts, axis=2))

    def along(
        self, space: Space, params: Mapping[str, float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return slopes in the logarithms of a space's scales, and their standard errors.

        Arguments:
            space: Which scales there are; its window says at which levels they act.
            params: Where the slopes were taken.

        Returns:
            float64 [P] each, in the order of `Space.scale_names`.
        """
        count = self.blocks.shape[1] // len(space.parts)  # of the network's skips
        index = [
            count * place + skip.index for place in range(len(space.parts)) for skip in space.skips
        ]
        found = []
        for one, own in zip(space.within, space.split(params), strict=True):
            low, high = one.window_at(own)
            acting = [low <= level < high for level in self.levels]
            by_skip = self.blocks[:, :, acting].sum(axis=2)
            found.append(by_skip[:, index] @ one.chain(own))
        return over_blocks(np.concatenate(found, axis=1))
