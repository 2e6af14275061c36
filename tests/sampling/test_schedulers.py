"""Schedulers of diffusers read as noise levels: its own numbers, its own steps, and refusals."""

from __future__ import annotations

import inspect
import math
import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError, render
from skiptune.sampling.schedulers import (
    _DEFAULTS,
    CONTINUOUS,
    EDM,
    WHOLE,
    diffusers_class,
    pipeline_levels,
    read_scheduler,
)

# Of diffusers' own code under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
# diffusers shows these only where scipy or torchsde is installed.
ELSEWHERE = ("LMSDiscreteScheduler", "DPMSolverSDEScheduler")
HERE = [kind for kind in (*WHOLE, *CONTINUOUS) if kind not in ELSEWHERE]

SD15: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def config(kind: str, **values: Any) -> dict[str, Any]:
    return {"_class_name": kind, "_diffusers_version": "0.42.1", **values}


def read(kind: str, **values: Any) -> Any:
    return read_scheduler(config(kind, **values), where="scheduler_config.json")


def theirs(kind: str, **values: Any) -> Any:
    return diffusers_class(kind, where="test").from_config(config(kind, **values))


def known(kind: str, **values: Any) -> bool:
    """Whether a class has all of these arguments."""
    parameters = theirs(kind).config
    return all(key in parameters for key in values)


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize(
    "values",
    [
        {},
        SD15,
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 37},
        {"trained_betas": [0.1, 0.2, 0.25, 0.3]},
        {"rescale_betas_zero_snr": True, **SD15},
        {"beta_schedule": "sigmoid"},
    ],
    ids=lambda values: "-".join(map(str, values)) or "defaults",
)
def test_levels_are_those_of_diffusers_bit_for_bit(kind: str, values: dict[str, Any]) -> None:
    if values.get("beta_schedule") == "sigmoid" and not kind.startswith("DDPM"):
        with pytest.raises(NetworkError, match="beta_schedule"):
            read(kind, **values)
        return
    # A key that a class does not know changes nothing, here as there.
    made, own = read(kind, **values), theirs(kind, **values)
    alphas = own.alphas_cumprod.clone()
    if values.get("rescale_betas_zero_snr") and known(kind, rescale_betas_zero_snr=True):
        assert float(alphas[-1]) in (0.0, 2.0**-24)
        alphas[-1] = 2.0**-24
    expected = ((1 - alphas) / alphas) ** 0.5
    assert torch.equal(torch.tensor(made.levels, dtype=torch.float32), expected)
    assert made.sigma_min == made.levels[0]
    assert made.sigma_max == made.levels[-1]


@pytest.mark.parametrize("kind", [*HERE, *EDM])
def test_defaults_are_those_of_diffusers(kind: str) -> None:
    theirs = inspect.signature(diffusers_class(kind, where="test").__init__).parameters
    own = _DEFAULTS[kind]
    assert own == {key: theirs[key].default for key in own}
    deciding = {
        *("beta_schedule", "trained_betas", "rescale_betas_zero_snr", "timestep_type"),
        *("clip_sample", "thresholding", "use_flow_sigmas", "prediction_type"),
    }
    assert deciding & set(theirs) <= set(own)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_scheduler_that_needs_a_further_package_is_read_and_not_made(kind: str) -> None:
    assert read(kind, **SD15).levels == read("PNDMScheduler", **SD15).levels
    with pytest.raises(NetworkError, match="requires the"):
        pipeline_levels(config(kind), 4, where="test")


def test_levels_of_stable_diffusion_have_their_closed_form() -> None:
    made = read("PNDMScheduler", **SD15)
    start, end = math.sqrt(SD15["beta_start"]), math.sqrt(SD15["beta_end"])
    product = 1.0
    for step in range(1000):
        product *= 1 - (start + (end - start) * step / 999) ** 2
        assert made.levels[step] == pytest.approx(math.sqrt((1 - product) / product), rel=1e-4)
    assert made.sigma_max == pytest.approx(14.6146, abs=1e-3)
    assert made.sigma_min == pytest.approx(0.0292, abs=1e-4)


@pytest.mark.parametrize("kind", EDM)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_knows_every_level(kind: str, prediction: str) -> None:
    made = read(kind, prediction_type=prediction, sigma_data=0.25)
    assert made.levels == ()
    assert (made.times, made.prediction, made.sigma_data) == ("edm", prediction, 0.25)
    assert (made.sigma_min, made.sigma_max) == (0.002, 80.0)
    assert made.start_std(80.0) == pytest.approx(float(theirs(kind).init_noise_sigma))


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_sampling_begins_with_the_noise_that_pipelines_begin_with(kind: str, spacing: str) -> None:
    values = {**SD15, "timestep_spacing": spacing}
    own = theirs(kind, **values)
    own.set_timesteps(7)
    top = pipeline_levels(config(kind, **values), 7, where="test")[0]
    made = read(kind, **values)
    # What is told is x / sqrt(sigma^2 + 1): theirs as `scale_model_input`, or of such scale.
    scale = math.sqrt(top**2 + 1) if kind in WHOLE else 1.0
    assert made.start_std(top) == pytest.approx(float(own.init_noise_sigma) * scale, rel=1e-6)


@pytest.mark.parametrize("kind", [*HERE, *EDM])
@pytest.mark.parametrize("steps", [4, 6])
def test_pipeline_levels_fall_and_end_as_the_scheduler_says(kind: str, steps: int) -> None:
    found = pipeline_levels(config(kind), steps, where="test")
    made = read(kind)
    assert all(one > two for one, two in pairwise(found))
    assert found[0] <= made.sigma_max * (1 + 1e-6)
    assert found[-1] in (0.0, pytest.approx(made.sigma_min, rel=1e-6))


