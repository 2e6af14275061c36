"""Skip-Tuning in EDM's generate.py, without skiptune: put this file beside it."""

from __future__ import annotations

import json
from typing import Any

import torch


def install(net: Any, path: str) -> list[Any]:
    """Scale a network's skips as `tuned.json` says, until `.remove()` of each hook returned."""
    with open(path, encoding="utf-8") as file:
        tuned = json.load(file)
    rows = [row for row in tuned["skips"] if row["scale"] != 1 or row["windows"]]
    parts = any(row.get("parts") for row in tuned["skips"])
    if tuned["schema_version"] != 1 or parts or tuned.get("branches", "both") != "both":
        raise ValueError(f"{path}: expected version 1, whole skips and both branches")
    sigma = 0.0

    def look(module: Any, args: Any) -> None:  # net(x, sigma, class_labels)
        nonlocal sigma
        sigma = float(torch.as_tensor(args[1]).flatten()[0])

    def scale(row: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        factor, main = row["scale"], row["main_channels"]
        for window in row["windows"]:
            if window["low"] <= sigma and (window["high"] is None or sigma < window["high"]):
                factor = window["scale"]
        return torch.cat([x[:, :main], x[:, main:] * factor], dim=1)

    hooks = [net.register_forward_pre_hook(look)]
    for row in rows:
        block = net.model.dec[row["address"]]
        if block.in_channels != row["main_channels"] + row["skip_channels"]:
            raise ValueError(f"{row['address']}: {block.in_channels} channels: another network")
        hooks.append(
            block.register_forward_pre_hook(
                lambda _, args, row=row: (scale(row, args[0]), *args[1:])
            )
        )
    return hooks
