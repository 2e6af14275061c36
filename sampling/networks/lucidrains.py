"""The `Unet` of lucidrains' denoising-diffusion-pytorch, from its package: an extra.

Its weights are named and shaped as in files of the package's `Trainer`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from skiptune.errors import NetworkError

__all__ = ["PACKAGE", "lucidrains_unet"]

PACKAGE = "denoising_diffusion_pytorch"


def lucidrains_unet(
    img_resolution: int,
    in_channels: int,
    out_channels: int,
    label_dim: int = 0,
    dim: int = 64,
    init_dim: int | None = None,
    dim_mults: Sequence[int] = (1, 2, 4, 8),
    learned_sinusoidal_cond: bool = False,
    random_fourier_features: bool = False,
    learned_sinusoidal_dim: int = 16,
    sinusoidal_pos_emb_theta: int = 10000,
    dropout: float = 0.0,
    attn_dim_head: int = 32,
    attn_heads: int = 4,
    full_attn: Sequence[bool] | None = None,
    flash_attn: bool = False,
) -> nn.Module:
    """Build a network, called as network(x, steps, None).

    Arguments:
        img_resolution: Height and width of the images in pixels, divisible by
            ``2 ** (len(dim_mults) - 1)``.
        in_channels: Channels of the images.
        out_channels: Channels of its output: as many, or twice where it predicts a variance too.
        label_dim: 0: it knows no classes.
        dim: Base number of channels.
        init_dim: Of the first convolution; None for as many.
        dim_mults: Channels per resolution, finest first, in multiples of the base.
        learned_sinusoidal_cond: As in the package, also for the following.
        random_fourier_features: See there.
        learned_sinusoidal_dim: See there.
        sinusoidal_pos_emb_theta: See there.
        dropout: See there.
        attn_dim_head: See there.
        attn_heads: See there.
        full_attn: See there.
        flash_attn: See there.

    Raises:
        NetworkError: The package is not installed.
        ValueError: For classes, or a resolution that cannot be halved often enough.
    """
    if label_dim:
        raise ValueError(f"label_dim {label_dim}: lucidrains' Unet knows no classes")
    if img_resolution % 2 ** (len(dim_mults) - 1):
        times = len(dim_mults) - 1
        raise ValueError(f"img_resolution {img_resolution} cannot be halved {times} times")
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise NetworkError(
            "network",
            expected=f"the package {PACKAGE.replace('_', '-')}, which has the network",
            found=str(error).splitlines()[0],
            hint="pip install 'skiptune[lucidrains]'",
        ) from error
    network: Any = package.Unet(
        dim,
        init_dim=init_dim,
        dim_mults=tuple(dim_mults),
        channels=in_channels,
        learned_variance=out_channels == 2 * in_channels,
        learned_sinusoidal_cond=learned_sinusoidal_cond,
        random_fourier_features=random_fourier_features,
        learned_sinusoidal_dim=learned_sinusoidal_dim,
        sinusoidal_pos_emb_theta=sinusoidal_pos_emb_theta,
        dropout=dropout,
        attn_dim_head=attn_dim_head,
        attn_heads=attn_heads,
        full_attn=None if full_attn is None else tuple(full_attn),
        flash_attn=flash_attn,
    )
    network.img_resolution = img_resolution
    network.in_channels = in_channels
    network.label_dim = 0
    return network  # type: ignore[no-any-return]
