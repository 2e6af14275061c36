"""What the calls of a diffusers pipeline say: the noise level of a timestep, and the branch.

A pipeline calls its U-Net with a timestep. Which noise level that is follows from how the network
was trained, which the pipeline's scheduler knows: of the variance-preserving process

    sigma_t = sqrt((1 - a_t) / a_t),    a_t = `scheduler.alphas_cumprod[t]`

(Karras et al. 2022, arXiv 2206.00364, appendix C.3), between two timesteps as the scheduler puts
them there; of EDM's kind t = log(sigma) / 4. The scheduler is looked at in every call, because
`pipe.scheduler = ...` may exchange it at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from skiptune.errors import NetworkError, Problem
from skiptune.sampling.schedulers import EDM, NEARLY_ZERO, UNEVEN
from skiptune.sampling.setting import Setting

__all__ = ["PipelineCalls", "solver_change", "solver_of", "step_change"]

_NO_LEVELS = "a scheduler of noise levels: with `alphas_cumprod`, or of EDM's kind"
_HINT = "use one of the schedulers of docs/diffusers.md, or scales without windows"
_SOLVERS: Final = {
    "DDIMScheduler": "euler",
    "DDIMParallelScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "EDMEulerScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "UniPCMultistepScheduler": "unipc",
}
_MULTISTEP: Final = {
    "dpmsolver++": "dpmpp_2m",
    "sde-dpmsolver++": "dpmpp_2m_sde",
}


class PipelineCalls:
    """Reads the calls of a pipeline's U-Net; a `hooks.CallReader`.

    Arguments:
        scheduler: Of diffusers, an object with `config`; that of the pipeline where one is given.
        pipeline: Looked at in every call for the scheduler that it then has, and for whether it
            guides; it is not kept alive. None for a U-Net that is called by a loop of one's own.
    """

    def __init__(self, scheduler: Any = None, *, pipeline: Any = None) -> None:
        self._pipeline: Callable[[], Any] = _none if pipeline is None else _Weak(pipeline)
        self._given = scheduler if pipeline is None else pipeline.scheduler
        self._read: Any = None  # the scheduler that the levels are of
        self._levels: Tensor | None = None
        self._is_log = False

    @property
    def scheduler(self) -> Any:
        """The scheduler as it is now."""
        pipeline = self._pipeline()
        return self._given if pipeline is None else pipeline.scheduler

    def read(self) -> None:
        """Read the scheduler's noise levels.

        Raises:
            NetworkError: It has none.
        """
        scheduler = self.scheduler
        if scheduler is not self._read:
            self._levels, self._is_log = _levels_of(scheduler), _is_log(scheduler)
            self._read = scheduler

    def sigma(self, call: Mapping[str, Any]) -> Tensor:
        """Return the noise level of a call's `timestep`, float32, 0-dim or [B].

        Raises:
            NetworkError: The pipeline has another scheduler now, without noise levels.
        """
        self.read()
        times = torch.as_tensor(call["timestep"]).to(torch.float32)
        if self._levels is None:
            return torch.exp(4 * times)
        levels = self._levels.to(times.device)
        if self._is_log:
            levels = levels.log()
        times = times.clamp(0, len(levels) - 1)
        low = times.floor().to(torch.int64)
        high = (low + 1).clamp(max=len(levels) - 1)
        between = torch.lerp(levels[low], levels[high], times - low)
        return between.exp() if self._is_log else between

    def labelled(self, call: Mapping[str, Any]) -> bool | Tensor:
        """Return which images have a prompt: with guidance the second half of them, bool [B].

        Raises:
            NetworkError: Nothing says whether the calls guide.
        """
        guides = getattr(self._pipeline(), "do_classifier_free_guidance", None)
        images = call["sample"].shape[0]
        if guides is None or (guides and images % 2):
            raise NetworkError(
                "network",
                expected="to be told which images have a prompt: with handle.evaluating(...)",
                found="no pipeline that says whether it guides"
                if guides is None
                else f"{images} images, no two halves",
                hint="say it around each call, or let the schedule act in both branches",
            )
        return torch.arange(images) >= images // 2 if guides else True


class _Weak:
    """A weak reference that copies and pickles as one to nothing: a copy has its own pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self.reference = weakref.ref(pipeline)

    def __call__(self) -> Any:
        return self.reference()

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> Callable[[], None]:
    return _none


def _none() -> None:
    return None


def solver_of(scheduler: Any) -> str | None:
    """Return the solver of a setting whose steps a scheduler takes; None where there is none."""
    kind = type(scheduler).__name__
    if kind in ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"):
        plain = scheduler.config.get("solver_order", 2) == 2
        algorithm = scheduler.config.get("algorithm_type", "dpmsolver++")
        return _MULTISTEP.get(algorithm) if plain else None
    return _SOLVERS.get(kind)


def solver_change(setting: Setting, scheduler: Any) -> Problem | None:
    """Return what is wrong where a scheduler takes other steps than a setting.

    Arguments:
        setting: At which scales were tuned.
        scheduler: Of diffusers.
    """
    kind, solver = type(scheduler).__name__, solver_of(scheduler)
    wanted = setting.solver
    found = f"{kind}, which steps as {solver}" if solver else f"{kind}, which steps otherwise"
    order = scheduler.config.get("solver_order")
    if solver == wanted == "unipc" and order != setting.order:
        wanted, found = f"unipc of order {setting.order}", f"{kind} of order {order}"
    elif solver == wanted:
        return None
    return Problem("pipeline.scheduler", f"{wanted}, with which the scales were tuned", found)


def step_change(setting: Setting, scheduler: Any) -> Problem | None:
    """Return what is wrong where a scheduler evaluates the network more or less often.

    Arguments:
        setting: At which scales were tuned.
        scheduler: Of diffusers; before its timesteps are set nothing is wrong.
    """
    if getattr(scheduler, "num_inference_steps", None) is None:
        return None
    heun = setting.solver == "heun"
    wanted = 2 * setting.steps - setting.final_zero if heun else setting.steps
    calls = len(scheduler.timesteps)
    if calls == wanted:
        return None
    expected = f"{wanted} evaluations ({setting.solver}, {setting.steps} steps), with which the"
    return Problem("pipeline.scheduler", f"{expected} scales were tuned", f"{calls} evaluations")


def _levels_of(scheduler: Any) -> Tensor | None:
    """Return the noise level of each timestep, float32 [T]; None for timesteps of EDM's kind."""
    kind, config = type(scheduler).__name__, scheduler.config
    if kind in EDM or config.get("timestep_type") == "continuous":
        return None
    kept = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(kept, Tensor) or config.get("use_flow_sigmas"):
        found = f"{kind} with use_flow_sigmas" if isinstance(kept, Tensor) else kind
        raise NetworkError("pipeline.scheduler", expected=_NO_LEVELS, found=found, hint=_HINT)
    kept = kept.to("cpu", torch.float32).clamp(min=NEARLY_ZERO)
    return ((1 - kept) / kept).sqrt()


def _is_log(scheduler: Any) -> bool:
    return any(scheduler.config.get(name) for name in UNEVEN)
