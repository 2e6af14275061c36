"""When a search ends before its budget: where what it may still find is below what can be proved.

A confirm tells a gain from none where it exceeds its paired standard error; an improvement of half
of that over the best schedule so far changes no verdict. What is left to find is

- for the sampler of moments: how far the surrogate's least predicted distance, within the box of
  the next proposal, lies below the best schedule's, now and before the newest evaluation;
- for the descent: how far a whole step leads down along the clear parts of the slopes, at two
  origins in a row; once it has arrived, what the sampler of moments expects, which goes on then;
  both have to fall below a quarter of that, because one improvement is followed by others;
- for any sampler, with a number of evaluations as `search.patience`: nothing, once so many have
  ended since the last one that improved on all before by that much.

Everything is a function of the rows. While others still sample, nothing new is proposed and
nothing is decided: what they find may be a reason to go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from skiptune.objectives.catalogue import PROMPT
from skiptune.sampling.prompts import SEARCH_SHARE, confirm_share
from skiptune.search.confirm import block_of
from skiptune.search.origins import expected_decrease
from skiptune.search.overview import confirms
from skiptune.search.prompting import prompt_counts
from skiptune.search.samplers import DESCENT, MOMENTS
from skiptune.search.surrogate import Known, Source, expected_improvement
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK

if TYPE_CHECKING:
    from skiptune.objectives.reference import Reference
    from skiptune.search.study import OpenStudy
    from skiptune.storage.ledger import Standing

__all__ = ["NEXT", "PROVABLE", "Before", "least_gain", "reason_to_end", "since_improved"]

PROVABLE: Final = 0.5
"""The part of a confirm's paired standard error below which an improvement does not show."""

NEXT: Final = 0.25
"""The part of that below which the next improvement may be expected to be the last that shows: in
replays a search that ends there leaves 0.1 % of the gain, one that ends at all of it 8 %
(`bench/replays_stopping.py`)."""


@dataclass(frozen=True)
class Before:
    """What a sampler of moments knew before the newest evaluation.

    Arguments:
        source: What it knows now.
    """

    source: Source

    @property
    def reference(self) -> Reference:
        """Statistics of real features."""
        return self.source.reference

    def known(self) -> Sequence[Known]:
        """Return the evaluations but the newest, by number."""
        return self.source.known()[:-1]


def reason_to_end(study: OpenStudy) -> str | None:
    """Return why the search need not go on, one sentence; None where it should.

    Raises:
        NotSampledError, LostFileError: What it is decided by is being made again.
    """
    patience = study.spec.search.patience
    if patience is None:
        return None
    standings = sorted(
        ledger.standings(study.database, study.id, level=0, objectives=1),
        key=lambda one: one.number,
    )
    if not standings:
        return None
    least = least_gain(
        standings,
        images=study.rungs[0],
        confirm=study.spec.confirm.images,
        prompts=_prompts(study),
    )
    if isinstance(patience, int):
        count = since_improved([one.difference for one in standings], least=least)
        if count < patience:
            return None
        return (
            f"the search ends early: none of the last {count} schedules improved on the best by"
            f" {least:.3g}, half of what a confirm can tell (search.patience is {patience})"
        )
    expected = _expected(study)
    if expected is None or expected >= NEXT * least:
        return None
    return (
        f"the search ends early: the next schedule is expected to improve on the best by"
        f" {expected:.2g}, below {NEXT * least:.2g}, an eighth of what a confirm can tell"
    )


def least_gain(
    standings: Sequence[Standing],
    *,
    images: int,
    confirm: int,
    prompts: tuple[int, int] | None = None,
) -> float:
    """Return the improvement that is worth looking for, in the metric's unit.

    Half of the paired standard error that the best schedule so far will have in a confirm. Errors
    fall with the root of the images; those that count prompts at least with the root of these, and
    the larger of the two is taken (`PairedError.on_prompts`). Of more prompts than images there
    are no more seen than images.

    Arguments:
        standings: Of one rung.
        images: Behind each of them.
        confirm: Images of a block of the confirm.
        prompts: From how many the images of the search and those of the block that tests are
            drawn, where errors count prompts.
    """
    best = min(standings, key=lambda one: (one.difference, one.number))
    kept = math.sqrt(images / confirm)
    if prompts is not None:
        searched, tested = min(prompts[0], images), min(max(prompts[1], 1), confirm)
        kept = max(kept, math.sqrt(searched / tested))
    return PROVABLE * best.difference_error * kept


def since_improved(differences: Sequence[float], *, least: float) -> int:
    """Return how many have come since the last that was better than all before by `least`.

    Arguments:
        differences: To the untouched network, in the order of their numbers; negative is better.
            The untouched network itself comes before all of them.
        least: In the same unit.
    """
    best, last = 0.0, 0
    for place, difference in enumerate(differences, start=1):
        if difference <= best - least:
            last = place
        best = min(best, difference)
    return len(differences) - last


def _prompts(study: OpenStudy) -> tuple[int, int] | None:
    """Return from how many prompts the search and the next confirm's test draw; None: no unit."""
    if study.unit != PROMPT:
        return None
    number = 1 + sum(one.finished for one in confirms(study.database, study.spec.study))
    block = block_of(study, number)
    counts = prompt_counts(study.checkpoint, study.spec, block=block)
    return counts[SEARCH_SHARE], counts[confirm_share(block, "B")]


def _expected(study: OpenStudy) -> float | None:
    """Return by how much the next proposal may improve on the best; None before it is known."""
    if study.sampler == DESCENT:
        decrease = expected_decrease(study)
        # Where it has arrived, the sampler of moments goes on, if it can.
        if decrease != 0 or study.spec.unfit_for(MOMENTS):
            return decrease
        return _improvement(study, designed=False)
    return _improvement(study, designed=True) if study.sampler == MOMENTS else None


def _improvement(study: OpenStudy, *, designed: bool) -> float | None:
    space = study.space
    size = len(space.scale_names)
    proposed = ledger.count_evaluations(
        study.database, study.id, kind="proposal", block=SEARCH_BLOCK
    )
    box = np.full(size, math.log(space.low)), np.full(size, math.log(space.high))
    now, before = (
        expected_improvement(source, number, box=box, designed=designed)
        for source, number in ((study.moments, proposed + 1), (Before(study.moments), proposed))
    )
    return None if now is None or before is None else max(now, before)
