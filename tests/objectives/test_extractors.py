from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError
from skiptune.objectives import extractors, names
from skiptune.objectives.extractors import Extractor, load_extractor, register_extractor
from skiptune.objectives.frechet import frechet_distance
from skiptune.objectives.names import ASSETS, EXTRACTORS, FASHION_CNN_SHA256, INCEPTION_SHA256
from skiptune.objectives.reference import load_reference
from skiptune.sampling.images import to_uint8
from tests.objectives.made_weights import inception_file

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
BUNDLED = ASSETS / "fashion-cnn.safetensors"


@pytest.fixture(scope="module")
def fashion(device: str) -> Extractor:
    return load_extractor("fashion-cnn", device=device)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torch-fidelity's format."""
    return inception_file(tmp_path_factory)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(extractors, "_FACTORIES", dict(extractors._FACTORIES))
    monkeypatch.setattr(names, "_registered", list(names._registered))
    yield


def test_the_bundled_network_is_the_one_in_the_card(fashion: Extractor) -> None:
    assert fashion.sha256 == FASHION_CNN_SHA256 == file_digest(BUNDLED)
    assert BUNDLED.stat().st_size <= 2_000_000
    assert fashion.describe() == {
        "extractor": "fashion-cnn",
        "sha256": FASHION_CNN_SHA256,
        "preprocess": "uint8 [N, 1, 32, 32], x / 127.5 - 1",
        "dim": 64,
        "precision": "float32",
    }


def test_features_of_real_images(fashion: Extractor, held_out: Images) -> None:
    features = fashion(torch.from_numpy(held_out[0])).cpu()
    assert (features.shape, features.dtype) == ((2000, 64), torch.float32)
    assert bool((features >= 0).all())
    # Each feature has deviation 1 over the training images, and none is dead over others.
    assert 0.85 < float(features.std(dim=0).min()) <= float(features.std(dim=0).max()) < 1.15
    reference = load_reference("fashion-train", extractor=fashion)
    rows = features.double().numpy()
    clean = frechet_distance(rows, reference)
    dimmed = np.rint(held_out[0] * 0.8).astype(np.uint8)
    damaged = frechet_distance(fashion(torch.from_numpy(dimmed)).cpu().numpy(), reference)
    assert clean < 0.3 < damaged


def test_an_image_s_features_do_not_depend_on_its_batch(
    fashion: Extractor, held_out: Images
) -> None:
    images = torch.from_numpy(held_out[0][:600])
    whole = fashion(images)
    blocks = torch.cat([fashion(block) for block in images.split(extractors.BLOCK)])
    assert torch.equal(whole, blocks)
    single = torch.cat([fashion(image) for image in images[:20].split(1)])
    torch.testing.assert_close(single, whole[:20], rtol=1e-4, atol=1e-5)
    assert fashion(images[:0]).shape == (0, 64)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.zeros(2, 1, 32, 32), "float32"),
        (torch.zeros(1, 32, 32, dtype=torch.uint8), r"\[1, 32, 32\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"\[2, 3, 32, 32\]"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"\[2, 1, 28, 28\]"),
    ],
)
def test_other_images_are_refused(fashion: Extractor, images: torch.Tensor, found: str) -> None:
    with pytest.raises(ObjectiveError, match=found):
        fashion(images)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ObjectiveError, match="one of ") as caught:
        load_extractor("fashion-cn")
    for name in EXTRACTORS:
        assert name in caught.value.problems[0].expected


