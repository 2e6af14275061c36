"""What the configuration of a diffusers scheduler says about the network it was written for.

A scheduler holds two things: how a network was trained (its noise levels, and what it predicts),
and how a pipeline steps. The first is read here; the second is a `Setting`.

A network that was trained on the variance-preserving process with T timesteps knows the levels

    sigma_t = sqrt((1 - a_t) / a_t),    a_t = (1 - b_0) (1 - b_1) ... (1 - b_t)

(Karras et al. 2022, arXiv 2206.00364, appendix C.3; a_t is `alphas_cumprod`, b_t are `betas`).
They are computed in float32 by the same operations as in diffusers, so that they are the same
numbers. Networks of EDM's kind know every level.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from skiptune.errors import NetworkError, Problem

__all__ = [
    "CONTINUOUS",
    "EDM",
    "EXTRA",
    "NEARLY_ZERO",
    "TIMES",
    "UNEVEN",
    "WHOLE",
    "Scheduler",
    "diffusers_class",
    "pipeline_levels",
    "read_scheduler",
]

WHOLE: Final = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "PNDMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers that tell a network whole timesteps."""

CONTINUOUS: Final = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
"""Schedulers that tell a network timesteps between two whole ones where levels lie between."""

EDM: Final = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
"""Schedulers of networks with EDM's preconditioning."""

TIMES: Final = ("whole", "linear", "log", "edm")

EXTRA: Final = "pip install 'skiptune[diffusers]'"
"""What installs diffusers."""

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

