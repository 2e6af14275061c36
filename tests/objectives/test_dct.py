"""The lowest frequencies against the sums that define them, and against what they must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skiptune.errors import ObjectiveError
from skiptune.objectives.dct import DIM, SHA256
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.names import ASSETS, DCT
from skiptune.objectives.paired import corrected
from skiptune.objectives.reference import load_reference

EXTRACTOR = load_extractor(DCT)


def test_features_are_the_sums_of_the_definition() -> None:
    levels = torch.randint(0, 256, (2, 3, 12, 9), dtype=torch.uint8)
    x = (levels.numpy().astype(np.float64) / 127.5 - 1).mean(axis=1)
    expected = np.zeros((2, 8, 8))
    for k in range(8):
        for m in range(8):
            scale = math.sqrt((1 if k == 0 else 2) / 12 * (1 if m == 0 else 2) / 9)
            for i in range(12):
                for j in range(9):
                    wave = math.cos(math.pi * (i + 0.5) * k / 12)
                    wave *= math.cos(math.pi * (j + 0.5) * m / 9)
                    expected[:, k, m] += scale * wave * x[:, i, j]
    expected *= 10 / math.sqrt(12 * 9)
    assert EXTRACTOR(levels).numpy() == pytest.approx(expected.reshape(2, -1), abs=1e-5)
    assert EXTRACTOR.dim == DIM == 64


def test_of_eight_by_eight_pixels_nothing_is_lost() -> None:
    # All 64 coefficients of an orthonormal transform: lengths are kept.
    levels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    pixels = (levels.double() / 127.5 - 1).flatten(1)
    found = EXTRACTOR(levels).double()
    assert found.norm(dim=1).tolist() == pytest.approx((10 / 8 * pixels.norm(dim=1)).tolist())
    assert torch.pdist(found).tolist() == pytest.approx((10 / 8 * torch.pdist(pixels)).tolist())


def test_grey_and_colour_of_one_brightness_are_the_same_and_size_matters_little() -> None:
    grey = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(EXTRACTOR(grey), EXTRACTOR(grey.expand(-1, 3, -1, -1)))
    flat = torch.full((1, 1, 16, 20), 200, dtype=torch.uint8)
    large = torch.full((1, 1, 64, 64), 200, dtype=torch.uint8)
    assert EXTRACTOR(flat).flatten().tolist() == pytest.approx(
        [10 * (200 / 127.5 - 1), *[0.0] * 63], abs=1e-4
    )
    assert torch.allclose(EXTRACTOR(flat), EXTRACTOR(large), atol=1e-4)


def test_floats_have_the_features_of_bytes_and_pass_gradients_on() -> None:
    levels = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    floats = ((levels.double() - 127.5) / 127.5).requires_grad_()
    found = EXTRACTOR.of_floats(floats)
    assert torch.allclose(found, EXTRACTOR(levels), atol=1e-4)
    found.sum().backward()
    assert floats.grad is not None and bool((floats.grad != 0).any())


def test_images_below_its_frequencies_and_weights_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="at least 8x8 pixels"):
        EXTRACTOR(torch.zeros(1, 1, 7, 32, dtype=torch.uint8))
    with pytest.raises(ObjectiveError, match="weights of dct"):
        load_extractor(DCT, weights=ASSETS / "fashion-cnn.safetensors")
    with pytest.raises(ObjectiveError, match="leave out weights"):
        load_extractor(DCT, sha256="0" * 64)
    assert load_extractor(DCT, sha256=SHA256).sha256 == EXTRACTOR.sha256


def test_less_contrast_is_far_from_the_bundled_statistics_and_held_out_images_are_not() -> None:
    reference = load_reference("fashion-train", extractor=EXTRACTOR)
    assert (reference.images, reference.extractor) == (60_000, DCT)
    pixels = torch.from_numpy(np.load(ASSETS / "fashion-test.npz")["images"][:500])
    near = corrected(EXTRACTOR(pixels).numpy(), reference)
    assert abs(near.value) < 3 * near.standard_error
    pale = ((pixels.float() - 72) * 0.8 + 72).clamp(0, 255).to(torch.uint8)
    far = corrected(EXTRACTOR(pale).numpy(), reference)
    assert far.value > 10 * far.standard_error
