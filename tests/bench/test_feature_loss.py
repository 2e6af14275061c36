"""What is compared, on which images, and the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.feature_loss import COLOURS, Panel, Series, draw, held_out, schedules
from skiptune.objectives.denoising import FEATURE_LOSS, LEVELS, PIXEL_LOSS
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.schedule import Schedule


def test_the_tuned_schedule_is_one_of_the_bundled_network() -> None:
    addresses = [skip.address for skip in load_checkpoint("fashion").skips]
    found = schedules(None, addresses)
    assert set(found["tuned"].addresses) <= set(addresses)
    assert not found["tuned"].is_baseline
    assert found["all skips x 0.9"] == Schedule.uniform(dict.fromkeys(addresses, 0.9))


def test_the_images_are_floats_with_labels() -> None:
    images, labels = held_out(None)
    assert images.shape == (1000, 1, 32, 32)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (float(images.min()), float(images.max())) == (-1, 1)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_the_picture_shows_every_panel_and_both_losses(size: float) -> None:
    values = tuple(float(change) for change in np.linspace(-size, size, len(LEVELS)))
    series = tuple(Series(name, values, values, values) for name in (FEATURE_LOSS, PIXEL_LOSS))
    falling = (Series(FEATURE_LOSS, values[::-1], values[::-1], values[::-1]), series[1])
    one = Image.open(io.BytesIO(draw([Panel("one", falling)]))).convert("RGB")
    two = Image.open(io.BytesIO(draw([Panel("one", falling), Panel("two", series)])))
    assert two.size == (2 * one.width, one.height)
    pixels = np.asarray(one).reshape(-1, 3).astype(int)
    for colour in COLOURS.values():
        near = np.abs(pixels - colour).sum(axis=1) < 30
        assert near.sum() > 100
