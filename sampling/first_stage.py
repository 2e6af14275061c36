"""The first stage of latent diffusion with a codebook: CompVis's words and names to diffusers'.

A file of CompVis/latent-diffusion holds the network and, behind `first_stage_model.`, what makes
images of its latents: a VQGAN (Esser et al. 2021, arXiv 2012.09841), which diffusers calls
`VQModel`. Facts: names and shapes of `ldm/modules/diffusionmodules/model.py` and
`ldm/models/autoencoder.py` there, and of diffusers' `models/autoencoders/`. Levels of the decoder
are numbered from the finest there and from the coarsest here; attention's 1x1 convolutions are
linear layers here.

This module costs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.sampling.latents import vae_files

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FOLDER", "PREFIX", "FirstStage", "stage_files", "tensor_names", "vq_config"]

FOLDER = "vqvae"
"""Beside a converted network: its first stage, called as in diffusers' pipelines of latents."""

PREFIX = "first_stage_model."

_GROUPS = 32  # of every normalisation, which upstream's code takes for granted
# A file may not ask for as many as it likes; real ones have 2 layers, 5 levels and 16,384 codes.
_MOST_LAYERS, _MOST_LEVELS, _MOST_WIDE = 64, 16, 1 << 20
# What upstream's decoder may do that diffusers' does not.
_UNKNOWN = ("give_pre_end", "tanh_out", "use_linear_attn", "double_z")
_KNOWN = (
    "attn_resolutions",
    "attn_type",
    "ch",
    "ch_mult",
    "dropout",
    "in_channels",
    "num_res_blocks",
    "out_ch",
    "resamp_with_conv",
    "resolution",
    "z_channels",
    *_UNKNOWN,
)

