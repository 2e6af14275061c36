"""Networks that skiptune can build from a configuration: plain `torch.nn` modules.

Their modules bear the names of the published checkpoints, so that weights load by
`load_state_dict(strict=True)` and a skip has the same address in every tool.
"""

from __future__ import annotations

from skiptune.sampling.networks.precond import EDMPrecond, build
from skiptune.sampling.networks.song import SongUNet

__all__ = ["EDMPrecond", "SongUNet", "build"]
