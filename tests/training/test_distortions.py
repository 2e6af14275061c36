from __future__ import annotations

import numpy as np

from training.distortions import blur, contrast, noise, without_class


def test_a_blurred_point_is_a_gaussian() -> None:
    image = np.zeros((1, 1, 33, 33), dtype=np.uint8)
    image[0, 0, 16, 16] = 255
    blurred = blur(image, sigma=1.0)[0, 0].astype(float)
    assert blurred.argmax() == 16 * 33 + 16
    assert abs(blurred.sum() - 255) < 10
    assert abs(blurred[16, 17] / blurred[16, 16] - np.exp(-0.5)) < 0.03
    np.testing.assert_array_equal(blurred, blurred.T)


def test_noise_has_its_deviation_and_is_seeded() -> None:
    image = np.full((20, 1, 32, 32), 128, dtype=np.uint8)
    noisy = noise(image, deviation=10, seed=0)
    assert abs(float(noisy.std()) - 10) < 0.2
    np.testing.assert_array_equal(noisy, noise(image, deviation=10, seed=0))
    assert (noisy != noise(image, deviation=10, seed=1)).any()


def test_contrast_scales_levels() -> None:
    image = np.array([0, 10, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert contrast(image, factor=0.5).ravel().tolist() == [0, 5, 128]
    assert contrast(image, factor=2).ravel().tolist() == [0, 20, 255]


def test_a_share_of_a_class_goes() -> None:
    labels = np.array([0, 1, 1, 2, 1, 1])
    assert without_class(labels, label=1, share=0.5).tolist() == [1, 0, 0, 1, 1, 1]
    assert without_class(labels, label=1, share=1.0).sum() == 2
