"""The feature network `fashion-cnn`: a small classifier of 32x32 grey images, pooled to 64.

Five convolutions with ReLU, 32x32 -> 16x16 -> 8x8, the mean over the 8x8 positions (the
features), and a linear head over the ten Fashion-MNIST classes that only training and the
accuracy check use. Batch normalisation is folded into the convolutions, and each feature is
scaled to standard deviation 1 over the training images, so that the total variance is 64 and
no unit outweighs the others in a Frechet distance. 12 million multiply-adds an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CLASSES", "DIM", "PREPROCESS", "STAGES", "FashionCNN", "Stage", "scale_pixels"]

CLASSES = 10
DIM = 64
PREPROCESS = "uint8 [N, 1, 32, 32], x / 127.5 - 1"


@dataclass(frozen=True)
class Stage:
    """One convolution: channels in and out, kernel size and stride (padding 1)."""

    inputs: int
    outputs: int
    kernel: int
    stride: int


STAGES = (
    Stage(1, 32, 4, 2),
    Stage(32, 48, 3, 1),
    Stage(48, 64, 3, 2),
    Stage(64, 96, 3, 1),
    Stage(96, DIM, 3, 1),
)


def scale_pixels(images: Tensor) -> Tensor:
    """Map uint8 pixels to float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


class FashionCNN(nn.Module):
    """The network as it is used: convolutions with bias, no normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(stage.inputs, stage.outputs, stage.kernel, stage.stride, padding=1)
            for stage in STAGES
        )
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            images: uint8 [N, 1, 32, 32].

        Returns:
            Pooled activations, float32 [N, 64], all >= 0.
        """
        # Channels last is a fifth faster on CPU, and the layout is part of the numbers.
        x = scale_pixels(images).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = F.relu(stage(x))
        return x.mean(dim=(2, 3))

    def classify(self, images: Tensor) -> Tensor:
        """Return the logits of the ten classes, float32 [N, 10], for uint8 [N, 1, 32, 32]."""
        return cast(Tensor, self.head(self(images)))
