"""Who is asked for proposals: Optuna's samplers by name, and those that look into the study.

Each question gets a sampler of its own, made from the study's seed and the number of the
proposal. Of Optuna's samplers every argument is written out: defaults differ between its
versions (multivariate TPE since 5.0).
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.search.document import shown
from skiptune.search.problems import choices_text

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from skiptune.search.study import OpenStudy

__all__ = [
    "AUTO",
    "DESCENT",
    "MOMENTS",
    "STARTUP",
    "make_sampler",
    "sampler_arguments",
    "sampler_for",
]

AUTO = "auto"  # the best that a study can have: `strategy.chosen_sampler`
DESCENT = "descent"  # the sampler that walks down slopes: `descent.DescentSampler`
MOMENTS = "moments"  # the sampler that reads stored features: `surrogate.MomentSampler`

STARTUP = 10  # random proposals before a model is fitted (Optuna's default)

# The packages that Optuna imports for a sampler and does not bring along.
NEEDS = {"gp": "scipy", "qmc": "scipy"}

CLASSES = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
}


def sampler_for(study: OpenStudy, *, number: int, attempt: int = 0) -> BaseSampler:
    """Return the sampler of a study for one question.

    Arguments:
        study: The open study.
        number: Of the proposal that is asked for, from 1 on.
        attempt: How many of its answers were schedules that are known.

    Raises:
        SpecError: The package of the sampler is not installed.
    """
    search = study.spec.search
    seed = int(digest([search.seed, number, attempt])[:8], 16)
    if study.sampler == MOMENTS:
        return _moments(study, number, attempt)
    if study.sampler == DESCENT:
        from skiptune.search.descent import DescentSampler
        from skiptune.search.origins import origin_of, tried

        ranges = study.space.distributions()
        sampler = DescentSampler(origin_of(study), tried(study), distributions=ranges, seed=seed)
        if sampler.arrived and not study.spec.unfit_for(MOMENTS):
            # What is left to gain lies between what has been tried: that a model knows best.
            return _moments(study, number, attempt, designed=False)
        return sampler
    return make_sampler(study.sampler, seed=seed)


def _moments(study: OpenStudy, number: int, attempt: int, *, designed: bool = True) -> BaseSampler:
    from skiptune.search.surrogate import MomentSampler, Question
    from skiptune.search.warm_start import best_start

    return MomentSampler(
        study.moments,
        distributions=study.space.distributions(),
        question=Question(study.spec.search.seed, number, attempt),
        around=best_start(study),
        designed=designed,
    )


def sampler_arguments(name: str, *, seed: int, startup: int = STARTUP) -> dict[str, Any]:
    """Return the arguments that `make_sampler` passes to Optuna, as plain data.

    Arguments:
        name: One of `CLASSES`.
        seed: Seed of the sampler's own random numbers, 0 to 2**32 - 1.
        startup: Random proposals before a model is fitted; tpe and gp only.

    Raises:
        SpecError: For an unknown name.
    """
    special: dict[str, dict[str, Any]] = {
        # One model of all scales jointly; proposals that are still running repel new ones.
        "tpe": {"n_startup_trials": startup, "multivariate": True, "constant_liar": True},
        "random": {},
        # Scores are noisy, so the best observed value is not to be trusted.
        "gp": {
            "n_startup_trials": startup,
            "deterministic_objective": False,
            "warn_independent_sampling": False,
        },
        # Unscrambled, the sequence does not depend on the seed: it goes on where it stood when
        # another worker, or another sampler object, takes the next point.
        "qmc": {"qmc_type": "sobol", "scramble": False, "warn_independent_sampling": False},
        "nsgaii": {"population_size": 20},
    }
    if name not in special:
        raise SpecError(
            "search.sampler",
            expected=choices_text(name, tuple(CLASSES)),
            found=shown(name),
            hint="choose one of them, e.g. -s search.sampler=tpe",
        )
    return {"seed": seed, **special[name]}


def make_sampler(name: str, *, seed: int, startup: int = STARTUP) -> BaseSampler:
    """Return one of Optuna's samplers.

    Arguments:
        name: One of `CLASSES`.
        seed: Seed of the sampler's own random numbers, 0 to 2**32 - 1.
        startup: Random proposals before a model is fitted; tpe and gp only.

    Raises:
        SpecError: For an unknown name, or one whose package is not installed.
    """
    arguments = sampler_arguments(name, seed=seed, startup=startup)
    package = NEEDS.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise SpecError(
            f"search.sampler: {name}",
            expected=f"the package {package}",
            found="not installed",
            hint=f"pip install {package}",
        )
    import optuna.samplers
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        # Optuna calls QMCSampler experimental; the user chose it by name.
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: BaseSampler = getattr(optuna.samplers, CLASSES[name])(**arguments)
    return sampler
