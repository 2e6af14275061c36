"""What a pipeline's calls say, held against the schedulers' own tables of noise levels."""

from __future__ import annotations

import copy
import importlib
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError
from skiptune.sampling.pipeline_calls import (
    PipelineCalls,
    solver_change,
    solver_of,
    step_change,
)
from skiptune.sampling.setting import Setting

# Of diffusers with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

diffusers: Any = importlib.import_module("diffusers")

KARRAS = {"use_karras_sigmas": True}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def scheduler(kind: str, **config: Any) -> Any:
    return getattr(diffusers, kind)(**config)


class Pipeline:
    """What is looked at of a pipeline."""

    def __init__(self, scheduler: Any, **more: Any) -> None:
        self.scheduler = scheduler
        vars(self).update(more)


@pytest.mark.parametrize(
    ("kind", "config", "tolerance"),
    [
        ("EulerDiscreteScheduler", {}, 1e-5),
        ("EulerDiscreteScheduler", SD | {"timestep_spacing": "leading", "steps_offset": 1}, 1e-5),
        ("EulerDiscreteScheduler", KARRAS, 1e-3),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True} | SD, 1e-3),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"} | KARRAS,
            1e-5,
        ),
        ("EulerAncestralDiscreteScheduler", SD, 1e-5),
        ("HeunDiscreteScheduler", {}, 1e-5),
        ("HeunDiscreteScheduler", KARRAS, 1e-3),
        ("EDMEulerScheduler", {}, 1e-5),
        ("EDMDPMSolverMultistepScheduler", {"sigma_min": 0.01}, 1e-5),
        # Whole timesteps, to which the levels of a Karras grid are rounded.
        ("DPMSolverMultistepScheduler", SD, 1e-5),
        ("DPMSolverMultistepScheduler", SD | KARRAS, 0.02),
        ("UniPCMultistepScheduler", SD, 1e-5),
    ],
)
def test_levels_are_those_of_the_schedulers_own_table(
    kind: str, config: dict[str, Any], tolerance: float
) -> None:
    made = scheduler(kind, **config)
    calls = PipelineCalls(made)
    made.set_timesteps(7)
    found = [float(calls.sigma({"timestep": time})) for time in made.timesteps]
    expected = made.sigmas[: len(found)].tolist()
    assert len(found) >= 7
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler"])
def test_levels_of_schedulers_without_a_table(kind: str) -> None:
    made = scheduler(kind, **SD)
    made.set_timesteps(5)
    calls = PipelineCalls(made)
    for time in made.timesteps:
        kept = float(made.alphas_cumprod[int(time)])
        assert float(calls.sigma({"timestep": time})) == pytest.approx(
            ((1 - kept) / kept) ** 0.5, rel=1e-5
        )
    batch = torch.tensor([0, 500, 999])
    levels = calls.sigma({"timestep": batch})
    assert levels.shape == (3,) and levels.dtype == torch.float32
    assert calls.sigma({"timestep": 500}).item() == levels[1]


def test_pure_noise_has_the_level_that_euler_gives_it() -> None:
    made = scheduler("DDIMScheduler", rescale_betas_zero_snr=True)
    assert float(PipelineCalls(made).sigma({"timestep": 999})) == pytest.approx(4096)


def test_a_switched_scheduler_is_followed() -> None:
    pipeline = Pipeline(scheduler("DDIMScheduler"))
    calls = PipelineCalls(pipeline=pipeline)
    before = float(calls.sigma({"timestep": 999}))
    pipeline.scheduler = scheduler("DDIMScheduler", beta_end=0.01)
    after = float(calls.sigma({"timestep": 999}))
    kept = float(pipeline.scheduler.alphas_cumprod[999])
    assert after == pytest.approx(((1 - kept) / kept) ** 0.5, rel=1e-5)
    assert before > 1.1 * after
    pipeline.scheduler = scheduler("EDMEulerScheduler")
    assert float(calls.sigma({"timestep": 0.25})) == pytest.approx(torch.e)
    pipeline.scheduler = scheduler("FlowMatchEulerDiscreteScheduler")
    with pytest.raises(NetworkError, match="found FlowMatchEulerDiscreteScheduler"):
        calls.sigma({"timestep": 1})
    flow = scheduler("DPMSolverMultistepScheduler", use_flow_sigmas=True, flow_shift=1.0)
    with pytest.raises(NetworkError, match="with use_flow_sigmas"):
        PipelineCalls(flow).read()


