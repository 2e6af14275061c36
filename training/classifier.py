"""Train `fashion-cnn`, the feature network of FD(fashion-cnn), on Fashion-MNIST.

    python -m training.classifier DATA objectives/assets/fashion-cnn.safetensors

DATA is a folder with the four IDX files or the npz that `training.fashion_mnist` reads. Seeded;
about eight minutes on one CPU thread. Exits 1 below 91 % test accuracy and then writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from skiptune.objectives.fashion_cnn import (
    CLASSES,
    DIM,
    PREPROCESS,
    STAGES,
    FashionCNN,
    scale_pixels,
)
from training.fashion_mnist import TRAINING_IMAGES, load

__all__ = ["Trainee", "accuracy", "fold", "main", "shifted", "standardised", "train"]

LEAST_ACCURACY = 0.91
LARGEST_SHIFT = 2


class Trainee(nn.Module):
    """`fashion-cnn` with batch normalisation after each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(s.inputs, s.outputs, s.kernel, s.stride, padding=1, bias=False)
            for s in STAGES
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(s.outputs) for s in STAGES)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 [N, 10], of uint8 [N, 1, 32, 32]."""
        x = scale_pixels(images).contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def fold(trainee: Trainee) -> FashionCNN:
    """Return the network without normalisation layers that computes the same in eval mode."""
    network = FashionCNN()
    with torch.no_grad():
        for stage, convolution, norm in zip(
            network.stages, trainee.convolutions, trainee.norms, strict=True
        ):
            assert isinstance(stage, nn.Conv2d) and stage.bias is not None
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            stage.weight.copy_(convolution.weight * gain[:, None, None, None])
            stage.bias.copy_(norm.bias - norm.running_mean * gain)
        network.head.load_state_dict(trainee.head.state_dict())
    return network.eval().requires_grad_(False)


def standardised(network: FashionCNN, images: NDArray[np.uint8]) -> FashionCNN:
    """Scale each feature to standard deviation 1 over `images`; the logits stay as they are.

    ReLU commutes with positive factors, so the last convolution takes the factor and the head
    its inverse.
    """
    deviation = _features(network, images).std(dim=0)
    if float(deviation.min()) < 1e-3 * float(deviation.max()):
        raise RuntimeError(f"a feature is dead: standard deviations {deviation.tolist()}")
    last = network.stages[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    with torch.no_grad():
        last.weight.div_(deviation[:, None, None, None])
        last.bias.div_(deviation)
        network.head.weight.mul_(deviation)
    return network


def accuracy(network: FashionCNN, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Return the share of images whose class the network names, in 0..1."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            logits = network.classify(torch.from_numpy(images[start : start + 500]))
            truth = torch.from_numpy(labels[start : start + 500])
            right += int((logits.argmax(dim=1) == truth).sum())
    return right / len(images)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to two pixels in each direction; black comes in from outside."""
    side = images.shape[-1]
    wide = F.pad(images, (LARGEST_SHIFT,) * 4)
    offsets = torch.randint(2 * LARGEST_SHIFT + 1, (2, len(images), 1), generator=generator)
    rows = torch.arange(side) + offsets[0]
    columns = torch.arange(side) + offsets[1]
    image = torch.arange(len(images))
    return wide[image[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    batch: int = 250,
    rate: float = 0.2,
) -> FashionCNN:
    """Train by SGD with Nesterov momentum and one cycle of the learning rate.

    Arguments:
        images: uint8 [N, 1, 32, 32], N a multiple of `batch`.
        labels: int64 [N] in 0..9.
        epochs: Passes over the images.
        seed: Of the weights, the order and the shifts.
        batch: Images a step.
        rate: Highest learning rate (Smith and Topin 2017, arXiv 1708.07120).
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trainee = Trainee()
    steps = len(images) // batch
    optimizer = torch.optim.SGD(
        trainee.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=epochs * steps, pct_start=0.25
    )
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    began = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            loss = F.cross_entropy(trainee(shifted(pixels[chosen], generator)), truth[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            total += float(loss.detach())
        seconds = time.monotonic() - began
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
    return fold(trainee.eval())


def main() -> int:
    """Train, check the accuracy, and write the safetensors file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, labels = load(options.data)
    first, rest = slice(0, TRAINING_IMAGES), slice(TRAINING_IMAGES, None)
    network = train(images[first], labels[first], epochs=options.epochs, seed=options.seed)
    network = standardised(network, images[first])
    reached = accuracy(network, images[rest], labels[rest])
    print(f"test accuracy {reached:.4f}")
    if reached < LEAST_ACCURACY:
        print(f"below {LEAST_ACCURACY}: nothing written", file=sys.stderr)
        return 1
    header = {
        "extractor": "fashion-cnn",
        "version": 1,
        "dim": DIM,
        "preprocess": PREPROCESS,
        "data": "Fashion-MNIST, 60000 training images (Xiao et al. 2017, arXiv 1708.07747)",
        "license": "Apache-2.0",
        "test_accuracy": reached,
        "epochs": options.epochs,
        "seed": options.seed,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        options.out,
        # One key only: safetensors writes several in random order, and the file has a hash.
        metadata={"skiptune.extractor": json.dumps(header, sort_keys=True)},
    )
    return 0


def _features(network: FashionCNN, images: NDArray[np.uint8]) -> Tensor:
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(images[start : start + 500]))
            for start in range(0, len(images), 500)
        ]
    return torch.cat(parts).to(torch.float64)


if __name__ == "__main__":
    sys.exit(main())
