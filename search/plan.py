"""What a study will cost, in images, before it begins: counted from the spec alone."""

from __future__ import annotations

from skiptune.search import controls
from skiptune.search.spec import StudySpec

__all__ = ["confirm_images", "search_images"]


def search_images(spec: StudySpec) -> int:
    """Return the images of a search whose budget is spent: the baseline's and all rungs'.

    Where a metric compares with a teacher, its images as well.

    Promotion does not wait for a whole rung, so a search may promote a few more than this counts.
    """
    rungs = spec.search.rungs
    images = rungs[-1] * (1 + spec.objective.needs_teacher)
    entered = spec.search.evaluations
    for level, size in enumerate(rungs):
        if level:
            # The same slack as in promotion: 6 evaluations at 0.3333 promote two.
            entered = int(entered * spec.search.promote + 1e-3)
        images += entered * (size - (rungs[level - 1] if level else 0))
    return images


def confirm_images(spec: StudySpec) -> int:
    """Return the images of one confirm: block A with all candidates and options, then block B."""
    images = spec.confirm.images
    setting = spec.setting.to_setting()
    asked = spec.confirm.controls and spec.objective.samples
    families = controls.options(setting) if asked else {}
    options = sum(map(len, families.values()))
    teacher = int(spec.objective.needs_teacher)
    block_a = images * (1 + teacher + spec.confirm.candidates)
    block_a += min(spec.search.rungs[0], images) * options
    return block_a + images * (2 + teacher + len(families))
