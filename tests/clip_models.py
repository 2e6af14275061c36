"""CLIP models and text encoders of the size of a test, written by transformers itself."""

from __future__ import annotations

import importlib
import json
import string
from pathlib import Path
from typing import Any

import torch

__all__ = ["IMAGE", "TOKENS", "text_parts", "write_clip", "write_text_encoder"]

IMAGE = 32
"""Height of the images that the model sees."""

TOKENS = 20
"""Most tokens of a prompt: letters, its begin and its end."""

_TEXT = {
    "vocab_size": 54,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}

_LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 16,
}


def write_clip(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Let transformers write a model with random weights and its processor, return the folder."""
    transformers = _transformers(seed)
    plain = transformers.CLIPConfig(
        text_config={**_LAYERS, **_TEXT},
        vision_config={**_LAYERS, "image_size": IMAGE, "patch_size": 8},
        projection_dim=16,
        **config,
    )
    transformers.CLIPModel(plain).save_pretrained(folder)
    size = {"height": IMAGE, "width": IMAGE}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=size)
    transformers.CLIPProcessor(images, _tokenizer(transformers)).save_pretrained(folder)
    return folder


def write_text_encoder(pipeline: Path, *, width: int) -> Path:
    """Add the text encoder and tokenizer of Stable Diffusion's kind to a pipeline."""
    parts = text_parts(width)
    for name, part in parts.items():
        part.save_pretrained(pipeline / name)
    index = pipeline / "model_index.json"
    named = {name: ["transformers", type(part).__name__] for name, part in parts.items()}
    index.write_text(json.dumps({**json.loads(index.read_text()), **named}))
    return pipeline


def text_parts(*widths: int) -> dict[str, Any]:
    """Text encoders of these widths with their tokenizers: one of Stable Diffusion, two of SDXL.

    The second tokenizer fills up with another token than the first, as SDXL's does.
    """
    transformers = _transformers(seed=2)
    parts: dict[str, Any] = {}
    kinds = (("", "CLIPTextModel", None), ("_2", "CLIPTextModelWithProjection", "a</w>"))
    for width, (end, kind, filling) in zip(widths, kinds, strict=False):
        config = transformers.CLIPTextConfig(**{**_LAYERS, **_TEXT, "hidden_size": width})
        parts[f"text_encoder{end}"] = getattr(transformers, kind)(config).eval()
        parts[f"tokenizer{end}"] = tokenizer = _tokenizer(transformers)
        if filling is not None:
            tokenizer.add_special_tokens({"pad_token": filling})
    return parts


def _transformers(seed: int) -> Any:
    module: Any = importlib.import_module("transformers")
    module.logging.disable_progress_bar()
    torch.manual_seed(seed)
    return module


def _tokenizer(transformers: Any) -> Any:
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    vocabulary |= {letter: number for number, letter in enumerate(letters, 2)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)
