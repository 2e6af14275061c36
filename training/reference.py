"""Make what comes with skiptune of Fashion-MNIST: reference statistics and test images.

python -m training.reference DATA objectives/assets/fashion-train.npz
python -m training.reference DATA objectives/assets/fashion-test.npz --images
python -m training.reference DATA objectives/assets/fashion-train-random-patches.npz \
    --extractor random-patches
python -m training.reference DATA objectives/assets/fashion-train-dct.npz --extractor dct
python -m training.reference DATA \
    objectives/assets/fashion-train-fashion-cnn-random-patchesx4.npz \
    --extractor fashion-cnn+random-patches:4

`fashion-train` holds mean and covariance of the `fashion-cnn` features of the 60000 training
images, and the features of every twelfth of them, 5000, rounded to float16 (relative error below
0.0005): 640 kB. Statistics that are there already are kept, bit for bit. `fashion-test` holds
the first 1000 test images. As many of each class would be no random sample: KID and corrected
distances of it are off by several standard errors. The statistics in other features have none of
single images: those in `random-patches` and `dct`, 37 kB each, serve a second opinion, the
joint ones, 140 kB, the bundled study.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import FASHION_CNN
from skiptune.objectives.reference import (
    Reference,
    load_reference,
    reference_of,
    save_reference,
)
from training.fashion_mnist import TRAINING_IMAGES, load

__all__ = ["features_of", "held_out_images", "main"]

KEPT_FEATURES = 5000
TEST_IMAGES = 1000
SOURCE = {
    "source": "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747",
    "license": "MIT (the images)",
}


def features_of(extractor: Extractor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features, float32 [N, d], of uint8 [N, C, H, W]."""
    features: NDArray[np.float32] = extractor(torch.from_numpy(images)).cpu().numpy()
    return features


def held_out_images(
    images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the first test images and their labels.

    Arguments:
        images: uint8 [70000, 1, 32, 32], training images first.
        labels: int64 [70000].
    """
    rows = slice(TRAINING_IMAGES, TRAINING_IMAGES + TEST_IMAGES)
    return images[rows], labels[rows]


def main() -> int:
    """Write one of the two files and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", action="store_true", help="the test images")
    parser.add_argument("--extractor", default=FASHION_CNN)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, labels = load(options.data)
    if options.images:
        _write_images(options.out, *held_out_images(images, labels))
    else:
        _write_reference(options.out, images[:TRAINING_IMAGES], options.extractor)
    return 0


def _write_images(out: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    header = {
        **SOURCE,
        "data": "Fashion-MNIST, test images padded with black to 32x32",
        "selection": f"the first {TEST_IMAGES} of the data set's 10000",
        "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
    }
    np.savez_compressed(
        out,
        header=np.array(json.dumps(header, sort_keys=True)),
        images=images,
        labels=labels.astype(np.uint8),
    )
    print(f"images {list(images.shape)}, sha256 {header['images_sha256']}")


def _write_reference(out: Path, images: NDArray[np.uint8], name: str) -> None:
    extractor = load_extractor(name)
    keep = KEPT_FEATURES if name == FASHION_CNN else 0
    reference = reference_of(
        features_of(extractor, images),
        extractor=extractor,
        name="fashion-train",
        header={
            **SOURCE,
            "data": "Fashion-MNIST, the 60000 training images, padded with black to 32x32",
            "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
            **(
                {"features": f"every {len(images) // keep}th image, rounded to float16"}
                if keep
                else {}
            ),
            "torch": torch.__version__,
            "device": "cpu",
        },
        keep=keep,
    )
    if reference.features is not None:
        rounded = reference.features.astype(np.float16).astype(np.float32)
        reference = replace(reference, features=rounded)
    reference = _as_before(reference, out)
    save_reference(out, reference)
    values = np.linalg.eigvalsh(reference.covariance)
    print(f"images {reference.images}, d {reference.dim}, trace {reference.trace:.4f}")
    print(f"eigenvalues {values[0]:.3g} to {values[-1]:.3g}, digest {reference.digest}")
    if reference.features is not None:
        print(f"features of {len(reference.features)} images, digest {reference.features_digest}")


def _as_before(reference: Reference, out: Path) -> Reference:
    """Keep the statistics of the file that is there, where they are the same but for rounding.

    Their hash identifies stored scores, and another processor rounds the last bit differently.
    """
    if not out.is_file():
        return reference
    before = load_reference(out)
    same = before.header["images_sha256"] == reference.header["images_sha256"] and all(
        np.allclose(old, new, rtol=1e-12, atol=1e-12)
        for old, new in (
            (before.mean, reference.mean),
            (before.covariance, reference.covariance),
        )
    )
    if not same:
        return reference
    return replace(reference, mean=before.mean, covariance=before.covariance)


if __name__ == "__main__":
    sys.exit(main())
