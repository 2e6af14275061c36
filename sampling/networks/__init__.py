"""Networks that skiptune can build from a configuration: plain `torch.nn` modules.

Their modules bear the names of the published checkpoints, so that weights load by
`load_state_dict(strict=True)` and a skip has the same address in every tool.
"""

from __future__ import annotations

from skiptune.sampling.networks.consistency import ConsistencyPrecond
from skiptune.sampling.networks.dhariwal import DhariwalUNet
from skiptune.sampling.networks.discrete import DiscretePrecond
from skiptune.sampling.networks.edm2 import EDM2Precond, EDM2UNet
from skiptune.sampling.networks.families import build, build_denoiser
from skiptune.sampling.networks.openai import OpenAIUNet
from skiptune.sampling.networks.precond import (
    EDMPrecond,
    Preconditioned,
    VEPrecond,
    VPPrecond,
    iDDPMPrecond,
)
from skiptune.sampling.networks.song import SongUNet
from skiptune.sampling.networks.uvit import UViT

__all__ = [
    "ConsistencyPrecond",
    "DhariwalUNet",
    "DiscretePrecond",
    "EDM2Precond",
    "EDM2UNet",
    "EDMPrecond",
    "OpenAIUNet",
    "Preconditioned",
    "SongUNet",
    "UViT",
    "VEPrecond",
    "VPPrecond",
    "build",
    "build_denoiser",
    "iDDPMPrecond",
]
