"""DINOv2 ViT-L/14: the features of FD_DINOv2, d = 1024, with EDM2's preprocessing.

The network is the vision transformer of Oquab et al. 2023 (arXiv 2304.07193; code and weights
Apache-2.0), without registers: patches of 14 pixels, a class token, pre-norm blocks with
LayerScale, and the normalised class token as features. Its position embedding of 37x37 (518
pixels) is resized to the patches of 224 pixels as the official code does it: bicubic without
antialias, with scale (16 + 0.1) / 37.

Images are prepared as EDM2 (Karras et al. 2024, arXiv 2312.02696) does by default: bicubic with
antialias to 224x224 as floats, / 255, ImageNet's mean and deviation. dgm-eval (Stein et al. 2023,
arXiv 2306.04675) resizes with PIL to bytes and differs slightly; torch-fidelity resizes without
antialias, and its numbers are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiptune.objectives.names import DINOV2
from skiptune.objectives.pixels import resized, three_channels
from skiptune.objectives.weights import cached

__all__ = ["DIM", "LARGE", "PREPROCESS", "Architecture", "DinoV2", "build", "default_weights"]

DIM = 1024
PREPROCESS = (
    "uint8 [N, 1 or 3, H, W], bicubic with antialias to 224x224 in float, x / 255, "
    "mean (0.485, 0.456, 0.406), deviation (0.229, 0.224, 0.225)"
)

_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What the official code adds to the number of patches before it divides: it is part of the
# numbers, because the interpolation uses the scale and not the size.
_OFFSET = 0.1


@dataclass(frozen=True)
class Architecture:
    """Sizes of a vision transformer.

    Arguments:
        width: Features d of a token, a multiple of `heads`.
        depth: Blocks.
        heads: Of attention.
        patch: Side of a patch, pixels.
        grid: Side of the stored position embedding, patches.
        size: Side to which images are resized, pixels; a multiple of `patch`.
    """

    width: int
    depth: int
    heads: int
    patch: int = 14
    grid: int = 37
    size: int = 224


LARGE = Architecture(width=DIM, depth=24, heads=16)
"""ViT-L/14, 304.4 million parameters."""


class DinoV2(nn.Module):
    """The network; the names of its parts are those of the official weights file."""

    def __init__(self, architecture: Architecture = LARGE) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + architecture.grid**2, width))
        # In the file, used in training only.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = _Patches(architecture)
        self.blocks = nn.ModuleList(
            _Block(width, architecture.heads) for _ in range(architecture.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        # Not in the file: on the CPU also while the parameters have no memory yet.
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            column = torch.tensor(values, device="cpu").view(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 or float32 [N, 1 or 3, H, W], 0..255.

        Returns:
            The class token after the last normalisation, float32 [N, d].
        """
        x = resized(three_channels(levels, DINOV2), self.architecture.size) / 255
        x = (x - self.get_buffer("mean")) / self.get_buffer("deviation")
        patches = self.patch_embed(x)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        tokens = tokens + self._positions()
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens[:, 0])
        return features

    def _positions(self) -> Tensor:
        """Return the position embedding for the patches of an image, [1, 1 + patches, d]."""
        shape = self.architecture
        patches = shape.size // shape.patch
        if patches == shape.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (shape.grid, shape.grid)).permute(0, 3, 1, 2)
        scale = (patches + _OFFSET) / shape.grid
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat((self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


class _Patches(nn.Module):
    """Cut an image into patches, in rows, and map each to a token."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        patch = architecture.patch
        self.proj = nn.Conv2d(3, architecture.width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """Attention and two linear layers, each normalised before, scaled after, and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.ls1 = _LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)
        self.ls2 = _LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        both: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return both


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # [N, tokens, 3 d] -> three of [N, heads, tokens, d / heads].
        split = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


def default_weights(*, sha256: str) -> Path:
    """Return the official weights file (1.2 GB), fetched into torch's cache if need be.

    `torch.hub.load("facebookresearch/dinov2", "dinov2_vitl14")` leaves it in the same place.

    Raises:
        ObjectiveError: When it is not there and cannot be fetched.
    """
    return cached(_URL, sha256=sha256, name=DINOV2)


def build(architecture: Architecture = LARGE) -> DinoV2:
    """Return the network without memory for its weights, to be filled."""
    with torch.device("meta"):
        return DinoV2(architecture)
