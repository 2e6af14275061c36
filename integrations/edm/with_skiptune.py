"""Skip-Tuning in EDM's generate.py, with skiptune installed: put this file beside it."""

from __future__ import annotations

from typing import Any

import skiptune


def install(net: Any, path: str) -> skiptune.Handle:
    """Scale a network's skips as `tuned.json` says, until `.remove()` of what is returned."""
    tuned = skiptune.load(path)
    setting = tuned.setting
    print(f"{tuned.study}: tuned with {setting.solver}, {setting.steps} steps; {tuned.knobs}")
    return tuned.apply(net)  # another architecture is refused, with the skips that differ
