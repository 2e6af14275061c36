"""What a benchmark leaves behind: one table, one file, one exit status."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "RESULTS",
    "Bound",
    "finish",
    "machine",
    "measured_before",
    "print_table",
    "use_threads",
]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bound:
    """A number that must not be exceeded.

    Arguments:
        what: The number's name.
        value: As measured.
        limit: The largest value that passes.
    """

    what: str
    value: float
    limit: float

    @property
    def held(self) -> bool:
        """Whether the value is a number within the limit."""
        return self.value <= self.limit


def use_threads(threads: int | None) -> None:
    """Let torch compute with so many threads; None leaves what the environment says."""
    if threads is not None:
        torch.set_num_threads(threads)


def machine() -> dict[str, Any]:
    """Return what the timings depend on; nothing that names the machine."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, the first column left, the others right aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def measured_before(path: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return what a result holds that was measured with the same settings, to go on from it.

    Arguments:
        path: The JSON file, which need not be there.
        settings: As for `finish`, plain data.
        key: Of what is returned, a mapping.
    """
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return dict(found[key]) if found["settings"] == settings else {}


def finish(
    path: Path, *, settings: Mapping[str, Any], bounds: Sequence[Bound], **measured: Any
) -> int:
    """Write the result, say which bounds were missed, and return the exit status.

    Arguments:
        path: The JSON file to write.
        settings: What was asked for.
        bounds: What had to hold.
        measured: Plain data: summaries and every single timing.

    Returns:
        0, or 1 when a bound was missed.
    """
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "settings": dict(settings),
        "bounds": [
            {"what": b.what, "value": b.value, "limit": b.limit, "held": b.held} for b in bounds
        ],
        **measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for bound in bounds:
        verdict = "held" if bound.held else "MISSED"
        print(
            f"{bound.what}: {bound.value:.4g}, bound {bound.limit:g}: {verdict}",
            file=sys.stdout if bound.held else sys.stderr,
        )
    return 0 if all(bound.held for bound in bounds) else 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
