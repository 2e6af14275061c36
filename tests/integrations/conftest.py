"""What the tests of the node pack share: a network, and a ComfyUI to load the pack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations import comfyui_like as like
from tests.sampling.families import FAMILIES, network_of


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def denoiser() -> Any:
    """A network of latent diffusion with 4 skips, 3 classes and discrete levels."""
    return network_of(FAMILIES["ldm"])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of files of a ComfyUI that knows both node APIs."""
    with like.comfyui(tmp_path / "models"):
        yield tmp_path / "models" / "skiptune"
