"""Convolutions that change the resolution, against their definition in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skiptune.sampling.networks.resampling import Resample2d, ResampledConv2d


def brute_resample(image: Tensor, row: Sequence[float], *, direction: str) -> Tensor:
    """Filter one line of samples by definition, in double precision."""
    taps = torch.tensor(row, dtype=torch.float64) / sum(row)
    size, reach = image.shape[0], len(row) // 2
    out = torch.zeros(2 * size if direction == "up" else size // 2, dtype=torch.float64)
    for target in range(out.shape[0]):
        for k, tap in enumerate(taps):
            if direction == "down":
                source = 2 * target + k - (reach - 1)
                if 0 <= source < size:
                    out[target] += tap * image[source]
            else:
                # Sample j of the input stands at place 2 j of the doubled line.
                place = target + (reach - 1) - k
                if place % 2 == 0 and 0 <= place // 2 < size:
                    out[target] += 2 * tap * image[place // 2]
    return out


@settings(max_examples=40, deadline=None)
@given(
    row=st.sampled_from([(1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 5.0, 2.0, 1.0)]),
    size=st.sampled_from([4, 6, 8, 16]),
    direction=st.sampled_from(["up", "down"]),
    seed=st.integers(0, 2**20),
)
def test_resampling_is_the_separable_filter(
    row: tuple[float, ...], size: int, direction: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, size, generator=generator, dtype=torch.float64)
    lines = torch.stack([brute_resample(line, row, direction=direction) for line in image])
    expected = torch.stack([brute_resample(line, row, direction=direction) for line in lines.T]).T
    found = Resample2d(direction, row)(image.float()[None, None])[0, 0]
    torch.testing.assert_close(found, expected.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("row", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_resampling_convolution_composes_both_in_order(
    row: tuple[int, ...], kernel: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    plain = ResampledConv2d(3, 5, kernel)
    for direction in ("up", "down"):
        conv = ResampledConv2d(3, 5, kernel, direction=direction, row=row)
        conv.load_state_dict(plain.state_dict(), strict=False)
        expected = plain(Resample2d(direction, row)(x))
        torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("row", [(1, 1), (1, 3, 3, 1)])
def test_convolving_first_sees_the_border_that_the_filter_reads(row: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = ResampledConv2d(3, 5, 3, direction="down", row=row, convolve_first=True)
    nn.init.normal_(conv.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 8, 8)
    # Both steps as one strided convolution with the composed kernel, in double precision.
    taps = torch.tensor(row, dtype=torch.float64) / sum(row)
    blur = torch.outer(taps, taps)[None, None].expand(15, 1, -1, -1)
    weight = conv.weight.double().reshape(1, 15, 3, 3)
    composed = nn.functional.conv_transpose2d(weight, blur, groups=15)
    composed = composed.reshape(5, 3, 2 + len(row), 2 + len(row))
    bias, padding = conv.bias.double(), len(row) // 2  # type: ignore[union-attr]
    expected = nn.functional.conv2d(x.double(), composed, bias, stride=2, padding=padding)
    torch.testing.assert_close(conv(x).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", [(1, 2, 1), (1, 3)])
def test_filters_without_a_middle_are_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="even number of taps"):
        Resample2d("up", row)
