"""The numeric mode of a network: the floating type in which it computes.

Half precision halves the memory of the weights and, on devices made for it, most of the time. Its
images are others, so the mode is part of the series (`describe`). Noise levels and their
coefficients stay in float32, the solver's state in float64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.describe import MODES

__all__ = ["in_mode"]


def in_mode(checkpoint: Checkpoint, mode: str) -> Checkpoint:
    """Return a checkpoint whose network computes in a floating type.

    Arguments:
        checkpoint: As it was loaded; its network is changed in place.
        mode: One of `describe.MODES`; that in which the network computes already changes nothing.

    Raises:
        NetworkError: The mode is unknown, or the network knows no other than float32.
    """
    if mode == checkpoint.dtype:
        return checkpoint
    network: Any = checkpoint.network
    # The package of lucidrains makes noise levels into float32 between layers of the weights.
    fixed = checkpoint.config.get("model_type") == "LucidrainsUnet"
    if mode not in MODES or checkpoint.dtype != "float32" or fixed:
        raise NetworkError(
            "network.dtype",
            expected="float32, in which alone this network computes"
            if fixed
            else f"one of {', '.join(MODES)}, once",
            found=mode if checkpoint.dtype == "float32" else f"{checkpoint.dtype}, then {mode}",
            hint="leave `network.dtype` out",
        )
    network.compute_in(getattr(torch, mode))
    return replace(checkpoint, dtype=mode)
