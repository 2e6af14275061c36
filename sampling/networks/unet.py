"""What the U-Nets of DDPM++, NCSN++ and ADM have in common: their call, and dropped labels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["ConditionedUNet", "resolutions"]


def resolutions(finest: int, count: int) -> list[int]:
    """Return the heights and widths of the levels of a U-Net in pixels, finest first.

    Arguments:
        finest: Height and width of the images.
        count: Levels, each of half the resolution of the one before.

    Raises:
        ValueError: For images that cannot be halved that often.
    """
    if finest % 2 ** (count - 1):
        raise ValueError(f"img_resolution {finest} cannot be halved {count - 1} times")
    return [finest >> level for level in range(count)]


class ConditionedUNet(nn.Module, ABC):
    """A U-Net over noisy images, conditioned on the noise level, a label and an augmentation.

    Arguments:
        img_resolution: Height and width of the images in pixels.
        in_channels: Channels of the input image.
        out_channels: Channels of the output image.
        label_dim: Number of classes, 0 for none.
        augment_dim: Length of the augmentation vector, 0 for none.
        label_dropout: Probability of dropping an image's label, in training (Ho and Salimans
            2022: what guidance needs).
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int,
        augment_dim: int,
        label_dropout: float,
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.label_dim = label_dim
        self.augment_dim = augment_dim
        self.label_dropout = label_dropout

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Run the network.

        Arguments:
            x: Images [B, in_channels, H, W].
            noise_labels: Noise levels [B] in the preconditioner's units.
            class_labels: One-hot rows [B, label_dim] (or [1, label_dim] for all); None or zeros
                mean no label.
            augment_labels: Augmentation vectors [B, augment_dim]; None means none.

        Returns:
            [B, out_channels, H, W], in the dtype of the weights, in which all is computed but
            the embedding of the noise level.
        """
        emb = self._condition(noise_labels, class_labels, augment_labels)
        x, skips = self._encode(x.to(emb.dtype), emb)
        return self._decode(x, skips, emb)

    @abstractmethod
    def _condition(
        self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        """Return the conditioning vectors [B, emb_channels]."""

    @abstractmethod
    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the coarsest resolution, and all skips in order of making."""

    @abstractmethod
    def _decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Return the image; the skips are taken from the end of their list."""

    def _kept_labels(self, class_labels: Tensor, images: int) -> Tensor:
        """Return labels, in training some of them as zeros, each image's by a draw of its own."""
        if not (self.training and self.label_dropout):
            return class_labels
        kept = torch.rand(images, 1, device=class_labels.device) >= self.label_dropout
        return class_labels * kept.to(class_labels.dtype)
