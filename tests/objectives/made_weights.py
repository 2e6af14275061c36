"""Weights files with random numbers in the formats of the published ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

__all__ = ["inception_file"]


def inception_file(factory: pytest.TempPathFactory) -> Path:
    """Return a file in the format of torch-fidelity's Inception, written once in a session."""
    return _inception_file(factory.getbasetemp())


@cache
def _inception_file(folder: Path) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Keep the random weights."""

    path = folder / "made-inception.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    network = Blank("inception", ["2048"], feature_extractor_weights_path=path)
    # He's initialisation, so that images still differ after many layers.
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path
