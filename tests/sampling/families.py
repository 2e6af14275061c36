"""The families of networks, with their decoders written out by hand: what the tests compare with.

A family enters with a configuration and its decoder; `test_conformance` then tests it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    """

    config: dict[str, Any]
    decode: Decoder
    exact: bool = True


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
FAMILIES: dict[str, Family] = {
    "ddpmpp-edm": Family({**SONG, "precond": "edm", "sigma_data": 0.5}, decode_song),
    "ddpmpp-vp": Family({**SONG, "precond": "vp"}, decode_song),
    "ncsnpp-ve": Family({**SONG, **NCSNPP, "precond": "ve"}, decode_song),
    "adm-edm": Family({**ADM, "precond": "edm", "sigma_data": 0.5}, decode_adm),
    "adm-iddpm": Family({**ADM, "precond": "iddpm"}, decode_adm),
    "edm2": Family({**EDM2, "precond": "edm2", "sigma_data": 0.5}, decode_edm2, exact=False),
}


def random_network(config: dict[str, Any], device: str = "cpu") -> Preconditioned:
    """Build a network in which every path matters."""
    torch.manual_seed(0)  # frequencies and phases are drawn on making
    network = build_denoiser(config)
    generator = torch.Generator().manual_seed(20240219)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("gain"):
                tensor.fill_(0.7)
            elif tensor.dim() > 1 and "resample_filter" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith(("weight", "bias")):
                tensor.copy_(0.1 * noise + float("norm" in name and "weight" in name))
    return network.to(device).eval().requires_grad_(False)


def edited(
    family: Family, network: Preconditioned, scale: ScaleAt, run: Run = call
) -> Preconditioned:
    """Copy a network and put the decoder written out by hand in the place of its own."""
    twin = copy.deepcopy(network)
    unet = getattr(twin, twin.holder)

    def decode(x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        return family.decode(unet, x, skips, emb, scale, run)

    vars(unet)["_decode"] = decode
    return twin


def parted(network: Preconditioned, part: str, scale: ScaleAt) -> Preconditioned:
    """Copy a network and scale one part of every block: a convolution is linear in its input."""
    twin = copy.deepcopy(network)
    blocks = decoder_blocks(twin).values()
    for skip, block in zip(find_skips(twin), blocks, strict=True):
        names = ("conv0", "conv_res0") if part == "residual" else ("skip", "conv_skip")
        (conv,) = (getattr(block, name) for name in names if hasattr(block, name))

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
