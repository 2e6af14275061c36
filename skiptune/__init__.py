"""skiptune: find the skip-connection scales that make a diffusion U-Net sample better.

Nothing is imported until it is used (PEP 562), so `import skiptune` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.errors import SkiptuneWarning
    from skiptune.sampling.hooks import Handle, apply, scaled
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.skips import Skip, find_skips
    from skiptune.search.tune import tune
    from skiptune.search.tuned import Tuned, load

__version__ = "0.1.0.dev0"

_HOME = {
    "Handle": "skiptune.sampling.hooks",
    "Schedule": "skiptune.sampling.schedule",
    "Skip": "skiptune.sampling.skips",
    "SkiptuneWarning": "skiptune.errors",
    "Tuned": "skiptune.search.tuned",
    "apply": "skiptune.sampling.hooks",
    "find_skips": "skiptune.sampling.skips",
    "load": "skiptune.search.tuned",
    "scaled": "skiptune.sampling.hooks",
    "tune": "skiptune.search.tune",
}

__all__ = [
    "Handle",
    "Schedule",
    "Skip",
    "SkiptuneWarning",
    "Tuned",
    "__version__",
    "apply",
    "find_skips",
    "load",
    "scaled",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'skiptune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
