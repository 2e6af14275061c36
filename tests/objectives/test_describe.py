from __future__ import annotations

import torch

from skiptune.canonical import digest
from skiptune.objectives.describe import FEATURES, describe
from skiptune.objectives.extractors import Extractor, load_extractor


def test_the_measure_is_plain_data_that_tells_weights_apart() -> None:
    measure = describe(load_extractor("fashion-cnn"))
    assert measure["arrays"] == [FEATURES]
    assert measure["extractor"] == "fashion-cnn"
    layer = torch.nn.Linear(1, 1)
    digests = {
        digest(describe(Extractor(name, dim, sha256, preprocess, layer)))
        for name, dim, sha256, preprocess in (
            ("a", 2, "0", "none"),
            ("b", 2, "0", "none"),
            ("a", 3, "0", "none"),
            ("a", 2, "1", "none"),
            ("a", 2, "0", "some"),
        )
    }
    assert len(digests) == 5
