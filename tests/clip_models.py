"""CLIP models of the size of a test, written by transformers itself."""

from __future__ import annotations

import importlib
import string
from pathlib import Path
from typing import Any

import torch

__all__ = ["IMAGE", "TOKENS", "write_clip"]

IMAGE = 32
"""Height of the images that the model sees."""

TOKENS = 20
"""Most tokens of a prompt: letters, its begin and its end."""

_LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 16,
}


def write_clip(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Let transformers write a model with random weights and its processor, return the folder."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.disable_progress_bar()
    torch.manual_seed(seed)
    text = {"vocab_size": 54, "max_position_embeddings": TOKENS, "bos_token_id": 0}
    text |= {"eos_token_id": 1, "pad_token_id": 1}
    plain = transformers.CLIPConfig(
        text_config={**_LAYERS, **text},
        vision_config={**_LAYERS, "image_size": IMAGE, "patch_size": 8},
        projection_dim=16,
        **config,
    )
    transformers.CLIPModel(plain).save_pretrained(folder)
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    vocabulary |= {letter: number for number, letter in enumerate(letters, 2)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)
    size = {"height": IMAGE, "width": IMAGE}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=size)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
