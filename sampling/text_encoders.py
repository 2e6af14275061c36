"""From prompts to what a network is told, by a pipeline's text encoders as diffusers runs them.

Two kinds are known. Stable Diffusion's has one CLIP encoder, of which the network is told the
normalised states of the last layer. SDXL's has two, of which it is told the states of the layer
before the last, side by side, and the second one's pooled embedding with the image's sizes. No
prompt is the empty text, for SDXL zeros unless its pipeline says otherwise
(`force_zeros_for_empty_prompt`, true where it is absent).

The package transformers brings the encoders; weights are read as safetensors alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skiptune.canonical import digest, file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.networks.pipeline_unet import Conditions
from skiptune.sampling.pipeline_files import INDEX, PipelineFiles, read_json

__all__ = ["TRANSFORMERS", "encode", "encoders_digest"]

TRANSFORMERS = "pip install 'skiptune[text]'"
"""What installs the text encoders."""

_KINDS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
_TOKENIZER = "CLIPTokenizer"
_WEIGHTS = "model.safetensors"
_AT_ONCE = 50  # prompts that go through an encoder together
# What decides about a prompt's tokens and states beside the weights.
_TEXT_FILES = (".json", ".txt")


def encoders_digest(files: PipelineFiles, *, size: int) -> str:
    """Return the hash of everything that turns a prompt into what the network is told.

    Arguments:
        files: The pipeline.
        size: Height of its images in pixels, which SDXL's network is told.

    Raises:
        NetworkError: For text encoders of another kind, or files that are missing.
    """
    names = _encoders(files)
    hashes: dict[str, Any] = {"size": size, "zeros": _zeros(files)}
    for name in names:
        for folder in (name, name.replace("text_encoder", "tokenizer")):
            path = files.folder / folder
            if not path.is_dir():
                raise NetworkError(
                    str(path),
                    expected="the folder of a text encoder or of its tokenizer",
                    found="no such folder",
                    hint="the pipeline is not whole: save it again with"
                    " pipe.save_pretrained(FOLDER)",
                )
            found = sorted(p for p in path.glob("*") if p.suffix in _TEXT_FILES and p.is_file())
            if folder == name:
                found.append(path / _WEIGHTS)
            try:
                hashes[folder] = {p.name: file_digest(p) for p in found}
            except OSError as error:
                raise NetworkError(
                    str(path),
                    expected=f"a text encoder with {_WEIGHTS}, which holds no code",
                    found=f"{error.filename}: {error.strerror}",
                    hint="save the pipeline again with pipe.save_pretrained(FOLDER)",
                ) from error
    return digest(hashes)


def encode(
    files: PipelineFiles, prompts: Sequence[str], *, size: int, device: torch.device | str = "cpu"
) -> Conditions:
    """Encode prompts in float32, and the empty one.

    Arguments:
        files: The pipeline, whose encoders are loaded here and dropped again.
        prompts: At least one; those of more tokens than the encoder takes are cut off, as its
            pipelines do, and marked.
        size: Height of the images in pixels.
        device: Where the encoders run and the conditions are left.

    Raises:
        NetworkError: For text encoders of another kind or damaged ones, or no transformers.
    """
    names = _encoders(files)
    texts = [*prompts, ""]
    both = len(names) == 2
    states, pooled = [], None
    cut = torch.zeros(len(texts), dtype=torch.bool, device=device)
    for name in names:
        tokenizer, encoder = _loaded(files, name, device)
        cut |= _cut(tokenizer, texts).to(device)
        found, found_pooled = _run(tokenizer, encoder, texts, both, device)
        states.append(found)
        if both and name == "text_encoder_2":
            pooled = found_pooled
    hidden = torch.cat(states, dim=-1)
    if not both:
        return Conditions(hidden, cut=cut)
    assert pooled is not None  # the second encoder has made it
    if _zeros(files):
        hidden[-1], pooled[-1] = 0, 0
    # Original size, crop, and target size: height before width.
    sizes = torch.tensor([size, size, 0, 0, size, size], dtype=torch.float32, device=device)
    return Conditions(hidden, pooled, sizes, cut)


def _encoders(files: PipelineFiles) -> tuple[str, ...]:
    """Return the text encoders of a pipeline, refusing those of another kind."""
    index = read_json(files.folder / INDEX)
    config = read_json(files.unet_config)
    both = config.get("addition_embed_type") == "text_time"
    wanted = tuple(_KINDS) if both else ("text_encoder",)
    for name in (*wanted, *(name.replace("text_encoder", "tokenizer") for name in wanted)):
        named = index.get(name)
        kind = named[1] if isinstance(named, list) and len(named) == 2 else None
        expected = (_TOKENIZER,) if name.startswith("tokenizer") else (_KINDS[name],)
        if kind not in expected:
            raise NetworkError(
                f"{files.folder / INDEX}: {name}",
                expected=f"{expected[0]}, the kind of Stable Diffusion and SDXL",
                found=str(kind)[:60],
                hint="only pipelines with these text encoders are tuned with prompts",
            )
    return wanted


def _zeros(files: PipelineFiles) -> bool:
    """Return whether no prompt is zeros: SDXL's pipeline has it so by default."""
    both = read_json(files.unet_config).get("addition_embed_type") == "text_time"
    return both and bool(read_json(files.folder / INDEX).get("force_zeros_for_empty_prompt", True))


def _loaded(files: PipelineFiles, name: str, device: torch.device | str) -> tuple[Any, Any]:
    try:
        transformers = importlib.import_module("transformers")
        kind, tokenizer_kind = getattr(transformers, _KINDS[name]), transformers.CLIPTokenizer
    except (ImportError, RuntimeError) as error:
        raise NetworkError(
            f"{files.folder / name}",
            expected="the package transformers, which knows the text encoder",
            found=" ".join(str(error).split()),
            hint=TRANSFORMERS,
        ) from error
    quiet = getattr(getattr(transformers, "logging", None), "disable_progress_bar", None)
    if quiet is not None:
        quiet()  # who calls says what goes on
    folder = files.folder / name
    places = (files.folder / name.replace("text_encoder", "tokenizer"), folder)
    try:
        tokenizer = tokenizer_kind.from_pretrained(str(places[0]), local_files_only=True)
        encoder = kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise NetworkError(
            str(folder),
            expected="a text encoder and its tokenizer as save_pretrained writes them",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="save the pipeline again with pipe.save_pretrained(FOLDER)",
        ) from error
    return tokenizer, encoder.eval().requires_grad_(False).to(device)


def _cut(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return which texts have more tokens than their encoder takes, bool [texts]."""
    tokens = tokenizer(list(texts), verbose=False).input_ids
    return torch.tensor([len(one) > tokenizer.model_max_length for one in tokens])


@torch.no_grad()
def _run(
    tokenizer: Any, encoder: Any, texts: Sequence[str], both: bool, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return states [texts, tokens, width] and pooled embeddings, both float32."""
    states, pooled = [], []
    for first in range(0, len(texts), _AT_ONCE):
        tokens = tokenizer(
            list(texts[first : first + _AT_ONCE]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(device)
        made = encoder(tokens, output_hidden_states=both)
        states.append(made.hidden_states[-2] if both else made[0])
        pooled.append(made[0])
    return torch.cat(states).to(torch.float32), torch.cat(pooled).to(torch.float32)
