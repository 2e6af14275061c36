"""Networks built from a plain configuration: a preconditioning and the U-Net inside it.

The keys are those of the published checkpoints, beside ``precond``, which names the
preconditioning; ``model_type`` names the U-Net. Which U-Nets a preconditioning goes with, what it
must be told, and how many channels the U-Net then makes, stand in one table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from skiptune.errors import NetworkError
from skiptune.sampling.networks.consistency import ConsistencyPrecond
from skiptune.sampling.networks.dhariwal import DhariwalUNet
from skiptune.sampling.networks.discrete import DiscretePrecond
from skiptune.sampling.networks.edm2 import EDM2Precond, EDM2UNet
from skiptune.sampling.networks.lucidrains import lucidrains_unet
from skiptune.sampling.networks.openai import OpenAIUNet
from skiptune.sampling.networks.precond import (
    EDMPrecond,
    Preconditioned,
    VEPrecond,
    VPPrecond,
    iDDPMPrecond,
)
from skiptune.sampling.networks.song import SongUNet
from skiptune.sampling.networks.uvit import UViT

__all__ = ["build", "build_denoiser"]

_PRECONDS: dict[str, Callable[..., Preconditioned]] = {
    "edm": EDMPrecond,
    "vp": VPPrecond,
    "ve": VEPrecond,
    "iddpm": iDDPMPrecond,
    "edm2": EDM2Precond,
    "consistency": ConsistencyPrecond,
    "discrete": DiscretePrecond,
}
_MODELS: dict[str, Callable[..., Any]] = {
    "SongUNet": SongUNet,
    "DhariwalUNet": DhariwalUNet,
    "UNet": EDM2UNet,
    "OpenAIUNet": OpenAIUNet,
    "UViT": UViT,
    "LucidrainsUnet": lucidrains_unet,
}
# Of every preconditioning the U-Nets that it goes with, the usual one first.
_GOES_WITH: dict[str, tuple[str, ...]] = {
    "vp": ("SongUNet", "DhariwalUNet", "UViT"),
    "edm2": ("UNet",),
    "consistency": ("OpenAIUNet",),
    "discrete": ("OpenAIUNet", "UViT", "LucidrainsUnet"),
}
_USUAL = ("SongUNet", "DhariwalUNet")
_REQUIRED = ("precond", "img_channels", "img_resolution", "label_dim")
# How a network was run and trained where it was made, and whether it makes latents; it changes
# nothing here.
_NOTES = ("use_fp16", "logvar_channels", "latents")
_FROM_CHANNELS = ("in_channels", "out_channels")
_WHERE = "network configuration"
_HINT = (
    "the configuration is the metadata entry `skiptune.network` of a checkpoint of skiptune, or"
    " what the options of `skiptune convert` say"
)


def build(config: Mapping[str, Any]) -> EDMPrecond:
    """Build a denoiser with EDM's preconditioning and random weights.

    Arguments:
        config: As for `build_denoiser`, ``precond`` being edm or edm2.

    Raises:
        NetworkError: As `build_denoiser`; for another preconditioning.
    """
    network = build_denoiser(config)
    if not isinstance(network, EDMPrecond) or isinstance(network, ConsistencyPrecond):
        raise _refused("precond", expected="edm or edm2", found=repr(config["precond"]))
    return network


def build_denoiser(config: Mapping[str, Any]) -> Preconditioned:
    """Build a denoiser of any family with random weights.

    Arguments:
        config: ``precond`` (one of edm, vp, ve, iddpm, edm2, consistency, discrete),
            ``img_resolution``, ``img_channels``, ``label_dim``, for edm, edm2 and consistency
            also ``sigma_data``; any other argument of the preconditioning; ``model_type``
            (SongUNet, the default, or DhariwalUNet; for edm2 UNet; for consistency and discrete
            OpenAIUNet; for vp and discrete UViT; for discrete LucidrainsUnet) and any other
            argument of the U-Net except its channel counts. ``use_fp16``, ``logvar_channels``
            and ``latents`` are accepted and change nothing: the network computes in its weights'
            dtype, nothing is trained, and what it makes is decoded elsewhere.

    Raises:
        NetworkError: For missing or unknown keys, or values that make no network.
    """
    if "precond" not in config:
        raise _refused(expected=f"keys {', '.join(_REQUIRED)}", found="no precond")
    name = config["precond"]
    if not isinstance(name, str) or name not in _PRECONDS:
        raise _refused("precond", expected=f"one of {', '.join(_PRECONDS)}", found=repr(name))
    models = _GOES_WITH.get(name, _USUAL)
    model_type = config.get("model_type", models[0])
    if model_type not in models:
        raise _refused("model_type", expected=" or ".join(models), found=repr(model_type))
    precond_keys = _keys(_PRECONDS[name], without=("model",))
    model_keys = _keys(_MODELS[model_type], without=_FROM_CHANNELS)
    known = {*_REQUIRED, "model_type", *precond_keys, *model_keys, *_NOTES}
    unknown = sorted(set(config) - known)
    if unknown:
        raise _refused(expected=f"keys among {', '.join(sorted(known))}", found=", ".join(unknown))
    required = (*_REQUIRED, *(key for key in ("sigma_data",) if key in precond_keys))
    missing = [key for key in required if key not in config]
    if missing:
        raise _refused(expected=f"keys {', '.join(required)}", found=f"no {', '.join(missing)}")
    model_values = {key: config[key] for key in model_keys if key in config}
    channels = config["img_channels"]
    if name != "edm2":
        model_values["in_channels"] = channels
    if name != "edm2" and model_type != "UViT":
        # iDDPM's networks also predict a variance per channel, those of guided diffusion may.
        both = name == "iddpm" or config.get("learn_sigma", False)
        model_values["out_channels"] = 2 * channels if both else channels
    precond_values = {key: config[key] for key in precond_keys if key in config}
    try:
        return _PRECONDS[name](_MODELS[model_type](**model_values), **precond_values)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _refused(expected=f"values of a {model_type}", found=str(error)) from error


def _keys(made_by: Callable[..., Any], *, without: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key for key in inspect.signature(made_by).parameters if key not in without)


def _refused(key: str | None = None, *, expected: str, found: str) -> NetworkError:
    where = _WHERE if key is None else f"{_WHERE}: {key}"
    return NetworkError(where, expected=expected, found=found, hint=_HINT)
