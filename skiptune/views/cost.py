"""What a study costs as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skiptune.views import numbers

if TYPE_CHECKING:
    from skiptune.search.plan import Cost

__all__ = ["cost_text", "device_text"]


def cost_text(
    parts: Mapping[str, Cost],
    seconds: Mapping[str, float] | None,
    *,
    device: str,
    left_out: str = "",
) -> str:
    """Return one line: each part's images, evaluations and time, and the device hours of all.

    Arguments:
        parts: Cost by name, in order.
        seconds: Measured time by name; None where nothing could be measured.
        device: What it was measured on.
        left_out: What is not in the measurement.
    """
    pieces = []
    for name, cost in parts.items():
        piece = (
            f"{name} {numbers.count(cost.images)} images, "
            f"{numbers.count(round(cost.evaluations))} network evaluations"
        )
        if seconds is not None:
            piece += f", {numbers.duration(seconds[name])}"
        pieces.append(piece)
    if seconds is None:
        end = "device hours unknown until the network is here"
    else:
        hours = sum(seconds.values()) / 3600
        note = f" {left_out}" if left_out else ""
        shown = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
        end = f"together about {shown} device hours{note} on one {device}"
    return "; ".join([*pieces, end])


def device_text(device: str) -> str:
    """Return a device with what it is: `cuda:0 (NVIDIA H100 80GB HBM3)`, `cpu (8 threads)`."""
    import torch

    found = torch.device(device)
    if found.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(found)})"
    if found.type == "cpu":
        threads = torch.get_num_threads()
        return f"{device} ({threads} thread{'s' if threads > 1 else ''})"
    return device
