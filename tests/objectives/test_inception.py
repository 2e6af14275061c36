from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skiptune.objectives import inception
from tests.objectives.made_weights import inception_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inception_file(tmp_path_factory)


def test_each_layer_is_torch_fidelity_s(weights: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers = (64, 192, 768, 2048)
    theirs = FeatureExtractorInceptionV3(
        "inception", [str(layer) for layer in layers], feature_extractor_weights_path=str(weights)
    )
    images = torch.randint(256, (2, 3, 40, 50), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs(images)
        for layer, features in zip(layers, expected, strict=True):
            found = inception.InceptionLayer(theirs, layer)(images)
            assert found.shape == (2, layer)
            assert torch.equal(found, features)


def test_a_layer_holds_no_more_of_the_network_than_it_needs(weights: Path) -> None:
    sizes = {
        dim: sum(p.numel() for p in inception.load(weights, dim).parameters())
        for dim in (64, 192, 768)
    }
    # The whole network has 23.85 million, of which the classifier has 2 million.
    assert sizes[64] < 30_000 < sizes[192] < 200_000 < sizes[768] < 10_000_000
