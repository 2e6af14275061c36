"""Optuna's samplers by name, each with its arguments written out.

Defaults differ between Optuna's versions (multivariate TPE since 5.0), so every argument that
shapes a search is given here and can be recorded with `sampler_arguments`.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from skiptune.errors import SpecError
from skiptune.search.document import shown
from skiptune.search.problems import choices_text
from skiptune.search.sections import SAMPLERS

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["STARTUP", "make_sampler", "sampler_arguments"]

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


def sampler_arguments(name: str, *, seed: int, startup: int = STARTUP) -> dict[str, Any]:
    """Return the arguments that `make_sampler` passes to Optuna, as plain data.

    Arguments:
        name: One of `SAMPLERS`.
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
            expected=choices_text(name, SAMPLERS),
            found=shown(name),
            hint="choose one of them, e.g. -s search.sampler=tpe",
        )
    return {"seed": seed, **special[name]}


def make_sampler(name: str, *, seed: int, startup: int = STARTUP) -> BaseSampler:
    """Return one of Optuna's samplers.

    Arguments:
        name: One of `SAMPLERS`.
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
