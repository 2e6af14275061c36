"""Networks with changed weights as files of the kinds that they were read from.

checkpoint   NAME.safetensors as `load_checkpoint` reads it: the source's tensors, types and
             metadata, with the changed tensors in their places
upstream     of OpenAI's style, U-ViT and lucidrains also a file of torch.save, by upstream's
             names: the U-Net's state, or, made from the original file, all that this holds
pipeline     the folder of diffusers with other weights in `unet`; weights in other forms
             (pickles, variants, ONNX, one file for all) are not carried along, for they hold
             the network as it was
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import SOURCE_KEY, Checkpoint
from skiptune.sampling.diffusers_weights import read_tensors
from skiptune.sampling.fold import Fold
from skiptune.sampling.pipeline_files import (
    INDEX,
    WEIGHT_SUFFIXES,
    pipeline_files,
    read_json,
)
from skiptune.sampling.published import read_file
from skiptune.sampling.tensor_files import save_tensors

__all__ = [
    "BAKED_KEY",
    "MARKER",
    "check_original",
    "is_notice",
    "scales_within",
    "source_metadata",
    "stored_tensors",
    "write_baked",
]

MARKER = "baked.json"
"""The file by which a folder of baked weights is known."""

BAKED_KEY = "skiptune.baked"
"""Metadata entry of a checkpoint with scales in its weights: what `MARKER` says."""

# The U-Nets that upstream's code loads from files of torch.save, and how it calls these.
_UPSTREAM = {"OpenAIUNet": ".pt", "UViT": ".pth", "LucidrainsUnet": ".pt"}
_OURS = "model."
_PIPELINES = "unet."
# Where files of these authors hold a U-Net: alone, in lucidrains' trainer, in latent diffusion.
_PREFIXES = ("", "model.", "ema_model.model.", "online_model.model.", "model.diffusion_model.")
_LDM_AVERAGED = "model_ema.diffusion_model"
# How names of files begin, in capitals, that say what may be done with weights.
_NOTICES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
_TEXTS = (".json", ".md", ".txt")
_LINKED_FROM = 1 << 24  # bytes; smaller files are copied, for people edit them


def stored_tensors(checkpoint: Checkpoint, keys: Iterable[str]) -> dict[str, Tensor]:
    """Read tensors of a network's file in the types that they have there.

    Arguments:
        checkpoint: Loaded from a file or a pipeline's folder that is still there.
        keys: Names in the network's `state_dict`.

    Returns:
        By these names.
    """
    wanted = set(keys)
    if not checkpoint.path.is_dir():
        with safe_open(checkpoint.path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in sorted(wanted)}
    found: dict[str, Tensor] = {}
    for path in pipeline_files(checkpoint.path).weights:
        tensors = read_tensors(path, wanted=lambda name: f"{_PIPELINES}{name}" in wanted)
        found |= {f"{_PIPELINES}{name}": tensor for name, tensor in tensors.items()}
    return found


def source_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the metadata of a checkpoint's file; none of a pipeline's."""
    if checkpoint.path.is_dir():
        return {}
    with safe_open(checkpoint.path, framework="pt", device="cpu") as file:
        return dict(file.metadata() or {})


def scales_within(path: Path) -> dict[str, Any] | None:
    """Return what is known of the scales that a network's weights hold already.

    Arguments:
        path: A checkpoint's file or a pipeline's folder, as `write_baked` and the marker beside
            its weights made it.

    Returns:
        What `MARKER` says; None of any other network.
    """
    if path.is_dir():
        place = path / MARKER
        return dict(read_json(place)) if place.is_file() else None
    with safe_open(path, framework="pt", device="cpu") as file:
        text = (file.metadata() or {}).get(BAKED_KEY)
    return None if text is None else dict(json.loads(text))


def is_notice(path: Path) -> bool:
    """Return whether a file is a licence by its name, and no weights, as of licence plates."""
    named = path.name.upper().startswith(_NOTICES)
    return named and path.suffix.lower() not in WEIGHT_SUFFIXES


def check_original(checkpoint: Checkpoint, original: Path) -> None:
    """Refuse a file that is not the one that a checkpoint was converted from.

    Raises:
        NetworkError: It is another file; or the checkpoint is of a kind without such a file.
    """
    where = f"--original {original}"
    source = json.loads(source_metadata(checkpoint).get(SOURCE_KEY, "{}"))
    if checkpoint.config.get("model_type") not in _UPSTREAM or "sha256" not in source:
        raise NetworkError(
            where,
            expected="a network of OpenAI's style, of U-ViT or lucidrains that `skiptune convert`"
            " has read from a .pt, .pth or .ckpt",
            found=checkpoint.name,
            hint="leave --original out",
        )
    found = file_digest(original) if original.is_file() else "no such file"
    if found != source["sha256"]:
        raise NetworkError(
            where,
            expected=f"{source['file']} (sha256 {source['sha256']})",
            found=found,
            hint=f"give the file that {checkpoint.path.name} was converted from",
        )