# The keys that decide here, of each class, with what diffusers 0.42 takes where one is absent.
_TRAINED: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_LATENT: dict[str, Any] = {**_TRAINED, "beta_start": 0.00085, "beta_end": 0.012}
_CLIPPED: dict[str, Any] = {"clip_sample": True, "clip_sample_range": 1.0, "thresholding": False}
_RESCALED: dict[str, Any] = {"rescale_betas_zero_snr": False}
_FLOW: dict[str, Any] = {"thresholding": False, "use_flow_sigmas": False}
_SPACED: dict[str, Any] = {"timestep_spacing": "linspace"}
UNEVEN: dict[str, Any] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_DDPM: dict[str, Any] = {**_TRAINED, **_CLIPPED, **_RESCALED}
_EDM: dict[str, Any] = {
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DDIMScheduler": _DDPM,
    "DDIMParallelScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": _TRAINED,
    "DEISMultistepScheduler": _TRAINED | _FLOW,
    "DPMSolverMultistepScheduler": _TRAINED | _FLOW | _RESCALED,
    "DPMSolverSinglestepScheduler": _TRAINED | _FLOW,
    "SASolverScheduler": _TRAINED | _FLOW,
    "UniPCMultistepScheduler": _TRAINED | _FLOW | _RESCALED,
    "EulerDiscreteScheduler": {
        **_TRAINED,
        **UNEVEN,
        **_SPACED,
        **_RESCALED,
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": _TRAINED | _SPACED | _RESCALED,
    "HeunDiscreteScheduler": {
        **_LATENT,
        **UNEVEN,
        **_SPACED,
        "clip_sample": False,
        "clip_sample_range": 1.0,
    },
    "KDPM2DiscreteScheduler": _LATENT | UNEVEN | _SPACED,
    "KDPM2AncestralDiscreteScheduler": _LATENT | UNEVEN | _SPACED,
    "LMSDiscreteScheduler": _TRAINED | UNEVEN | _SPACED,
    "DPMSolverSDEScheduler": _LATENT | UNEVEN | _SPACED,
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": _EDM | {"thresholding": False},
}
# Switches under which a scheduler computes something else than a denoiser's estimate.
_OFF = ("thresholding", "use_flow_sigmas")
_MOST_STEPS = 100_000
# diffusers puts it for the last a_t where a rescaled schedule ends in 0 (Lin et al. 2023, arXiv
# 2305.08891): sigma is then 4096. DDIM and DDPM keep the 0, which no noise level can express.
NEARLY_ZERO = 2.0**-24
_ENDLESS = ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler")


@dataclass(frozen=True)
class Scheduler:
    """How a network was trained, as the scheduler beside it says.

    Arguments:
        kind: The class of diffusers, one of `WHOLE`, `CONTINUOUS` and `EDM`.
        prediction: What the network predicts: ``epsilon``, ``v_prediction`` or ``sample``.
        levels: The noise level of each timestep, rising; empty for networks of EDM's kind.
        times: How a noise level becomes what the network is told, one of `TIMES`: the nearest
            ``whole`` timestep; between two of them, ``linear`` in sigma or in its ``log``; or
            ``edm`` for log(sigma) / 4.
        clip: The estimate is clipped to -clip..clip; None where it is not.
        sigma_data: Standard deviation of the training images, of networks of EDM's kind.
        sigma_min: Lowest noise level of the training.
        sigma_max: Highest noise level of the training.
        adds_image: Whether sampling begins with noise of variance sigma^2 + 1, as of an image
            with that noise, or of sigma^2.
    """

    kind: str
    prediction: str
    levels: tuple[float, ...]
    times: str
    clip: float | None
    sigma_data: float
    sigma_min: float
    sigma_max: float
    adds_image: bool

    def start_std(self, sigma: float) -> float:
        """Return the standard deviation of what sampling begins with at a noise level."""
        return math.sqrt(sigma**2 + 1) if self.adds_image else sigma

    def to_json(self) -> dict[str, Any]:
        """Return what decides about an estimate as plain data, the levels by their ends."""
        return {
            "scheduler": self.kind,
            "prediction": self.prediction,
            "timesteps": len(self.levels),
            "times": self.times,
            "clip": self.clip,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
        }


def diffusers_class(name: str, *, where: str) -> Any:
    """Return a class of diffusers, which is loaded here and takes seconds.

    Arguments:
        name: The class.
        where: What it is needed for, for messages.

    Raises:
        NetworkError: diffusers is missing, cannot be loaded, or has no such class.
    """
    try:
        found = getattr(importlib.import_module("diffusers"), name, None)
    except (ImportError, RuntimeError) as error:
        # The second is what diffusers raises where a package that it uses cannot be loaded.
        missing = isinstance(error, ImportError)
        raise NetworkError(
            where,
            expected="the package diffusers, which knows the architecture",
            found=" ".join(str(error).split()),
            hint=EXTRA if missing else f"mend the installation: {EXTRA}",
        ) from error
    if found is None:
        version = getattr(importlib.import_module("diffusers"), "__version__", "unknown")
        raise NetworkError(
            where,
            expected=f"a class that diffusers {version} knows",
            found=name[:60],
            hint="pip install --upgrade diffusers, if the pipeline is newer",
        )
    return found


def read_scheduler(config: Mapping[str, Any], *, where: str) -> Scheduler:
    """Read the configuration of a scheduler: that of a pipeline's `scheduler_config.json`.

    Keys that are absent have diffusers' defaults; keys that the class does not know change
    nothing, as there. diffusers itself is not loaded.

    Arguments:
        config: Plain data, with `_class_name`.
        where: Names the configuration, for messages.

    Raises:
        NetworkError: With every problem at once: a kind of scheduler, prediction or schedule of
            betas that makes no noise levels, or numbers that make none.
    """
    kind = config.get("_class_name")
    if kind not in (*WHOLE, *CONTINUOUS, *EDM):
        why = _why_not(str(kind))
        raise NetworkError(
            f"{where}: _class_name",
            expected=f"one of {', '.join((*WHOLE, *CONTINUOUS, *EDM))}",
            found=f"{str(kind)[:60]}{why}",
            hint="take a pipeline whose network was trained for one of these"
            if why
            else "a network trained on the same process works with another of these: save the"
            " pipeline with `pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)`",
        )
    values = {key: config.get(key, default) for key, default in _DEFAULTS[str(kind)].items()}
    problems = list(_problems(where, str(kind), values))
    if problems:
        hint = "give the scheduler that the network was trained with"
        if values.get("thresholding"):
            hint += "; thresholding is no part of the training: write false to do without it"
        raise NetworkError.of(problems, hint=hint)
    if kind in EDM:
        return Scheduler(
            kind=str(kind),
            prediction=values["prediction_type"],
            levels=(),
            times="edm",
            clip=None,
            sigma_data=float(values["sigma_data"]),
            sigma_min=float(values["sigma_min"]),
            sigma_max=float(values["sigma_max"]),
            adds_image=True,
        )
    # In float32 as there, then exactly as numbers.
    kept = _alphas(str(kind), values)
    levels = [float(level) for level in (((1 - kept) / kept) ** 0.5).tolist()]
    if not all(0 < one < two for one, two in pairwise(levels)):
        raise NetworkError(
            f"{where}: betas",
            expected="betas between 0 and 1, by which the noise rises with every timestep",
            found=f"noise levels from {levels[0]:.6g} to {levels[-1]:.6g} that do not rise",
            hint="give the scheduler that the network was trained with",
        )
    continuous = kind in CONTINUOUS
    uneven = any(values.get(name) for name in UNEVEN)
    return Scheduler(
        kind=str(kind),
        prediction=values["prediction_type"],
        levels=tuple(levels),
        times=("log" if uneven else "linear") if continuous else "whole",
        clip=float(values["clip_sample_range"]) if values.get("clip_sample") else None,
        sigma_data=1.0,
        sigma_min=levels[0],
        sigma_max=levels[-1],
        adds_image=not continuous or values["timestep_spacing"] == "leading",
    )


def pipeline_levels(config: Mapping[str, Any], steps: int, *, where: str) -> tuple[float, ...]:
    """Return the falling noise levels at which a pipeline with this scheduler steps, then its end.

    To sample along them, give all that are above 0 as `Setting.sigmas`, with `final_zero` where
    the last one is 0.

    Arguments:
        config: As for `read_scheduler`.
        steps: `num_inference_steps` of the pipeline, at least 1.
        where: Names the configuration, for messages.

    Raises:
        NetworkError: As `read_scheduler`; diffusers or a package that it needs for this scheduler
            is missing; or the scheduler cannot take so many steps, or not as it is configured.
    """
    scheduler = read_scheduler(config, where=where)
    kind = diffusers_class(scheduler.kind, where=where)
    try:
        made = kind.from_config(dict(config))
        made.set_timesteps(steps)
        found = _stepped(scheduler, made)
    except ImportError as error:
        said = " ".join(str(error).split())
        raise NetworkError(
            where,
            expected=f"the packages that diffusers needs for {scheduler.kind}",
            found=said[:200],
            hint="install them, or give noise levels of your own",
        ) from error
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise NetworkError(
            f"{where}: steps",
            expected=f"a number of steps that {scheduler.kind} can take as it is configured",
            found=f"{steps}: {' '.join(str(error).split())[:200]}",
            hint="choose another number of steps, or mend the configuration where it is named",
        ) from error
    return found


def _stepped(scheduler: Scheduler, made: Any) -> tuple[float, ...]:
    """Return the levels of a scheduler of diffusers whose timesteps are set; ValueError: none."""
    if hasattr(made, "sigmas"):
        # Heun's and others' levels stand in it once for every evaluation of the network.
        found = [float(level) for level in made.sigmas.tolist()]
    else:
        times = [int(time) for time in made.timesteps.tolist()]
        count = len(scheduler.levels)
        if not all(0 <= time < count for time in times):
            raise ValueError(f"timesteps from {max(times)} to {min(times)} of {count}")
        found = [scheduler.levels[time] for time in times]
        final = getattr(made.config, "set_alpha_to_one", True)
        found.append(0.0 if final else scheduler.levels[0])
    # Beyond the ends by no more than float32 can say.
    low, high = scheduler.sigma_min, scheduler.sigma_max
    for end in (low, high):
        found = [end if math.isclose(level, end, rel_tol=1e-6) else level for level in found]
    levels = tuple(dict.fromkeys(found))
    if len(levels) < 2 or not all(one > two for one, two in pairwise(levels)):
        raise ValueError(
            f"noise levels that do not fall: {', '.join(map('{:.4g}'.format, levels))}"
        )
    return levels


def _why_not(kind: str) -> str:
    if "FlowMatch" in kind:
        return ", of flow matching, whose networks are told another time and are no U-Nets"
    if kind.startswith(("LCM", "TCD", "CMStochastic")):
        return ", of distilled networks, whose estimate depends on the step it is taken for"
    if kind.startswith(("ScoreSde", "KarrasVe")):
        return ", of networks for images from 0 to 1"
    return ""


def _problems(where: str, kind: str, values: Mapping[str, Any]) -> Sequence[Problem]:
    found = []

    def refuse(key: str, expected: str) -> None:
        found.append(Problem(f"{where}: {key}", expected, repr(values.get(key))[:60]))

    predictions = _PREDICTIONS[:2] if kind in EDM or kind == "PNDMScheduler" else _PREDICTIONS
    if values["prediction_type"] not in predictions:
        refuse("prediction_type", f"one of {', '.join(predictions)}")
    for key in _OFF:
        if values.get(key):
            refuse(key, "false: what it makes is no denoiser's estimate")
    if values.get("timestep_type", "discrete") != "discrete":
        refuse("timestep_type", "discrete")
    if values.get("clip_sample") and not _is_positive(values["clip_sample_range"]):
        refuse("clip_sample_range", "a number above 0")
    if kind in EDM:
        for key in ("sigma_min", "sigma_max", "sigma_data"):
            if not _is_positive(values[key]):
                refuse(key, "a number above 0")
        if not found and values["sigma_min"] >= values["sigma_max"]:
            refuse("sigma_max", f"a number above sigma_min, which is {values['sigma_min']}")
        return found
    betas, steps = values["trained_betas"], values["num_train_timesteps"]
    if betas is not None:
        if not isinstance(betas, list | tuple) or not all(map(_is_positive, betas)):
            refuse("trained_betas", "a list of numbers above 0, or null")
        elif not 2 <= len(betas) <= _MOST_STEPS:
            refuse("trained_betas", f"2 to {_MOST_STEPS} numbers")
        return found
    if type(steps) is not int or not 2 <= steps <= _MOST_STEPS:
        refuse("num_train_timesteps", f"a whole number from 2 to {_MOST_STEPS}")
    schedules = _SCHEDULES if kind.startswith("DDPM") else _SCHEDULES[:3]
    if values["beta_schedule"] not in schedules:
        refuse("beta_schedule", f"one of {', '.join(schedules)}")
    for key in ("beta_start", "beta_end"):
        if not _is_positive(values[key]) or values[key] >= 1:
            refuse(key, "a number between 0 and 1")
    return found


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared as it is: a whole number of a file may be too large for a float.
    return number and 0 < value <= sys.float_info.max  # type: ignore[operator]


def _alphas(kind: str, values: Mapping[str, Any]) -> Tensor:
    """Return a_t, float32 [T], by the operations of diffusers in their order."""
    betas = _betas(values)
    rescaled = bool(values.get("rescale_betas_zero_snr"))
    if rescaled:
        betas = _rescaled(betas)
    alphas = torch.cumprod(1.0 - betas, dim=0)
    if rescaled:
        alphas[-1] = NEARLY_ZERO
        if kind in _ENDLESS and alphas[-2] <= NEARLY_ZERO:
            # Of DDIM's and DDPM's the noise rises to the end, wherever it stood before.
            alphas[-1] = alphas[-2] / 4
    return alphas


def _betas(values: Mapping[str, Any]) -> Tensor:
    if values["trained_betas"] is not None:
        return torch.tensor(values["trained_betas"], dtype=torch.float32)
    steps, start, end = (values[key] for key in ("num_train_timesteps", "beta_start", "beta_end"))
    schedule = values["beta_schedule"]
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if schedule == "scaled_linear":  # Rombach et al. 2022 (arXiv 2112.10752), their code
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    if schedule == "sigmoid":  # Xu et al. 2022, GeoDiff (arXiv 2203.02923)
        rising = torch.sigmoid(torch.linspace(-6, 6, steps))
        return torch.add(rising * (end - start), start)
    # Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17, betas at most 0.999.
    bars = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(bars)]
    return torch.tensor(betas, dtype=torch.float32)


def _rescaled(betas: Tensor) -> Tensor:
    """Lin et al. 2023 (arXiv 2305.08891), algorithm 1: the last timestep is noise alone."""
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    bars = ((roots - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])
