"""The result of a study: who won, by how much, how sure that is, and against which controls.

A result is a pure function of the stored rows, so it reads the same after a restart.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

from skiptune.objectives.catalogue import CATALOGUE, IMAGE, Better, Unit
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.storage import ledger
from skiptune.storage.records import Score

if TYPE_CHECKING:
    from skiptune.search.study import OpenStudy

__all__ = [
    "HOPELESS",
    "Luck",
    "Measured",
    "Ranking",
    "Result",
    "SecondLook",
    "is_win",
    "of_search",
]

NO_GAIN = "no significant gain"
WIN = "win"
NOT_CONFIRMED = "not confirmed"

HOPELESS: Final = 1.0
"""Standard errors by which a schedule may look worse than the baseline and still be tested. One
that was found by a search looks better than it is, so an estimate beyond its own error on the
wrong side leaves little: at most one chance in six that there is any gain, before that."""


@dataclass(frozen=True)
class Measured:
    """One row of the result table, measured on the deciding block.

    Arguments:
        label: What was measured.
        images: Images behind it.
        nfe: Network evaluations per image, counted.
        value: The metric, corrected for its bias in N where it has one.
        standard_error: Of `value`.
        difference: Paired difference to the baseline, negative is better whatever the metric;
            None for the baseline itself.
        difference_error: Standard error of `difference`.
    """

    label: str
    images: int
    nfe: float
    value: float
    standard_error: float
    difference: float | None = None
    difference_error: float | None = None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided normal interval of the value."""
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.standard_error
        return self.value - half, self.value + half

    def gain(self, baseline: float) -> float | None:
        """Return the gain as a fraction of the baseline's value, positive is better.

        None where the baseline's value is not above 0: a corrected distance near 0 may be
        negative, and is no unit then.
        """
        return None if self.difference is None or baseline <= 0 else -self.difference / baseline

    def gain_interval(self, baseline: float, level: float = 0.95) -> tuple[float, float] | None:
        """Return the interval of the gain; the baseline's value is taken as exact."""
        if self.difference is None or self.difference_error is None or baseline <= 0:
            return None
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.difference_error
        return (-self.difference - half) / baseline, (-self.difference + half) / baseline


@dataclass(frozen=True)
class Luck:
    """The winner's difference to the baseline as the search showed it, and how much was luck.

    Arguments:
        images: Images behind the search's difference.
        difference: The search's corrected paired difference; negative is better.
        difference_error: Its standard error.
        luck: How much better the search's difference was than block B's, in the metric's unit;
            above 0 where the search was too hopeful.
        luck_error: Its standard error, of both blocks together.
    """

    images: int
    difference: float
    difference_error: float
    luck: float
    luck_error: float

    @classmethod
    def between(cls, seen: Score, fresh: Measured | Score) -> Luck | None:
        """Return the luck of a schedule; None where either has no difference.

        Arguments:
            seen: What the search said of it at last.
            fresh: What block B says, on other seeds.
        """
        if seen.difference is None or fresh.difference is None:
            return None
        error = seen.difference_error or 0.0
        return cls(
            images=seen.images,
            difference=seen.difference,
            difference_error=error,
            luck=fresh.difference - seen.difference,
            luck_error=math.hypot(error, fresh.difference_error or 0.0),
        )

    @property
    def part(self) -> float | None:
        """The luck as a part of the gain seen in the search; None where it saw none."""
        return None if self.difference >= 0 else self.luck / -self.difference


@dataclass(frozen=True)
class Ranking:
    """How alike two measurements order the same schedules.

    Arguments:
        first: The smaller measurement, e.g. ``500 images of the search``.
        last: The larger one.
        value: Spearman's coefficient, -1..1.
        low: Lower end of its 95 % interval.
        high: Upper end.
        schedules: How many were ordered, at least 4.
    """

    first: str
    last: str
    value: float
    low: float
    high: float
    schedules: int


