"""From a network, a schedule, a setting and seeds to images.

Here live the skips of a network and the hooks that scale them, noise-level grids, solvers, one
random stream per image, checkpoints, and the networks that skiptune itself can build. The way
from scales to float images is differentiable. This room imports no other room.

Names are imported on first use: `schedule`, `setting`, `grids` and `skips` cost no torch. The
function `describe` is imported from its module, because the package knows the module by that name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
    from skiptune.sampling.decoder import Decoder, load_decoder
    from skiptune.sampling.hooks import Handle, apply, check_effect, effect, scaled
    from skiptune.sampling.images import Batch, sample, sample_float, to_uint8
    from skiptune.sampling.noise import ImageStreams
    from skiptune.sampling.schedule import Schedule, Term
    from skiptune.sampling.setting import Churn, Setting, sigmas
    from skiptune.sampling.skips import (
        Skip,
        SkipFamily,
        SkipPlace,
        SkipSite,
        find_skips,
        register_family,
    )
    from skiptune.sampling.solvers import solve
    from skiptune.sampling.tracing import family_of, trace_skips

_HOME = {
    "Batch": "images",
    "Checkpoint": "checkpoint",
    "Churn": "setting",
    "Decoder": "decoder",
    "Handle": "hooks",
    "ImageStreams": "noise",
    "Schedule": "schedule",
    "Setting": "setting",
    "Skip": "skips",
    "SkipFamily": "skips",
    "SkipPlace": "skips",
    "SkipSite": "skips",
    "Term": "schedule",
    "apply": "hooks",
    "check_effect": "hooks",
    "effect": "hooks",
    "family_of": "tracing",
    "find_skips": "skips",
    "load_checkpoint": "checkpoint",
    "load_decoder": "decoder",
    "register_family": "skips",
    "sample": "images",
    "sample_float": "images",
    "scaled": "hooks",
    "sigmas": "setting",
    "solve": "solvers",
    "to_uint8": "images",
    "trace_skips": "tracing",
}

__all__ = [
    "Batch",
    "Checkpoint",
    "Churn",
    "Decoder",
    "Handle",
    "ImageStreams",
    "Schedule",
    "Setting",
    "Skip",
    "SkipFamily",
    "SkipPlace",
    "SkipSite",
    "Term",
    "apply",
    "check_effect",
    "effect",
    "family_of",
    "find_skips",
    "load_checkpoint",
    "load_decoder",
    "register_family",
    "sample",
    "sample_float",
    "scaled",
    "sigmas",
    "solve",
    "to_uint8",
    "trace_skips",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"skiptune.sampling.{_HOME[name]}"), name)
    raise AttributeError(f"module 'skiptune.sampling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
