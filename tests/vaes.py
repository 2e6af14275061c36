"""A VAE and a network of latents, both of the size of a test, as files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skiptune.sampling.networks import build_denoiser

__all__ = [
    "LATENT_CONFIG",
    "VAE_CONFIG",
    "VQ_CONFIG",
    "random_vae",
    "random_vq",
    "write_latent_network",
    "write_vae",
]

LATENT_CONFIG: dict[str, Any] = {
    "precond": "edm2",
    "sigma_data": 0.5,
    "img_resolution": 4,
    "img_channels": 4,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [2],
    "channels_per_head": 16,
}
"""EDM2's network for 4x4 latents of 4 channels, which `VAE_CONFIG` decodes to 8x8 images."""

VAE_CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "latent_channels": 4,
    "norm_num_groups": 2,
    "scaling_factor": 0.25,
}


@functools.cache
def _random_vae(changes: str) -> Any:
    import diffusers

    architecture: Any = diffusers.AutoencoderKL
    torch.manual_seed(0)
    return architecture(**{**VAE_CONFIG, **json.loads(changes)}).eval().requires_grad_(False)


def random_vae(**changes: Any) -> Any:
    """diffusers' own VAE with random weights; the same ones for the same configuration."""
    return _random_vae(json.dumps(changes))


def write_vae(folder: Path, **changes: Any) -> Path:
    """Let diffusers write a random VAE into a folder, and return the folder."""
    random_vae(**changes).save_pretrained(folder)
    return folder


VQ_CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "latent_channels": 4,
    "norm_num_groups": 2,
    "num_vq_embeddings": 16,
    "scaling_factor": 1.0,
}


@functools.cache
def _random_vq(changes: str) -> Any:
    import diffusers

    architecture: Any = diffusers.VQModel
    torch.manual_seed(0)
    made = architecture(**{**VQ_CONFIG, **json.loads(changes)}).eval().requires_grad_(False)
    # As wide as the latents are: by default all entries are near 0, and all images alike.
    made.quantize.embedding.weight.normal_()
    return made


def random_vq(**changes: Any) -> Any:
    """diffusers' own `VQModel` with random weights; the same ones for the same configuration."""
    return _random_vq(json.dumps(changes))


def write_latent_network(path: Path, **changes: Any) -> Path:
    """Write a network of latents with random weights in which every path matters.

    `changes` are of `LATENT_CONFIG`; the value `...` stands for no such key.
    """
    from safetensors.torch import save_file

    config = {k: v for k, v in {**LATENT_CONFIG, **changes}.items() if v is not ...}
    torch.manual_seed(0)
    network: nn.Module = build_denoiser(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"skiptune.network": json.dumps(config)})
    return path