def test_pipeline_levels_are_the_levels_of_ddims_timesteps() -> None:
    values = {**SD15, "set_alpha_to_one": False, "steps_offset": 1}
    found = pipeline_levels(config("DDIMScheduler", **values), 4, where="test")
    made = read("DDIMScheduler", **values)
    assert found == tuple(made.levels[time] for time in (751, 501, 251, 1, 0))
    # Without an offset the last step would go from the lowest level to itself.
    del values["steps_offset"]
    found = pipeline_levels(config("DDIMScheduler", **values), 4, where="test")
    assert found == tuple(made.levels[time] for time in (750, 500, 250, 0))
    with pytest.raises(NetworkError, match="1001"):
        pipeline_levels(config("DDIMScheduler"), 1001, where="test")


@pytest.mark.parametrize(
    ("kind", "values", "steps", "said"),
    [
        # Timesteps that diffusers would take from the other end of its list, or not find.
        ("DDIMScheduler", {"steps_offset": -300}, 4, "450 to -300 of 1000"),
        ("DDIMScheduler", {"trained_betas": [0.1, 0.2, 0.3]}, 3, "666 to 0 of 3"),
        ("EulerDiscreteScheduler", {}, 0, "do not fall"),
        ("DPMSolverMultistepScheduler", {"solver_type": "no_such"}, 4, "no_such is not impl"),
        ("DDIMScheduler", {"steps_offset": "one"}, 4, "add"),
    ],
)
def test_steps_that_a_configuration_does_not_make_are_refused(
    kind: str, values: dict[str, Any], steps: int, said: str
) -> None:
    with pytest.raises(NetworkError, match=f"test: steps: .* found {steps}: .*{said}"):
        pipeline_levels(config(kind, **values), steps, where="test")


def test_times_and_clipping_follow_the_class() -> None:
    assert read("DDIMScheduler").clip == 1.0
    assert read("DDPMScheduler", clip_sample_range=3.0).clip == 3.0
    assert read("DDIMScheduler", clip_sample=False).clip is None
    # PNDM does not know the key.
    assert read("PNDMScheduler", clip_sample=True).clip is None
    assert read("DDIMScheduler").times == "whole"
    assert read("EulerDiscreteScheduler").times == "linear"
    assert read("EulerDiscreteScheduler", use_karras_sigmas=True).times == "log"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("FlowMatchEulerDiscreteScheduler", "flow matching"),
        ("LCMScheduler", "distilled"),
        ("TCDScheduler", "distilled"),
        ("ScoreSdeVeScheduler", "images from 0 to 1"),
        ("DPMSolverNewScheduler", "DPMSolverNewScheduler"),
        (None, "None"),
    ],
)
def test_kinds_that_make_no_noise_levels_are_refused_by_name(kind: Any, said: str) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        read(kind)
    assert "DDIMScheduler" in render(caught.value)
    # Another scheduler is no help where the training was another.
    assert ("from_config" in render(caught.value)) == (kind is None or kind == said)


@pytest.mark.parametrize(
    ("kind", "values", "keys"),
    [
        ("DDIMScheduler", {"prediction_type": "flow"}, ["prediction_type"]),
        ("PNDMScheduler", {"prediction_type": "sample"}, ["prediction_type"]),
        ("EDMEulerScheduler", {"prediction_type": "sample"}, ["prediction_type"]),
        ("EDMEulerScheduler", {"sigma_data": 0}, ["sigma_data"]),
        ("EDMEulerScheduler", {"sigma_min": 3.0, "sigma_max": 3.0}, ["sigma_max"]),
        ("EDMEulerScheduler", {"sigma_max": 10**400}, ["sigma_max"]),
        ("DDPMScheduler", {"thresholding": True}, ["thresholding"]),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, ["use_flow_sigmas"]),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, ["timestep_type"]),
        ("DDIMScheduler", {"clip_sample_range": -1}, ["clip_sample_range"]),
        ("DDIMScheduler", {"num_train_timesteps": 10**9}, ["num_train_timesteps"]),
        ("DDIMScheduler", {"num_train_timesteps": 10.0}, ["num_train_timesteps"]),
        ("DDIMScheduler", {"trained_betas": [0.1]}, ["trained_betas"]),
        ("DDIMScheduler", {"trained_betas": ["a", "b"]}, ["trained_betas"]),
        ("DDIMScheduler", {"trained_betas": [0.1, 10**400]}, ["trained_betas"]),
        ("DDIMScheduler", {"beta_start": math.nan, "beta_end": True}, ["beta_start", "beta_end"]),
        (
            "DDIMScheduler",
            {"beta_start": 0, "beta_end": 2, "beta_schedule": "laplace"},
            ["beta_schedule", "beta_start", "beta_end"],
        ),
        ("DDIMScheduler", {"trained_betas": [0.1, 1.5, 0.1]}, ["betas"]),
    ],
)
def test_numbers_that_make_no_noise_levels_are_refused_together(
    kind: str, values: dict[str, Any], keys: list[str]
) -> None:
    with pytest.raises(NetworkError) as caught:
        read(kind, **values)
    wheres = [
        problem.where.removeprefix("scheduler_config.json: ") for problem in caught.value.problems
    ]
    assert wheres == keys


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert read("DDIMScheduler").times == "whole"
    with pytest.raises(NetworkError, match=r"pip install 'skiptune\[diffusers\]'"):
        pipeline_levels(config("DDIMScheduler"), 4, where="test")


def test_the_cause_of_a_broken_diffusers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"Failed to import {name} (look up):\nno symbol in torchvision")

    monkeypatch.setitem(sys.modules, "diffusers", Broken("diffusers"))
    with pytest.raises(NetworkError, match=r"\(look up\): no symbol in torchvision \("):
        diffusers_class("DDIMScheduler", where="test")
