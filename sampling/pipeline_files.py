"""The files of a diffusers pipeline that decide what its network computes, and their hash.

A pipeline is a folder with `model_index.json`, which names its components, and one folder for each
of them. Of old pipelines a component may lie in the folder itself. The hash that stands for the
network is over its configuration, its weights and the scheduler's configuration: the VAE and what
encodes text have hashes of their own.

This module costs no torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiptune.canonical import digest, file_digest
from skiptune.errors import NetworkError, Problem

__all__ = [
    "HUB_ID",
    "INDEX",
    "UNETS",
    "WEIGHT_SUFFIXES",
    "PipelineFiles",
    "content_digest",
    "folder_name",
    "hub_folder",
    "hub_place",
    "may_be_on_hub",
    "pipeline_files",
    "read_json",
    "vae_folder",
    "weight_files",
]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""The name of a repository on the hub: OWNER/NAME."""

INDEX = "model_index.json"
UNETS = ("UNet2DModel", "UNet2DConditionModel")
WEIGHT_SUFFIXES = (".safetensors", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
"""How names of files of weights end."""

WEIGHTS = "diffusion_pytorch_model.safetensors"
_HALF = "diffusion_pytorch_model.fp16.safetensors"
_PICKLES = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin")
_MOST_JSON = 1 << 24  # bytes; that of a sharded network has some hundred thousand
_MOST_SHARDS = 1000
# What a pipeline calls its VAE: an AutoencoderKL, or a VQModel.
_VAES = ("vae", "vqvae")
# Components that keep a text's or an image's content from being seen: they make nothing.
_CHECKERS = ("safety_checker", "feature_extractor")


@dataclass(frozen=True)
class PipelineFiles:
    """Where the parts of a pipeline are.

    Arguments:
        folder: Of the pipeline.
        kind: Its class in diffusers, e.g. ``DDPMPipeline``.
        unet: The class of its U-Net, one of `UNETS`.
        unet_config: The U-Net's configuration.
        weights: The files of its weights, at least one.
        scheduler_config: The scheduler's configuration.
        vae: The folder of its VAE; None where the network makes pixels.
        encoders: The folders of its text encoders and their tokenizers, by component.
        ignored: Components that are left out because they make nothing, e.g. a safety checker.
    """

    folder: Path
    kind: str
    unet: str
    unet_config: Path
    weights: tuple[Path, ...]
    scheduler_config: Path
    vae: Path | None
    encoders: Mapping[str, Path]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people call the pipeline: its folder, or its repository on the hub."""
        return folder_name(self.folder)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that decide what the network computes."""
        return (self.unet_config, *self.weights, self.scheduler_config)


def pipeline_files(folder: str | Path) -> PipelineFiles:
    """Find the parts of a pipeline; of each file only that it is there is looked at.

    Raises:
        NetworkError: For a folder that is no pipeline, one without a U-Net, with every component
            that is missing, or with weights that are pickles.
    """
    folder = Path(folder)
    index = folder / INDEX
    if not index.is_file():
        raise NetworkError(
            str(folder),
            expected=f"a pipeline of diffusers: a folder with {INDEX}",
            found="a folder without it" if folder.is_dir() else "no such folder",
            hint="save one with pipe.save_pretrained(FOLDER), or give a .safetensors checkpoint",
        )
    components = read_json(index)
    kind = str(components.get("_class_name"))[:80]
    unet = _class_of(components, "unet")
    if unet is None:
        raise _without_unet(index, kind, components)
    if unet not in UNETS:
        raise NetworkError(
            f"{index}: unet",
            expected=f"one of {', '.join(UNETS)}",
            found=unet[:60],
            hint="other U-Nets of diffusers are told more than a noise level and a condition",
        )
    problems = []

    def place(name: str, file: str) -> Path:
        inside = folder / name
        found = (inside if inside.is_dir() else folder) / file
        if not found.is_file():
            expected = f"the file {inside / file}"
            problems.append(Problem(f"{index}: {name}", expected, "no such file"))
        return found

    scheduler = folder
    if _class_of(components, "scheduler") is None:
        expected = "a scheduler, which says what noise the network was trained on"
        problems.append(Problem(f"{index}: scheduler", expected, "none"))
    else:
        scheduler = place("scheduler", "scheduler_config.json")
    config = place("unet", "config.json")
    weights = weight_files(
        config.parent, problems, names=(WEIGHTS, _HALF), pickles=_PICKLES, read=read_json
    )
    vae = None
    for name in _VAES:
        kind_of_vae = _class_of(components, name)
        if kind_of_vae is None:
            continue
        vae = folder / name
        if not vae.is_dir():
            expected = f"the folder {vae} of its {kind_of_vae[:60]}"
            problems.append(Problem(f"{index}: {name}", expected, "no such folder"))
    other = _class_of(components, "movq")
    if other is not None:
        expected = "a VAE of kind AutoencoderKL or VQModel, or none"
        problems.append(Problem(f"{index}: movq", expected, other))
    encoders = {
        name: folder / name
        for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        if _class_of(components, name) is not None
    }
    if problems:
        raise NetworkError.of(
            problems,
            hint="the pipeline is not whole: save it again with pipe.save_pretrained(FOLDER)",
        )
    return PipelineFiles(
        folder=folder,
        kind=kind,
        unet=unet,
        unet_config=config,
        weights=weights,
        scheduler_config=scheduler,
        vae=vae,
        encoders=encoders,
        ignored=tuple(n for n in _CHECKERS if _class_of(components, n) is not None),
    )


def content_digest(folder: str | Path) -> tuple[str, int]:
    """Return the hash that stands for a pipeline's network, and how many bytes it is made of.

    Raises:
        NetworkError: As `pipeline_files`; or a file cannot be read.
    """
    found = pipeline_files(folder)
    try:
        # By what they are for: how a pipeline calls its folders is no content.
        hashes = {
            "unet": found.unet,
            "config": file_digest(found.unet_config),
            "weights": [file_digest(path) for path in found.weights],
            "scheduler": file_digest(found.scheduler_config),
        }
        return digest(hashes), sum(path.stat().st_size for path in found.files)
    except OSError as error:
        raise _unreadable(Path(error.filename or found.folder), error) from error


def vae_folder(folder: str | Path) -> Path | None:
    """Return where the VAE of a pipeline is; None for anything that is no pipeline with one."""
    index = Path(folder) / INDEX
    try:
        components = read_json(index) if index.is_file() else {}
    except NetworkError:
        return None  # whoever loads the pipeline says what is wrong
    named = [name for name in _VAES if _class_of(components, name) is not None]
    return index.parent / named[-1] if named else None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of bounded size.

    Raises:
        NetworkError: It cannot be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_JSON + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if len(text) > _MOST_JSON:
            raise ValueError(f"more than {_MOST_JSON} bytes")
        plain = json.loads(text)
        if not isinstance(plain, dict):
            raise ValueError(f"a {type(plain).__name__}")
    except (ValueError, RecursionError) as error:
        raise NetworkError(
            str(path),
            expected="a JSON object",
            found=str(error)[:200],
            hint="take the file that came with the pipeline",
        ) from error
    return plain


def may_be_on_hub(path: str | Path) -> bool:
    """Return whether the end of a path can be the name of a repository: no file has such a one."""
    path = Path(path)
    named = HUB_ID.fullmatch("/".join(path.parts[-2:])) is not None
    return named and path.suffix not in WEIGHT_SUFFIXES


def hub_place(name: str) -> Path:
    """Return where the hub's client keeps a repository on this host."""
    home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
    cache = os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")
    return Path(cache).expanduser() / f"models--{name.replace('/', '--')}"


def hub_folder(name: str) -> Path | None:
    """Return the folder of a pipeline of the hub that is on this host already; no hub is asked.

    Arguments:
        name: ``OWNER/NAME``; anything else, and what exists as a path, is none.

    Returns:
        The revision that `main` was when it was fetched last, or None.
    """
    if not HUB_ID.fullmatch(name) or os.path.lexists(name):
        return None
    repository = hub_place(name)
    try:
        revision = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / revision
    return folder if re.fullmatch("[0-9a-f]{40}", revision) and folder.is_dir() else None


def folder_name(folder: str | Path) -> str:
    """Return what people call a folder: its name, or that of its repository on the hub."""
    parts = Path(folder).absolute().parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].rpartition("--")[2]
    return parts[-1]


