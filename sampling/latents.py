"""What the latents of a network mean to the VAE that decodes them, and its pixels to an image.

A VAE is trained on images and says what its own latents z are. A network may be trained on
latents that were shifted and scaled per channel, and on images of another range:

    z = std x + mean             x: what the network makes
    image = (D(z) - low) / (high - low), rounded to bytes

Two conventions are known, by name:

    edm2   EDM2's (Karras et al. 2024, arXiv 2312.02696; NVlabs/edm2, `training/encoders.py`): the
           VAE of Stable Diffusion saw images from 0 to 1 and its latents were whitened to a
           standard deviation of 0.5; bytes are cut off
    vae    that of the VAE's own configuration, as Stable Diffusion's pipelines read it:
           `scaling_factor` with `shift_factor`, or with `latents_mean` and `latents_std`; images
           from -1 to 1, bytes are rounded to the nearest

This module costs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skiptune.errors import NetworkError

__all__ = [
    "CONFIG_FILE",
    "CONVENTIONS",
    "DECODED_AT_ONCE",
    "DTYPES",
    "WEIGHTS_FILE",
    "Latents",
    "latents_of",
    "vae_files",
]

CONVENTIONS = ("edm2", "vae")
DTYPES = ("float32", "float16", "bfloat16")

DECODED_AT_ONCE = 5
"""Latents that go through the VAE at once: few, because its activations are at the size of the
image (that of Stable Diffusion holds up to 0.8 GB of float32 for each one of 512x512, counted by
allocations); a divisor of the usual microbatches, so that nothing is decoded in vain."""

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"

# A path with one of these ends is a file of weights, every other one a folder.
_FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

# What NVlabs/edm2 assumes of the latents that the VAE of Stable Diffusion makes of ImageNet-512.
_EDM2_MEAN = (5.81, 3.25, 0.12, -2.15)
_EDM2_STD = (4.17, 4.62, 3.71, 3.28)
_EDM2_FINAL_STD = 0.5


@dataclass(frozen=True)
class Latents:
    """How latents of a network become those of a VAE, and the VAE's pixels an image.

    Arguments:
        name: The convention, one of `CONVENTIONS`.
        mean: Per channel, in the VAE's units; as many as the latents have channels.
        std: Per channel, above 0: the VAE's latents for a network's latent of 1.
        low: The VAE's pixel that is black.
        high: The VAE's pixel that is white.
        rounding: How pixels become bytes: cut off, or to the nearest.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float
    high: float
    rounding: Literal["down", "nearest"]

    def to_json(self) -> dict[str, Any]:
        """Return everything that decides about an image as plain data; the name does not."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "pixels": [self.low, self.high],
            "rounding": self.rounding,
        }


def latents_of(name: str, config: Mapping[str, Any], *, where: str) -> Latents:
    """Return a convention for one VAE.

    Arguments:
        name: One of `CONVENTIONS`.
        config: The VAE's configuration with every default written out, in diffusers' words.
        where: Names the configuration, for messages.

    Raises:
        NetworkError: The convention is unknown, or does not fit this VAE.
    """
    channels = int(config["latent_channels"])
    if name == "edm2":
        if channels != len(_EDM2_MEAN):
            raise NetworkError(
                f"{where}: latent_channels",
                expected=f"{len(_EDM2_MEAN)}, for which EDM2's means and deviations are known",
                found=str(channels),
                hint="take the VAE of Stable Diffusion, or `latents: vae` for the VAE's own scale",
            )
        std = tuple(value / _EDM2_FINAL_STD for value in _EDM2_STD)
        return Latents("edm2", _EDM2_MEAN, std, 0.0, 1.0, "down")
    if name != "vae":
        raise NetworkError(
            "latents",
            expected=f"one of {', '.join(CONVENTIONS)}",
            found=repr(name),
            hint="edm2 for EDM2's networks, vae for those of Stable Diffusion's kind",
        )
    factor = _number(config, "scaling_factor", where)
    if not factor > 0:
        raise _unusable(where, "scaling_factor", "a number above 0", config)
    shift = config.get("shift_factor")
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    if (means is None) != (deviations is None) or (means is not None and shift is not None):
        raise NetworkError(
            where,
            expected="`shift_factor`, or `latents_mean` and `latents_std`, or none of them",
            found=f"{shift!r}, {means!r} and {deviations!r}",
            hint="give the configuration that came with the VAE",
        )
    mean = (0.0 if shift is None else _number(config, "shift_factor", where),) * channels
    std = (1.0,) * channels
    if means is not None:
        mean = _per_channel(config, "latents_mean", channels, where)
        std = _per_channel(config, "latents_std", channels, where)
        if min(std) <= 0:
            raise _unusable(where, "latents_std", "numbers above 0", config)
    return Latents("vae", mean, tuple(s / factor for s in std), -1.0, 1.0, "nearest")


def vae_files(vae: str | Path) -> tuple[Path, Path]:
    """Return where the weights and the configuration of a VAE are; the disk is not asked.

    Arguments:
        vae: A folder in diffusers' layout, or a file of weights (by its end) beside the
            configuration.
    """
    path = Path(vae)
    if path.suffix in _FILE_SUFFIXES:
        return path, path.with_name(CONFIG_FILE)
    return path / WEIGHTS_FILE, path / CONFIG_FILE


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared as it is: a whole number of a file may be too large for a float.
    return number and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def _number(config: Mapping[str, Any], key: str, where: str) -> float:
    if not _is_number(config[key]):
        raise _unusable(where, key, "a finite number", config)
    return float(config[key])


def _per_channel(
    config: Mapping[str, Any], key: str, channels: int, where: str
) -> tuple[float, ...]:
    values = config[key]
    good = isinstance(values, Sequence) and len(values) == channels
    if not good or not all(map(_is_number, values)):
        raise _unusable(where, key, f"{channels} finite numbers", config)
    return tuple(map(float, values))


def _unusable(where: str, key: str, expected: str, config: Mapping[str, Any]) -> NetworkError:
    return NetworkError(
        f"{where}: {key}",
        expected=expected,
        found=repr(config[key])[:60],
        hint="give the configuration that came with the VAE",
    )
