"""The Inception network of the original FID at its four pooled layers, through torch-fidelity.

TensorFlow's Inception of 2015-12-05 as torch-fidelity 0.4 holds it (Apache-2.0): resize by
TF1's bilinear rule without antialias to 299x299, (x - 128) / 128, and the mean over positions
after the layer of 64, 192, 768 or 2048 channels (Heusel et al. 2017, arXiv 1706.08500, uses
2048). torch-fidelity's own forward insists on bytes; its parts are called here instead, in
its order, so that float images have features too.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiptune.objectives.names import INCEPTION
from skiptune.objectives.pixels import three_channels
from skiptune.objectives.weights import cached, other_network, read_tensors

__all__ = ["PREPROCESS", "InceptionLayer", "default_weights", "load"]

PREPROCESS = "uint8 [N, 1 or 3, H, W], TF1 bilinear to 299x299, (x - 128) / 128"

_SIZE = 299
_STAGES: dict[int, tuple[str, ...]] = {
    64: ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    192: ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    768: (
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a"),
        *("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ),
    2048: ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}


class InceptionLayer(nn.Module):
    """The part of torch-fidelity's Inception up to one pooled layer.

    Arguments:
        network: torch-fidelity's `FeatureExtractorInceptionV3`.
        dim: The layer: 64, 192, 768 or 2048.
    """

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        kept = [name for layer, names in _STAGES.items() if layer <= dim for name in names]
        self.stages = nn.Sequential(*(network.get_submodule(name) for name in kept))

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 or float32 [N, 1 or 3, H, W], 0..255.

        Returns:
            float32 [N, dim], all >= 0.
        """
        from torch_fidelity.interpolate_compat_tensorflow import (
            interpolate_bilinear_2d_like_tensorflow1x,
        )

        x = interpolate_bilinear_2d_like_tensorflow1x(
            three_channels(levels, INCEPTION), size=(_SIZE, _SIZE), align_corners=False
        )
        x = self.stages((x - 128) / 128)
        return F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)


def default_weights(*, sha256: str) -> Path:
    """Return torch-fidelity's published weights file, fetched into torch's cache if need be.

    Raises:
        ObjectiveError: When it is not there and cannot be fetched.
    """
    # torch-fidelity pulls in torchvision and costs a second: only its users pay.
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return cached(URL_INCEPTION_V3, sha256=sha256, name=INCEPTION)


def load(path: Path, dim: int) -> InceptionLayer:
    """Build the network up to a layer from a weights file in torch-fidelity's format.

    Raises:
        ObjectiveError: When the file is something else.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles what it is given without restriction, so it gets the tensors in
    # a file of our own.
    buffer = io.BytesIO()
    torch.save(read_tensors(path, name=INCEPTION), buffer)
    buffer.seek(0)
    try:
        network = FeatureExtractorInceptionV3(
            INCEPTION, ["2048"], feature_extractor_weights_path=buffer
        )
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise other_network(path, INCEPTION, error) from error
    return InceptionLayer(network, dim)
