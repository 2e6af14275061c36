"""What tests of the command line share: how one ended, and a study file that runs in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

__all__ = ["Outcome", "write_spec"]


@dataclass(frozen=True)
class Outcome:
    """Exit code, and the text of stdout and stderr."""

    code: int
    out: str
    err: str


def write_spec(tiny_study: ModuleType, folder: Path, **changes: Any) -> Path:
    """Write the tiny study of a prepared folder as a study file; keys as `section__key`."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_study.spec(folder, **changes).to_json()))
    return path
