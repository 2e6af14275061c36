"""Which sampler serves a study whose spec leaves the choice to us: `search.sampler: auto`.

On the bundled network the model of the features' moments finds more than derivatives do once it
has seen some schedules for each parameter, and derivatives find more before (docs/search.md);
either finds more than Optuna's TPE, which needs nothing but values.
"""

from __future__ import annotations

from typing import Final

from skiptune.search.objective import Objective
from skiptune.search.samplers import AUTO, DESCENT, MOMENTS
from skiptune.search.sloped import without_slopes
from skiptune.search.space import Space
from skiptune.search.spec import StudySpec

__all__ = ["ENOUGH", "FALLBACK", "chosen_sampler", "resolved"]

FALLBACK = "tpe"

ENOUGH: Final = 1.5
"""Proposals for each parameter from which on moments find more than slopes. With 12 scales slopes
are ahead after 10 evaluations, moments after 20 (`bench.search_efficiency`) and 30
(`bench.live_search --budget 15000`)."""


def chosen_sampler(spec: StudySpec, objective: Objective, space: Space) -> str:
    """Return the sampler that a study is searched with: the spec's own, or the best that can be.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.
        space: What is searched.
    """
    if spec.search.sampler != AUTO:
        return spec.search.sampler
    modelled = not spec.unfit_for(MOMENTS)
    if modelled and _proposals(spec) >= ENOUGH * len(space.distributions()):
        return MOMENTS
    if not spec.unfit_for(DESCENT) and not without_slopes(spec, objective):
        return DESCENT
    return MOMENTS if modelled else FALLBACK


def resolved(spec: StudySpec, objective: Objective, space: Space) -> StudySpec:
    """Return the spec with the sampler that it is searched with, as costs are counted by it.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.
        space: What is searched.
    """
    sampler = chosen_sampler(spec, objective, space)
    return spec.replaced("search.sampler", sampler)


def _proposals(spec: StudySpec) -> int:
    """Return how many proposals a budget holds at most, the baseline's images left out."""
    search = spec.search
    if search.images is None:
        return search.evaluations
    left = max(search.images - search.rungs[-1], 0)
    return min(search.evaluations, left // search.rungs[0])
