"""Pipelines of diffusers of the size of a test, written by diffusers itself."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["TEXT", "UNET", "ddim", "random_unet", "write_pipeline"]

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
"""A `UNet2DModel` of 4 skips for 8x8 images of one channel."""

TEXT: dict[str, Any] = {
    **UNET,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
}
"""A `UNet2DConditionModel` of 4 skips for 8x8 latents of 4 channels."""


def random_unet(kind: str = "UNet2DModel", **changes: Any) -> Any:
    """diffusers' own U-Net with random weights; the same ones for the same configuration."""
    torch.manual_seed(0)
    base = UNET if kind == "UNet2DModel" else TEXT
    unet: Any = getattr(importlib.import_module("diffusers"), kind)(**{**base, **changes})
    return unet.eval().requires_grad_(False)


def ddim(**values: Any) -> Any:
    """diffusers' DDIM scheduler, without clipping unless asked for."""
    kind: Any = importlib.import_module("diffusers").DDIMScheduler
    return kind(**{"clip_sample": False, **values})


def write_pipeline(
    folder: Path, *, unet: nn.Module | None = None, scheduler: Any = None, vae: Any = None
) -> Path:
    """Let diffusers write a pipeline with random weights into a folder, and return the folder.

    With a VAE the index is that of Stable Diffusion's pipeline, which only the package
    transformers can write.
    """
    unet = random_unet() if unet is None else unet
    scheduler = ddim() if scheduler is None else scheduler
    if vae is None:
        kind: Any = importlib.import_module("diffusers").DDIMPipeline
        kind(unet=unet, scheduler=scheduler).save_pretrained(folder)
        # DDIMPipeline makes a DDIM scheduler of every other.
        scheduler.save_pretrained(folder / "scheduler")
        return folder
    parts = {"unet": unet, "scheduler": scheduler, "vae": vae}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": checker}
    index |= {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
