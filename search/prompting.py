"""The prompts of a study: encoded once, kept in the cache, and given to its network.

Where every image is told a prompt that is drawn by its seed, the prompt is the unit of all
standard errors. The search and each half of a confirm draw from prompts of their own (`Shares`),
because a choice that was made on some prompts may suit those alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from skiptune.canonical import digest
from skiptune.errors import Problem, SpecError
from skiptune.objectives.catalogue import CATALOGUE, IMAGE, PROMPT, Unit
from skiptune.objectives.units import LEAST_UNITS
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.prompts import (
    SEARCH_SHARE,
    SHARES_RULE,
    Prompts,
    Shares,
    confirm_share,
    read_prompts,
)
from skiptune.search.downloads import cache_folder, writable
from skiptune.search.spec import StudySpec

__all__ = [
    "confirms_served",
    "cut_prompts",
    "few_prompts",
    "prompt_counts",
    "prompt_problems",
    "prompted",
    "prompts_meaning",
    "refuse_few_prompts",
    "shares_of",
    "unit_of",
    "with_prompts",
]

# Changes whenever the numbers that are made of a prompt do.
_RULE = "CLIP states, float32, empty text for no prompt"
_TENSORS = ("hidden", "pooled", "time_ids", "cut")


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
    shares = Shares(prompts.texts, prompts.name)
    told = PipelineDenoiser(network.unet, network.scheduler, conditions=conditions, shares=shares)
    told.eval().requires_grad_(False).to(device)
    # Which of them a seed is told is no matter of how they are encoded, but one of the series.
    meaning = {**identity, "shares": SHARES_RULE}
    config = checkpoint.config | {"label_dim": told.label_dim, "prompts": meaning}
    return replace(checkpoint, network=told, config=config)


def unit_of(checkpoint: Checkpoint, spec: StudySpec) -> Unit:
    """Return what the standard errors of a study count.

    Prompts, where each image is told one that is drawn for it. Images of one prompt, or of none,
    have no other.
    """
    drawn = spec.setting.labels == "random" and spec.objective.samples
    return PROMPT if drawn and shares_of(checkpoint) is not None else IMAGE


def shares_of(checkpoint: Checkpoint) -> Shares | None:
    """Return which prompts a network is told by an image's seed; None where it reads no text."""
    network: Any = checkpoint.network
    shares: Shares | None = getattr(network, "shares", None)
    return shares


def prompt_counts(checkpoint: Checkpoint, spec: StudySpec, *, block: int = 1) -> dict[str, int]:
    """Return how many prompts the search and a confirm's halves draw from, by name.

    Arguments:
        checkpoint: The study's network, with its prompts.
        spec: The study.
        block: Of the confirm's seeds, from 1 on (`storage.seeds`).

    Returns:
        Nothing where errors count images.
    """
    shares = shares_of(checkpoint)
    if shares is None or unit_of(checkpoint, spec) == IMAGE:
        return {}
    names = (SEARCH_SHARE, *(confirm_share(block, half) for half in "AB"))
    return {name: shares.count(name) for name in names}


def few_prompts(checkpoint: Checkpoint, spec: StudySpec, *, block: int = 1) -> list[Problem]:
    """Return one problem for each share that holds too few prompts for a standard error.

    Arguments are those of `prompt_counts`.
    """
    lines = len(shares_of(checkpoint) or ())
    return [
        Problem(
            f"network.prompts: share of {name}",
            f"at least {LEAST_UNITS} prompts, which its errors count",
            f"{count} of {lines} lines",
        )
        for name, count in prompt_counts(checkpoint, spec, block=block).items()
        if count < LEAST_UNITS
    ]


def cut_prompts(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the lines of prompts of which a text encoder reads the beginning alone, from 1 on.

    Arguments:
        checkpoint: A network, with its prompts if any.
    """
    network: Any = checkpoint.network
    cut = getattr(getattr(network, "conditions", None), "cut", None)
    return () if cut is None else tuple(row + 1 for row in cut.nonzero().flatten().tolist())


def prompts_meaning(checkpoint: Checkpoint, spec: StudySpec) -> dict[str, Any]:
    """Return what a study keeps for life of its prompts: their hashes, and what errors count.

    Arguments:
        checkpoint: The study's network, with its prompts if any.
        spec: The study.
    """
    told = dict(checkpoint.config.get("prompts", {}))
    if unit_of(checkpoint, spec) == PROMPT:
        told["unit"] = PROMPT
    return {f"network.prompts.{key}": value for key, value in told.items()}


def confirms_served(checkpoint: Checkpoint, spec: StudySpec) -> int:
    """Return how many confirms, one after the other, have prompts enough.

    Arguments:
        checkpoint: The study's network, with its prompts.
        spec: The study.

    Returns:
        0 where errors count images.
    """
    served = 0
    while prompt_counts(checkpoint, spec) and not few_prompts(checkpoint, spec, block=served + 1):
        served += 1
    return served


def refuse_few_prompts(checkpoint: Checkpoint, spec: StudySpec, *, block: int) -> None:
    """Refuse a confirm whose prompts are too few, before it spends seeds or samples an image.

    Raises:
        SpecError: Its share of the lines holds too few for a standard error.
    """
    problems = few_prompts(checkpoint, spec, block=block)
    if problems:
        raise SpecError.of(
            [replace(one, where=f"study {spec.study}: {one.where}") for one in problems],
            hint="each confirm has half as many prompts as the one before: begin a new study with"
            " more lines",
        )


def prompt_problems(checkpoint: Checkpoint, spec: StudySpec, keys: Iterable[str]) -> list[Problem]:
    """Return what stands between a study and errors that count prompts.

    Arguments:
        checkpoint: The study's network, with its prompts if any.
        spec: The study.
        keys: All that it measures, of `CATALOGUE`.
    """
    blocked = [key for key in keys if CATALOGUE[key].blocks]
    problems = few_prompts(checkpoint, spec)
    if blocked and unit_of(checkpoint, spec) == PROMPT:
        expected = "metrics whose errors count prompts; blocks of seeds share them"
        problems.append(Problem("objective", expected, ", ".join(blocked)))
    return problems


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
        return Conditions(tensors["hidden"], *(tensors.get(name) for name in _TENSORS[1:]))
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
