"""OpenAI-style U-Nets: guided-diffusion, consistency models and latent diffusion.

Dhariwal and Nichol 2021 (arXiv 2105.05233); Song et al. 2023 (arXiv 2303.01469); Rombach et al.
2022 (arXiv 2112.10752). Module and parameter names, shapes and numbers are those of the published
checkpoints, so these load with `load_state_dict(strict=True)`.

A decoder block `output_blocks.{i}` receives the main path and one skip, concatenated in this order
on dimension 1, as its argument 0: the place where a hook can scale the skip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skiptune.sampling.networks.embedding import time_embedding
from skiptune.sampling.networks.openai_blocks import (
    AttentionBlock,
    BlockSequence,
    Downsample,
    ResBlock,
    Upsample,
    labelled_rows,
    norm32,
)
from skiptune.sampling.networks.spatial_transformer import SpatialTransformer
from skiptune.sampling.networks.unet import resolutions

__all__ = ["OpenAIUNet"]

Conditions = tuple[Tensor, Tensor | None]
"""The vectors [B, emb_channels] of noise level and label, and the context's tokens if any."""


class OpenAIUNet(nn.Module):
    """A U-Net over noisy images, conditioned on the time step and a label.

    The keys are those of upstream's `UNetModel`; a label is one-hot.

    Arguments:
        img_resolution: Height and width of the images in pixels, divisible by
            ``2 ** (len(channel_mult) - 1)``; upstream's ``image_size``.
        in_channels: Channels of the input image.
        out_channels: Channels of the output image.
        label_dim: Number of classes, 0 for none; upstream's ``num_classes``.
        model_channels: Base number of channels.
        num_res_blocks: Residual blocks per resolution in the encoder (one more in the decoder).
        attention_resolutions: Factors of downsampling (not resolutions) with attention; the
            middle of the network has it always.
        dropout: Probability of dropping an activation, in training.
        channel_mult: Channels per resolution, finest first, in multiples of the base.
        conv_resample: Whether changes of resolution have a convolution.
        num_heads: Heads of every attention where `num_head_channels` is -1.
        num_head_channels: Channels of one head.
        num_heads_upsample: Heads in the decoder, -1 for as many as in the encoder.
        use_scale_shift_norm: See `ResBlock`.
        resblock_updown: Whether residual blocks change the resolution.
        use_new_attention_order: See `AttentionBlock`.
        attention_dims: See `AttentionBlock`.
        use_spatial_transformer: Whether attention is a transformer that looks at the label as a
            token: latent diffusion.
        transformer_depth: Its blocks.
        context_dim: Length of that token.
        label_rows: Rows of the embedding of classes: `label_dim`, or one more, the last standing
            for no label; None for `label_dim`.

    Raises:
        ValueError: For a resolution that cannot be halved often enough, channels that the
            normalisation or heads cannot share, or a context of no length.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        attention_dims: int = 1,
        use_spatial_transformer: bool = False,
        transformer_depth: int = 1,
        context_dim: int | None = None,
        label_rows: int | None = None,
    ) -> None:
        super().__init__()
        resolutions(img_resolution, len(channel_mult))
        if use_spatial_transformer and not context_dim:
            raise ValueError("use_spatial_transformer without context_dim")
        if label_rows is None:
            label_rows = label_dim
        if label_rows not in (label_dim, label_dim + 1):
            raise ValueError(f"label_rows {label_rows} for {label_dim} classes")
        self.img_resolution = img_resolution
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.label_dim = label_dim
        self.model_channels = model_channels
        self.context_dim = context_dim if use_spatial_transformer else None

        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        if label_dim and self.context_dim is None:
            self.label_emb = nn.Embedding(label_rows, emb_channels)
        elif label_dim and self.context_dim is not None:
            self.class_embedding = nn.Embedding(label_rows, self.context_dim)

        def attention(channels: int, heads: int) -> nn.Module:
            heads = heads if num_head_channels == -1 else channels // num_head_channels
            if heads < 1 or channels % heads:
                raise ValueError(f"{channels} channels cannot be shared by {heads} heads")
            if self.context_dim is None:
                return AttentionBlock(
                    channels, heads, new_order=use_new_attention_order, dims=attention_dims
                )
            return SpatialTransformer(
                channels,
                heads,
                channels // heads,
                depth=transformer_depth,
                context_dim=self.context_dim,
            )

        def block(received: int, made: int, *, up: bool = False, down: bool = False) -> ResBlock:
            return ResBlock(
                received,
                emb_channels,
                made,
                dropout=dropout,
                use_scale_shift_norm=use_scale_shift_norm,
                up=up,
                down=down,
            )

        widths = [int(mult * model_channels) for mult in channel_mult]
        channels = widths[0]
        self.input_blocks = nn.ModuleList(
            [BlockSequence(nn.Conv2d(in_channels, channels, 3, padding=1))]
        )
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [block(channels, width)]
                if 2**level in attention_resolutions:
                    layers.append(attention(width, num_heads))
                self.input_blocks.append(BlockSequence(*layers))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                down: nn.Module = Downsample(channels, use_conv=conv_resample)
                if resblock_updown:
                    down = block(channels, channels, down=True)
                self.input_blocks.append(BlockSequence(down))
                skips.append(channels)

        self.middle_block = BlockSequence(
            block(channels, channels), attention(channels, num_heads), block(channels, channels)
        )

        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                layers = [block(channels + skips.pop(), width)]
                channels = width
                if 2**level in attention_resolutions:
                    layers.append(attention(channels, heads_up))
                if level and index == num_res_blocks:
                    up: nn.Module = Upsample(channels, use_conv=conv_resample)
                    layers.append(block(channels, channels, up=True) if resblock_updown else up)
                self.output_blocks.append(BlockSequence(*layers))
        self.out = nn.Sequential(
            norm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        for parameter in self.out[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Run the network.

        Arguments:
            x: Images [B, in_channels, H, W].
            noise_labels: Time steps [B], which may lie between whole ones.
            class_labels: One-hot rows [B, label_dim] (or [1, label_dim] for all); None or zeros
                mean no label.

        Returns:
            [B, out_channels, H, W], in the dtype of the weights.
        """
        conditions = self._condition(noise_labels, class_labels)
        x, skips = self._encode(x.to(conditions[0].dtype), conditions)
        return self._decode(x, skips, conditions)

    def _condition(self, noise_labels: Tensor, class_labels: Tensor | None) -> Conditions:
        images, dtype = noise_labels.shape[0], next(self.time_embed.parameters()).dtype
        classes = self.label_dim
        emb: Tensor = self.time_embed(time_embedding(noise_labels, self.model_channels).to(dtype))
        if self.context_dim is None:
            if classes:
                emb = emb + labelled_rows(self.label_emb.weight, class_labels, classes, images)
            return emb, None
        if not classes:
            return emb, emb.new_zeros(images, 1, self.context_dim)
        rows = labelled_rows(self.class_embedding.weight, class_labels, classes, images)
        return emb, rows[:, None]

    def _encode(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        for block in self.input_blocks:
            x = block(x, *conditions)
            skips.append(x)
        return self.middle_block(x, *conditions), skips

    def _decode(self, x: Tensor, skips: list[Tensor], conditions: Conditions) -> Tensor:
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), *conditions)
        image: Tensor = self.out(x)
        return image