def test_weights_must_be_the_expected_ones(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="no such file"):
        load_extractor("fashion-cnn", weights=tmp_path / "none.safetensors")
    with pytest.raises(ObjectiveError, match="a folder"):
        load_extractor("fashion-cnn", weights=tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(BUNDLED.read_bytes()[:-100])
    with pytest.raises(ObjectiveError, match="sha256"):
        load_extractor("fashion-cnn", weights=cut)
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("fashion-cnn", weights=cut, sha256=file_digest(cut))
    copy = shutil.copy(BUNDLED, tmp_path / "copy.safetensors")
    assert load_extractor("fashion-cnn", weights=copy).sha256 == FASHION_CNN_SHA256


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other, unnamed = tmp_path / "other.safetensors", tmp_path / "unnamed.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("fashion-cnn", weights=other, sha256=file_digest(other))
    save_file(load_file(BUNDLED), unnamed)
    with pytest.raises(ObjectiveError, match="preprocess"):
        load_extractor("fashion-cnn", weights=unnamed, sha256=file_digest(unnamed))


def test_own_extractors_are_registered_once(registry: None) -> None:
    def build(*, weights: Path | None, sha256: str | None) -> Extractor:
        return Extractor("mine", 3, "c" * 64, "none", torch.nn.Linear(3, 3))

    def rival(*, weights: Path | None, sha256: str | None) -> Extractor:
        raise AssertionError

    register_extractor("mine", build)
    register_extractor("mine", build)
    assert load_extractor("mine").name == "mine"
    with pytest.raises(ObjectiveError, match="another extractor"):
        register_extractor("mine", rival)


FLOATS = ("fashion-cnn", "inception-64", "efficientnet-lite0")


@pytest.fixture(scope="module")
def with_floats(inception_weights: Path, device: str) -> dict[str, Extractor]:
    pinned = {"weights": inception_weights, "sha256": file_digest(inception_weights)}
    return {
        name: load_extractor(name, device=device, **(pinned if "inception" in name else {}))  # type: ignore[arg-type]
        for name in FLOATS
    }


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_on_the_grid_of_bytes_have_the_features_of_the_bytes(
    with_floats: dict[str, Extractor], held_out: Images, name: str, dtype: torch.dtype
) -> None:
    extractor, images = with_floats[name], torch.from_numpy(held_out[0][:4])
    floats = images.to(dtype) / 127.5 - 1
    assert torch.equal(to_uint8(floats), images)
    expected, found = extractor(images), extractor.of_floats(floats)
    assert (found.shape, found.dtype) == ((4, extractor.dim), torch.float32)
    distances = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(distances.max()) < 1e-5
    assert extractor.of_floats(floats[:0]).shape == (0, extractor.dim)


@pytest.mark.parametrize("name", FLOATS)
def test_the_gradient_of_floats_is_that_of_differences(
    with_floats: dict[str, Extractor], held_out: Images, name: str
) -> None:
    extractor, device = with_floats[name], with_floats[name].device
    generator = torch.Generator().manual_seed(0)
    # Away from the ends of the range, where clamping would bend the line.
    images = (0.9 * (torch.from_numpy(held_out[0][:2]) / 127.5 - 1)).to(device)
    images.requires_grad_(True)
    weights = torch.randn(extractor.dim, generator=generator).to(device)
    (gradient,) = torch.autograd.grad((extractor.of_floats(images) @ weights).sum(), images)
    assert gradient.shape == images.shape
    # Along the gradient the change is largest, so rounding matters least.
    direction = gradient / gradient.norm()
    step = 0.005
    with torch.no_grad():
        up, down = (extractor.of_floats(images + sign * step * direction) for sign in (1, -1))
    found = float(((up - down).double() @ weights.double()).sum()) / (2 * step)
    assert found == pytest.approx(float(gradient.norm()), rel=0.05)


def test_floats_are_not_rounded_but_clamped(fashion: Extractor, held_out: Images) -> None:
    images = torch.from_numpy(held_out[0][:4]) / 127.5 - 1
    less = 0.998 * images
    assert torch.equal(to_uint8(less[:, :, 16, 16]), to_uint8(images[:, :, 16, 16]))
    assert not torch.equal(fashion.of_floats(less), fashion.of_floats(images))
    torch.testing.assert_close(
        fashion.of_floats(3 * images), fashion.of_floats((3 * images).clamp(-1, 1))
    )


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 32, 32), r"\[1, 32, 32\]"),
        (torch.zeros(2, 3, 32, 32), r"\[2, 3, 32, 32\]"),
    ],
)
def test_other_floats_are_refused(fashion: Extractor, images: torch.Tensor, found: str) -> None:
    with pytest.raises(ObjectiveError, match=found):
        fashion.of_floats(images)


