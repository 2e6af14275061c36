"""The U-Net of DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456), configured by EDM's keys.

Module and parameter names, shapes and numbers are those of the checkpoints published with Karras
et al. 2022 (arXiv 2206.00364, table 7), so these load with `load_state_dict(strict=True)`.

A decoder block named ``{res}x{res}_block{i}`` receives the main path and one skip, concatenated in
this order on dimension 1, as its argument 0: the place where a hook can scale the skip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.block import ResidualBlock, group_norm, linear
from skiptune.sampling.networks.embedding import FourierEmbedding, PositionalEmbedding
from skiptune.sampling.networks.resampling import Resample2d, ResampledConv2d
from skiptune.sampling.networks.unet import ConditionedUNet, resolutions

__all__ = ["SongUNet"]

_OUTPUT_GAIN = 1e-5


class SongUNet(ConditionedUNet):
    """A U-Net over noisy images, conditioned on the noise level, a label and an augmentation.

    The keys are EDM's. DDPM++: the defaults. NCSN++: ``embedding_type="fourier"``,
    ``channel_mult_noise=2``, ``encoder_type="residual"``, ``resample_filter=(1, 3, 3, 1)``.

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
        label_dropout: Probability of dropping an image's label, in training (Ho and Salimans
            2022: what guidance needs).
        embedding_type: ``positional`` or ``fourier``.
        channel_mult_noise: Length of the noise embedding, in multiples of the base.
        encoder_type: ``standard``; ``skip`` and ``residual`` feed the shrunken image, or the
            encoder's own shrunken features, to each coarser resolution.
        decoder_type: ``standard``, or ``skip``: sums an image from every resolution.
        resample_filter: One row of the resampling filter.

    Raises:
        ValueError: For an unknown type or a resolution that cannot be halved often enough.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            augment_dim=augment_dim,
            label_dropout=label_dropout,
        )
        for key, value, known in (
            ("embedding_type", embedding_type, ("positional", "fourier")),
            ("encoder_type", encoder_type, ("standard", "skip", "residual")),
            ("decoder_type", decoder_type, ("standard", "skip")),
        ):
            if value not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, found {value!r}")

        noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        embedding = PositionalEmbedding if embedding_type == "positional" else FourierEmbedding
        self.map_noise: PositionalEmbedding | FourierEmbedding = embedding(noise_channels)
        self.map_label = linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = linear(noise_channels, emb_channels)
        self.map_layer1 = linear(emb_channels, emb_channels)

        row = tuple(resample_filter)
        widths = [model_channels * mult for mult in channel_mult]
        levels = resolutions(img_resolution, len(widths))

        self.enc = nn.ModuleDict()
        skips: list[int] = []
        x_channels, aux_channels = model_channels, in_channels
        for level, (res, width) in enumerate(zip(levels, widths, strict=True)):
            at = f"{res}x{res}"
            if level == 0:
                self.enc[f"{at}_conv"] = ResampledConv2d(in_channels, x_channels, 3)
            else:
                self.enc[f"{at}_down"] = ResidualBlock(
                    x_channels,
                    x_channels,
                    emb_channels,
                    direction="down",
                    row=row,
                    dropout=dropout,
                )
                if encoder_type == "skip":
                    self.enc[f"{at}_aux_down"] = Resample2d("down", row)
                    self.enc[f"{at}_aux_skip"] = ResampledConv2d(aux_channels, x_channels, 1)
                elif encoder_type == "residual":
                    self.enc[f"{at}_aux_residual"] = ResampledConv2d(
                        aux_channels, x_channels, 3, direction="down", row=row, convolve_first=True
                    )
                    aux_channels = x_channels
            skips.append(x_channels)
            for index in range(num_blocks):
                self.enc[f"{at}_block{index}"] = ResidualBlock(
                    x_channels,
                    width,
                    emb_channels,
                    attention=res in attn_resolutions,
                    dropout=dropout,
                )
                x_channels = width
                skips.append(x_channels)

        self.dec = nn.ModuleDict()
        coarsest = levels[-1]
        for res, width in zip(reversed(levels), reversed(widths), strict=True):
            at = f"{res}x{res}"
            if res == coarsest:
                for index in range(2):
                    self.dec[f"{at}_in{index}"] = ResidualBlock(
                        x_channels, x_channels, emb_channels, attention=index == 0, dropout=dropout
                    )
            else:
                self.dec[f"{at}_up"] = ResidualBlock(
                    x_channels, x_channels, emb_channels, direction="up", row=row, dropout=dropout
                )
            for index in range(num_blocks + 1):
                self.dec[f"{at}_block{index}"] = ResidualBlock(
                    x_channels + skips.pop(),
                    width,
                    emb_channels,
                    attention=index == num_blocks and res in attn_resolutions,
                    dropout=dropout,
                )
                x_channels = width
            if decoder_type == "skip" and res != coarsest:
                self.dec[f"{at}_aux_up"] = Resample2d("up", row)
            if decoder_type == "skip" or res == img_resolution:
                self.dec[f"{at}_aux_norm"] = group_norm(x_channels)
                self.dec[f"{at}_aux_conv"] = ResampledConv2d(
                    x_channels, out_channels, 3, gain=_OUTPUT_GAIN
                )

    def _condition(
        self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        emb: Tensor = self.map_noise(noise_labels).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = emb.new_zeros(1, self.label_dim)
            class_labels = class_labels.to(emb.dtype)
            class_labels = self._kept_labels(class_labels, emb.shape[0])
            # One-hot rows have variance near 1/label_dim; the factor brings them to unit scale.
            emb = emb + self.map_label(class_labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        aux = x
        for name, module in self.enc.items():
            match name.split("_", 1)[1]:
                case "conv":
                    x = module(x)
                    skips.append(x)
                case "aux_down":
                    aux = module(aux)
                case "aux_skip":
                    x = skips[-1] = x + module(aux)
                case "aux_residual":
                    x = skips[-1] = aux = (x + module(aux)) * math.sqrt(0.5)
                case _:
                    x = module(x, emb)
                    skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        image: Tensor | None = None
        head = x
        for name, module in self.dec.items():
            role = name.split("_", 1)[1]
            match role:
                case "aux_up":
                    image = module(image)
                case "aux_norm":
                    head = F.silu(module(x))
                case "aux_conv":
                    head = module(head)
                    image = head if image is None else image + head
                case _ if role.startswith("block"):
                    x = module(torch.cat([x, skips.pop()], dim=1), emb)
                case _:
                    x = module(x, emb)
        if image is None:
            raise AssertionError("the finest resolution always ends in an image")
        return image
