"""The same images by skiptune's hooks and by the node pack in the stand-in for ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from integrations.comfyui.nodes import apply
from integrations.comfyui.tuned_file import read
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule
from tests.integrations import comfyui_like as like
from tests.integrations.handed_over import schedules, write_tuned

SIGMAS = torch.tensor([14.0, 5.0, 1.5, 0.4, 0.0])
NAMES = [f"output_blocks.{place}" for place in range(4)]
KINDS = list(schedules(NAMES))


def noise(images: int = 3) -> Tensor:
    return torch.randn(images, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def labels(images: int = 3) -> Tensor:
    return torch.eye(3)[torch.arange(images) % 3]


def ours(denoiser: Any, schedule: Schedule, x: Tensor, *, cfg: float = 1.0) -> Tensor:
    """Sample with skiptune's hooks, both branches of guidance evaluated apart."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        cond: Tensor = denoiser(x, sigma, labels(len(x)))
        if cfg == 1:
            return cond
        uncond: Tensor = denoiser(x, sigma, torch.zeros(len(x), 3))
        return uncond + (cond - uncond) * cfg

    with scaled(denoiser, schedule):
        return like.sample_euler(denoise, x * SIGMAS[0], SIGMAS)


def theirs(patcher: Any, x: Tensor, *, cfg: float = 1.0, together: bool = True) -> Tensor:
    """Sample with the stand-in."""
    guider = like.Guider(patcher, labels(len(x)), cfg=cfg, together=together)
    return guider.sample(x * SIGMAS[0], SIGMAS)


def close(one: Tensor, two: Tensor) -> bool:
    """Compare to float rounding: batches of other sizes add in another order."""
    return float((one - two).abs().max() / two.abs().max()) < 2e-6


def patched(denoiser: Any, path: Path, schedule: Schedule, **options: Any) -> Any:
    """Return a patched MODEL of a network."""
    file = {name: options.pop(name) for name in ("setting", "untouched") if name in options}
    write_tuned(path, denoiser, schedule, **file)
    return apply(like.Patcher(like.Model(denoiser)), read(path), **options)[0]