def test_a_pipeline_is_not_kept_alive_and_copies_have_none() -> None:
    pipeline = Pipeline(scheduler("DDIMScheduler"))
    calls = PipelineCalls(pipeline=pipeline)
    expected = calls.sigma({"timestep": 10})
    for other in (copy.deepcopy(calls), pickle.loads(pickle.dumps(calls))):
        pipeline.scheduler = scheduler("DDIMScheduler", beta_end=0.01)
        assert torch.equal(other.sigma({"timestep": 10}), expected)
    alone = pickle.loads(pickle.dumps(PipelineCalls(scheduler("DDIMScheduler"))))
    assert torch.equal(alone.sigma({"timestep": 10}), expected)
    del pipeline
    assert calls.scheduler.config.beta_end == 0.02


def test_the_branches_of_guidance_are_the_halves_of_a_batch() -> None:
    call = {"sample": torch.zeros(4, 1, 1, 1)}
    plain = Pipeline(scheduler("DDIMScheduler"), do_classifier_free_guidance=False)
    assert PipelineCalls(pipeline=plain).labelled(call) is True
    guided = Pipeline(scheduler("DDIMScheduler"), do_classifier_free_guidance=True)
    calls = PipelineCalls(pipeline=guided)
    assert calls.labelled(call).tolist() == [False, False, True, True]  # type: ignore[union-attr]
    with pytest.raises(NetworkError, match="3 images, no two halves"):
        calls.labelled({"sample": torch.zeros(3, 1, 1, 1)})
    with pytest.raises(NetworkError, match="no pipeline that says whether it guides"):
        PipelineCalls(scheduler("DDIMScheduler")).labelled(call)


@pytest.mark.parametrize(
    ("kind", "config", "solver"),
    [
        ("DDIMScheduler", {}, "euler"),
        ("EulerDiscreteScheduler", {}, "euler"),
        ("EDMEulerScheduler", {}, "euler"),
        ("HeunDiscreteScheduler", {}, "heun"),
        ("DPMSolverMultistepScheduler", {}, "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, None),
        ("EDMDPMSolverMultistepScheduler", {}, "dpmpp_2m"),
        ("UniPCMultistepScheduler", {}, "unipc"),
        ("EulerAncestralDiscreteScheduler", {}, None),
        ("PNDMScheduler", {}, None),
    ],
)
def test_which_solver_a_scheduler_is(
    kind: str, config: dict[str, Any], solver: str | None
) -> None:
    made = scheduler(kind, **config)
    assert solver_of(made) == solver
    for wanted in ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        problem = solver_change(Setting(solver=wanted), made)
        assert (problem is None) == (wanted == solver)
        if problem is not None:
            assert wanted in problem.expected and kind in problem.found


def test_the_order_of_unipc_is_part_of_it() -> None:
    made = scheduler("UniPCMultistepScheduler", solver_order=3)
    problem = solver_change(Setting(solver="unipc"), made)
    assert problem is not None and "order 2" in problem.expected and "order 3" in problem.found
    assert solver_change(Setting(solver="unipc", order=3), made) is None


@pytest.mark.parametrize(
    ("solver", "kind", "steps", "calls"),
    [("euler", "DDIMScheduler", 6, 6), ("heun", "HeunDiscreteScheduler", 6, 11)],
)
def test_how_often_a_scheduler_evaluates(solver: str, kind: str, steps: int, calls: int) -> None:
    made = scheduler(kind)
    made.set_timesteps(steps)
    assert len(made.timesteps) == calls
    assert step_change(Setting(solver=solver, steps=steps), made) is None
    problem = step_change(Setting(solver=solver, steps=steps + 1), made)
    assert problem is not None and problem.found == f"{calls} evaluations"


def test_a_reader_needs_no_more_than_config_and_levels() -> None:
    kept = torch.tensor([0.8, 0.5])
    own = SimpleNamespace(config={}, alphas_cumprod=kept)
    found = PipelineCalls(own).sigma({"timestep": torch.tensor([0, 1])})
    assert found.tolist() == pytest.approx([0.5, 1.0])
