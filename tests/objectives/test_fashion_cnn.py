from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from skiptune.objectives.fashion_cnn import STAGES, FashionCNN, scale_pixels
from skiptune.objectives.names import ASSETS

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def test_it_knows_the_classes_of_images_it_has_not_seen(held_out: Images) -> None:
    network = FashionCNN()
    network.load_state_dict(load_file(ASSETS / "fashion-cnn.safetensors"))
    images, labels = held_out
    with torch.inference_mode():
        guessed = network.classify(torch.from_numpy(images)).argmax(dim=1).numpy()
    assert (guessed == labels).mean() > 0.91


def test_pixels_fill_the_range_from_minus_one_to_one() -> None:
    levels = torch.tensor([0, 255], dtype=torch.uint8)
    assert scale_pixels(levels).tolist() == [-1, 1]


def test_it_stays_small() -> None:
    side, operations = 32, 0
    for stage in STAGES:
        side //= stage.stride
        operations += side**2 * stage.inputs * stage.outputs * stage.kernel**2
    assert side == 8
    assert operations < 15e6
    assert sum(value.numel() for value in FashionCNN().parameters()) < 400_000
