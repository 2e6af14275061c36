"""The series: everything that, with a schedule, determines the images of given seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skiptune.errors import SpecError
from skiptune.sampling.latents import DTYPES
from skiptune.sampling.setting import Setting

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint

__all__ = ["MODES", "describe"]

MODES = DTYPES
"""Floating types in which a network can compute."""
# Change these names whenever the numbers drawn for a seed change.
_SEEDS: dict[str, dict[str, Any]] = {
    "edm": {
        "rule": "one torch CPU generator per image, seed mod 2^32",
        "draws": ["latent float32", "label", "churn float64 per step"],
    },
    "counter": {
        "rule": "Philox4x32-10, key: image seed mod 2^64, counter: element // 4, draw, kind, 0",
        "draws": ["normal: latent, churn per step; Box-Muller, float32", "whole: label"],
    },
}


def describe(
    checkpoint: Checkpoint, setting: Setting, *, microbatch: int = 50, mode: str | None = None
) -> dict[str, Any]:
    """Return a series as plain data; its `canonical.digest` is the series' identity.

    Device, thread count and versions are left out: they are provenance, not identity.

    Arguments:
        checkpoint: The network; its file's SHA-256 stands for weights and architecture. Its
            decoder and its prompts, if any, are part of the series.
        setting: How images are made; it includes the label rule.
        microbatch: Images per evaluation of the network.
        mode: Numeric mode of the network, one of `MODES`, by default that of the checkpoint; the
            solver's state is float64 always.

    Raises:
        SpecError: For an unknown mode.
    """
    mode = checkpoint.dtype if mode is None else mode
    if mode not in MODES:
        raise SpecError(
            "mode",
            expected=f"one of {', '.join(MODES)}",
            found=repr(mode),
            hint="leave the mode at float32",
        )
    labels: str | int | None = setting.labels
    if checkpoint.config["label_dim"] == 0:
        labels = None
    # Left out for networks that make pixels: series of earlier versions know nothing of it.
    decoder = {} if checkpoint.decoder is None else {"decoder": checkpoint.decoder.describe()}
    told = checkpoint.config.get("prompts")
    prompts = {} if told is None else {"prompts": told}
    return {
        "network": {"sha256": checkpoint.sha256},
        **prompts,
        **decoder,
        "setting": setting.to_json(),
        "labels": labels,
        "seeds": dict(_SEEDS[setting.noise]),
        "microbatch": microbatch,
        "mode": mode,
    }
