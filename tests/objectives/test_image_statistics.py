"""Statistics of image files: equal to those of all features at once, whatever interrupted them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiptune.errors import ObjectiveError, OutputError, render
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.image_files import BLOCK, ImageSource, open_images
from skiptune.objectives.image_statistics import features_of_images, make_reference
from skiptune.objectives.moments import BLOCK as MOMENTS_BLOCK
from skiptune.objectives.reference import Reference, load_reference, reference_of

COUNT = 4 * BLOCK + 37


class Mixed(nn.Module):
    """A fixed nonlinear map of 3x3 pixels to 5 features, each image by itself."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(9, 5, generator=torch.Generator().manual_seed(3)) / 300
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        pixels = images.flatten(1).float()
        # Not a matrix product, whose rounding depends on the number of rows.
        return (pixels[:, :, None] * self.weights).sum(1).exp()


def network(sha256: str = "a" * 64) -> Extractor:
    return Extractor("mixed", 5, sha256, "none", Mixed().eval())


def seen(extractor: Extractor) -> int:
    assert isinstance(extractor.module, Mixed)
    return extractor.module.seen


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    return open_images(write(tmp_path / "images.npz", COUNT))


def write(path: Path, count: int, seed: int = 0) -> Path:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, 3), dtype=np.uint8)
    np.savez_compressed(path, images=images)
    return path


class StopAfter:
    """Wishes to stop after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def same(first: Reference, second: Reference) -> bool:
    assert first.features is not None and second.features is not None
    return (
        first.digest == second.digest
        and first.features_digest == second.features_digest
        and first.header == second.header
        and first.images == second.images
    )


def test_statistics_equal_those_of_all_features_at_once(
    tmp_path: Path, source: ImageSource
) -> None:
    extractor = network()
    told: list[int] = []
    path = tmp_path / "stats.npz"
    made = make_reference(source, path, extractor=extractor, keep=50, progress=told.append)
    features = features_of_images(source, extractor)
    wanted = reference_of(features, extractor=extractor, name="stats", keep=50)
    read = load_reference(path, extractor=extractor)
    assert made is not None and same(made, read)
    assert (read.name, read.images) == ("stats", COUNT)
    np.testing.assert_allclose(read.mean, wanted.mean, rtol=1e-12)
    scale = float(np.abs(wanted.covariance).max())
    np.testing.assert_allclose(read.covariance, wanted.covariance, rtol=0, atol=1e-12 * scale)
    np.testing.assert_array_equal(read.require_features(50), wanted.features)
    assert told == [0, 250, 500, 750, 1000, COUNT]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images.npz", "stats.npz"]


def test_the_header_names_everything_that_changes_the_number(
    tmp_path: Path, source: ImageSource
) -> None:
    made = make_reference(source, tmp_path / "stats.npz", extractor=network())
    assert made is not None
    assert (made.extractor, made.sha256, made.preprocess) == ("mixed", "a" * 64, "none")
    header = made.header
    assert (header["data"], header["kind"], header["shape"]) == ("images.npz", "arrays", [1, 3, 3])
    assert (header["precision"], header["device"]) == (
        "float32, TF32 off; moments float64",
        "cpu",
    )
    assert {"skiptune", "torch", "versions", "pixels_sha256"} <= header.keys()
    # Of the pixels, not of the files.
    np.savez(tmp_path / "again.npz", samples=np.concatenate(list(source.blocks()))[:, 0])
    other = open_images(tmp_path / "again.npz")
    copy = make_reference(other, tmp_path / "other.npz", extractor=network())
    assert copy is not None and copy.header["pixels_sha256"] == header["pixels_sha256"]
    fewer = make_reference(source.first(1000), tmp_path / "few.npz", extractor=network())
    assert fewer is not None and fewer.header["pixels_sha256"] != header["pixels_sha256"]


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, source: ImageSource, blocks: int
) -> None:
    whole = make_reference(source, tmp_path / "whole.npz", extractor=network(), keep=70)
    path = tmp_path / "stats.npz"
    first = network()
    stopped = make_reference(source, path, extractor=first, keep=70, stopped=StopAfter(blocks))
    assert stopped is None and seen(first) == blocks * BLOCK
    assert not path.exists() and (tmp_path / "stats.npz.part").exists()
    second = network()
    told: list[int] = []
    made = make_reference(source, path, extractor=second, keep=70, progress=told.append)
    assert seen(second) == COUNT - blocks * BLOCK and told[0] == blocks * BLOCK
    assert not (tmp_path / "stats.npz.part").exists()
    assert whole is not None and made is not None and same(whole, made)


def test_a_run_may_be_stopped_in_every_block_beyond_one_of_moments(tmp_path: Path) -> None:
    source = open_images(write(tmp_path / "images.npz", MOMENTS_BLOCK + 2 * BLOCK))
    whole = make_reference(source, tmp_path / "whole.npz", extractor=network(), keep=9)
    path, made, runs = tmp_path / "stats.npz", None, 0
    while made is None:
        made = make_reference(source, path, extractor=network(), keep=9, stopped=StopAfter(3))
        runs += 1
    assert runs == 7 and whole is not None and same(whole, made)


PROGRAM = """
import sys, time
import numpy as np
from skiptune.objectives.image_files import open_images
from skiptune.objectives.image_statistics import make_reference
sys.path.insert(0, sys.argv[2])
from test_image_statistics import network
def slow(done):
    print(done, flush=True)
    time.sleep(0.05)