def write_baked(
    checkpoint: Checkpoint,
    fold: Fold,
    folder: Path,
    *,
    metadata: Mapping[str, str],
    original: Path | None = None,
) -> tuple[Path, ...]:
    """Write a network with folded scales.

    Arguments:
        checkpoint: As it was loaded, from what is still there.
        fold: Its changes.
        folder: An empty folder.
        metadata: What is added to the metadata of a checkpoint's file.
        original: The file that the checkpoint was converted from (`check_original`).

    Returns:
        The files that hold changed weights.

    Raises:
        OSError: They cannot be written.
    """
    if checkpoint.path.is_dir():
        return tuple(_write_pipeline(checkpoint.path, fold, folder))
    with safe_open(checkpoint.path, framework="pt", device="cpu") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    tensors |= fold.apply(tensors)
    path = folder / f"{checkpoint.name}.safetensors"
    save_tensors(path, tensors, {**source_metadata(checkpoint), **metadata})
    suffix = _UPSTREAM.get(str(checkpoint.config.get("model_type")))
    if suffix is None:
        return (path,)
    if original is None:
        held: Any = {
            key.removeprefix(_OURS): tensor
            for key, tensor in tensors.items()
            if key.startswith(_OURS) and not key.startswith("model.class_embedding.")
        }
        upstream = path.with_suffix(suffix)
    else:
        held = read_file(original)
        _fold_copies(held, fold)
        upstream = folder / original.name
    try:
        with open(upstream, "wb") as opened:
            torch.save(held, opened)
    except RuntimeError as error:
        # How torch says that a file could not be written; the reason is what it met before.
        met = error.__context__
        raise met if isinstance(met, OSError) else OSError(str(error).splitlines()[0]) from error
    return path, upstream


def _fold_copies(held: Any, fold: Fold) -> None:
    """Fold every copy of the network in the content of a file, averaged or not, in place."""
    done = False
    for state in _mappings(held, set()):
        places = [{key: p + key.removeprefix(_OURS) for key in fold.keys} for p in _PREFIXES]
        places.append({k: _LDM_AVERAGED + n.replace(".", "") for k, n in places[0].items()})
        for names in places:
            if all(isinstance(state.get(name), Tensor) for name in names.values()):
                tensors = {key: state[name] for key, name in names.items()}
                changed = fold.apply(tensors)
                state.update({names[key]: tensor for key, tensor in changed.items()})
                done = True
    assert done  # the checkpoint was read from here


def _mappings(held: Any, seen: set[int]) -> Iterator[MutableMapping[Any, Any]]:
    """Yield every mapping in plain data, each once, wherever it is referred to."""
    if not isinstance(held, MutableMapping | list | tuple) or id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, MutableMapping):
        yield held
    for each in list(held.values() if isinstance(held, MutableMapping) else held):
        yield from _mappings(each, seen)


def _write_pipeline(source: Path, fold: Fold, folder: Path) -> Iterator[Path]:
    """Write a pipeline with other weights in its U-Net; the rest is linked or copied."""
    files = pipeline_files(source)
    weights = {path.relative_to(source) for path in files.weights}
    named = read_json(source / INDEX)
    parts = [source / name for name, kind in named.items() if isinstance(kind, list)]
    carried = [path for path in source.iterdir() if path.is_file()]
    carried += [path for part in parts if part.is_dir() for path in sorted(part.rglob("*"))]
    unet = files.weights[0].parent
    shards = unet / "diffusion_pytorch_model.safetensors.index.json"
    for path in carried:
        place = path.relative_to(source)
        inside = path.parent in (source, unet)
        text = path.suffix in _TEXTS or is_notice(path)
        stale = path.name.endswith(".index.json") and (path != shards or len(weights) == 1)
        if not path.is_file() or place in weights or (inside and (not text or stale)):
            continue
        _carry(path, folder / place)
    for path in files.weights:
        place = folder / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if not {f"{_PIPELINES}{name}" for name in names} & set(fold.keys):
                _carry(path, place)
                continue
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata()
        changed = fold.apply({f"{_PIPELINES}{name}": t for name, t in tensors.items()})
        tensors |= {key.removeprefix(_PIPELINES): t for key, t in changed.items()}
        save_tensors(place, tensors, metadata)
        yield place


def _carry(path: Path, place: Path) -> None:
    """Link a large file, which nobody edits, and copy a small one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.stat().st_size >= _LINKED_FROM:
        try:
            # Caches of the hub are links into a store.
            os.link(path.resolve(), place)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copyfile(path, place)
