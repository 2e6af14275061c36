from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.classifier import Trainee, accuracy, fold, shifted, standardised, train


def blobs(images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Two classes: bright on the left, bright on the right."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % 2
    pixels = generator.integers(0, 60, size=(images, 1, 32, 32))
    for image, label in enumerate(labels):
        pixels[image, 0, 8:24, 16 * label : 16 * label + 16] += 150
    return pixels.astype(np.uint8), labels.astype(np.int64)


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    trainee = Trainee()
    images = torch.from_numpy(blobs(64)[0])
    for _ in range(3):
        trainee(images)
    trainee.eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            fold(trainee).classify(images), trainee(images), rtol=1e-4, atol=1e-5
        )


def test_features_get_unit_deviation_and_logits_stay() -> None:
    torch.manual_seed(1)
    images, _ = blobs(200)
    trainee = Trainee()
    pixels = torch.from_numpy(images)
    with torch.no_grad():
        for _ in range(40):  # until the running averages have forgotten their start
            trainee(pixels)
    network = fold(trainee.eval())
    before = network.classify(pixels)
    network = standardised(network, images)
    torch.testing.assert_close(network.classify(pixels), before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network(pixels).std(dim=0), torch.ones(64), rtol=1e-3, atol=0.0)


def test_a_shift_moves_the_whole_image_by_at_most_two_pixels() -> None:
    image = torch.zeros(100, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 10:13, 20] = 7
    moved = shifted(image, torch.Generator().manual_seed(0))
    assert moved.shape == image.shape
    assert moved.dtype == torch.uint8
    corners = set()
    for one in moved[:, 0]:
        rows, columns = torch.nonzero(one, as_tuple=True)
        assert rows.tolist() == list(range(int(rows[0]), int(rows[0]) + 3))
        assert len(set(columns.tolist())) == 1
        corners.add((int(rows[0]) - 10, int(columns[0]) - 20))
    assert {row for row, _ in corners} == {column for _, column in corners} == {-2, -1, 0, 1, 2}


def test_training_learns_and_repeats_itself() -> None:
    images, labels = blobs(200)
    first, again = (train(images, labels, epochs=4, seed=3, batch=20, rate=0.05) for _ in range(2))
    assert accuracy(first, images, labels) > 0.9
    for left, right in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
