from __future__ import annotations

import pytest

from skiptune.objectives.names import ASSETS, REFERENCES, metric_name


@pytest.mark.parametrize(
    ("extractor", "images", "corrected", "name"),
    [
        ("fashion-cnn", 5000, True, "FD(fashion-cnn)-5k-corrected"),
        ("fashion-cnn", 500, False, "FD(fashion-cnn)-500"),
        ("fashion-cnn", 2500, False, "FD(fashion-cnn)-2500"),
        ("inception", 50_000, False, "FID-50k"),
        ("inception", 50_000, True, "FD(inception)-50k-corrected"),
        ("inception", 10_000, False, "FD(inception)-10k"),
        ("other", 50_000, False, "FD(other)-50k"),
    ],
)
def test_a_metric_is_named_by_features_count_and_correction(
    extractor: str, images: int, corrected: bool, name: str
) -> None:
    assert metric_name(extractor, images, corrected=corrected) == name


def test_named_references_are_in_the_package() -> None:
    for name in REFERENCES:
        assert (ASSETS / f"{name}.npz").is_file()
