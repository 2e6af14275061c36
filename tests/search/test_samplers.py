from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from skiptune.errors import SpecError
from skiptune.search.samplers import (
    AUTO,
    CLASSES,
    DESCENT,
    MOMENTS,
    NEEDS,
    make_sampler,
    sampler_arguments,
    sampler_for,
)
from skiptune.search.sections import SAMPLERS
from tests.search.conftest import Tiny

RANGES: dict[str, BaseDistribution] = {
    "a": FloatDistribution(0.5, 2.0, log=True),
    "b": FloatDistribution(0.5, 2.0, log=True),
}


def installed(name: str) -> bool:
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None


def proposals(name: str, *, seed: int, count: int = 14) -> list[tuple[float, float]]:
    """Return what a sampler proposes for a bowl whose best point is (1.2, 0.8)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make_sampler(name, seed=seed, startup=5))
    points = []
    for _ in range(count):
        trial = study.ask(fixed_distributions=RANGES)
        a, b = trial.params["a"], trial.params["b"]
        points.append((a, b))
        study.tell(trial, (a - 1.2) ** 2 + (b - 0.8) ** 2)
    return points


def test_every_sampler_of_the_spec_has_a_class() -> None:
    assert (AUTO, DESCENT, MOMENTS, *CLASSES) == SAMPLERS
    for name in CLASSES.values():
        assert hasattr(optuna.samplers, name)


@pytest.mark.parametrize("name", tuple(CLASSES))
def test_samplers_propose_or_name_what_they_need(name: str) -> None:
    if not installed(name):
        with pytest.raises(SpecError) as caught:
            make_sampler(name, seed=0)
        assert caught.value.problems[0].where == f"search.sampler: {name}"
        assert caught.value.hint == f"pip install {NEEDS[name]}"
        return
    sampler = make_sampler(name, seed=0)
    assert type(sampler).__name__ == CLASSES[name]
    points = proposals(name, seed=0)
    assert all(0.5 <= a <= 2.0 and 0.5 <= b <= 2.0 for a, b in points)
    assert len(set(points)) == len(points)


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_missing_package_is_named_with_its_pip_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SpecError) as caught:
        make_sampler(name, seed=0)
    (problem,) = caught.value.problems
    assert problem.expected == f"the package {NEEDS[name]}"
    assert problem.found == "not installed"
    assert caught.value.hint == f"pip install {NEEDS[name]}"


def test_unknown_samplers_are_refused_with_a_suggestion() -> None:
    with pytest.raises(SpecError) as caught:
        make_sampler("tpee", seed=0)
    (problem,) = caught.value.problems
    assert "did you mean `tpe`?" in problem.expected
    assert problem.found == '"tpee"'


@pytest.mark.parametrize("name", ["tpe", "random", "nsgaii"])
def test_the_seed_decides_what_is_proposed(name: str) -> None:
    assert proposals(name, seed=1) == proposals(name, seed=1)
    assert proposals(name, seed=1) != proposals(name, seed=2)


@pytest.mark.parametrize("name", tuple(CLASSES))
def test_arguments_are_plain_and_complete(name: str) -> None:
    arguments = sampler_arguments(name, seed=3, startup=7)
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["seed"] == 3
    assert arguments.get("n_startup_trials", 7) == 7


def test_tpe_does_not_rest_on_defaults() -> None:
    arguments = sampler_arguments("tpe", seed=0)
    assert arguments["multivariate"] is True
    assert arguments["constant_liar"] is True
    assert arguments["n_startup_trials"] == 10


def test_only_the_experimental_warning_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = optuna.samplers.RandomSampler

    def noisy(**arguments: Any) -> optuna.samplers.BaseSampler:
        warnings.warn("an experiment", optuna.exceptions.ExperimentalWarning, stacklevel=2)
        warnings.warn("something else", FutureWarning, stacklevel=2)
        return real(**arguments)

    monkeypatch.setattr(optuna.samplers, CLASSES["random"], noisy)
    with pytest.warns(FutureWarning, match="something else") as record:
        make_sampler("random", seed=0)
    assert len(record) == 1


def test_a_study_gets_the_sampler_that_it_names(tiny: Tiny) -> None:
    for name, class_name in {**CLASSES, MOMENTS: "MomentSampler"}.items():
        if installed(name):
            study = tiny.open(search__sampler=name)
            assert type(sampler_for(study, number=1)).__name__ == class_name


def test_the_module_waits_for_optuna() -> None:
    assert "optuna" not in vars(sys.modules["skiptune.search.samplers"])
