"""The result of a study: who won, by how much, how sure that is, and against which controls.

A result is a pure function of the stored rows, so it reads the same after a restart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from skiptune.objectives.catalogue import Better
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting

__all__ = ["Measured", "Result", "is_win"]

NO_GAIN = "no significant gain"
WIN = "win"


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
        verdict: ``win`` or ``no significant gain``.
        better: Which way the metric is better.
        violated: Constraints that the chosen schedule violates on block B: it is no win then.
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

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["setting"] = self.setting.to_json()
        plain["schedule"] = self.schedule.to_json()
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
