"""EDM's preconditioning, and networks built from a plain configuration.

Karras et al. 2022 (arXiv 2206.00364), equation 7 and table 1, column "Ours".
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.networks.song import SongUNet

__all__ = ["EDMPrecond", "build"]


class EDMPrecond(nn.Module):
    """A denoiser D(x; sigma) around a network that sees and makes signals of unit variance.

    Arguments:
        model: The network; its input and output have equally many channels.
        sigma_data: Standard deviation of the training images over all pixels.
        sigma_min: Lowest noise level that the denoiser was made for.
        sigma_max: Highest noise level that the denoiser was made for.
    """

    def __init__(
        self,
        model: SongUNet,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ) -> None:
        super().__init__()
        self.model = model
        self.img_resolution = model.img_resolution
        self.img_channels = model.in_channels
        self.label_dim = model.label_dim
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean images.

        Arguments:
            x: Noisy images [B, C, H, W]: clean images in -1..1 plus sigma times white noise.
            sigma: Noise level above 0, one for all or [B].
            class_labels: One-hot float rows [B, label_dim]; None means no label.
            augment_labels: Augmentation vectors [B, augment_dim]; None means none.

        Returns:
            float32 [B, C, H, W].
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        sigma = sigma.reshape(-1, 1, 1, 1)
        if class_labels is not None:
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)

        variance = sigma.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        c_noise = (sigma.log() / 4).flatten().expand(x.shape[0])

        estimate: Tensor = self.model(c_in * x, c_noise, class_labels, augment_labels)
        return c_skip * x + c_out * estimate.to(torch.float32)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """Return the nearest noise level that the denoiser knows: any, so sigma itself."""
        return torch.as_tensor(sigma)


_OWN_KEYS = ("precond", "sigma_data", "img_channels")
_MODEL_KEYS = tuple(inspect.signature(SongUNet).parameters)
_REQUIRED = (*_OWN_KEYS, "img_resolution", "label_dim")
_FROM_CHANNELS = ("in_channels", "out_channels")


def build(config: Mapping[str, Any]) -> EDMPrecond:
    """Build a denoiser with random weights.

    Arguments:
        config: ``precond`` ("edm"), ``sigma_data``, ``img_resolution``, ``img_channels``,
            ``label_dim``, and any other key of `SongUNet` except its channel counts.

    Raises:
        NetworkError: For missing or unknown keys, or values that make no network.
    """
    known = [key for key in (*_OWN_KEYS, *_MODEL_KEYS) if key not in _FROM_CHANNELS]
    hint = "the configuration is the metadata entry `skiptune.network` of a checkpoint of skiptune"
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise NetworkError(
            "network configuration",
            expected=f"keys among {', '.join(sorted(known))}",
            found=", ".join(unknown),
            hint=hint,
        )
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise NetworkError(
            "network configuration",
            expected=f"keys {', '.join(_REQUIRED)}",
            found=f"no {', '.join(missing)}",
            hint=hint,
        )
    if config["precond"] != "edm":
        raise NetworkError(
            "network configuration: precond",
            expected="edm",
            found=repr(config["precond"]),
            hint=hint,
        )
    channels = config["img_channels"]
    rest = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    try:
        model = SongUNet(in_channels=channels, out_channels=channels, **rest)
    except (TypeError, ValueError) as error:
        raise NetworkError(
            "network configuration", expected="values of a SongUNet", found=str(error), hint=hint
        ) from error
    return EDMPrecond(model, sigma_data=float(config["sigma_data"]))
