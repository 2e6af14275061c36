"""Score a diffusion checkpoint: `python -m training.quality fashion --images 5000`.

Prints the Frechet distance of its images to the training images, by `fashion-cnn` features, for
the settings that the card of the bundled network lists. Seeds are from 0 on: those for reports.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.names import FASHION_CNN, metric_name
from skiptune.objectives.paired import Estimate, raw
from skiptune.objectives.reference import load_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting

__all__ = ["REPORTED", "frechet", "main"]

REPORTED = (
    Setting(solver="dpmpp_2m", steps=6),
    Setting(solver="dpmpp_2m", steps=10),
    Setting(solver="heun", steps=5),
    Setting(solver="heun", steps=10),
)


def frechet(network: nn.Module, setting: Setting, *, images: int) -> tuple[Estimate, float]:
    """Return the uncorrected Frechet distance to the training images, and the NFE of an image.

    Arguments:
        network: A denoiser in evaluation mode.
        setting: How the images are made.
        images: How many, from seed 0 on.
    """
    extractor = load_extractor(FASHION_CNN)
    reference = load_reference("fashion-train", extractor=extractor)
    batches = list(sample(network, setting, range(images)))
    features = torch.cat([extractor(batch.images) for batch in batches])
    return raw(features.numpy(), reference), batches[0].nfe


def main() -> None:
    """Read the options and print one line per setting."""
    parser = argparse.ArgumentParser(description="Score a diffusion checkpoint.")
    parser.add_argument("checkpoint", help="`fashion` or a safetensors file")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    name = metric_name(FASHION_CNN, options.images, corrected=False)
    print(f"{checkpoint.path} sha256 {checkpoint.sha256}")
    for setting in REPORTED:
        begun = time.monotonic()
        found, nfe = frechet(checkpoint.network, setting, images=options.images)
        print(
            f"{setting.solver} {nfe:.0f} NFE  {name} {found.value:.3f} +- "
            f"{1.96 * found.standard_error:.3f}  ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
