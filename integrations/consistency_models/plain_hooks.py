"""Skip-Tuning in consistency_models' image_sample.py, without skiptune: put it beside that."""

from __future__ import annotations

import json
import math
from typing import Any

import torch


def install(model: Any, path: str) -> list[Any]:
    """Scale a model's skips as `tuned.json` says, until `.remove()` of each hook returned."""
    with open(path, encoding="utf-8") as file:
        tuned = json.load(file)
    rows = [row for row in tuned["skips"] if row["scale"] != 1 or row["windows"]]
    parts = any(row.get("parts") for row in tuned["skips"])
    if tuned["schema_version"] != 1 or parts or tuned.get("branches", "both") != "both":
        raise ValueError(f"{path}: expected version 1, whole skips and both branches")
    sigma = 0.0

    def look(module: Any, args: Any) -> None:  # model(x, 250 log(sigma), y=...)
        nonlocal sigma
        sigma = math.exp(float(args[1].flatten()[0]) / 250)

    def scale(row: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        factor, main = row["scale"], row["main_channels"]
        if x.shape[1] != main + row["skip_channels"]:
            raise ValueError(f"{row['address']}: {x.shape[1]} channels: another network")
        for window in row["windows"]:
            if window["low"] <= sigma and (window["high"] is None or sigma < window["high"]):
                factor = window["scale"]
        return torch.cat([x[:, :main], x[:, main:] * factor], dim=1)

    hooks = [model.register_forward_pre_hook(look)]
    for row in rows:
        block = model.get_submodule(row["address"])  # output_blocks.N
        hooks.append(
            block.register_forward_pre_hook(
                lambda _, args, row=row: (scale(row, args[0]), *args[1:])
            )
        )
    return hooks
