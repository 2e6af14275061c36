"""Equality with torch-fidelity on the same bytes and weights, and with EDM's formula."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from skiptune.canonical import file_digest
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.frechet import frechet_distance, frechet_of_moments
from skiptune.objectives.moments import Moments
from skiptune.objectives.reference import Reference, reference_of
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting
from tests.objectives.conftest import MakeReference
from tests.objectives.made_weights import inception_file

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
Array = NDArray[np.float64]


class InMemory(Dataset[Tensor]):
    """What torch-fidelity takes: uint8 [3, H, W] by index."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def theirs(sampled: Tensor, real: Tensor, *, layer: str, **more: Any) -> float:
    """torch-fidelity's FID, in this process, without its cache of files."""
    from torch_fidelity import calculate_metrics
    from torch_fidelity.defaults import DEFAULTS

    options = {
        "input1": InMemory(sampled),
        "input2": InMemory(real),
        "fid": True,
        "feature_layer_fid": layer,
        "cuda": False,
        "cache": False,
        "save_cpu_ram": True,
        "verbose": False,
        "batch_size": 16,
        **more,
    }
    # It ignores keys that it does not know.
    assert options.keys() <= DEFAULTS.keys()
    return float(calculate_metrics(**options)["frechet_inception_distance"])


def ours(extractor: Extractor, sampled: Tensor, real: Tensor) -> tuple[float, float]:
    """Our distance, and the total variance that its error is measured by."""
    rows = [extractor(images).cpu().double().numpy() for images in (sampled, real)]
    reference = reference_of(rows[1], extractor=extractor, name="real")
    spread = float(rows[0].var(axis=0, ddof=1).sum()) + reference.trace
    return frechet_distance(rows[0], reference), spread


def edm(mean: Array, covariance: Array, reference: Reference) -> float:
    """|m - m_r|^2 + tr(S + S_r - 2 (S S_r)^(1/2)), by the eigenvalues of the product itself."""
    values = np.linalg.eigvals(covariance @ reference.covariance)
    root = np.sqrt(values.astype(np.complex128)).sum()
    shift = np.square(mean - reference.mean).sum()
    return float(np.real(shift + np.trace(covariance + reference.covariance) - 2 * root))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inception_file(tmp_path_factory)


def inception(name: str, made: Path) -> Extractor:
    return load_extractor(name, weights=made, sha256=file_digest(made))


def distorted(images: Tensor) -> Tensor:
    """Images of less contrast and more noise."""
    generator = torch.Generator().manual_seed(1)
    noise = 40 * torch.randn(images.shape, generator=generator)
    return (0.7 * images.float() + noise).clamp(0, 255).to(torch.uint8)


def generated(count: int) -> Tensor:
    """Images of the bundled network in few steps, uint8 [count, 1, 32, 32]."""
    network = load_checkpoint("fashion").network
    setting = Setting(solver="dpmpp_2m", steps=6)
    return torch.cat([batch.images for batch in sample(network, setting, range(count))])


def test_layer_192(made: Path, held_out: Images) -> None:
    real = torch.from_numpy(held_out[0])
    sampled, reference = distorted(real[40:49]), real[:10]
    found, spread = ours(inception("inception-192", made), sampled, reference)
    expected = theirs(sampled, reference, layer="192", feature_extractor_weights_path=str(made))
    assert found == pytest.approx(expected, abs=1e-6 * spread)
    assert found > 0.01 * spread


@pytest.mark.slow
def test_layer_2048(made: Path, held_out: Images) -> None:
    real = torch.from_numpy(held_out[0])
    sampled, reference = distorted(real[40:45]), real[:6]
    extractor = inception("inception", made)
    found, spread = ours(extractor, sampled, reference)
    expected = theirs(sampled, reference, layer="2048", feature_extractor_weights_path=str(made))
    # Of their 2048 eigenvalues 2044 are zero but for rounding, which their root makes large:
    # with as few images they are off by 1e-6 themselves, as the next line shows.
    assert found == pytest.approx(expected, abs=3e-6 * spread)
    assert found == pytest.approx(exact(extractor, sampled, reference), abs=1e-7 * spread)
    assert found > 0.01 * spread


