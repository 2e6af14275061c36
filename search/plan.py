"""What a study will cost before it begins: images and network evaluations, from the spec alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skiptune.sampling.setting import Churn, Setting, evaluations
from skiptune.search import controls
from skiptune.search.halving import cost as candidates_cost
from skiptune.search.halving import fewest_images, rounds
from skiptune.search.space_section import NONE
from skiptune.search.spec import StudySpec

__all__ = [
    "Cost",
    "confirm_cost",
    "confirm_images",
    "own_nfe",
    "rung_counts",
    "search_cost",
    "search_images",
    "search_parts",
]


@dataclass(frozen=True)
class Cost:
    """What is to be made.

    Arguments:
        images: Images, or pairs of a real image and noise where nothing is sampled.
        evaluations: Images that go through the network for them.
    """

    images: int = 0
    evaluations: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.images + other.images, self.evaluations + other.evaluations)


def search_cost(spec: StudySpec, *, loss_nfe: float = 0.0) -> Cost:
    """Return the cost of a search whose budget is spent: `search_parts` together."""
    return sum(search_parts(spec, loss_nfe=loss_nfe).values(), Cost())


def search_parts(spec: StudySpec, *, loss_nfe: float = 0.0) -> dict[str, Cost]:
    """Return the cost of a search whose budget is spent: the baseline's, then each rung's.

    Where a metric compares with a teacher, its images as well. A rung costs what is beyond the
    rung before.

    Promotion does not wait for a whole rung, so a search may promote a few more than this counts.

    Arguments:
        spec: The study.
        loss_nfe: Network evaluations that denoising losses take per image, 0 without such.

    Returns:
        By name, in order: ``baseline``, ``teacher`` where there is one, ``rung 500``, ...
    """
    rungs = spec.search.rungs
    parts = {"baseline": _own(spec, rungs[-1], loss_nfe)}
    teacher = _teacher(spec, rungs[-1], loss_nfe)
    if teacher.images:
        parts["teacher"] = teacher
    before = 0
    for size, schedules in zip(rungs, rung_counts(spec), strict=True):
        parts[f"rung {size}"] = _own(spec, schedules * (size - before), loss_nfe)
        before = size
    return parts


def rung_counts(spec: StudySpec) -> tuple[int, ...]:
    """Return how many schedules come to each rung of a search whose budget is spent.

    Of a descent all may come to the second one: whatever is better goes on, to have its slopes
    taken (`promotion.promote`).
    """
    counts = [spec.search.evaluations]
    for level in range(1, len(spec.search.rungs)):
        # The same slack as in promotion: 6 evaluations at 0.3333 promote two.
        part = 1.0 if level == 1 and spec.search.sampler == "descent" else spec.search.promote
        counts.append(int(counts[-1] * part + 1e-3))
    return tuple(counts)


def confirm_cost(spec: StudySpec, *, loss_nfe: float = 0.0) -> Cost:
    """Return the most that one confirm costs: the rounds and options of block A, then block B.

    Of each family of controls the option that costs most is counted on block B: which one gets
    there is not known before.

    Arguments:
        spec: The study.
        loss_nfe: As for `search_cost`.
    """
    images = spec.confirm.images
    asked = spec.confirm.families if spec.objective.samples else ()
    families = controls.options(spec.setting.to_setting(), asked)
    screen = spec.screen is not None
    few = fewest_images(spec.search.rungs, images, screen=screen)
    candidates = min(spec.confirm.candidates, spec.search.evaluations)
    plan = rounds(candidates, images, fewest=few)
    # The baseline has as many as the last round; on block B it is measured beside one candidate.
    cost = _own(spec, plan[-1].images + candidates_cost(candidates, plan) + 2 * images, loss_nfe)
    cost += _teacher(spec, plan[-1].images + images, loss_nfe)
    for choices in families.values():
        costs = [_nfe(spec, setting, loss_nfe) for _, setting in choices]
        cost += Cost(few * len(costs), few * sum(costs))
        cost += Cost(images, images * max(costs, default=0.0))
    if spec.space.setting is not None and spec.space.kind != NONE:
        cost += _own(spec, images, loss_nfe)  # the winner's setting alone, on block B
    return cost


def search_images(spec: StudySpec) -> int:
    """Return the images of a search whose budget is spent."""
    return search_cost(spec).images


def confirm_images(spec: StudySpec) -> int:
    """Return the images of one confirm."""
    return confirm_cost(spec).images


def _own(spec: StudySpec, images: int, loss_nfe: float) -> Cost:
    return Cost(images, images * own_nfe(spec, loss_nfe))


def _teacher(spec: StudySpec, images: int, loss_nfe: float) -> Cost:
    """Return the cost of the images of many steps that a metric compares with."""
    if not spec.objective.needs_teacher:
        return Cost()
    teacher = spec.objective.teacher
    setting = spec.setting.to_setting().with_solver(teacher.solver, steps=teacher.steps)
    return Cost(images, images * _nfe(spec, replace(setting, churn=Churn()), loss_nfe))


def own_nfe(spec: StudySpec, loss_nfe: float = 0.0) -> float:
    """Return the network evaluations per image of a study's own setting."""
    return _nfe(spec, spec.setting.to_setting(), loss_nfe)


def _nfe(spec: StudySpec, setting: Setting, loss_nfe: float) -> float:
    return loss_nfe + (evaluations(setting) if spec.objective.samples else 0)
