"""The families of networks, with their decoders written out by hand: what the tests compare with.

A family enters with a configuration and its decoder; `test_conformance` then tests it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.skips import decoder_blocks, find_skips
from tests.pipelines import ddim, random_unet, write_pipeline
from tests.sampling.hand_decoders import (
    Decoder,
    Run,
    ScaleAt,
    call,
    decode_adm,
    decode_edm2,
    decode_openai,
    decode_song,
    decode_uvit,
    factor_of,
    put_up_blocks,
)


@dataclass(frozen=True)
class Family:
    """One family.

    Arguments:
        config: A network of 4 skips for 8x8 images of one channel and 3 classes.
        decode: Its decoder, every popped skip multiplied by what a function says, and every block
            called by another; None where `put` does it elsewhere.
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
        unguided: Why guidance is refused, as the refusal says it; none where it is not.
    """

    config: dict[str, Any]
    decode: Decoder | None = None
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
    unguided: str = ""

    def build(self, config: dict[str, Any]) -> Any:
        """Make a denoiser of a configuration."""
        return build_denoiser(config)

    def put(self, unet: Any, scale: ScaleAt, run: Run) -> None:
        """Put the decoder written out by hand in the place of a U-Net's own."""

        own = self.decode
        assert own is not None

        def decode(x: Tensor, skips: list[Tensor], emb: Any = None) -> Tensor:
            return own(unet, x, skips, emb, scale, run)

        vars(unet)["_decode"] = decode

    def write(self, network: Any, folder: Path, changes: dict[str, Any]) -> Path:
        """Write a network as its family's files are, with a changed configuration."""
        path = folder / "network.safetensors"
        tensors = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
        config = json.dumps({**self.config, **changes})
        save_file(tensors, path, metadata={"skiptune.network": config})
        return path

    def load(self, path: Path, network: Any) -> Checkpoint:
        """Read the files of a network where that is, with what no file holds as that has it."""
        return load_checkpoint(path, device=next(network.parameters()).device)

    def read_as(self, network: Any) -> dict[str, Any]:
        """Return what reading its files must say of a network."""
        return self.config


@dataclass(frozen=True)
class PipelineFamily(Family):
    """Networks of diffusers' pipelines, of one class, with classes or told of three prompts."""

    kind: str = "UNet2DModel"

    def build(self, config: dict[str, Any]) -> Any:
        """Make a denoiser around diffusers' own U-Net."""
        scheduler = read_scheduler(json.loads(ddim().to_json_string()), where="test")
        unet = random_unet(self.kind, **config)
        conditions = None
        if getattr(unet.mid_block, "has_cross_attention", False):
            generator = torch.Generator().manual_seed(1)
            conditions = Conditions(torch.randn(4, 5, 12, generator=generator))
        return PipelineDenoiser(unet, scheduler, conditions=conditions)

    def put(self, unet: Any, scale: ScaleAt, run: Run) -> None:
        """Put the forward of every up block, written out by hand, in the place of its own."""
        put_up_blocks(unet, scale, run)

    def write(self, network: Any, folder: Path, changes: dict[str, Any]) -> Path:
        """Let diffusers write a pipeline."""
        path = write_pipeline(folder / "pipe", unet=network.unet)
        config = path / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        return path

    def load(self, path: Path, network: Any) -> Checkpoint:
        """Read a pipeline; the prompts are the study's, not the pipeline's."""
        checkpoint = super().load(path, network)
        read: Any = checkpoint.network
        told = PipelineDenoiser(read.unet, read.scheduler, conditions=network.conditions).eval()
        return checkpoint if network.conditions is None else replace(checkpoint, network=told)

    def read_as(self, network: Any) -> dict[str, Any]:
        """Return what reading a pipeline must say of its network."""
        return {
            "pipeline": "DDIMPipeline",
            "unet": self.kind,
            **network.scheduler.to_json(),
            "img_resolution": 8,
            "img_channels": 1,
            "label_dim": 3 if network.has_classes else 0,
            "ignored": [],
        }


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


def _pipeline(kind: str, config: dict[str, Any], **changes: Any) -> Family:
    # 32 and 16 channels in groups of 12: one holds channels of both.
    return PipelineFamily(
        {**config, "norm_num_groups": 4},
        addresses=tuple(f"up_blocks.{b}.resnets.{r}" for b in (0, 1) for r in (0, 1)),
        shortcut="conv_shortcut",
        residual="conv1",
        norm="norm1",
        mixed=True,
        published=False,
        kind=kind,
        **changes,
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
    "uvit": _uvit({"precond": "vp", "mlp_time_embed": True}),
    "diffusers-classes": _pipeline(
        "UNet2DModel",
        {"num_class_embeds": 3},
        unlabelled={"num_class_embeds": None},
        others=(
            {"layers_per_block": 2},
            {"num_class_embeds": None},
            {"block_out_channels": [16, 48]},
        ),
        unguided="the network knows no image without a class",
    ),
    "diffusers-text": _pipeline(
        "UNet2DConditionModel",
        {"in_channels": 1, "out_channels": 1},
        unlabelled={
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "mid_block_type": "UNetMidBlock2D",
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
        },
        others=(
            {"layers_per_block": 2},
            {"cross_attention_dim": 16},
            {"block_out_channels": [16, 48]},
        ),
    ),
}
WITH_PARTS = [name for name, family in FAMILIES.items() if family.shortcut]
PUBLISHED = [name for name, family in FAMILIES.items() if family.published]


def random_network(config: dict[str, Any], device: str = "cpu") -> Any:
    """Build a network of skiptune's own configuration in which every path matters."""
    torch.manual_seed(0)  # frequencies and phases are drawn on making
    return _random(build_denoiser(config), device)


def network_of(family: Family, device: str = "cpu", **changes: Any) -> Any:
    """Build a network of a family in which every path matters."""
    torch.manual_seed(0)
    return _random(family.build({**family.config, **changes}), device)


def _random(network: Any, device: str) -> Any:
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


def edited(family: Family, network: Any, scale: ScaleAt, run: Run = call) -> Any:
    """Copy a network and put the decoder written out by hand in the place of its own."""
    twin = copy.deepcopy(network)
    family.put(getattr(twin, twin.holder), scale, run)
    return twin


def parted(family: Family, network: Any, part: str, scale: ScaleAt) -> Any:
    """Copy a network and scale one part of every block: a convolution is linear in its input."""
    twin = copy.deepcopy(network)
    blocks = decoder_blocks(twin).values()
    for skip, block in zip(find_skips(twin), blocks, strict=True):
        conv: Any = block.get_submodule(family.residual if part == "residual" else family.shortcut)

        def forward(
            x: Tensor, *, own: Any = conv.forward, main: int = skip.main_channels,
            name: str = skip.address,
        ) -> Tensor:  # fmt: skip
            factor = factor_of(scale, name, x)
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
        if hasattr(cond, "start_std"):
            self.start_std = cond.start_std

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        made: Tensor = (self.uncond if class_labels is None else self.cond)(x, sigma, class_labels)
        return made


class OfFamily:
    """A network of random weights of the family `name`, its input, and one scale per skip."""

    @pytest.fixture(autouse=True)
    def made(self, name: str, device: str) -> Iterator[None]:
        self.family = FAMILIES[name]
        self.device = device
        self.network = network_of(self.family, device)
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
