"""The study that the chaos run disturbs: a tiny denoiser that is better with other skips.

Images are 8x8 and grey, features are the means of 16 patches, and the reference holds the
network's own images with every skip scaled by `BEST`: a search finds gains, its confirm a winner.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from skiptune.objectives.extractors import Extractor, register_extractor
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.networks import build
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.spec import StudySpec
from skiptune.storage.records import CHUNK

__all__ = ["EXTRACTOR", "MICROBATCH", "NAME", "RUNGS", "prepare", "spec_of"]

NAME: Final = "chaos"
"""The study's name."""

EXTRACTOR: Final = "patch-means"
RUNGS: Final = (CHUNK, 2 * CHUNK)

MICROBATCH: Final = 50
"""Images at once: a chunk is five steps, between any two of which a worker may die."""

BEST: Final = 0.7
STEPS: Final = 3

CONFIG: Final[dict[str, Any]] = {
    "precond": "edm",
    "sigma_data": 0.5,
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


class PatchMeans(nn.Module):
    """Means of the 16 patches of 2x2 pixels of an 8x8 image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 127.5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float features [N, 16] of uint8 images [N, 1, 8, 8]."""
        return nn.functional.avg_pool2d(images.float() * self.scale, 2).flatten(1)


def _extractor(*, weights: Path | None, sha256: str | None) -> Extractor:
    return Extractor(EXTRACTOR, 16, "0" * 64, "means of 2x2 pixels", PatchMeans().eval())


register_extractor(EXTRACTOR, _extractor)


def spec_of(folder: Path, *, evaluations: int) -> StudySpec:
    """Return the study of a folder that `prepare` has filled.

    What is proposed, promoted and confirmed does not depend on the order in which workers finish:
    proposals are random, their number alone seeds them, and all go on that are not clearly worse
    than the baseline.

    Arguments:
        folder: Where checkpoint and reference lie.
        evaluations: The budget of proposals.
    """
    return StudySpec.from_json(
        {
            "study": NAME,
            "network": {"checkpoint": str(folder / "tiny.safetensors")},
            "setting": {"solver": "dpmpp_2m", "steps": STEPS},
            "space": {"kind": "uniform", "low": 0.5, "high": 2.0},
            "objective": {"extractor": EXTRACTOR, "reference": str(folder / "reference.npz")},
            "search": {
                "sampler": "random",
                "evaluations": evaluations,
                # More than is ever needed, so that it is counted and binds nobody.
                "images": (evaluations + 2) * RUNGS[-1],
                "rungs": list(RUNGS),
                "promote": 1.0,
            },
            "confirm": {"candidates": 2, "images": RUNGS[-1], "controls": False},
            "microbatch": MICROBATCH,
        }
    )


def prepare(folder: Path) -> None:
    """Write checkpoint and reference into a folder."""
    checkpoint = folder / "tiny.safetensors"
    tensors = {key: value.contiguous() for key, value in _network().state_dict().items()}
    save_file(tensors, checkpoint, metadata={"skiptune.network": json.dumps(CONFIG)})
    loaded = load_checkpoint(checkpoint)
    extractor = _extractor(weights=None, sha256=None)
    schedule = Schedule.uniform({skip.address: BEST for skip in loaded.skips})
    setting = Setting(solver="dpmpp_2m", steps=STEPS)
    seeds = range(5_000_000, 5_001_000)  # no study samples them
    with scaled(loaded.network, schedule):
        batches = list(sample(loaded.network, setting, seeds, microbatch=125))
    features = torch.cat([extractor(batch.images) for batch in batches]).numpy()
    reference = reference_of(features, extractor=extractor, name="own images, scaled skips")
    save_reference(folder / "reference.npz", reference)


def _network() -> nn.Module:
    network = build(CONFIG)
    generator = torch.Generator().manual_seed(20240219)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # New networks end their branches almost at zero; here every path shall matter.
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + float("norm" in name and "weight" in name))
    return network.eval()
