"""Make the reference statistics `fashion-train`: `fashion-cnn` features of the training images.

python -m training.reference DATA objectives/assets/fashion-train.npz
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import FASHION_CNN
from skiptune.objectives.reference import reference_of, save_reference
from training.fashion_mnist import TRAINING_IMAGES, load

__all__ = ["features_of", "main"]


def features_of(extractor: Extractor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features, float32 [N, d], of uint8 [N, C, H, W]."""
    features: NDArray[np.float32] = extractor(torch.from_numpy(images)).cpu().numpy()
    return features


def main() -> int:
    """Extract, take mean and covariance, write the file, print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, _ = load(options.data)
    images = images[:TRAINING_IMAGES]
    extractor = load_extractor(FASHION_CNN)
    reference = reference_of(
        features_of(extractor, images),
        extractor=extractor,
        name="fashion-train",
        header={
            "data": "Fashion-MNIST, the 60000 training images, padded with black to 32x32",
            "source": "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747",
            "license": "MIT (the images)",
            "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
            "torch": torch.__version__,
            "device": "cpu",
        },
    )
    save_reference(options.out, reference)
    values = np.linalg.eigvalsh(reference.covariance)
    print(f"images {reference.images}, d {reference.dim}, trace {reference.trace:.4f}")
    print(f"eigenvalues {values[0]:.3g} to {values[-1]:.3g}, digest {reference.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