@dataclass(frozen=True)
class SecondLook:
    """The same images of block B in features that the search has not looked at.

    Arguments:
        metric: Name of the metric, with these features, count and correction.
        baseline: The untouched network.
        tuned: The chosen schedule.
    """

    metric: str
    baseline: Measured
    tuned: Measured

    @property
    def gain(self) -> float | None:
        """The gain in these features, a fraction of the baseline's value there."""
        return self.tuned.gain(self.baseline.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        return self.tuned.gain_interval(self.baseline.value)

    @property
    def disagrees(self) -> bool:
        """Whether the chosen schedule is worse there, beyond the error."""
        ends = self.interval
        return ends is not None and ends[1] < 0


@dataclass(frozen=True)
class Result:
    """What a study found.

    Arguments:
        study: Name of the study.
        metric: Name of the metric with features, count and correction.
        setting: How images were made.
        confirm: Which confirm of the study this is, from 1 on.
        alpha: The level of this confirm, two-sided: alpha / 2^k.
        min_gain: The least gain that counts, a fraction.
        seeds: First seeds of block A (chooses) and block B (decides).
        baseline: The untouched network on block B.
        winner: The chosen schedule on block B; None where no candidate could be measured.
        controls: The best option of each control family on block B.
        schedule: The chosen schedule; the baseline's where there is no winner.
        params: Its parameters in the search space.
        edges: Parameters that touch the end of their range.
        evaluations: Schedules evaluated in the search.
        images: Images sampled for the study in all.
        seconds: Worker seconds spent on them.
        verdict: ``win``, ``no significant gain``, or ``not confirmed`` where there was no confirm.
        better: Which way the metric is better.
        violated: Constraints that the chosen schedule violates on block B: it is no win then.
        tested: False where no candidate was better than the baseline in the search: no image was
            spent, the block is not, and `baseline` and `seeds` are the search's.
        second: The chosen schedule in other features, where they were asked for.
        parts: The chosen schedule in each part of joint features.
        luck: How much of what the search saw of the winner was luck; None where it saw nothing
            comparable.
        rankings: How alike smaller and larger measurements order schedules.
        unit: What standard errors count: ``image``, or ``prompt`` where each image is told one.
        prompts: From how many prompts those of block B are drawn; None where errors count images.
    """

    study: str
    metric: str
    setting: Setting
    confirm: int
    alpha: float
    min_gain: float
    seeds: tuple[int, int]
    baseline: Measured
    winner: Measured | None
    controls: tuple[Measured, ...]
    schedule: Schedule
    params: dict[str, float]
    edges: tuple[str, ...]
    evaluations: int
    images: int
    seconds: float
    verdict: str
    better: Better = "lower"
    violated: tuple[str, ...] = ()
    tested: bool = True
    second: SecondLook | None = None
    parts: tuple[SecondLook, ...] = ()
    luck: Luck | None = None
    rankings: tuple[Ranking, ...] = ()
    unit: Unit = IMAGE
    prompts: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["setting"] = self.setting.to_json()
        plain["schedule"] = self.schedule.to_json()
        looks = [(self.parts[place], plain["parts"][place]) for place in range(len(self.parts))]
        if self.second is not None:
            looks.append((self.second, plain["second"]))
        for look, written in looks:
            written |= {
                "gain": look.gain,
                "gain_interval": look.interval,
                "disagrees": look.disagrees,
            }
        if self.luck is not None:
            plain["luck"]["part"] = self.luck.part
        if self.winner is not None:
            plain["gain"] = self.winner.gain(self.baseline.value)
            plain["gain_interval"] = self.winner.gain_interval(self.baseline.value)
        return plain


def is_win(measured: Measured, baseline: Measured, *, alpha: float, min_gain: float) -> bool:
    """Return whether a fresh-block measurement proves a gain.

    The whole two-sided interval of the paired difference at level 1 - alpha lies below zero, and
    the gain is at least `min_gain`.

    Arguments:
        measured: The chosen schedule on block B, which took no part in choosing it.
        baseline: The baseline on the same seeds.
        alpha: Level of the test, two-sided.
        min_gain: Least gain that counts, as a fraction of the baseline's value.
    """
    interval = measured.gain_interval(baseline.value, level=1 - alpha)
    gain = measured.gain(baseline.value)
    return interval is not None and gain is not None and interval[0] > 0 and gain >= min_gain


def of_search(study: OpenStudy) -> dict[str, Any]:
    """Return what every result of a study says, by the names of `Result`, whatever it tells."""
    spending = ledger.spending(study.database, study.id)
    return {
        "study": study.spec.study,
        "setting": study.setting,
        "min_gain": study.spec.confirm.min_gain,
        "evaluations": len(ledger.evaluations(study.database, study.id, kind="proposal")),
        "images": spending.images,
        "seconds": spending.seconds,
        "better": CATALOGUE[study.spec.objective.keys[0]].better,
        "unit": study.unit,
    }
