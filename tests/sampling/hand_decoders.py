"""Decoders written out by hand, with every skip multiplied before it is concatenated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Decoder",
    "Run",
    "ScaleAt",
    "call",
    "decode_adm",
    "decode_edm2",
    "decode_openai",
    "decode_song",
    "decode_uvit",
    "factor_of",
    "put_up_blocks",
]

ScaleAt = Callable[[str], float | Tensor]
Run = Callable[..., Tensor]
Decoder = Callable[[Any, Tensor, list[Tensor], Tensor, ScaleAt, Run], Tensor]


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


def factor_of(scale: ScaleAt, name: str, like: Tensor) -> float | Tensor:
    factor = scale(name)
    return factor.to(like.dtype).reshape(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor


def decode_adm(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt, run: Run
) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            x = torch.cat([x, skip * factor_of(scale, name, skip)], dim=1)
        x = run(module, x, emb)
    return unet.out_conv(F.silu(unet.out_norm(x)))  # type: ignore[no-any-return]


def decode_edm2(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt, run: Run
) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            skip = skip * factor_of(scale, name, skip)
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
        skip = skip * factor_of(scale, f"output_blocks.{index}", skip)
        x = run(block, torch.cat([x, skip], dim=1), *emb)
    return unet.out(x)  # type: ignore[no-any-return]


def decode_uvit(
    unet: Any, x: Tensor, skips: list[Tensor], emb: Any, scale: ScaleAt, run: Run
) -> Tensor:
    for index, block in enumerate(unet.out_blocks):
        factor = factor_of(scale, f"out_blocks.{index}", x)
        if isinstance(factor, Tensor):
            factor = factor.reshape(-1, 1, 1)
        x = run(block, x, skips.pop() * factor)
    tokens = unet.decoder_pred(unet.norm(x))[:, -16:]
    # 4 x 4 patches of 2 x 2 pixels of one channel.
    image = tokens.reshape(-1, 4, 4, 2, 2).transpose(2, 3).reshape(-1, 1, 8, 8)
    return unet.final_layer(image)  # type: ignore[no-any-return]


def put_up_blocks(unet: Any, scale: ScaleAt, run: Run) -> None:
    """Put the forward of every up block of diffusers, written out by hand, in place of its own."""
    for number, block in enumerate(unet.up_blocks):

        def forward(
            hidden_states: Tensor,
            res_hidden_states_tuple: tuple[Tensor, ...],
            temb: Tensor | None = None,
            upsample_size: Any = None,
            *,
            block: Any = block,
            number: int = number,
            **more: Any,
        ) -> Tensor:
            x = hidden_states
            for index, resnet in enumerate(block.resnets):
                *res, skip = res_hidden_states_tuple
                res_hidden_states_tuple = tuple(res)
                factor = factor_of(scale, f"up_blocks.{number}.resnets.{index}", skip)
                x = run(resnet, torch.cat([x, skip * factor], dim=1), temb)
                attentions = getattr(block, "attentions", None)
                if attentions is not None and more.get("encoder_hidden_states") is not None:
                    states = more["encoder_hidden_states"]
                    (x,) = attentions[index](x, states, return_dict=False)
                elif attentions is not None:
                    x = attentions[index](x)
            for upsampler in block.upsamplers or ():
                x = upsampler(x)
            return x

        vars(block)["forward"] = forward
