"""Other people's files of networks: `.pt`, `.pth` and `.ckpt` of tensors, with their options.

A file of `torch.save` holds names and tensors, not how the network was made. That is told by
options: a mapping, as YAML or JSON, in the words of the code that trained it (`options_of`).

    guided-diffusion    the flags of its scripts, with ``family: guided-diffusion``
    consistency         those of consistency models, with ``family: consistency``
    latent diffusion    its own configuration file, as it is
    U-ViT               the arguments of its network, with ``family: u-vit`` and ``process``
    lucidrains          the arguments of its `Unet` and `GaussianDiffusion`, ``family: lucidrains``
    any                 skiptune's own words, with ``precond`` (`networks.build_denoiser`)

A file of latent diffusion also holds what makes images of its latents, which is read too where it
has a codebook (`first_stage`).

Files are read with `torch.load(weights_only=True)` and never otherwise.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.diffusers_weights import refuse_misfit
from skiptune.sampling.first_stage import PREFIX, FirstStage, tensor_names
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.official import Official
from skiptune.sampling.options import config_of

__all__ = ["SUFFIXES", "options_file", "read_file", "read_options", "read_published"]

SUFFIXES = (".pt", ".pth", ".ckpt")
"""Of the files that are read here."""

OPTION_SUFFIXES = (".yaml", ".yml", ".json")

_MOST_OPTIONS = 1 << 20  # bytes; published configurations have a few thousand
# Where the U-Net and the embedding of classes stand in files of latent diffusion.
_LDM_UNET = "model.diffusion_model."
_LDM_AVERAGED = "model_ema.diffusion_model"
_LDM_CLASSES = "cond_stage_model.embedding.weight"
_OUR_CLASSES = "model.class_embedding.weight"
_CONTENT = "a file of torch.save that holds tensors and plain data alone"
# Of training, and no part of what makes images.
_LDM_ASIDE = ("loss.", "model_ema.")
# What Lightning kept of its callbacks it kept by their classes, of which nothing but the name is
# read: in their place stand classes without content. Nothing of Lightning's is imported.
_CALLBACKS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (type(name.rsplit(".", 1)[-1], (), {}), f"pytorch_lightning.callbacks.{name}")
    for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
]
_NO_STAGE = (
    "The network makes latents, and what makes images of them is not in this file: name its"
    " VQModel in diffusers' layout as `network.decoder`."
)
_HINT = "give the file as its authors publish it, with the options it was trained with"


def options_file(network: Path) -> Path | None:
    """Return the file of options beside a network, of its name or called config, if any."""
    for suffix in OPTION_SUFFIXES:
        for path in (network.with_suffix(suffix), network.with_name(f"config{suffix}")):
            if path.is_file():
                return path
    return None


def read_options(path: Path) -> dict[str, Any]:
    """Read options.

    Raises:
        NetworkError: For a file that cannot be read or holds no mapping.
    """
    expected = "the network's options, a YAML or JSON mapping"
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_OPTIONS + 1)
        if len(text) > _MOST_OPTIONS:
            raise ValueError(f"more than {_MOST_OPTIONS} bytes")
        found = yaml.safe_load(text)
    except OSError as error:
        raise NetworkError(
            str(path),
            expected=expected,
            found=error.strerror or str(error),
            hint="check the path; docs/networks.md says what stands in it",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text_of = str(error).splitlines()[0]
        raise NetworkError(str(path), expected=expected, found=text_of, hint=_HINT) from None
    if not isinstance(found, dict):
        raise NetworkError(
            str(path), expected=expected, found=f"a {type(found).__name__}", hint=_HINT
        )
    return found


def read_published(path: str | Path, options: Mapping[str, Any], *, where: str) -> Official:
    """Read a network's tensors, and find its configuration by its options.

    Arguments:
        path: The file.
        options: Its options; see the module.
        where: Names the options, for messages.

    Raises:
        NetworkError: For options that describe no network skiptune knows; for a file that is
            missing, damaged, or holds anything but tensors and plain data.
    """
    path = Path(path)
    made = config_of(options, where=where)
    # On the meta device a network has shapes but no numbers: what cannot be built is said first.
    with torch.device("meta"):
        build_denoiser(made.config)
    held, source = _tensors(path)
    cautions, stage = made.cautions, None
    if made.kind == "ldm":
        state, source = _of_latent_diffusion(held, source)
        if made.stage is not None:
            stage = _first_stage(path, held, made.stage)
            cautions += () if stage is not None else (_NO_STAGE,)
    elif made.kind == "lucidrains":
        state = _of_lucidrains(held)
    else:
        state = {f"model.{name}": tensor for name, tensor in held.items()}
    if not state:
        raise NetworkError(
            str(path), expected="a network's tensors", found="none of its names", hint=_HINT
        )
    return Official(
        config=made.config,
        tensors={name: tensor.contiguous() for name, tensor in state.items()},
        precond=str(made.config["precond"]),
        class_name=f"{made.kind}({made.config.get('model_type', 'U-Net')})",
        parameters=sum(tensor.numel() for tensor in state.values()),
        sha256=file_digest(path),
        source=source,
        licence="as where the file is from: this file does not say",
        cautions=cautions,
        stage=stage,
    )


def read_file(path: Path) -> Any:
    """Return all that a file of torch.save holds: tensors, and plain data around them.

    Raises:
        NetworkError: For a file that cannot be read, is damaged, or holds anything else.
    """
    try:
        # Never without `weights_only`, whatever the file holds.
        with torch.serialization.safe_globals(_CALLBACKS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NetworkError(
            str(path),
            expected="a readable file",
            found=error.strerror or str(error),
            hint="check the path and the file's permissions",
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise NetworkError(
            str(path),
            expected=_CONTENT,
            found=f"something else: {reason}",
            hint="in an environment that trusts the file, save its state_dict alone with"
            " torch.save(model.state_dict(), FILE); NVIDIA's pickles are converted as .pkl",
        ) from None


def _tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file by name, and the key under which they were."""
    content = read_file(path)
    source = "state"
    for key in ("state_dict", "ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content, source = content[key], key
            break
    if not isinstance(content, Mapping):
        raise NetworkError(
            str(path), expected=_CONTENT, found=f"a {type(content).__name__}", hint=_HINT
        )
    found = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and not isinstance(value, torch.nn.UninitializedParameter)
    }
    return {name: tensor.detach() for name, tensor in found.items()}, source