def exact(extractor: Extractor, sampled: Tensor, real: Tensor) -> float:
    """The distance by singular values of N x N, where nothing is rounded that has a root."""
    rows = [extractor(images).cpu().double().numpy() for images in (sampled, real)]
    means = [part.mean(axis=0) for part in rows]
    centred = [
        (part - mean) / np.sqrt(len(part) - 1) for part, mean in zip(rows, means, strict=True)
    ]
    spread = sum(float((part**2).sum()) for part in centred)
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False)
    return float(((means[0] - means[1]) ** 2).sum()) + spread - 2 * float(roots.sum())


@pytest.mark.slow
def test_2048_features_of_more_images_than_features(make_reference: MakeReference) -> None:
    """Their formula on the same float32 features, where every eigenvalue counts."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    generator = torch.Generator().manual_seed(0)
    sizes = torch.linspace(1.0, 0.1, 2048)
    sampled, real = (
        (torch.randn(2200, 2048, generator=generator) * sizes + shift).relu()
        for shift in (0.2, 0.1)
    )
    both = [fid_features_to_statistics(features) for features in (sampled, real)]
    expected = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
    rows = real.double().numpy()
    reference = make_reference(rows.mean(axis=0), np.cov(rows, rowvar=False))
    found = frechet_distance(sampled.double().numpy(), reference)
    spread = float(both[0]["sigma"].trace()) + reference.trace
    assert found == pytest.approx(expected, abs=1e-6 * spread)
    assert found > 0.01 * spread


@pytest.fixture(scope="module")
def efficientnet() -> Iterator[Extractor]:
    """EfficientNet-Lite0 with its real weights, under the same name on both sides."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    extractor = load_extractor("efficientnet-lite0")

    class Theirs(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.network = extractor.module

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("1280",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "1280"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.network(images),)

    register_feature_extractor(extractor.name, Theirs)
    yield extractor
    del FEATURE_EXTRACTORS_REGISTRY[extractor.name]


@pytest.mark.parametrize("kind", ["generated", "distorted"])
def test_real_weights(efficientnet: Extractor, held_out: Images, kind: str) -> None:
    real = torch.from_numpy(held_out[0])
    sampled = generated(11) if kind == "generated" else distorted(real[40:51])
    found, spread = ours(efficientnet, sampled, real[:12])
    expected = theirs(sampled, real[:12], layer="1280", feature_extractor=efficientnet.name)
    assert found == pytest.approx(expected, abs=1e-6 * spread)
    assert found > 0.1 * spread


def test_edm_s_formula_on_the_same_moments(held_out: Images) -> None:
    """Streamed in uneven slices, on more images than features."""
    extractor, images = load_extractor("fashion-cnn"), torch.from_numpy(held_out[0])
    reference = reference_of(extractor(images[:1000]), extractor=extractor, name="real")
    moments = Moments(extractor.dim)
    rows = extractor(distorted(images[1000:1800])).numpy()
    for piece in np.split(rows, [1, 300, 550]):
        moments.add(piece)
    found = frechet_of_moments(moments.mean, moments.covariance, reference)
    expected = edm(moments.mean, moments.covariance, reference)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found == pytest.approx(frechet_distance(rows, reference), rel=1e-9)
    assert found > 0.1 * reference.trace


@settings(max_examples=60, deadline=None)
@given(
    dim=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    decay=st.floats(0, 0.2),
    far=st.floats(0, 3),
)
def test_edm_s_formula_on_any_moments(
    make_reference: MakeReference, dim: int, seed: int, decay: float, far: float
) -> None:
    rng = np.random.default_rng(seed)

    def covariance() -> Array:
        rows = rng.normal(size=(3 * dim + 3, dim)) * np.exp(-decay * np.arange(dim))
        return np.cov(rows, rowvar=False).reshape(dim, dim)

    reference = make_reference(far * rng.normal(size=dim), covariance())
    mean, spread = rng.normal(size=dim), covariance()
    found, expected = frechet_of_moments(mean, spread, reference), edm(mean, spread, reference)
    assert found == pytest.approx(expected, abs=1e-9 * (np.trace(spread) + reference.trace))
