"""Random convolutions: the same everywhere, and their features computed once more by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from skiptune.errors import ObjectiveError
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.names import ASSETS, RANDOM_PATCHES, RANDOM_PATCHES_SHA256
from skiptune.objectives.paired import corrected
from skiptune.objectives.random_patches import DIM, RandomPatches, weights_sha256
from skiptune.objectives.reference import load_reference

EXTRACTOR = load_extractor(RANDOM_PATCHES)
REFERENCE = ASSETS / "fashion-train-random-patches.npz"


def philox_block(counter: int, draw: int) -> tuple[int, ...]:
    """Philox4x32-10 as the paper writes it, in Python's whole numbers."""
    one, two, three, four = counter, draw, 0, 0
    left, right = 0x736B6970, 0x74756E65
    for _ in range(10):
        a, b = 0xD2511F53 * one, 0xCD9E8D57 * three
        one, two, three, four = (
            (b >> 32) ^ two ^ left,
            b % 2**32,
            (a >> 32) ^ four ^ right,
            a % 2**32,
        )
        left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
    return one, two, three, four


def number(counter: int, draw: int) -> float:
    return (sum(philox_block(counter, draw)) - 2 * (2**32 - 1)) / 2**32 * math.sqrt(3)


def test_filters_are_those_of_the_generator_counted_by_element() -> None:
    network = RandomPatches()
    size = 3 * 25
    own = np.array([number(n, 0) for n in range(2 * size)]).reshape(2, size)
    own = (own - own.mean(axis=1, keepdims=True)) * math.sqrt(2 / size)
    found = network.get_buffer("filters_0")[:2].reshape(2, size)
    assert found == pytest.approx(own, abs=1e-7)
    assert float(network.get_buffer("offsets_1")[3]) == pytest.approx(0.5 * number(3, 3), abs=1e-7)
    assert float(network.get_buffer("filters_1").std()) == pytest.approx(
        math.sqrt(2 / (32 * 25)), rel=0.02
    )


def test_filters_do_not_depend_on_the_state_of_any_generator() -> None:
    torch.manual_seed(7)
    assert weights_sha256(RandomPatches()) == EXTRACTOR.sha256 == RANDOM_PATCHES_SHA256


def test_features_against_sums_over_patches() -> None:
    levels = torch.randint(0, 256, (2, 1, 16, 18), dtype=torch.uint8)
    network = RandomPatches()
    x = np.repeat(levels.numpy().astype(np.float64) / 127.5 - 1, 3, axis=1)

    def layer(x: np.ndarray, name: int, stride: int) -> Any:
        filters = network.get_buffer(f"filters_{name}").numpy().astype(np.float64)
        offsets = network.get_buffer(f"offsets_{name}").numpy().astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        windows = windows[:, :, ::stride, ::stride]
        found = np.einsum("nchwij,fcij->nfhw", windows, filters) + offsets[:, None, None]
        return np.maximum(found, 0)

    first = layer(x, 0, 1)
    halved = first.reshape(2, 32, 6, 2, 7, 2).mean(axis=(3, 5))
    second = layer(halved, 1, 2)
    expected = 10 * np.concatenate([part.mean(axis=(2, 3)) for part in (first, second)], axis=1)
    assert EXTRACTOR(levels).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert EXTRACTOR.dim == DIM == expected.shape[1]


def test_plain_images_of_any_brightness_have_the_same_first_layer() -> None:
    dark, light = (torch.full((1, 1, 16, 16), value, dtype=torch.uint8) for value in (10, 200))
    assert torch.allclose(EXTRACTOR(dark), EXTRACTOR(light), atol=1e-4)


def test_floats_have_the_features_of_bytes_and_pass_gradients_on() -> None:
    levels = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    floats = ((levels.double() - 127.5) / 127.5).requires_grad_()
    found = EXTRACTOR.of_floats(floats)
    assert torch.allclose(found, EXTRACTOR(levels), atol=1e-4)
    found.sum().backward()
    assert floats.grad is not None and bool((floats.grad != 0).any())


def test_images_below_a_patch_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="at least 14x14 pixels"):
        EXTRACTOR(torch.zeros(1, 1, 13, 32, dtype=torch.uint8))
    assert EXTRACTOR(torch.zeros(1, 1, 14, 14, dtype=torch.uint8)).shape == (1, 64)


def test_weights_of_ones_own_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="leave out weights"):
        load_extractor(RANDOM_PATCHES, weights=REFERENCE)
    with pytest.raises(ObjectiveError, match="filters of sha256 000"):
        load_extractor(RANDOM_PATCHES, sha256="0" * 64)


def test_held_out_images_are_near_the_bundled_statistics_and_noisy_ones_are_not() -> None:
    reference = load_reference(REFERENCE, extractor=EXTRACTOR)
    assert reference.images == 60_000
    pixels = torch.from_numpy(np.load(ASSETS / "fashion-test.npz")["images"][:500])
    near = corrected(EXTRACTOR(pixels).numpy(), reference)
    assert abs(near.value) < 3 * near.standard_error
    noise = torch.randint(-48, 49, pixels.shape, generator=torch.Generator().manual_seed(1))
    noisy = (pixels.int() + noise).clamp(0, 255).to(torch.uint8)
    far = corrected(EXTRACTOR(noisy).numpy(), reference)
    assert far.value > 10 * far.standard_error
