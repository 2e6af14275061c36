"""U-ViT (Bao et al. 2023, arXiv 2209.12152): a transformer over patches with long skips.

Module and parameter names, shapes and numbers are those of the published checkpoints, so these
load with `load_state_dict(strict=True)`.

A block `out_blocks.{i}` receives one skip as its argument 1, all of it, and joins it to the main
path along the tokens' features: the place where a hook can scale the skip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.embedding import time_embedding
from skiptune.sampling.networks.openai_blocks import labelled_rows

__all__ = ["UViT"]


class Attention(nn.Module):
    """Attention among all tokens."""

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, N, channels]."""
        packed = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = packed.float().unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        made: Tensor = self.proj(mixed.to(x.dtype))
        return made


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [..., channels]."""
        made: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return made


class TokenBlock(nn.Module):
    """A transformer block, in the second half joined by a skip.

    Arguments:
        channels: Length of a token.
        heads: Of the attention.
        mlp_ratio: The feed-forward layer's inner width, in multiples of the token's length.
        qkv_bias: Whether queries, keys and values have a bias.
        skip: Whether the block receives a skip.

    Raises:
        ValueError: For channels that the heads cannot share.
    """

    def __init__(
        self, channels: int, heads: int, *, mlp_ratio: float, qkv_bias: bool, skip: bool
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads")
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio))
        self.skip_linear = nn.Linear(2 * channels, channels) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map tokens [B, N, channels], with those of the skip where the block receives one."""
        if self.skip_linear is not None:
            assert skip is not None
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        made: Tensor = x + self.mlp(self.norm2(x))
        return made


class PatchEmbedding(nn.Module):
    """Cuts an image into patches, each of which becomes a token."""

    def __init__(self, patch_size: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to tokens, row by row, [B, H W / patch_size^2, channels]."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class UViT(nn.Module):
    """A transformer over the patches of noisy images, the time step and a label being tokens too.

    The keys are those of upstream's `UViT`; a label is one-hot.

    Arguments:
        img_resolution: Height and width of the images in pixels, divisible by the patch's;
            upstream's ``img_size``.
        in_channels: Channels of the images; upstream's ``in_chans``.
        label_dim: Number of classes, 0 for none.
        patch_size: Height and width of a patch.
        embed_dim: Length of a token.
        depth: Blocks beside the middle one, half of them before it.
        num_heads: Of every attention.
        mlp_ratio: See `TokenBlock`.
        qkv_bias: See `TokenBlock`.
        mlp_time_embed: Whether the embedding of the time step goes through two layers.
        conv: Whether a convolution makes the image of the patches.
        label_rows: Rows of the embedding of classes (upstream's ``num_classes``): `label_dim`, or
            one more, the last standing for no label; None for `label_dim`.

    Raises:
        ValueError: For images that the patches do not fill, no block, or sizes that do not fit.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        label_dim: int = 0,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        mlp_time_embed: bool = False,
        conv: bool = True,
        label_rows: int | None = None,
    ) -> None:
        super().__init__()
        if img_resolution % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not fill {img_resolution}")
        if depth < 2:
            raise ValueError(f"depth {depth}, which leaves no block a skip")
        if label_rows is None:
            label_rows = label_dim
        if label_rows not in (label_dim, label_dim + 1):
            raise ValueError(f"label_rows {label_rows} for {label_dim} classes")
        self.img_resolution = img_resolution
        self.in_channels = in_channels
        self.label_dim = label_dim
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.patch_embed = PatchEmbedding(patch_size, in_channels, embed_dim)
        self.time_embed: nn.Module = nn.Identity()
        if mlp_time_embed:
            self.time_embed = nn.Sequential(
                nn.Linear(embed_dim, 4 * embed_dim),
                nn.SiLU(),
                nn.Linear(4 * embed_dim, embed_dim),
            )
        self.extras = 1
        if label_rows:
            self.label_emb = nn.Embedding(label_rows, embed_dim)
            self.extras = 2
        patches = (img_resolution // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + patches, embed_dim))

        def block(*, skip: bool) -> TokenBlock:
            return TokenBlock(
                embed_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, skip=skip
            )

        self.in_blocks = nn.ModuleList(block(skip=False) for _ in range(depth // 2))
        self.mid_block = block(skip=False)
        self.out_blocks = nn.ModuleList(block(skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_channels)
        self.final_layer: nn.Module = nn.Identity()
        if conv:
            self.final_layer = nn.Conv2d(in_channels, in_channels, 3, padding=1)

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
            [B, in_channels, H, W], in the dtype of the weights.
        """
        tokens, skips = self._encode(x, noise_labels, class_labels)
        return self._decode(tokens, skips)

    def _encode(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        dtype = self.pos_embed.dtype
        patches = self.patch_embed(x.to(dtype))
        time = self.time_embed(time_embedding(noise_labels, self.embed_dim).to(dtype))
        extras = [time[:, None]]
        if self.extras == 2:
            rows = labelled_rows(self.label_emb.weight, class_labels, self.label_dim, x.shape[0])
            extras.insert(0, rows[:, None])
        tokens = torch.cat([*extras, patches], dim=1) + self.pos_embed
        skips: list[Tensor] = []
        for block in self.in_blocks:
            tokens = block(tokens)
            skips.append(tokens)
        return self.mid_block(tokens), skips

    def _decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for block in self.out_blocks:
            x = block(x, skips.pop())
        return self._image(x)

    def _image(self, tokens: Tensor) -> Tensor:
        """Return the image [B, in_channels, H, W] of tokens [B, N, embed_dim]."""
        patches = self.decoder_pred(self.norm(tokens))[:, self.extras :]
        side, size = self.img_resolution // self.patch_size, self.patch_size
        # A patch holds its pixels row by row, the channels of each together.
        grid = patches.unflatten(2, (size, size, self.in_channels)).unflatten(1, (side, side))
        image = grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        made: Tensor = self.final_layer(image)
        return made
