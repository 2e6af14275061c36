"""Gradients through half precision, kept inside its range.

float16 holds no number below 6e-8 and none above 65504. What is sent back through a network that
computes in it may be smaller or larger by any factor: it depends on the metric, the number of
pixels and how far the schedule is from an optimum. Then derivatives become zeros, or are not
finite. A gradient is linear in what is sent back, so this is brought to one size before it enters
and taken back to its own behind: per image, by powers of two, which round nothing. (Micikevicius
et al. 2018, arXiv 1710.03740, section 3.2, scale a whole loss for the same reason.) bfloat16 has
the range of float32 and needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

__all__ = ["SIZE", "in_range", "needs_range"]

SIZE: Final = 2.0**-4
"""The largest number that is sent into a network, of each image: sums over a feature map stay far
below float16's largest number, and what is 2^20 times smaller still is not 0."""


def needs_range(module: nn.Module) -> bool:
    """Return whether derivatives through a module are float16 somewhere."""
    if getattr(module, "computes_in", None) is torch.float16:
        return True
    return any(parameter.dtype == torch.float16 for parameter in module.parameters())


def in_range(function: Callable[..., Tensor], *inputs: Tensor, size: float = SIZE) -> Tensor:
    """Call a function whose derivatives are to stay inside float16's range.

    Arguments:
        function: Of the inputs; row i of what it returns depends on row i of each alone.
        inputs: [B, ...] each, of float32 or float64.
        size: The largest number of each row that is sent back into the function.

    Returns:
        What it returns, [B, ...] of float32 or float64, with the same derivatives but for
        rounding.
    """
    held: list[Tensor] = []
    made: Tensor = function(*(_Own.apply(one, held) for one in inputs))
    sized: Tensor = _Sized.apply(made, held, size)
    return sized


class _Sized(torch.autograd.Function):
    """The same number; its gradient is brought to one size, and the factor of each row is kept."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, held: list[Tensor], size: float) -> Tensor:
        ctx.held, ctx.size = held, size
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        largest = gradient.detach().abs().flatten(1).amax(1).double()
        usable = (largest > 0) & largest.isfinite()
        powers = torch.where(usable, (ctx.size / largest).log2().round(), 0.0)
        # What float32 can hold, so that neither the factor nor the product is 0 or infinite.
        factors = torch.exp2(powers.clamp(-120, 120))
        ctx.held[:] = [factors]
        return gradient * _rows(factors, gradient), None, None


class _Own(torch.autograd.Function):
    """The same number; its gradient is taken back to its own size."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, held: list[Tensor]) -> Tensor:
        ctx.held = held
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [factors] = ctx.held  # gradients come back from what was made to what it was made of
        return gradient / _rows(factors, gradient), None


def _rows(factors: Tensor, like: Tensor) -> Tensor:
    return factors.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
