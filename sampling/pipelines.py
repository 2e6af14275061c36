"""Pipelines of diffusers as checkpoints: a U-Net, and what its scheduler says of it.

A pipeline is read from its folder: configurations as JSON, weights as safetensors. Nothing of it
is run, no pickle is opened and no hub is asked; the extra `diffusers` brings the architectures. A
safety checker is never loaded: what a study measures are the images as the network makes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skiptune.errors import NetworkError, Problem
from skiptune.sampling.checkpoint import Checkpoint, refuse_other
from skiptune.sampling.diffusers_weights import read_tensors, refuse_misfit
from skiptune.sampling.networks.pipeline_unet import PipelineDenoiser
from skiptune.sampling.pipeline_files import (
    PipelineFiles,
    content_digest,
    pipeline_files,
    read_json,
)
from skiptune.sampling.schedulers import diffusers_class, read_scheduler
from skiptune.sampling.skips import find_skips

__all__ = ["build_unet", "load_pipeline"]

# Keys that make a network ask for more than a noise level and a condition, and what they may be.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "class_embed_type": (None,),
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim_type": (None,),
    "encoder_hid_dim": (None,),
    "time_cond_proj_dim": (None,),
    "attention_type": ("default",),
    "time_embedding_type": ("positional", "learned"),
}
# Building counts to these, so a file may not ask for as many as it likes; SDXL has 2, 3 and 10.
_MOST_LAYERS, _MOST_LEVELS = 64, 64
_COUNTED = ("layers_per_block", "transformer_layers_per_block")
# What building raises where values make no network.
_UNSOUND = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
_HINT = "take the configuration that came with the pipeline"
_NOT_SERVED = (
    "if the file is as it came, such networks are not tuned: docs/diffusers.md tells which are"
)


def load_pipeline(
    folder: str | Path, *, sha256: str | None = None, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Load the U-Net of a pipeline as a denoiser.

    Weights of any floating type compute in float32.

    Arguments:
        folder: With `model_index.json`.
        sha256: What `pipeline_files.content_digest` must be; None accepts any.
        device: Where the network goes.

    Raises:
        NetworkError: For everything that `pipeline_files`, `read_scheduler` and `build_unet`
            refuse; weights that are cut off or of another network; another hash; diffusers is
            missing.
    """
    files = pipeline_files(folder)
    scheduler = read_scheduler(
        read_json(files.scheduler_config), where=str(files.scheduler_config)
    )
    found, _ = content_digest(folder)
    refuse_other(files.folder, found, sha256)
    unet = build_unet(files.unet, read_json(files.unet_config), where=str(files.unet_config))
    _fill(unet, files)
    network = PipelineDenoiser(unet, scheduler)
    if network.has_classes and network.needs_prompts:
        raise NetworkError(
            f"{files.unet_config}: num_class_embeds",
            expected="null, because the network reads text: it is told prompts or classes",
            found=str(network.label_dim),
            hint=_NOT_SERVED,
        )
    network.eval().requires_grad_(False).to(device)
    if torch.device(device).type == "cpu":
        # As for other checkpoints: convolutions of few channels are faster so.
        network.to(memory_format=torch.channels_last)
    return Checkpoint(
        network=network,
        name=files.name,
        sha256=found,
        path=files.folder,
        config={
            "pipeline": files.kind,
            "unet": files.unet,
            **scheduler.to_json(),
            "img_resolution": network.img_resolution,
            "img_channels": network.img_channels,
            "label_dim": network.label_dim,
            "ignored": list(files.ignored),
        },
        skips=find_skips(network),
    )


def build_unet(kind: str, config: Mapping[str, Any], *, where: str) -> Any:
    """Build a U-Net of diffusers on the meta device, where its weights take no memory.

    Arguments:
        kind: One of `pipeline_files.UNETS`.
        config: Its configuration; keys that the class does not know change nothing.
        where: Names the configuration, for messages.

    Raises:
        NetworkError: With every key that asks for a condition that is not known, for images that
            are not square, or for no network; diffusers is missing.
    """
    architecture = diffusers_class(kind, where=where)
    parameters = inspect.signature(architecture.__init__).parameters
    values = {
        name: config.get(name, parameter.default)
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    problems = list(_problems(values, where))
    if problems:
        raise NetworkError.of(problems, hint=_NOT_SERVED)
    try:
        with torch.device("meta"):
            return architecture(**values)
    except _UNSOUND as error:
        raise NetworkError(
            where,
            expected=f"the configuration of a {kind}",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint=_HINT,
        ) from error


def _problems(values: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key, allowed in _PLAIN.items():
        if key in values and values[key] not in allowed:
            expected = " or ".join("null" if value is None else str(value) for value in allowed)
            yield Problem(f"{where}: {key}", expected, repr(values[key])[:60])
    size = values["sample_size"]
    sizes = [size] if isinstance(size, int) else size
    square = isinstance(sizes, list | tuple) and len(sizes) in (1, 2) and len(set(sizes)) == 1
    if not square or type(sizes[0]) is not int or sizes[0] < 1:
        expected = "the height of square images, a whole number above 0"
        yield Problem(f"{where}: sample_size", expected, repr(size)[:60])
    channels, made = values["in_channels"], values["out_channels"]
    whole = type(channels) is int and type(made) is int and channels > 0
    if not whole or made not in (channels, 2 * channels):
        # Those of inpainting, of depth and of editing are given a picture as well.
        expected = "the channels that go out, or half of them: nothing but the noisy image goes in"
        yield Problem(f"{where}: in_channels", expected, f"{channels!r}, and {made!r} out"[:60])
    for key, value in values.items():
        flat = [value] if not isinstance(value, list | tuple) else list(value)
        many = len(flat) > _MOST_LEVELS
        if key in _COUNTED:
            inner = [v for item in flat for v in (item if isinstance(item, list) else [item])]
            many |= any(not isinstance(v, int) or v > _MOST_LAYERS for v in inner)
        if many:
            expected = f"at most {_MOST_LEVELS} numbers, of layers at most {_MOST_LAYERS}"
            yield Problem(f"{where}: {key}", expected, repr(value)[:60])


def _fill(unet: Any, files: PipelineFiles) -> None:
    """Give a U-Net its weights in float32."""
    tensors: dict[str, Tensor] = {}
    for path in files.weights:
        tensors |= read_tensors(path)
    refuse_misfit(
        files.weights[0].parent,
        unet.state_dict(),
        tensors,
        of="of the network that its configuration is of",
        hint="the weights belong to another network: give the configuration beside them",
    )
    unet.load_state_dict({n: t.to(torch.float32) for n, t in tensors.items()}, assign=True)