Names = Iterator[tuple[str, str, tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class FirstStage:
    """A first stage in diffusers' layout.

    Arguments:
        config: Of a `VQModel`, as its `config.json` holds it.
        tensors: Its state by diffusers' names, contiguous, with the file's dtypes.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def parameters(self) -> int:
        """Numbers among the tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def stage_files(checkpoint: str | Path) -> tuple[Path, Path]:
    """Return where a conversion puts the weights and the configuration of a first stage.

    Arguments:
        checkpoint: The converted network.
    """
    return vae_files(Path(checkpoint).with_name(FOLDER))


def vq_config(stage: Mapping[str, Any], *, scale: float | None) -> dict[str, Any]:
    """Return the configuration of diffusers' `VQModel` for a first stage of latent diffusion.

    Arguments:
        stage: `first_stage_config.params`: `embed_dim`, `n_embed` and `ddconfig`.
        scale: By how much the network's latents are larger than the first stage's; None where the
            file of weights says so.

    Raises:
        ValueError: For a first stage that diffusers does not have, or that is not described.
        KeyError: A number that is needed is not there.
        TypeError: A list is none.
    """
    dd = stage.get("ddconfig")
    if not isinstance(dd, Mapping):
        raise ValueError("no ddconfig")
    unknown = [str(key) for key in dd if key not in _KNOWN]
    wanted = [key for key in _UNKNOWN if dd.get(key, False)]
    if unknown or wanted:
        raise ValueError(", ".join([*unknown, *wanted]))
    if dd.get("resamp_with_conv", True) is not True:
        raise ValueError("resamp_with_conv false")
    kind = dd.get("attn_type", "vanilla")
    if kind not in ("vanilla", "none"):
        raise ValueError(f"attn_type {kind!r}")
    multiples = [_whole(value, "ch_mult") for value in dd["ch_mult"]]
    layers, channels = _whole(dd["num_res_blocks"], "num_res_blocks"), _width(dd["ch"], "ch")
    if len(multiples) > _MOST_LEVELS or layers > _MOST_LAYERS:
        raise ValueError(f"{len(multiples)} levels of {layers} blocks")
    if channels * max(multiples, default=1) > _MOST_WIDE:
        raise ValueError(f"ch {channels} times ch_mult {multiples}, above {_MOST_WIDE}")
    if multiples[:1] != [1]:
        raise ValueError(f"ch_mult {multiples}, which does not begin with 1")
    if channels % _GROUPS:
        raise ValueError(f"ch {channels}, no multiple of {_GROUPS}")
    size = _whole(dd["resolution"], "resolution")
    seen = () if kind == "none" else dd.get("attn_resolutions", ())
    attends = [size // 2**level in seen for level in range(len(multiples))]
    latents = _width(dd["z_channels"], "z_channels")
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": [channels * multiple for multiple in multiples],
        "down_block_types": [f"{'Attn' * here}DownEncoderBlock2D" for here in attends],
        "in_channels": _width(dd["in_channels"], "in_channels"),
        "latent_channels": latents,
        "layers_per_block": layers,
        "mid_block_add_attention": kind != "none",
        "norm_num_groups": _GROUPS,
        "norm_type": "group",
        "num_vq_embeddings": _width(stage["n_embed"], "n_embed"),
        "out_channels": _width(dd["out_ch"], "out_ch"),
        "sample_size": size,
        "scaling_factor": scale,
        "up_block_types": [f"{'Attn' * here}UpDecoderBlock2D" for here in reversed(attends)],
        "vq_embed_dim": _width(stage["embed_dim"], "embed_dim"),
    }


def tensor_names(config: Mapping[str, Any]) -> Names:
    """Yield the tensors of a first stage.

    Arguments:
        config: As `vq_config` returns it.

    Returns:
        CompVis's name, diffusers' name, CompVis's shape, diffusers' shape. The numbers are the
        same in the same order.
    """
    latents, width = config["latent_channels"], config["vq_embed_dim"]
    codes = (config["num_vq_embeddings"], width)
    yield "quantize.embedding.weight", "quantize.embedding.weight", codes, codes
    yield from _layer("quant_conv", "quant_conv", (width, latents, 1, 1))
    yield from _layer("post_quant_conv", "post_quant_conv", (latents, width, 1, 1))
    yield from _encoder(config)
    yield from _decoder(config)


def _encoder(config: Mapping[str, Any]) -> Names:
    widths, last = config["block_out_channels"], len(config["block_out_channels"]) - 1
    yield from _layer(*_both("encoder.conv_in"), (widths[0], config["in_channels"], 3, 3))
    before = widths[0]
    for level, width in enumerate(widths):
        theirs, ours = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        attends = config["down_block_types"][level].startswith("Attn")
        yield from _level(theirs, ours, before, width, config["layers_per_block"], attends=attends)
        before = width
        if level < last:
            names = f"{theirs}.downsample.conv", f"{ours}.downsamplers.0.conv"
            yield from _layer(*names, (width, width, 3, 3))
    yield from _middle("encoder", before, attends=config["mid_block_add_attention"])
    yield from _layer("encoder.norm_out", "encoder.conv_norm_out", (before,))
    yield from _layer(*_both("encoder.conv_out"), (config["latent_channels"], before, 3, 3))


def _decoder(config: Mapping[str, Any]) -> Names:
    widths, last = config["block_out_channels"], len(config["block_out_channels"]) - 1
    before = widths[-1]
    yield from _layer(*_both("decoder.conv_in"), (before, config["latent_channels"], 3, 3))
    yield from _middle("decoder", before, attends=config["mid_block_add_attention"])
    for number, width in enumerate(reversed(widths)):
        theirs, ours = f"decoder.up.{last - number}", f"decoder.up_blocks.{number}"
        attends = config["up_block_types"][number].startswith("Attn")
        blocks = config["layers_per_block"] + 1
        yield from _level(theirs, ours, before, width, blocks, attends=attends)
        before = width
        if number < last:
            names = f"{theirs}.upsample.conv", f"{ours}.upsamplers.0.conv"
            yield from _layer(*names, (width, width, 3, 3))
    yield from _layer("decoder.norm_out", "decoder.conv_norm_out", (before,))
    yield from _layer(*_both("decoder.conv_out"), (config["out_channels"], before, 3, 3))


def _level(
    theirs: str, ours: str, before: int, width: int, blocks: int, *, attends: bool
) -> Names:
    for block in range(blocks):
        yield from _resnet(f"{theirs}.block.{block}", f"{ours}.resnets.{block}", before, width)
        if attends:
            yield from _attention(f"{theirs}.attn.{block}", f"{ours}.attentions.{block}", width)
        before = width


def _middle(half: str, width: int, *, attends: bool) -> Names:
    theirs, ours = f"{half}.mid", f"{half}.mid_block"
    yield from _resnet(f"{theirs}.block_1", f"{ours}.resnets.0", width, width)
    if attends:
        yield from _attention(f"{theirs}.attn_1", f"{ours}.attentions.0", width)
    yield from _resnet(f"{theirs}.block_2", f"{ours}.resnets.1", width, width)


def _resnet(theirs: str, ours: str, before: int, width: int) -> Names:
    for number, channels in ((1, before), (2, width)):
        yield from _layer(f"{theirs}.norm{number}", f"{ours}.norm{number}", (channels,))
        names = f"{theirs}.conv{number}", f"{ours}.conv{number}"
        yield from _layer(*names, (width, channels, 3, 3))
    if before != width:
        names = f"{theirs}.nin_shortcut", f"{ours}.conv_shortcut"
        yield from _layer(*names, (width, before, 1, 1))


def _attention(theirs: str, ours: str, width: int) -> Names:
    yield from _layer(f"{theirs}.norm", f"{ours}.group_norm", (width,))
    for one, other in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        names = f"{theirs}.{one}", f"{ours}.{other}"
        yield from _layer(*names, (width, width, 1, 1), (width, width))


def _layer(
    theirs: str, ours: str, shape: tuple[int, ...], other: tuple[int, ...] | None = None
) -> Names:
    yield f"{theirs}.weight", f"{ours}.weight", shape, other or shape
    yield f"{theirs}.bias", f"{ours}.bias", shape[:1], shape[:1]


def _both(name: str) -> tuple[str, str]:
    return name, name


def _whole(value: Any, key: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} {value!r}, no whole number of at least 1")
    return value


def _width(value: Any, key: str) -> int:
    if _whole(value, key) > _MOST_WIDE:
        raise ValueError(f"{key} {value}, above {_MOST_WIDE}")
    return int(value)
