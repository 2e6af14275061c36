"""The U-Net of ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), configured by EDM's keys.

Module and parameter names, shapes and numbers are those of the checkpoints published with Karras
et al. 2022 (arXiv 2206.00364, table 7), so these load with `load_state_dict(strict=True)`.

A decoder block named ``{res}x{res}_block{i}`` receives the main path and one skip, concatenated in
this order on dimension 1, as its argument 0: the place where a hook can scale the skip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.block import group_norm
from skiptune.sampling.networks.embedding import PositionalEmbedding
from skiptune.sampling.networks.resampling import Direction, Resample2d, ResampledConv2d
from skiptune.sampling.networks.unet import ConditionedUNet, resolutions

__all__ = ["DhariwalUNet", "ModulatedBlock"]

_HEAD_CHANNELS = 64
_ROW = (1, 1)
_EPS = 1e-5


class ModulatedBlock(nn.Module):
    """Two convolutions beside a shortcut, conditioned by a factor and a bias per channel.

    The block of BigGAN's resampling and adaptive group normalisation (Dhariwal and Nichol 2021,
    section 3), then attention with heads of 64 channels. Where only the resolution changes, the
    shortcut has no weights.

    Arguments:
        in_channels: Channels of the input (main path and skip together, in the decoder).
        out_channels: Channels of the output.
        emb_channels: Length of the conditioning vector.
        direction: Change of resolution.
        attention: Whether self-attention over all pixels follows. As in the published networks,
            blocks of fewer than 64 channels have none.
        dropout: Probability of dropping an activation before the second convolution.

    Raises:
        ValueError: For channels that the heads cannot share.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        direction: Direction = "none",
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dropout = dropout
        self.heads = out_channels // _HEAD_CHANNELS if attention else 0
        self.norm0 = group_norm(in_channels, eps=_EPS)
        self.conv0 = ResampledConv2d(in_channels, out_channels, 3, direction=direction, row=_ROW)
        self.affine = nn.Linear(emb_channels, 2 * out_channels)
        self.norm1 = group_norm(out_channels, eps=_EPS)
        self.conv1 = ResampledConv2d(out_channels, out_channels, 3, gain=0.0)
        self.skip: nn.Module | None = None
        if in_channels != out_channels:
            self.skip = ResampledConv2d(in_channels, out_channels, 1, direction=direction)
        elif direction != "none":
            self.skip = Resample2d(direction, _ROW)
        if self.heads:
            if out_channels % self.heads:
                raise ValueError(f"{out_channels} channels cannot be shared by {self.heads} heads")
            self.norm2 = group_norm(out_channels, eps=_EPS)
            self.qkv = ResampledConv2d(out_channels, 3 * out_channels, 1)
            self.proj = ResampledConv2d(out_channels, out_channels, 1, gain=0.0)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] under conditions [B, emb_channels].

        Returns:
            [B, out_channels, H', W'], H' being 2H, H or H/2.
        """
        shortcut = x if self.skip is None else self.skip(x)
        branch = self.norm1(self.conv0(F.silu(self.norm0(x))))
        factor, bias = self.affine(emb)[:, :, None, None].chunk(2, dim=1)
        branch = F.silu(branch * (factor + 1) + bias)
        y: Tensor = self.conv1(F.dropout(branch, self.dropout, self.training)) + shortcut
        return y + self._attend(y) if self.heads else y

    def _attend(self, x: Tensor) -> Tensor:
        # The rows of `qkv`: head by head, and within a head the query, key and value of its
        # channel 0, then of its channel 1, ...
        batch, channels, height, width = x.shape
        packed = self.qkv(self.norm2(x))
        packed = packed.reshape(batch, self.heads, channels // self.heads, 3, height * width)
        query, key, value = packed.float().permute(3, 0, 1, 4, 2).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).to(x.dtype)
        projected: Tensor = self.proj(mixed.transpose(2, 3).reshape(x.shape))
        return projected


class DhariwalUNet(ConditionedUNet):
    """A U-Net over noisy images, conditioned on the noise level, a label and an augmentation.

    Weights start as torch draws them, the last layer of each branch at zero.

    Arguments:
        img_resolution: Height and width of the images in pixels, divisible by
            ``2 ** (len(channel_mult) - 1)``.
        in_channels: Channels of the input image.
        out_channels: Channels of the output image.
        label_dim: Number of classes, 0 for none.
        augment_dim: Length of the augmentation vector, 0 for none.
        model_channels: Base number of channels.
        channel_mult: Channels per resolution, finest first, in multiples of the base.
        channel_mult_emb: Length of the conditioning vector, in multiples of the base.
        num_blocks: Residual blocks per resolution in the encoder (one more in the decoder).
        attn_resolutions: Resolutions with self-attention; the middle of the network has it always.
        dropout: Probability of dropping an activation, in training.
        label_dropout: Probability of dropping an image's label, in training.

    Raises:
        ValueError: For a resolution that cannot be halved often enough, or channels that the
            normalisation or attention cannot share out.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            augment_dim=augment_dim,
            label_dropout=label_dropout,
        )

        emb_channels = model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(model_channels, endpoint=False, sines_first=False)
        self.map_augment: nn.Linear | None = None
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, model_channels, bias=False)
            nn.init.zeros_(self.map_augment.weight)
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label: nn.Linear | None = None
        if label_dim:
            self.map_label = nn.Linear(label_dim, emb_channels, bias=False)
            nn.init.normal_(self.map_label.weight)

        def block(
            received: int, made: int, *, attention: bool = False, direction: Direction = "none"
        ) -> ModulatedBlock:
            return ModulatedBlock(
                received,
                made,
                emb_channels,
                direction=direction,
                attention=attention,
                dropout=dropout,
            )

        widths = [model_channels * mult for mult in channel_mult]
        levels = resolutions(img_resolution, len(widths))
        self.enc = nn.ModuleDict()
        skips: list[int] = []
        channels = widths[0]
        for res, width in zip(levels, widths, strict=True):
            at = f"{res}x{res}"
            if res == img_resolution:
                self.enc[f"{at}_conv"] = ResampledConv2d(in_channels, channels, 3)
            else:
                self.enc[f"{at}_down"] = block(channels, channels, direction="down")
            skips.append(channels)
            for index in range(num_blocks):
                attention = res in attn_resolutions
                self.enc[f"{at}_block{index}"] = block(channels, width, attention=attention)
                channels = width
                skips.append(channels)

        self.dec = nn.ModuleDict()
        for res, width in zip(reversed(levels), reversed(widths), strict=True):
            at = f"{res}x{res}"
            if res == levels[-1]:
                self.dec[f"{at}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{at}_in1"] = block(channels, channels)
            else:
                self.dec[f"{at}_up"] = block(channels, channels, direction="up")
            for index in range(num_blocks + 1):
                received, attention = channels + skips.pop(), res in attn_resolutions
                self.dec[f"{at}_block{index}"] = block(received, width, attention=attention)
                channels = width
        self.out_norm = group_norm(channels, eps=_EPS)
        self.out_conv = ResampledConv2d(channels, out_channels, 3, gain=0.0)

    def _condition(
        self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        emb: Tensor = self.map_noise(noise_labels).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_labels is not None:
            class_labels = self._kept_labels(class_labels, emb.shape[0])
            emb = emb + self.map_label(class_labels.to(emb.dtype))
        return F.silu(emb)

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, emb)
            skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for name, module in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = module(x, emb)
        image: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return image
