"""Features of several networks side by side: a distance that all of them have a say in.

A search finds whatever lowers its distance, also what only one feature network likes. The Frechet
distance of joint features is the squared Wasserstein-2 distance of two Gaussians (Dowson and
Landau, Journal of Multivariate Analysis 12, 1982), and whatever couples them couples each part:
so it is at least the sum of the parts' own distances, each times its factor squared. Where the
untouched network's distances are F_1 and F_2 in the parts alone, factors of 1 and
sqrt(F_1 / F_2) give both an equal say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from skiptune.objectives.reference import Reference

__all__ = ["JointNetwork", "Part", "references_of_parts", "sha256_of"]


@dataclass(frozen=True)
class Part:
    """One of the networks behind a joint extractor.

    Arguments:
        name: Of its extractor.
        dim: Features d_i, which stand behind those of the parts before it.
        sha256: Of its weights.
        preprocess: Its own.
        factor: What its features are multiplied by.
    """

    name: str
    dim: int
    sha256: str
    preprocess: str
    factor: float


class JointNetwork(nn.Module):
    """Networks that see the same images.

    Arguments:
        parts: Each maps uint8 or float [N, C, H, W] to [N, d_i]; with its factor.
    """

    def __init__(self, parts: Iterable[tuple[nn.Module, float]]) -> None:
        super().__init__()
        networks, self.factors = zip(*parts, strict=True)
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features times their factors, part by part, float32 [N, sum of d_i]."""
        pairs = zip(self.networks, self.factors, strict=True)
        return torch.cat([network(images).float() * factor for network, factor in pairs], dim=1)


def sha256_of(parts: Iterable[Part]) -> str:
    """Return what identifies joint weights: the SHA-256 over the parts' hashes and factors."""
    lines = "".join(f"{part.sha256} {part.factor!r}\n" for part in parts)
    return hashlib.sha256(lines.encode()).hexdigest()


def references_of_parts(
    reference: Reference, parts: Sequence[Part]
) -> Iterator[tuple[Part, slice, Reference]]:
    """Take statistics of joint features apart.

    Arguments:
        reference: Of the joint features.
        parts: Of their extractor, in order.

    Yields:
        Each part, where its features stand among the joint ones, and their statistics in units
        of the part itself, which are those of its own extractor up to float32 rounding.
    """
    start = 0
    for part in parts:
        place = slice(start, start + part.dim)
        start = place.stop
        rows = reference.features
        yield (
            part,
            place,
            replace(
                reference,
                extractor=part.name,
                sha256=part.sha256,
                preprocess=part.preprocess,
                dim=part.dim,
                mean=reference.mean[place] / part.factor,
                covariance=reference.covariance[place, place] / part.factor**2,
                features=None if rows is None else rows[:, place] / part.factor,
            ),
        )
