"""A first stage with a codebook as CompVis's code has it, and a file of latent diffusion with it.

Own code from the facts of `ldm/modules/diffusionmodules/model.py`: its module names, its order.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.options import config_of
from tests.sampling.families import random_network
from tests.sampling.published_options import CIN_256

__all__ = ["VQ", "latent_options", "random_vq_stage", "write_latent_diffusion"]


class Part(nn.Module):
    """Modules by name, without a forward of their own."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


def norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Resnet(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(before), norm(width)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if before != width:
            self.nin_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(F.silu(self.norm1(x)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        made: Tensor = (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + branch
        return made


class Attn(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (part(normed).flatten(2) for part in (self.q, self.k, self.v))
        weights = torch.softmax(query.transpose(1, 2) @ key / x.shape[1] ** 0.5, dim=-1)
        made: Tensor = x + self.proj_out((value @ weights.transpose(1, 2)).reshape(x.shape))
        return made


def levels(widths: list[int], blocks: int, before: int, attends: list[bool]) -> list[Part]:
    """Levels in the order in which they are run, from the width before them."""
    made = []
    for width, here in zip(widths, attends, strict=True):
        block = [Resnet(width if number else before, width) for number in range(blocks)]
        attn = [Attn(width) for _ in range(blocks if here else 0)]
        made.append(Part(block=nn.ModuleList(block), attn=nn.ModuleList(attn)))
        before = width
    return made


def run(level: Part, x: Tensor) -> Tensor:
    for number, block in enumerate(level.block):
        x = block(x)
        if len(level.attn):
            x = level.attn[number](x)
    return x


def middle(width: int, *, attends: bool) -> Part:
    parts: dict[str, nn.Module] = {"block_1": Resnet(width, width)}
    if attends:
        parts["attn_1"] = Attn(width)
    return Part(**parts, block_2=Resnet(width, width))


def through(mid: Part, x: Tensor) -> Tensor:
    for part in mid.children():
        x = part(x)
    return x


class VQ(nn.Module):
    """Encoder, codebook and decoder of `first_stage_config.params`."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        dd = params["ddconfig"]
        attends = dd.get("attn_type", "vanilla") == "vanilla"
        widths = [dd["ch"] * number for number in dd["ch_mult"]]
        sizes = [dd["resolution"] // 2**level for level in range(len(widths))]
        seen = [attends and size in dd["attn_resolutions"] for size in sizes]
        latents, blocks = dd["z_channels"], dd["num_res_blocks"]
        down = levels(widths, blocks, dd["ch"], seen)
        for level, width in zip(down[:-1], widths, strict=False):
            level.downsample = Part(conv=nn.Conv2d(width, width, 3, stride=2))
        self.encoder = Part(
            conv_in=nn.Conv2d(dd["in_channels"], dd["ch"], 3, padding=1),
            down=nn.ModuleList(down),
            mid=middle(widths[-1], attends=attends),
            norm_out=norm(widths[-1]),
            conv_out=nn.Conv2d(widths[-1], latents, 3, padding=1),
        )
        up = levels(widths[::-1], blocks + 1, widths[-1], seen[::-1])[::-1]
        for level, width in zip(up[1:], widths[1:], strict=True):
            level.upsample = Part(conv=nn.Conv2d(width, width, 3, padding=1))
        self.decoder = Part(
            conv_in=nn.Conv2d(latents, widths[-1], 3, padding=1),
            mid=middle(widths[-1], attends=attends),
            up=nn.ModuleList(up),
            norm_out=norm(widths[0]),
            conv_out=nn.Conv2d(widths[0], dd["out_ch"], 3, padding=1),
        )
        self.quantize = Part(embedding=nn.Embedding(params["n_embed"], params["embed_dim"]))
        self.quant_conv = nn.Conv2d(latents, params["embed_dim"], 1)
        self.post_quant_conv = nn.Conv2d(params["embed_dim"], latents, 1)

    def encode(self, x: Tensor) -> Tensor:
        x = self.encoder.conv_in(x)
        for level in self.encoder.down:
            x = run(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = through(self.encoder.mid, x)
        made: Tensor = self.quant_conv(self.encoder.conv_out(F.silu(self.encoder.norm_out(x))))
        return made

    def decode(self, z: Tensor) -> Tensor:
        entries = self.quantize.embedding.weight
        away = (z[:, None] - entries[None, :, :, None, None]).square().sum(2)
        z = entries[away.argmin(1)].permute(0, 3, 1, 2)
        x = through(self.decoder.mid, self.decoder.conv_in(self.post_quant_conv(z)))
        for level in reversed(self.decoder.up):
            x = run(level, x)
            if hasattr(level, "upsample"):
                twice = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = level.upsample.conv(twice)
        made: Tensor = self.decoder.conv_out(F.silu(self.decoder.norm_out(x)))
        return made


def random_vq_stage(params: dict[str, Any]) -> VQ:
    """A first stage with random weights, the same for the same configuration."""
    torch.manual_seed(0)
    return VQ(params).eval().requires_grad_(False)


def latent_options(**ddconfig: Any) -> dict[str, Any]:
    """The options of cin256 at the size of a test: 3 classes, latents of 3 x 8 x 8."""
    options = copy.deepcopy(CIN_256)
    params = options["model"]["params"]
    small: dict[str, Any] = {"image_size": 8, "model_channels": 32, "attention_resolutions": [2]}
    small |= {"channel_mult": [1, 2], "num_res_blocks": 1, "context_dim": 8, "num_heads": 2}
    params["unet_config"]["params"] |= small
    params["cond_stage_config"]["params"] |= {"n_classes": 4, "null_label": True, "embed_dim": 8}
    stage = params["first_stage_config"]["params"]
    stage |= {"n_embed": 16}
    stage["ddconfig"] |= {"resolution": 16, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
    stage["ddconfig"] |= ddconfig
    return options


def write_latent_diffusion(
    path: Path, options: dict[str, Any], *, averaged: bool = False, **more: Any
) -> tuple[Any, VQ]:
    """Write a file as Lightning's training of latent diffusion left it.

    It names a class of Lightning's among its callbacks, as releases before 1.5 did.

    Returns:
        The network and the first stage that are in it.
    """
    network: Any = random_network(config_of(options, where="options").config)
    stage = random_vq_stage(options["model"]["params"]["first_stage_config"]["params"])
    state: dict[str, Any] = {"betas": torch.zeros(1000), **more}
    for name, tensor in network.state_dict().items():
        inner = name.removeprefix("model.")
        if inner == "class_embedding.weight":
            state["cond_stage_model.embedding.weight"] = tensor
        elif averaged:
            state[f"model.diffusion_model.{inner}"] = torch.zeros_like(tensor)
            state["model_ema.diffusion_model" + inner.replace(".", "")] = tensor
        else:
            state[f"model.diffusion_model.{inner}"] = tensor
    state |= {f"first_stage_model.{name}": t for name, t in stage.state_dict().items()}
    state["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(3)
    parts = ("pytorch_lightning", "callbacks", "model_checkpoint")
    made = [ModuleType(".".join(parts[: count + 1])) for count in range(len(parts))]
    kind = type("ModelCheckpoint", (), {"__module__": made[-1].__name__})
    vars(made[-1])["ModelCheckpoint"] = kind
    sys.modules |= {module.__name__: module for module in made}
    try:
        kept = {kind: {"monitor": "val/loss", "best_model_score": torch.tensor(0.5)}}
        content = {"epoch": 3, "callbacks": kept, "state_dict": state}
        torch.save(content, path)
    finally:
        for module in made:
            del sys.modules[module.__name__]
    return network, stage
