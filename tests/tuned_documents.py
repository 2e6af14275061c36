"""tuned.json for networks of the tests' own."""

from __future__ import annotations

from typing import Any

from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.evidence import Measure, Provenance, Score, SeedBlock, Verdict
from skiptune.search.tuned import Tuned, TunedNetwork

__all__ = ["SETTING", "tuned_for"]

SHA = "0123456789abcdef" * 4
# Within the levels of every family of networks.
SETTING = Setting(solver="euler", steps=2, sigma_min=0.1, sigma_max=10.0)


def tuned_for(
    checkpoint: Checkpoint, schedule: Schedule, *, setting: Setting = SETTING, **sections: Any
) -> Tuned:
    """Return the document of a study of a network that has found a schedule."""
    path = checkpoint.path
    bundled = path.is_dir() or checkpoint.name == "fashion"
    baseline = Score(
        label="baseline",
        images=2000,
        nfe=6.0,
        value=5.8125,
        standard_error=0.1,
        interval=(5.6, 6.0),
    )
    better = {"label": "tuned", "value": 5.25, "difference": -0.5625, "difference_error": 0.0625}
    values: dict[str, Any] = {
        "study": "tiny",
        "network": TunedNetwork(
            name=checkpoint.name if bundled else path.name, sha256=checkpoint.sha256
        ),
        "setting": setting.to_json(),
        "verdict": Verdict(verdict="win", gain=9.7, interval=(5.5, 13.9), alpha=0.025),
        "measure": Measure(
            metric="FD(fashion-cnn)-2k-corrected", extractor="fashion-cnn", extractor_sha256=SHA
        ),
        "baseline": baseline,
        "tuned": baseline.model_copy(update=better),
        "seeds": {"search": SeedBlock(first=1_000_000, images=2000)},
        "provenance": Provenance(skiptune="0.1.0", created="2026-11-23T21:00:00Z"),
    }
    return Tuned.of(schedule, skips=checkpoint.skips, **{**values, **sections})
