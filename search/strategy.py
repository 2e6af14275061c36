"""Which sampler serves a study whose spec leaves the choice to us: `search.sampler: auto`.

On the bundled network derivatives reach a gain that random schedules and models of them do not
come to with the same network time (docs/search.md), so they come first; then the model of the
features' moments, which needs images alone; then Optuna's TPE, which needs nothing but values.
"""

from __future__ import annotations

from skiptune.search.objective import Objective
from skiptune.search.samplers import AUTO, DESCENT, MOMENTS
from skiptune.search.sloped import without_slopes
from skiptune.search.spec import StudySpec

__all__ = ["FALLBACK", "chosen_sampler", "resolved"]

FALLBACK = "tpe"


def chosen_sampler(spec: StudySpec, objective: Objective) -> str:
    """Return the sampler that a study is searched with: the spec's own, or the best that can be.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.
    """
    if spec.search.sampler != AUTO:
        return spec.search.sampler
    if not spec.unfit_for(DESCENT) and not without_slopes(spec, objective):
        return DESCENT
    return FALLBACK if spec.unfit_for(MOMENTS) else MOMENTS


def resolved(spec: StudySpec, objective: Objective) -> StudySpec:
    """Return the spec with the sampler that it is searched with, as costs are counted by it.

    Arguments:
        spec: The study.
        objective: What it measures, loaded.
    """
    return spec.replaced("search.sampler", chosen_sampler(spec, objective))
