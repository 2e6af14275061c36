"""The prompts of a study: encoded once, kept in the cache, and given to its network."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.prompts import Prompts, read_prompts
from skiptune.search.downloads import cache_folder, writable

__all__ = ["prompted", "with_prompts"]

# Changes whenever the numbers that are made of a prompt do.
_RULE = "CLIP states, float32, empty text for no prompt"
_TENSORS = ("hidden", "pooled", "time_ids")


def with_prompts(
    checkpoint: Checkpoint, prompts: str | None, *, source: str = "spec", device: str = "cpu"
) -> Checkpoint:
    """Return a network that is told the prompts of a file, one class for each.

    Arguments:
        checkpoint: The study's network.
        prompts: The file; None returns the checkpoint as it is.
        source: Name of the file the spec came from, for messages.
        device: Torch device of network and prompts.

    Raises:
        SpecError: The network reads no text.
        NetworkError: Of the prompts or the text encoders; or transformers is missing and they are
            not in the cache.
    """
    if prompts is None:
        return checkpoint
    network: Any = checkpoint.network
    if not getattr(network, "needs_prompts", False):
        raise SpecError(
            f"{source}: network.prompts",
            expected="null, because the network reads no text",
            found=prompts,
            hint="leave the prompts out",
        )
    return prompted(checkpoint, read_prompts(prompts), device=device)


def prompted(checkpoint: Checkpoint, prompts: Prompts, *, device: str = "cpu") -> Checkpoint:
    """Return a pipeline's network that is told prompts, one class for each.

    Arguments:
        checkpoint: Of a pipeline whose network reads text.
        prompts: What it is told.
        device: Torch device of network and prompts.

    Raises:
        NetworkError: Of the text encoders; or transformers is missing and the prompts are not in
            the cache.
    """
    # They load torch.
    from skiptune.sampling.networks.pipeline_unet import PipelineDenoiser
    from skiptune.sampling.pipeline_files import pipeline_files
    from skiptune.sampling.text_encoders import encoders_digest

    files = pipeline_files(checkpoint.path)
    network: Any = checkpoint.network
    size = network.img_resolution * _factor(files.vae)
    identity = {
        "sha256": prompts.sha256,
        "encoders": encoders_digest(files, size=size),
        "rule": _RULE,
    }
    path = cache_folder() / "prompts" / f"{digest(identity)}.safetensors"
    conditions = _cached(path, device)
    if conditions is None:
        from skiptune.sampling.text_encoders import encode

        conditions = encode(files, prompts.texts, size=size, device=device)
        _keep(path, conditions)
    told = PipelineDenoiser(network.unet, network.scheduler, conditions=conditions)
    told.eval().requires_grad_(False).to(device)
    config = checkpoint.config | {"label_dim": told.label_dim, "prompts": identity}
    return replace(checkpoint, network=told, config=config)


def _factor(vae: Path | None) -> int:
    """Return the height of an image over that of its latent."""
    from skiptune.sampling.pipeline_files import read_json

    if vae is None:
        return 1
    levels = read_json(vae / "config.json").get("block_out_channels", [64])
    return int(2 ** (len(levels) - 1)) if isinstance(levels, list) else 1


def _cached(path: Path, device: str) -> Any:
    """Return the conditions that the cache holds, None where it holds none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from skiptune.sampling.networks.pipeline_unet import Conditions

    try:
        tensors = load_file(path, device=device)
        return Conditions(tensors["hidden"], tensors.get("pooled"), tensors.get("time_ids"))
    except (OSError, SafetensorError, KeyError):
        return None  # not there, or damaged: encoded again


def _keep(path: Path, conditions: Any) -> None:
    from safetensors.torch import save_file

    tensors = {name: getattr(conditions, name) for name in _TENSORS}
    held = {n: t.cpu().contiguous() for n, t in tensors.items() if t is not None}
    with writable(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            save_file(held, temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
