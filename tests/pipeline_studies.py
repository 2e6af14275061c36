"""Studies of tiny pipelines: a feature network of four numbers, a reference, and a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from skiptune.objectives.extractors import Extractor, register_extractor
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting
from tests.pipelines import write_pipeline

__all__ = ["EXTRACTOR", "PROMPTS", "SETTING", "prepare", "write_spec"]

EXTRACTOR = "pooled-quarters"
PROMPTS = tuple(f"{number} things" for number in range(300))
SETTING: dict[str, Any] = {"solver": "euler", "steps": 2, "sigma_min": 0.02, "sigma_max": 100.0}


class PooledQuarters(nn.Module):
    """Means of the four quarters of an image, of all channels together."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 127.5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        grey = images.float().mean(1, keepdim=True) * self.scale
        return nn.functional.adaptive_avg_pool2d(grey, 2).flatten(1)


def _factory(*, weights: Path | None, sha256: str | None) -> Extractor:
    module = PooledQuarters().eval()
    return Extractor(EXTRACTOR, 4, "2" * 64, "means of quarters", module, floats=True)


register_extractor(EXTRACTOR, _factory)


def prepare(folder: Path) -> None:
    """Write a pipeline of pixels, and a reference of images of its own."""
    network = load_checkpoint(write_pipeline(folder / "pixels-v1.5")).network
    batches = sample(network, Setting(**SETTING), range(5_000_000, 5_000_500), microbatch=125)
    extractor = _factory(weights=None, sha256=None)
    features = torch.cat([extractor(batch.images) for batch in batches]).numpy()
    reference = reference_of(features, extractor=extractor, name="own images", keep=500)
    save_reference(folder / "reference.npz", reference)


def write_spec(folder: Path, checkpoint: str, **network: Any) -> Path:
    """Write a study file; relative paths in it start at its folder."""
    path = folder / "study.yaml"
    plain = {
        "study": "pipeline",
        "network": {"checkpoint": checkpoint, **network},
        "setting": SETTING,
        "space": {"kind": "per-skip", "low": 0.5, "high": 2.0},
        "objective": {"extractor": EXTRACTOR, "reference": "./reference.npz"},
        "search": {"sampler": "random", "evaluations": 2, "rungs": [250]},
        "confirm": {"candidates": 1, "images": 250, "controls": False},
        "microbatch": 125,
    }
    path.write_text(yaml.safe_dump(plain))
    return path
