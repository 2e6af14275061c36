"""The bundled reference: made anew on another processor, its statistics keep their bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from skiptune.objectives.image_files import load_images
from skiptune.objectives.reference import load_reference, save_reference
from training.reference import KEPT_FEATURES, TEST_IMAGES, _as_before, held_out_images


def test_statistics_that_differ_by_rounding_are_kept(tmp_path: Path) -> None:
    made = load_reference("fashion-train")
    path = tmp_path / "r.npz"
    assert _as_before(made, path) is made
    save_reference(path, made)
    rounded = replace(made, covariance=made.covariance * (1 + 1e-15), features=None)
    assert rounded.digest != made.digest
    kept = _as_before(rounded, path)
    assert kept.digest == made.digest and kept.features is None
    other = replace(made, covariance=made.covariance * (1 + 1e-9))
    assert _as_before(other, path) is other
    elsewhere = replace(rounded, header={**made.header, "images_sha256": "0" * 64})
    assert _as_before(elsewhere, path) is elsewhere


def test_the_bundled_files_are_as_the_program_makes_them() -> None:
    images, _ = load_images("fashion-test")
    assert len(images) == TEST_IMAGES
    rows = load_reference("fashion-train").require_features(KEPT_FEATURES)
    assert len(rows) == KEPT_FEATURES
    data = np.zeros((70_000, 1, 1, 1), np.uint8)
    data[60_000:61_000] = 1
    chosen, labels = held_out_images(data, np.arange(70_000))
    assert chosen.min() == 1 and labels.tolist() == list(range(60_000, 61_000))