class Scaled(torch.nn.Module):
    """Three features of an image, times a number."""

    def __init__(self, factor: float, *, gradient: bool = True) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.gradient = gradient

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.float().mean(dim=(2, 3)) * self.factor
        return features if self.gradient else features.detach()


def extractor_of(module: torch.nn.Module, *, floats: bool = True) -> Extractor:
    return Extractor("scaled", 3, "c" * 64, "none", module, floats=floats)


def test_a_network_of_bytes_has_no_features_of_floats() -> None:
    extractor = extractor_of(Scaled(1.0), floats=False)
    with pytest.raises(ObjectiveError, match="takes bytes only"):
        extractor.of_floats(torch.zeros(1, 3, 2, 2))


def test_a_gradient_that_is_lost_is_refused() -> None:
    extractor = extractor_of(Scaled(1.0, gradient=False))
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(ObjectiveError, match="gradient"):
        extractor.of_floats(images)
    with torch.no_grad():
        assert extractor.of_floats(images).shape == (1, 3)


def test_features_that_are_not_finite_are_refused() -> None:
    images = torch.zeros(4, 3, 2, 2)
    for extractor in (extractor_of(Scaled(torch.nan)), extractor_of(Scaled(torch.inf))):
        with pytest.raises(ObjectiveError, match="NaN or infinity for 4 of 4"):
            extractor(images.to(torch.uint8))
        with pytest.raises(ObjectiveError, match="NaN or infinity for 4 of 4"):
            extractor.of_floats(images)


def test_an_image_that_is_not_finite_has_such_features() -> None:
    images = torch.zeros(4, 3, 2, 2)
    images[2, 0, 0, 0] = torch.nan
    features = extractor_of(Scaled(1.0)).of_floats(images)
    assert features.isfinite().all(dim=1).tolist() == [True, True, False, True]


def test_matrix_products_keep_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watching(Scaled):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().forward(images)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        extractor_of(Watching(1.0))(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.slow
def test_inception_is_torch_fidelity_s(
    inception_weights: Path, held_out: Images, device: str
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = load_extractor(
        "inception",
        weights=inception_weights,
        sha256=file_digest(inception_weights),
        device=device,
    )
    assert (ours.dim, ours.sha256) == (2048, file_digest(inception_weights))
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(inception_weights)
    )
    grey = torch.from_numpy(held_out[0][:3])
    colour = grey.repeat(1, 3, 1, 1)
    with torch.inference_mode():
        expected = theirs(colour)[0]
    torch.testing.assert_close(ours(colour).cpu(), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours(grey).cpu(), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ObjectiveError, match="4 channels"):
        ours(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_inception_weights_are_checked(inception_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=INCEPTION_SHA256):
        load_extractor("inception", weights=inception_weights)
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("inception", weights=other, sha256=file_digest(other))
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("inception", weights=text, sha256=file_digest(text))


class Trap:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-sprung"),))


def test_nothing_in_a_weights_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, "trap.pth")
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("inception", weights="trap.pth", sha256=file_digest("trap.pth"))
    assert not Path("trap-sprung").exists()


def test_a_failed_download_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ObjectiveError, match="no route to host") as caught:
        load_extractor("inception")
    assert str(tmp_path / "checkpoints") in caught.value.hint


def test_a_file_in_torch_s_cache_is_used(
    inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "weights-inception-2015-12-05-6726825d.pth"
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(inception_weights, tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ObjectiveError, match=INCEPTION_SHA256):
        load_extractor("inception")
    assert load_extractor("inception", sha256=file_digest(inception_weights)).dim == 2048