def _class_of(components: Mapping[str, Any], name: str) -> str | None:
    """Return the class of a component, None where the pipeline has none."""
    named = components.get(name)
    if not isinstance(named, list) or len(named) != 2 or not isinstance(named[1], str):
        return None
    return named[1]


def _without_unet(index: Path, kind: str, components: Mapping[str, Any]) -> NetworkError:
    others = ("transformer", "prior", "decoder", "controlnet")
    network = next((name for name in others if _class_of(components, name)), None)
    found = f"{kind} without one"
    if network is not None:
        found = f"{kind} with a {network} of kind {str(_class_of(components, network))[:60]}"
    why = ""
    if network == "transformer":
        why = ", whose blocks follow each other: no encoder's output skips ahead to a decoder"
    return NetworkError(
        f"{index}: unet",
        expected=f"a U-Net with skip connections: one of {', '.join(UNETS)}",
        found=f"{found}{why}",
        hint="tune a pipeline with a `unet`, e.g. of DDPM, Stable Diffusion or SDXL",
    )


def weight_files(
    folder: Path,
    problems: list[Problem],
    *,
    names: Sequence[str],
    pickles: Sequence[str],
    read: Callable[[Path], dict[str, Any]],
) -> tuple[Path, ...]:
    """Return the safetensors files of a folder: one, or those that an index names.

    Arguments:
        folder: Where they lie.
        problems: Is told what is wrong; then the files are not to be used.
        names: Of a single file, the usual one first, whose index is looked for as well.
        pickles: Names under which weights are found that are not read.
        read: Reads a JSON object.
    """
    for name in names:
        if (folder / name).is_file():
            return (folder / name,)
    index = folder / f"{names[0]}.index.json"
    if index.is_file():
        mapped = read(index).get("weight_map")
        shards = sorted(set(map(str, mapped.values()))) if isinstance(mapped, dict) else []
        # A name may not lead out of the folder.
        plain = all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in shards)
        if not shards or not plain or len(shards) > _MOST_SHARDS:
            expected = "`weight_map`, from tensors to .safetensors files beside it"
            problems.append(Problem(str(index), expected, f"{len(shards)} names"))
        missing = [name for name in shards if plain and not (folder / name).is_file()]
        if missing:
            problems.append(Problem(str(index), f"the file {folder / missing[0]}", "no such file"))
        return tuple(folder / name for name in shards)
    pickled = [name for name in pickles if (folder / name).is_file()]
    found = f"{pickled[0]}, a pickle, which runs code when it is loaded" if pickled else "none"
    problems.append(Problem(f"{folder}: weights", f"the file {names[0]}", found))
    return ()


def _unreadable(path: Path, error: OSError) -> NetworkError:
    return NetworkError(
        str(path),
        expected="a readable file",
        found=error.strerror or str(error),
        hint="check the file's permissions",
    )
