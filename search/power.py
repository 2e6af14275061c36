"""The smallest gain that a confirm can prove, from the error that its paired difference will have.

A confirm wins where the whole interval of the paired difference lies on the better side of zero
and the measured gain is at least `min_gain` (`result.is_win`): where the measured gain is above

    threshold = max(z_{1 - level / 2} error, least)

The measured gain is normal about the true one, so it is above the threshold with the wanted power
where the true gain is at least

    threshold + z_power error

Without `least` this is the minimum detectable effect of Bloom (1995), "Minimum Detectable
Effects: A Simple Way to Report the Statistical Power of Experimental Designs", Evaluation Review
19(5), with normal quantiles: images are many. Gains, errors and least gains are in one unit here,
whatever it is; errors fall with the root of the number of images.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

from skiptune.storage.records import CHUNK

__all__ = ["POWER", "chance", "images_for", "smallest_gain"]

POWER: Final = 0.9
"""The part of confirms that shall find a gain that is there."""

_NORMAL = NormalDist()


def smallest_gain(
    error: float, *, level: float, least: float = 0.0, power: float = POWER
) -> float:
    """Return the smallest true gain that a confirm finds with the wanted power.

    Arguments:
        error: Standard error of the paired difference, at least 0.
        level: Of the two-sided test, between 0 and 1.
        least: The least measured gain that counts, at least 0.
        power: Between 0.5 and 1.
    """
    return _threshold(error, level, least) + _NORMAL.inv_cdf(power) * error


def chance(gain: float, *, error: float, level: float, least: float = 0.0) -> float:
    """Return the part of confirms that find a true gain, from 0 to 1.

    Arguments:
        gain: The true gain; negative where there is none.
        error: Above 0; the others as for `smallest_gain`.
        level: As there.
        least: As there.
    """
    return _NORMAL.cdf((gain - _threshold(error, level, least)) / error)


def images_for(
    gain: float, *, deviation: float, level: float, least: float = 0.0, power: float = POWER
) -> int | None:
    """Return the images, whole chunks, at which `smallest_gain` is no more than a gain.

    Arguments:
        gain: The true gain, above 0.
        deviation: Standard error of the paired difference times the root of its images, above 0.
        level: As for `smallest_gain`.
        least: As there.
        power: As there.

    Returns:
        None where no number of images is enough: a gain of no more than the least that counts is
        measured as less in every other confirm.
    """
    if gain <= least:
        return None
    beyond = _NORMAL.inv_cdf(power)
    # Whichever of the two thresholds is the higher one needs more images.
    error = min(gain / (_NORMAL.inv_cdf(1 - level / 2) + beyond), (gain - least) / beyond)
    return max(math.ceil((deviation / error) ** 2 / CHUNK), 1) * CHUNK


def _threshold(error: float, level: float, least: float) -> float:
    return max(_NORMAL.inv_cdf(1 - level / 2) * error, least)
