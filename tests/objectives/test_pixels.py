from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from skiptune.errors import ObjectiveError
from skiptune.objectives.pixels import levels_of, resized, three_channels
from skiptune.sampling.images import to_uint8

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_on_the_grid_of_bytes_are_their_levels(dtype: torch.dtype) -> None:
    images = EVERY_LEVEL.to(dtype) / 127.5 - 1
    levels = levels_of(images)
    assert levels.dtype == torch.float32
    assert torch.equal(to_uint8(images), EVERY_LEVEL)
    torch.testing.assert_close(levels, EVERY_LEVEL.float(), rtol=0, atol=1e-4)


def test_floats_outside_are_clamped_and_nothing_is_rounded() -> None:
    images = torch.tensor([-3.0, -0.8, 0.001, 0.8, 1.5], requires_grad=True)
    levels = levels_of(images.view(1, 1, 1, 5)).flatten()
    torch.testing.assert_close(levels, torch.tensor([0, 25.5, 127.6275, 229.5, 255]))
    levels.sum().backward()
    assert images.grad is not None
    assert images.grad.tolist() == [0, 127.5, 127.5, 127.5, 0]


def test_grey_is_repeated_and_other_channels_are_refused() -> None:
    colour = three_channels(EVERY_LEVEL, "some network")
    assert colour.shape == (1, 3, 16, 16)
    assert all(torch.equal(channel, EVERY_LEVEL[0, 0].float()) for channel in colour[0])
    with pytest.raises(ObjectiveError, match=r"images for some network: .* 4 channels"):
        three_channels(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "some network")


@pytest.mark.parametrize("shape", [(32, 32), (300, 250), (224, 224)])
def test_images_are_resized_as_pillow_resizes_floats(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC))
    found = resized(torch.from_numpy(pixels)[None, None], 224)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.01)
