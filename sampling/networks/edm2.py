"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv 2312.02696, configuration G).

Module and parameter names and shapes are those of the published checkpoints. Every layer keeps
the magnitude of its input: weights are normalised whenever they are used, sums and concatenations
are rescaled, and there is no group normalisation. Only inference is provided: training also
normalises the stored weights (equation 66), which changes nothing in what a layer computes.

A decoder block named ``{res}x{res}_block{i}`` receives the main path and one skip, concatenated in
this order on dimension 1 and already weighted, as its argument 0: a hook can scale the skip there.
That is not a change of ``concat_balance``, which would rescale the main path too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.precond import EDMPrecond
from skiptune.sampling.networks.resampling import Direction, Resample2d
from skiptune.sampling.networks.unet import resolutions

__all__ = ["EDM2Precond", "EDM2UNet", "MagnitudeBlock"]

_EPS = 1e-4
# The magnitude that SiLU makes of standard normal input (equation 81).
_SILU_MAGNITUDE = 0.596


def normalise(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Divide by the root mean square over some dimensions, plus 1e-4 (equation 47)."""
    # Plain arithmetic only: torch.compile cannot follow a generator here.
    count = math.prod([x.shape[dim] for dim in dims])
    # The sum of squares would overflow in half precision.
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=list(dims), keepdim=True, dtype=wide)
    normalised: Tensor = x / (norm / math.sqrt(count) + _EPS).to(x.dtype)
    return normalised


def silu(x: Tensor) -> Tensor:
    """Apply SiLU and restore the magnitude (equation 81)."""
    return F.silu(x) / _SILU_MAGNITUDE


def mix(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return (1 - share) a + share b, of unit magnitude if a and b are (equation 88)."""
    return torch.lerp(a, b, share) / math.hypot(1 - share, share)


def concatenate(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Concatenate channels so that a and b contribute as 1 - share : share (equation 103)."""
    a_channels, b_channels = a.shape[1], b.shape[1]
    scale = math.sqrt(a_channels + b_channels) / math.hypot(1 - share, share)
    a_factor = scale * (1 - share) / math.sqrt(a_channels)
    b_factor = scale * share / math.sqrt(b_channels)
    return torch.cat([a_factor * a, b_factor * b], dim=1)


class MagnitudeFourier(nn.Module):
    """Cosines of the noise level at random frequencies and phases (equation 75).

    Arguments:
        channels: Length of the embedding.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, labels: Tensor) -> Tensor:
        """Map noise labels [B] to [B, channels]."""
        angles = labels.float()[:, None] * self.freqs.float() + self.phases.float()
        return (angles.cos() * math.sqrt(2)).to(labels.dtype)


class MagnitudeConv(nn.Module):
    """A convolution or linear layer without bias, its weights normalised when used (equation 47).

    Arguments:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel size; None for a linear layer.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int | None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel = kernel
        size = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *size))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map [B, in_channels, ...] to [B, out_channels, ...], times a gain."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        weight = normalise(weight, range(1, weight.ndim))
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        if self.kernel is None:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=self.kernel // 2)


class MagnitudeBlock(nn.Module):
    """Two convolutions beside a main path, conditioned by a factor per channel; then attention.

    Figure 21 of the paper. In the encoder the main path is normalised per pixel and feeds the
    convolutions; in the decoder both see the block's input.

    Arguments:
        in_channels: Channels of the input (main path and skip together, in the decoder).
        out_channels: Channels of the output.
        emb_channels: Length of the conditioning vector.
        encoder: Whether the block belongs to the encoder.
        direction: Change of resolution, first of all.
        resample_filter: One row of the resampling filter.
        attention: Whether self-attention over all pixels follows.
        channels_per_head: Channels of one head; blocks of fewer channels have no attention.
        dropout: Probability of dropping an activation, in training.
        res_balance: Share of the convolutions in their sum with the main path.
        attn_balance: Share of attention in its sum with the main path.
        clip_act: Bound on the output's magnitude; None for none.

    Raises:
        ValueError: For channels that the heads cannot share.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        encoder: bool,
        direction: Direction = "none",
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.encoder = encoder
        self.heads = out_channels // channels_per_head if attention else 0
        if self.heads and out_channels % self.heads:
            raise ValueError(f"{out_channels} channels cannot be shared by {self.heads} heads")
        self.dropout = dropout
        self.res_balance = res_balance
        self.attn_balance = attn_balance
        self.clip_act = clip_act
        self.resample: Resample2d | None = None
        if direction != "none":
            self.resample = Resample2d(direction, resample_filter, persistent=False)
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MagnitudeConv(out_channels if encoder else in_channels, out_channels, 3)
        self.emb_linear = MagnitudeConv(emb_channels, out_channels, None)
        self.conv_res1 = MagnitudeConv(out_channels, out_channels, 3)
        self.conv_skip: MagnitudeConv | None = None
        if in_channels != out_channels:
            self.conv_skip = MagnitudeConv(in_channels, out_channels, 1)
        if self.heads:
            self.attn_qkv = MagnitudeConv(out_channels, 3 * out_channels, 1)
            self.attn_proj = MagnitudeConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] under conditions [B, emb_channels].

        Returns:
            [B, out_channels, H', W'], H' being 2H, H or H/2.
        """
        if self.resample is not None:
            x = self.resample(x)
        shortcut = x if self.conv_skip is None else self.conv_skip(x)
        if self.encoder:
            x = shortcut = normalise(shortcut, [1])
        factor = self.emb_linear(emb, self.emb_gain) + 1
        branch = silu(self.conv_res0(silu(x)) * factor[:, :, None, None].to(x.dtype))
        branch = self.conv_res1(F.dropout(branch, self.dropout, self.training))
        y = mix(shortcut, branch, self.res_balance)
        if self.heads:
            y = mix(y, self._attend(y), self.attn_balance)
        return y if self.clip_act is None else y.clamp(-self.clip_act, self.clip_act)

    def _attend(self, x: Tensor) -> Tensor:
        # The channels of `attn_qkv`: head by head, and within a head the query, key and value of
        # its channel 0, then of its channel 1, ...
        batch, channels, height, width = x.shape
        packed: Tensor = self.attn_qkv(x)
        packed = packed.reshape(batch, self.heads, channels // self.heads, 3, height * width)
        query, key, value = normalise(packed, [2]).permute(3, 0, 1, 4, 2).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.attn_proj(mixed.transpose(2, 3).reshape(x.shape))
        return projected


class EDM2UNet(nn.Module):
    """A magnitude-preserving U-Net over noisy images, conditioned on noise level and label.

    Arguments:
        img_resolution: Height and width of the images in pixels, divisible by
            ``2 ** (len(channel_mult) - 1)``.
        img_channels: Channels of the images.
        label_dim: Number of classes, 0 for none.
        model_channels: Base number of channels; ImageNet-64: XS 128, S 192, M 256, L 320, XL 384,
            XXL 448.
        channel_mult: Channels per resolution, finest first, in multiples of the base.
        channel_mult_noise: Length of the noise embedding, in multiples of the base; None: as many
            as the finest resolution has channels.
        channel_mult_emb: Length of the conditioning vector, in multiples of the base; None: the
            most channels that a resolution has.
        num_blocks: Residual blocks per resolution in the encoder (one more in the decoder).
        attn_resolutions: Resolutions with self-attention; the middle of the network has it always.
        label_balance: Share of the label in its sum with the noise embedding.
        concat_balance: Share of the skip in its concatenation with the main path.
        resample_filter: One row of the resampling filter.
        channels_per_head: See `MagnitudeBlock`, also for the following.
        dropout: Probability of dropping an activation, in training.
        res_balance: Share of the convolutions.
        attn_balance: Share of attention.
        clip_act: Bound on activations.

    Raises:
        ValueError: For a resolution that cannot be halved often enough, or channels that the
            heads cannot share.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        resample_filter: Sequence[float] = (1, 1),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.in_channels = img_channels
        self.label_dim = label_dim
        self.label_balance = label_balance
        self.concat_balance = concat_balance

        widths = [model_channels * mult for mult in channel_mult]
        noise_channels, emb_channels = widths[0], max(widths)
        if channel_mult_noise is not None:
            noise_channels = model_channels * channel_mult_noise
        if channel_mult_emb is not None:
            emb_channels = model_channels * channel_mult_emb
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MagnitudeFourier(noise_channels)
        self.emb_noise = MagnitudeConv(noise_channels, emb_channels, None)
        self.emb_label = MagnitudeConv(label_dim, emb_channels, None) if label_dim else None

        def block(
            received: int,
            made: int,
            *,
            encoder: bool,
            attention: bool = False,
            direction: Direction = "none",
        ) -> MagnitudeBlock:
            return MagnitudeBlock(
                received,
                made,
                emb_channels,
                encoder=encoder,
                direction=direction,
                resample_filter=tuple(resample_filter),
                attention=attention,
                channels_per_head=channels_per_head,
                dropout=dropout,
                res_balance=res_balance,
                attn_balance=attn_balance,
                clip_act=clip_act,
            )

        levels = resolutions(img_resolution, len(widths))
        self.enc = nn.ModuleDict()
        skips: list[int] = []
        channels = widths[0]
        for res, width in zip(levels, widths, strict=True):
            at = f"{res}x{res}"
            if res == img_resolution:
                # One more input channel, constantly 1, stands for the missing biases.
                self.enc[f"{at}_conv"] = MagnitudeConv(img_channels + 1, channels, 3)
            else:
                self.enc[f"{at}_down"] = block(channels, channels, encoder=True, direction="down")
            skips.append(channels)
            for index in range(num_blocks):
                self.enc[f"{at}_block{index}"] = block(
                    channels, width, encoder=True, attention=res in attn_resolutions
                )
                channels = width
                skips.append(channels)

        self.dec = nn.ModuleDict()
        for res, width in zip(reversed(levels), reversed(widths), strict=True):
            at = f"{res}x{res}"
            if res == levels[-1]:
                self.dec[f"{at}_in0"] = block(channels, channels, encoder=False, attention=True)
                self.dec[f"{at}_in1"] = block(channels, channels, encoder=False)
            else:
                self.dec[f"{at}_up"] = block(channels, channels, encoder=False, direction="up")
            for index in range(num_blocks + 1):
                self.dec[f"{at}_block{index}"] = block(
                    channels + skips.pop(),
                    width,
                    encoder=False,
                    attention=res in attn_resolutions,
                )
                channels = width
        self.out_conv = MagnitudeConv(channels, img_channels, 3)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Run the network.

        Arguments:
            x: Images [B, img_channels, H, W].
            noise_labels: Noise levels [B] in the preconditioner's units.
            class_labels: One-hot rows [B, label_dim] (or [1, label_dim] for all); None or zeros
                mean no label.

        Returns:
            [B, img_channels, H, W].
        """
        emb = self._condition(noise_labels, class_labels)
        x, skips = self._encode(x, emb)
        return self._decode(x, skips, emb)

    def _condition(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb: Tensor = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            if class_labels is None:
                class_labels = emb.new_zeros(1, self.label_dim)
            label = self.emb_label(class_labels.to(emb.dtype) * math.sqrt(self.label_dim))
            emb = mix(emb, label.expand(emb.shape), self.label_balance)
        return silu(emb)

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, emb)
            skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for name, module in self.dec.items():
            if "_block" in name:
                x = concatenate(x, skips.pop(), self.concat_balance)
            x = module(x, emb)
        image: Tensor = self.out_conv(x, self.out_gain)
        return image


class EDM2Precond(EDMPrecond):
    """EDM's preconditioning around EDM2's network; see `EDMPrecond`.

    The published checkpoints also hold a head that estimates the loss in training; it is ignored.
    """

    holder: ClassVar[str] = "unet"
    ignored: ClassVar[tuple[str, ...]] = ("logvar_",)

    unet: EDM2UNet

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the network compute in another floating type.

        Its weights stay as they are: each is normalised in float32 before it takes the type of
        what it meets, as where the network was trained.
        """
        self.computes_in = dtype