def _of_lucidrains(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the U-Net's tensors by our names: averaged ones, those of a diffusion, or its own."""
    for prefix in ("ema_model.model.", "model."):
        found = {
            f"model.{name.removeprefix(prefix)}": tensor
            for name, tensor in held.items()
            if name.startswith(prefix)
        }
        if found:
            return found
    return {f"model.{name}": tensor for name, tensor in held.items()}


def _of_latent_diffusion(held: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """Return the U-Net's and the classes' tensors by our names, averaged ones where there are."""
    state: dict[str, Tensor] = {}
    for name, tensor in held.items():
        if name.startswith(_LDM_UNET):
            inner = name.removeprefix(_LDM_UNET)
            # Their averages are buffers, whose names have no dots.
            averaged = held.get(_LDM_AVERAGED + inner.replace(".", ""))
            if averaged is not None:
                tensor, source = averaged, "model_ema"
            state[f"model.{inner}"] = tensor
    if not state:
        # The U-Net's own state, without what lies around it.
        return {f"model.{name}": tensor for name, tensor in held.items()}, source
    if _LDM_CLASSES in held:
        state[_OUR_CLASSES] = held[_LDM_CLASSES]
    return state, source


def _first_stage(
    path: Path, held: Mapping[str, Tensor], config: Mapping[str, Any]
) -> FirstStage | None:
    """Return what makes images of latents, by diffusers' names; None where the file has none."""
    inside = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in held.items()
        if name.startswith(PREFIX)
    }
    found = {name: t for name, t in inside.items() if not name.startswith(_LDM_ASIDE)}
    if not found:
        return None
    names = list(tensor_names(config))
    refuse_misfit(
        path,
        {theirs: torch.empty(shape, device="meta") for theirs, _, shape, _ in names},
        found,
        of=f"behind `{PREFIX}` that `first_stage_config` describes",
        hint=_HINT,
    )
    scale = config["scaling_factor"]
    if scale is None:
        number = held.get("scale_factor")
        scale = number.item() if number is not None and number.numel() == 1 else math.nan
    if not 0 < scale < math.inf:
        raise NetworkError(
            f"{path}: scale_factor",
            expected="one number above 0, by which the latents were scaled",
            found=str(scale) if "scale_factor" in held else "none in the file",
            hint=_HINT,
        )
    return FirstStage(
        config={**config, "scaling_factor": scale},
        tensors={
            ours: found[theirs].reshape(shape).contiguous() for theirs, ours, _, shape in names
        },
    )
