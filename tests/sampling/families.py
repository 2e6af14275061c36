"""The families of networks, with their decoders written out by hand: what the tests compare with.

A family enters with a configuration and its decoder; `test_conformance` then tests it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks import Preconditioned, build_denoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import decoder_blocks, find_skips

ScaleAt = Callable[[str], float | Tensor]
Run = Callable[..., Tensor]
Decoder = Callable[[Any, Tensor, list[Tensor], Tensor, ScaleAt, Run], Tensor]


@dataclass(frozen=True)
class Family:
    """One family.

    Arguments:
        config: A network of 4 skips for 8x8 images of one channel and 3 classes.
        decode: Its decoder, every popped skip multiplied by what a function says, and every block
            called by another.
        exact: Whether hooks and hand make the same numbers bit for bit, because nothing is
            multiplied between the place where a skip is popped and the block.
        addresses: Of the skips, deepest first.
        shortcut: Where in a block its shortcut's convolution is; none for blocks without parts.
        residual: Where in a block the first convolution of its branch is.
        norm: Where in a block the normalisation of main path and skip is, if there is one.
        unlabelled: What makes a network without classes of the configuration.
        others: Changes that make a network of other tensors.
        mixed: Whether some but not all of the skips share a group with the main path.
        folds: Whether a scale on a part is one on columns of its weight.
        published: Whether NVIDIA publishes networks of the family as pickles.
    """

    config: dict[str, Any]
    decode: Decoder
    exact: bool = True
    addresses: tuple[str, ...] = tuple(
        f"{res}x{res}_block{index}" for res in (4, 8) for index in range(2)
    )
    shortcut: str = "skip"
    residual: str = "conv0"
    norm: str = "norm0"
    unlabelled: dict[str, Any] = field(default_factory=lambda: {"label_dim": 0})
    others: tuple[dict[str, Any], ...] = (
        {"num_blocks": 4},
        {"label_dim": 0},
        {"channel_mult": [2, 4]},
    )
    mixed: bool = False
    folds: bool = True
    published: bool = True


def decode_song(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt, run: Any
) -> Tensor:
    """The standard decoder with every skip multiplied before it is concatenated."""
    head = x
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            factor = scale(name)
            if isinstance(factor, Tensor):
                factor = factor.to(skip.dtype).reshape(-1, 1, 1, 1)
            x = run(module, torch.cat([x, skip * factor], dim=1), emb)
        elif name.endswith("_aux_norm"):
            head = F.silu(module(x))
        elif name.endswith("_aux_conv"):
            return module(head)  # type: ignore[no-any-return]
        else:
            x = run(module, x, emb)
    raise AssertionError("a standard decoder ends in aux_conv")


def call(module: nn.Module, *args: Any) -> Any:
    """Call a block; checkpointing is another way."""
    return module(*args)


def _factor(scale: ScaleAt, name: str, like: Tensor) -> float | Tensor:
    factor = scale(name)
    return factor.to(like.dtype).reshape(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor


def decode_adm(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt, run: Run
) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            x = torch.cat([x, skip * _factor(scale, name, skip)], dim=1)
        x = run(module, x, emb)
    return unet.out_conv(F.silu(unet.out_norm(x)))  # type: ignore[no-any-return]


def decode_edm2(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt, run: Run
) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            skip = skip * _factor(scale, name, skip)
            main, popped = x.shape[1], skip.shape[1]
            # Equation 103 at the published balance of one half.
            root = math.sqrt((main + popped) / 2)
            x = torch.cat([x * (root / math.sqrt(main)), skip * (root / math.sqrt(popped))], 1)
        x = run(module, x, emb)
    return unet.out_conv(x, unet.out_gain)  # type: ignore[no-any-return]


def decode_openai(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Any, scale: ScaleAt, run: Run
) -> Tensor:
    for index, block in enumerate(unet.output_blocks):
        skip = skips.pop()
        skip = skip * _factor(scale, f"output_blocks.{index}", skip)
        x = run(block, torch.cat([x, skip], dim=1), *emb)
    return unet.out(x)  # type: ignore[no-any-return]


def decode_uvit(
    unet: Any, x: Tensor, skips: list[Tensor], emb: None, scale: ScaleAt, run: Run
) -> Tensor:
    for index, block in enumerate(unet.out_blocks):
        factor = _factor(scale, f"out_blocks.{index}", x)
        if isinstance(factor, Tensor):
            factor = factor.reshape(-1, 1, 1)
        x = run(block, x, skips.pop() * factor)
    tokens = unet.decoder_pred(unet.norm(x))[:, -16:]
    # 4 x 4 patches of 2 x 2 pixels of one channel.
    image = tokens.reshape(-1, 4, 4, 2, 2).transpose(2, 3).reshape(-1, 1, 8, 8)
    return unet.final_layer(image)  # type: ignore[no-any-return]


COMMON: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
SONG = {**COMMON, "model_channels": 8}
ADM = {**COMMON, "model_type": "DhariwalUNet", "model_channels": 64}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
EDM2 = {**COMMON, "model_channels": 16, "channels_per_head": 16}
IMAGES: dict[str, Any] = {"img_resolution": 8, "img_channels": 1, "label_dim": 3}
# 64 + 32 channels in 32 groups of 3: mixed.
OPENAI: dict[str, Any] = {
    **IMAGES,
    "model_type": "OpenAIUNet",
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "num_head_channels": 16,
}
UVIT: dict[str, Any] = {
    **IMAGES,
    "model_type": "UViT",
    "patch_size": 2,
    "embed_dim": 16,
    "depth": 8,
    "num_heads": 2,
}


def _openai(config: dict[str, Any], **changes: Any) -> Family:
    return Family(
        {**OPENAI, **config},
        decode_openai,
        addresses=tuple(f"output_blocks.{index}" for index in range(4)),
        shortcut="0.skip_connection",
        residual="0.in_layers.2",
        norm="0.in_layers.0",
        mixed=True,
        published=False,
        **{
            "others": ({"num_res_blocks": 2}, {"label_dim": 0}, {"channel_mult": [2, 4]}),
            **changes,
        },
    )


def _uvit(config: dict[str, Any]) -> Family:
    return Family(
        {**UVIT, **config},
        decode_uvit,
        addresses=tuple(f"out_blocks.{index}" for index in range(4)),
        shortcut="",
        residual="",
        norm="",
        others=({"depth": 6}, {"label_dim": 0}, {"embed_dim": 32}),
        published=False,
    )


FAMILIES: dict[str, Family] = {
    "ddpmpp-edm": Family({**SONG, "precond": "edm", "sigma_data": 0.5}, decode_song),
    "ddpmpp-vp": Family({**SONG, "precond": "vp"}, decode_song),
    "ncsnpp-ve": Family({**SONG, **NCSNPP, "precond": "ve"}, decode_song),
    "adm-edm": Family({**ADM, "precond": "edm", "sigma_data": 0.5}, decode_adm, mixed=True),
    "adm-iddpm": Family({**ADM, "precond": "iddpm"}, decode_adm, mixed=True),
    "edm2": Family(
        {**EDM2, "precond": "edm2", "sigma_data": 0.5},
        decode_edm2,
        exact=False,
        shortcut="conv_skip",
        residual="conv_res0",
        norm="",
        folds=False,
    ),
    "guided-diffusion": _openai(
        {
            "precond": "discrete",
            "betas": "cosine",
            "learn_sigma": True,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
        }
    ),
    "consistency": _openai(
        {
            "precond": "consistency",
            "sigma_data": 0.5,
            "distilled": True,
            "attention_dims": 2,
            "use_new_attention_order": True,
        }
    ),
    "ldm": _openai(
        {
            "precond": "discrete",
            "betas": "scaled_linear",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "use_spatial_transformer": True,
            "context_dim": 8,
            "label_rows": 4,
        },
        unlabelled={"label_dim": 0, "label_rows": None},
        others=({"num_res_blocks": 2}, {"label_rows": None}, {"channel_mult": [2, 4]}),
    ),
    "uvit-vp": _uvit({"precond": "vp"}),
    "uvit-v": _uvit({"precond": "discrete", "prediction": "v", "mlp_time_embed": True}),
}
WITH_PARTS = [name for name, family in FAMILIES.items() if family.shortcut]
PUBLISHED = [name for name, family in FAMILIES.items() if family.published]


def random_network(config: dict[str, Any], device: str = "cpu") -> Preconditioned:
    """Build a network in which every path matters."""
    torch.manual_seed(0)  # frequencies and phases are drawn on making
    network = build_denoiser(config)
    norms = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
    }
    generator = torch.Generator().manual_seed(20240219)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("gain"):
                tensor.fill_(0.7)
            elif tensor.dim() > 1 and "resample_filter" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith(("weight", "bias")):
                tensor.copy_(0.1 * noise + float(name in norms))
    return network.to(device).eval().requires_grad_(False)


def edited(
    family: Family, network: Preconditioned, scale: ScaleAt, run: Run = call
) -> Preconditioned:
    """Copy a network and put the decoder written out by hand in the place of its own."""
    twin = copy.deepcopy(network)
    unet = getattr(twin, twin.holder)

    def decode(x: Tensor, skips: list[Tensor], emb: Any = None) -> Tensor:
        return family.decode(unet, x, skips, emb, scale, run)

    vars(unet)["_decode"] = decode
    return twin


def parted(family: Family, network: Preconditioned, part: str, scale: ScaleAt) -> Preconditioned:
    """Copy a network and scale one part of every block: a convolution is linear in its input."""
    twin = copy.deepcopy(network)
    blocks = decoder_blocks(twin).values()
    for skip, block in zip(find_skips(twin), blocks, strict=True):
        conv: Any = block.get_submodule(family.residual if part == "residual" else family.shortcut)

        def forward(
            x: Tensor, *, own: Any = conv.forward, main: int = skip.main_channels,
            name: str = skip.address,
        ) -> Tensor:  # fmt: skip
            factor = _factor(scale, name, x)
            if part == "whole-shortcut":
                return own(x) * factor  # type: ignore[no-any-return]
            rest = own(torch.cat([x[:, :main], torch.zeros_like(x[:, main:])], 1))
            return rest + (own(x) - rest) * factor  # type: ignore[no-any-return]

        vars(conv)["forward"] = forward
    return twin


def hooks_of(network: nn.Module) -> list[Any]:
    """Return the hooks of every kind on a network and the modules in it."""
    kinds = [name for name in vars(network) if name.endswith("_hooks")]
    assert "_forward_pre_hooks" in kinds
    modules = network.modules()
    return [hook for m in modules for kind in kinds for hook in getattr(m, kind).values()]


class Branched(nn.Module):
    """One network where there are labels, another where there are none."""

    img_channels, img_resolution, label_dim = 1, 8, 3

    def __init__(self, cond: nn.Module, uncond: nn.Module) -> None:
        super().__init__()
        self.cond, self.uncond = cond, uncond

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        made: Tensor = (self.uncond if class_labels is None else self.cond)(x, sigma, class_labels)
        return made


class OfFamily:
    """A network of random weights of the family `name`, its input, and one scale per skip."""

    @pytest.fixture(autouse=True)
    def made(self, name: str, device: str) -> Iterator[None]:
        self.family = FAMILIES[name]
        self.device = device
        self.network = random_network(self.family.config, device)
        generator = torch.Generator().manual_seed(5)
        self.x = (2 * torch.randn(3, 1, 8, 8, generator=generator)).to(device)
        self.labels = torch.eye(3, device=device)
        self.names = [skip.address for skip in find_skips(self.network)]
        scales = (0.7, 1.3, 0.4, 1.1)
        self.schedule = Schedule.uniform(dict(zip(self.names, scales, strict=True)))
        with torch.inference_mode():
            yield

    def run(self, network: nn.Module, sigma: float = 1.0) -> Tensor:
        level = torch.tensor(sigma, dtype=torch.float64, device=self.device)
        return network(self.x, level, self.labels)  # type: ignore[no-any-return]
