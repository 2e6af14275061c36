"""What others have published about the networks of the presets, each number with its source.

Kept beside the presets and not in them: a study file says what a study does and is stored with it,
and no number of somebody else's belongs to a study's identity. None of these was run here, and
where no source gives a number there is none: EDM and Skip-Tuning publish no FID of the untouched
ImageNet-64 network at 19 or 39 NFE in what is cited here. Of Stable Diffusion 1.5 and SDXL no
source is known that says how its prompts, reference and setting were chosen: they have none.

EDM and EDM2 report the least of several FIDs over 50,000 images each (their READMEs).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["PUBLISHED", "Figure", "Published"]

_DDPM = "https://arxiv.org/abs/2006.11239 (abstract)"
_EDM = "https://github.com/NVlabs/edm/blob/008a4e5/example.py"
_EDM_ABSTRACT = "https://arxiv.org/abs/2206.00364 (abstract)"
_EDM2 = "https://github.com/NVlabs/edm2/blob/4bf8162/generate_images.py"
_SKIP_TUNING = "https://arxiv.org/abs/2402.15170 (abstract)"


@dataclass(frozen=True)
class Figure:
    """A published FID over 50,000 images.

    Arguments:
        fid: The number.
        nfe: Network evaluations per image.
        how: How the images were made.
        source: Where it stands.
    """

    fid: float
    nfe: int
    how: str
    source: str


@dataclass(frozen=True)
class Published:
    """What is published about a preset's network.

    Arguments:
        about: Data set and network.
        baseline: Of the untouched network, as its authors sample it.
        expected: Of the network with tuned skips at the preset's NFE; None where nobody says.
    """

    about: str
    baseline: Figure
    expected: Figure | None = None


_IMAGENET = Figure(1.36, 511, "heun, 256 steps, churn 40 from sigma 0.05 to 50, noise 1.003", _EDM)


def _imagenet(fid: float, nfe: int) -> Published:
    expected = Figure(fid, nfe, "Skip-Tuning; its coefficients are not known to us", _SKIP_TUNING)
    return Published("ImageNet 64x64, conditional, EDM (ADM)", _IMAGENET, expected)


PUBLISHED: Final = MappingProxyType(
    {
        "ddpm-cifar10-32": Published(
            "CIFAR-10 32x32, unconditional, DDPM",
            Figure(3.17, 1000, "ancestral sampling, 1000 steps", _DDPM),
        ),
        "edm-cifar10-cond": Published(
            "CIFAR-10 32x32, conditional, EDM (VP)", Figure(1.79, 35, "heun, 18 steps", _EDM)
        ),
        "edm-cifar10-uncond": Published(
            "CIFAR-10 32x32, unconditional, EDM (VP)",
            Figure(1.97, 35, "heun, 18 steps", _EDM_ABSTRACT),
        ),
        "edm-ffhq64": Published(
            "FFHQ 64x64, unconditional, EDM (VP)", Figure(2.39, 79, "heun, 40 steps", _EDM)
        ),
        "edm-afhqv2-64": Published(
            "AFHQv2 64x64, unconditional, EDM (VP)", Figure(1.96, 79, "heun, 40 steps", _EDM)
        ),
        "edm-imagenet64-19nfe": _imagenet(1.75, 19),
        "edm-imagenet64-39nfe": _imagenet(1.57, 39),
        "edm2-img64-s": Published(
            "ImageNet 64x64, conditional, EDM2-S", Figure(1.58, 63, "heun, 32 steps", _EDM2)
        ),
    }
)
"""By the preset's name; a preset that is not in it has no published number."""
