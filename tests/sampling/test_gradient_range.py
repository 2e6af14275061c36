"""Gradients through half precision: of any size, row by row, as those of float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.gradient_range import SIZE, in_range, needs_range
from tests.vaes import random_vae


def cubic(x: Tensor, shift: Tensor) -> Tensor:
    """In float16, as a network is."""
    half = x.to(torch.float16) + shift.to(torch.float16)[:, :, None]
    return (half**3).to(torch.float32)


def gradients(function: object, rows: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    shift = torch.rand(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    made = function(x, shift)  # type: ignore[operator]
    assert made.shape == (4, 3, 5)
    found = torch.autograd.grad((made * rows[:, None, None]).sum(), (x, shift))
    closed = 3 * (x + shift[:, :, None]) ** 2 * rows[:, None, None]
    for one, expected in zip(found, (closed, closed.sum(2)), strict=True):
        if function is not cubic:
            torch.testing.assert_close(one, expected.detach(), rtol=1e-2, atol=0.0)
    return found


def test_rows_of_any_size_have_their_derivatives() -> None:
    rows = torch.tensor([1e-12, 1.0, 1e9, 3e-5], dtype=torch.float64)
    found = gradients(lambda x, shift: in_range(cubic, x, shift), rows)
    assert all(one.dtype == torch.float64 for one in found)
    # Without it the smallest are 0 and the largest are not finite.
    plain, _ = gradients(cubic, rows)
    assert not plain[0].any() and not bool(plain[2].isfinite().any())


def test_what_is_sent_in_has_one_size_and_nothing_is_rounded() -> None:
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        x.register_hook(lambda gradient: seen.append(gradient.clone()))
        return x * 1

    x = torch.ones(3, 2).requires_grad_()
    sent = torch.tensor([[1e-9, 3e-10], [7e5, -1.1e6], [0.0, 0.0]])
    (back,) = torch.autograd.grad((in_range(watched, x) * sent).sum(), (x,))
    assert torch.equal(back, sent)
    largest = seen[0].abs().amax(1)
    assert bool(((largest[:2] > SIZE / 1.5) & (largest[:2] < SIZE * 1.5)).all())
    assert float(largest[2]) == 0
    # What is not finite stays so, and of its own row alone.
    sent[0, 0] = float("nan")
    (back,) = torch.autograd.grad((in_range(watched, x) * sent).sum(), (x,))
    assert bool(back[0].isnan().any()) and torch.equal(back[1:], sent[1:])


def test_float16_alone_needs_it() -> None:
    module = nn.Linear(2, 2)
    assert not needs_range(module) and not needs_range(module.bfloat16())
    assert needs_range(module.half())


def test_a_decoder_in_float16_passes_gradients_of_any_size(tmp_path: Path) -> None:
    random_vae().save_pretrained(tmp_path / "vae")
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    found = {}
    for dtype in ("float32", "float16"):
        decoder = load_decoder(tmp_path / "vae", dtype=dtype, microbatch=2)
        for size in (1e-10, 1.0, 1e9):
            latents = z.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(
                (decoder.floats(latents).square().sum() * size), (latents,)
            )
            found[dtype, size] = gradient.double() / size
    expected = found["float32", 1.0]
    for gradient in found.values():
        assert float((gradient - expected).norm() / expected.norm()) < 0.02
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found["float16", 1.0], expected, rtol=1e-6, atol=0.0)