make_reference(open_images(sys.argv[1] + "/images.npz"), sys.argv[1] + "/stats.npz",
               extractor=network(), keep=20, progress=slow, save_seconds=0)
"""


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    source = open_images(write(tmp_path / "images.npz", 20 * BLOCK))
    whole = make_reference(source, tmp_path / "whole.npz", extractor=network(), keep=20)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).parent)]
    for _ in range(2):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun = int(process.stdout.readline())
            while int(process.stdout.readline()) < begun + 4 * BLOCK:
                pass
            os.kill(process.pid, signal.SIGKILL)
        assert (tmp_path / "stats.npz.part").exists() and not (tmp_path / "stats.npz").exists()
    assert begun >= 3 * BLOCK
    last = network()
    made = make_reference(source, tmp_path / "stats.npz", extractor=last, keep=20)
    assert seen(last) <= 14 * BLOCK
    assert whole is not None and made is not None and same(whole, made)


def test_a_part_of_another_run_is_refused_with_what_differs(
    tmp_path: Path, source: ImageSource
) -> None:
    path = tmp_path / "stats.npz"
    make_reference(source, path, extractor=network(), keep=5, stopped=StopAfter(2))
    part = tmp_path / "stats.npz.part"
    before = part.read_bytes()
    other = open_images(write(tmp_path / "other.npz", COUNT, seed=1))
    for words, images, extractor, keep in (
        ("files", other, network(), 5),
        ("images", source.first(1000), network(), 5),
        ("sha256", source, network("b" * 64), 5),
        ("features kept", source, network(), 6),
    ):
        with pytest.raises(ObjectiveError) as caught:
            make_reference(images, path, extractor=extractor, keep=keep)
        assert f"stats.npz.part: {words}" in render(caught.value)
        assert f"rm {part}" in caught.value.hint
        assert seen(extractor) == 0 and part.read_bytes() == before


def test_a_damaged_part_is_refused(tmp_path: Path, source: ImageSource) -> None:
    path, part = tmp_path / "stats.npz", tmp_path / "stats.npz.part"
    make_reference(source, path, extractor=network(), stopped=StopAfter(2))
    whole = part.read_bytes()
    with np.load(part) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(str(arrays["header"]))
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-10]):
        part.write_bytes(content)
        with pytest.raises(ObjectiveError, match="interrupted run"):
            make_reference(source, path, extractor=network())
    with open(part, "wb") as opened:
        np.save(opened, np.zeros(3))
    with pytest.raises(ObjectiveError, match="interrupted run"):
        make_reference(source, path, extractor=network())
    for change in ({"header": np.array("no json")}, {"kept": np.zeros((3, 4), np.float32)}):
        with open(part, "wb") as opened:
            np.savez(opened, **{**arrays, **change})
        with pytest.raises(ObjectiveError):
            make_reference(source, path, extractor=network())
    # A place that does not fit the moments.
    with open(part, "wb") as opened:
        text = np.array(json.dumps({**header, "done": 250}))
        np.savez(opened, **{**arrays, "header": text})
    with pytest.raises(ObjectiveError, match="moments of 250 images"):
        make_reference(source, path, extractor=network())


def test_the_part_survives_images_that_cannot_be_read(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels: NDArray[np.uint8] = rng.integers(0, 256, (BLOCK + 5, 3, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:04d}.png")
    broken = folder / f"{BLOCK + 2:04d}.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    path = tmp_path / "stats.npz"
    source = open_images(folder)
    with pytest.raises(ObjectiveError, match=broken.name):
        make_reference(source, path, extractor=network(), save_seconds=0)
    assert (tmp_path / "stats.npz.part").exists() and not path.exists()


def test_one_image_and_a_missing_folder_are_refused(tmp_path: Path, source: ImageSource) -> None:
    with pytest.raises(ObjectiveError, match="at least 2 images"):
        make_reference(source.first(1), tmp_path / "stats.npz", extractor=network())
    with pytest.raises(OutputError):
        make_reference(source, tmp_path / "none" / "s.npz", extractor=network(), save_seconds=0)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for count in (2 * MOMENTS_BLOCK, 12 * MOMENTS_BLOCK):
        images = np.zeros((count, 16, 16), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count) % 256
        np.savez_compressed(tmp_path / "images.npz", images=images)
        del images
        source = open_images(tmp_path / "images.npz")
        tracemalloc.start()
        make_reference(source, tmp_path / "stats.npz", extractor=corner(), keep=10)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Ten more blocks of images would be 10 MB.
    assert peaks[1] < peaks[0] + 500_000


class Corner(nn.Module):
    """The first pixel and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, :1, 0].float() * self.scale
        return torch.cat((pixel, pixel.square()), dim=1)


def corner() -> Extractor:
    return Extractor("corner", 2, "c" * 64, "none", Corner().eval())


def test_time_decides_when_the_part_is_written(
    tmp_path: Path, source: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    part = tmp_path / "stats.npz.part"
    there: list[bool] = []
    make_reference(
        source,
        tmp_path / "stats.npz",
        extractor=network(),
        progress=lambda done: there.append(part.exists()),
        save_seconds=20,
    )
    assert there == [False, False, False, True, True, True]
