"""Slopes of an objective by skip and noise level, as numbers: read without a network.

Their errors are those between blocks of seeds. Where a study's errors count prompts, blocks share
these, so what is common to the images of a prompt hardly shows between them. Then an error is
multiplied by the design effect of what each image adds to the slope (`objectives.units`). In a
made-up world of Gaussian features this gives 0.8 to 1.3 of the true spread over fresh prompts,
where blocks of seeds alone give 0.3 to 0.9 (`tests/search/test_slope_map.py` has a part of it).
Blocks of prompts instead of seeds would be independent, but a metric of few prompts has other
slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.catalogue import LABEL
from skiptune.objectives.cotangents import over_blocks
from skiptune.objectives.units import Units, design_effect

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
        images: float64 [J, parts x skips, levels], what each image adds, where errors count units
            of images; None where they count blocks alone.
        units: Which of these images count together.
    """

    blocks: NDArray[np.float64]
    levels: tuple[float, ...]
    nfe: float
    images: NDArray[np.float64] | None = None
    units: Units | None = None

    @classmethod
    def of_chunks(
        cls, arrays: Sequence[Mapping[str, NDArray[Any]]], *, together: int, nfe: float
    ) -> Slopes:
        """Return the slopes of stored chunks.

        Arguments:
            arrays: Of each chunk in seed order: ``slopes`` [J, skips x levels] and ``levels``
                [1, levels]; ``label`` [J] where errors count prompts.
            together: Chunks in a block.
            nfe: As for the class.
        """
        levels = arrays[0]["levels"][0].tolist()
        means = np.array([one["slopes"].mean(axis=0, dtype=np.float64) for one in arrays])
        blocks = means.reshape(-1, together, means.shape[1]).mean(axis=1)
        blocks = blocks.reshape(len(blocks), -1, len(levels))
        if not all(LABEL in one for one in arrays):
            return cls(blocks, tuple(levels), nfe)
        rows = np.concatenate([one["slopes"] for one in arrays]).astype(np.float64)
        images = rows.reshape(len(rows), -1, len(levels))
        units = Units.of_labels(np.concatenate([one[LABEL] for one in arrays]))
        return cls(blocks, tuple(levels), nfe, images, units)

    @cached_property
    def map(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slopes and their standard errors by scale and level, each [parts x skips, levels]."""
        return self._of(lambda slopes: slopes)

    @cached_property
    def skips(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slopes and their standard errors by scale, all levels together."""
        return self._of(lambda slopes: slopes.sum(axis=2))

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
        inside = [(low <= levels) & (levels < high) for low, high in bounds]
        return self._of(
            lambda slopes: np.stack([slopes[:, :, here].sum(axis=2) for here in inside], axis=2)
        )

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
        chains = []
        for one, own in zip(space.within, space.split(params), strict=True):
            low, high = one.window_at(own)
            chains.append(([low <= level < high for level in self.levels], one.chain(own)))

        def own_scales(slopes: NDArray[np.float64]) -> NDArray[np.float64]:
            found = [
                slopes[:, :, acting].sum(axis=2)[:, index] @ chain for acting, chain in chains
            ]
            return np.concatenate(found, axis=1)

        return self._of(own_scales)

    def _of(
        self, linear: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sums of slopes and their standard errors.

        Arguments:
            linear: Slopes [R, parts x skips, levels] of R blocks or images to [R, ...], linear in
                each one's own.
        """
        values, errors = over_blocks(linear(self.blocks))
        if self.images is None or self.units is None:
            return values, errors
        return values, errors * design_effect(linear(self.images), self.units)
