"""References made of random numbers, and real images that no training has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.reference import Reference

MakeReference = Callable[[NDArray[np.float64], NDArray[np.float64]], Reference]

HELD_OUT = Path(__file__).parent / "data" / "fashion-held-out.npz"


@pytest.fixture(scope="session")
def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """2000 test images of Fashion-MNIST, uint8 [2000, 1, 32, 32], and their labels."""
    with np.load(HELD_OUT, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return np.pad(images[:, None], ((0, 0), (0, 0), (2, 2), (2, 2))), labels.astype(np.int64)


@pytest.fixture(scope="session")
def make_reference() -> MakeReference:
    """Build a reference of given mean and covariance."""

    def make(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> Reference:
        return Reference(
            name="made",
            extractor="simulated",
            sha256="0" * 64,
            preprocess="none",
            dim=len(mean),
            images=1000,
            mean=np.asarray(mean, np.float64),
            covariance=np.asarray(covariance, np.float64),
            header={},
        )

    return make


@pytest.fixture(scope="session")
def fashion_features(
    held_out: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """`fashion-cnn` features of the held-out images, float64 [2000, 64]."""
    return load_extractor("fashion-cnn")(torch.from_numpy(held_out[0])).double().numpy()
