"""The emulator is exact where it must be, and the file gives back what was written."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.landscape_emulator import Emulator, Kernel, Measured, moments, population_distance
from bench.landscape_file import FILE, Space, read, write
from bench.landscape_fit import candidates, check, choose, sensitivities
from bench.landscape_picture import Bar, Plane, draw
from bench.landscape_points import grid_points, held_out_points, ramp, skip_points
from tests.bench.landscapes import features_at, reference, small_world

KERNEL = Kernel(lengths=(0.4, 0.3), quadratic=0.5, local=2.0, ridge=1e-9)
TARGET = np.array([0.11, -0.07])


def bent_features(point: np.ndarray) -> np.ndarray:
    """Features with curvature, that no kernel above fits exactly."""
    rows: np.ndarray = features_at(point) + 0.5 * np.sin(4 * features_at(point)) * point.sum()
    return rows.astype(np.float32)


def bent(count: int = 12) -> Measured:
    points = np.random.default_rng(1).normal(0, 0.15, size=(count, 2))
    features = np.array([bent_features(point) for point in points])
    return Measured(points, features, bent_features(np.zeros(2)))


def test_linear_features_are_predicted_exactly_and_the_baseline_always() -> None:
    emulator = small_world().emulator
    assert emulator.features(TARGET) == pytest.approx(features_at(TARGET), abs=1e-4)
    assert np.array_equal(Emulator(bent(), KERNEL).features(np.zeros(2)), bent().baseline)


@pytest.mark.parametrize("recolour", [False, True])
def test_measured_points_are_given_back(recolour: bool) -> None:
    measured = bent()
    emulator = Emulator(measured, KERNEL, recolour)
    found = emulator.features(measured.points[3])
    assert found == pytest.approx(measured.features[3], abs=0.02)


@pytest.mark.parametrize("recolour", [False, True])
def test_leaving_out_is_fitting_without(recolour: bool) -> None:
    measured = bent()
    kernel = Kernel(KERNEL.lengths, KERNEL.quadratic, KERNEL.local, ridge=1e-3)
    matrix = kernel(measured.points, measured.points)
    absolute = kernel.ridge * np.trace(matrix)  # the same ridge with one point less
    for k, (mean, covariance) in enumerate(Emulator(measured, kernel, recolour).left_out()):
        kept = [i for i in range(len(matrix)) if i != k]
        others = Measured(measured.points[kept], measured.features[kept], measured.baseline)
        smaller = matrix[np.ix_(kept, kept)]
        ridge = absolute / len(matrix) / (np.trace(smaller) / len(kept))
        again = Emulator(
            others, Kernel(kernel.lengths, kernel.quadratic, kernel.local, ridge), recolour
        )
        expected = again.moments(measured.points[k])
        assert mean == pytest.approx(expected[0], abs=1e-4)
        assert covariance == pytest.approx(expected[1], abs=1e-3)


def test_recoloured_images_have_the_predicted_moments() -> None:
    emulator = Emulator(bent(), KERNEL, recolour=True)
    mean, covariance = moments(emulator.features(TARGET))
    expected = emulator.moments(TARGET)
    assert mean == pytest.approx(expected[0], abs=1e-5)
    assert covariance == pytest.approx(expected[1], abs=1e-5)


def test_a_kernel_vanishes_at_the_baseline_and_is_positive() -> None:
    points = np.random.default_rng(2).normal(size=(9, 2))
    assert np.array([KERNEL(np.zeros((1, 2)), points)]) == pytest.approx(0)
    assert np.linalg.eigvalsh(KERNEL(points, points)).min() > -1e-9


def test_the_chosen_emulator_predicts_held_out_points() -> None:
    measured, target = bent(40), reference()
    assert sensitivities(measured) == pytest.approx([1, 1], abs=0.6)
    errors = np.full(40, 0.1)
    kernels = list(candidates(measured, count=8))
    assert len({kernel.lengths for kernel in kernels}) == 8
    emulator, error = choose(measured, target, paired_errors=errors, kernels=kernels)
    (found,) = check(
        emulator,
        target,
        names=["held"],
        points=TARGET[None],
        features=bent_features(TARGET)[None],
        paired_errors=np.array([0.1]),
    )
    base = population_distance(measured.baseline, target)
    assert found.measured == pytest.approx(
        population_distance(bent_features(TARGET), target) - base
    )
    assert found.off < 1 and error < 2


def test_a_file_gives_back_the_spaces(tmp_path: Path) -> None:
    measured = bent()
    emulator = Emulator(measured, KERNEL, recolour=True)
    names = tuple(f"p{k}" for k in range(len(measured.points)))
    spaces = {
        kind: Space(("a", "b"), names, emulator, {"a": 0.9, "b": 1.0})
        for kind in ("linear", "per-skip")
    }
    write(tmp_path / "l.npz", spaces)
    for kind, space in read(tmp_path / "l.npz").items():
        assert space.emulator.kernel == KERNEL and space.emulator.recolour
        assert space.points == names
        world = space.world(kind, reference())
        assert world.optimum == {"a": 0.9, "b": 1.0}
        step = float(np.abs(measured.features - measured.baseline).max()) / 127
        assert space.emulator.measured.features == pytest.approx(measured.features, abs=step)
    other = Measured(measured.points, measured.features, measured.baseline + 1)
    mixed = {**spaces, "per-skip": Space(("a", "b"), names, Emulator(other, KERNEL))}
    with pytest.raises(ValueError, match="baselines"):
        write(tmp_path / "m.npz", mixed)


def test_the_committed_file_can_be_replayed() -> None:
    spaces = read(FILE)
    assert len(spaces["linear"].names) == 2 and len(spaces["per-skip"].names) == 12
    assert FILE.stat().st_size < 8e6
    for space in spaces.values():
        optimum = space.optimum
        assert optimum is not None and set(optimum) == set(space.names)


def test_the_design_is_what_it_says() -> None:
    grid = grid_points(12)
    assert len(grid) == 48 and len({point.name for point in grid}) == 48
    assert not any(np.allclose(point.logs, 0) for point in grid)
    assert np.exp(grid[0].logs) == pytest.approx(0.75)
    assert np.exp(ramp(0.8, 1.2, 5)) == pytest.approx([0.8, 0.9, 1.0, 1.1, 1.2])
    more = skip_points(12, 60)
    assert all(
        np.array_equal(a.logs, b.logs) for a, b in zip(skip_points(12, 5), more[:5], strict=True)
    )
    scales = np.exp([point.logs for point in more])
    assert scales.min() >= 0.7 - 1e-12 and scales.max() <= 1.4 + 1e-12
    held = held_out_points(12)
    assert [point.kind for point in held] == ["linear"] * 5 + ["skip"] * 5
    assert all(point.held_out for point in held)


def test_the_picture_shows_both_panels() -> None:
    plane = Plane(0.75, 4 / 3, np.linspace(-1, 20, 9).reshape(3, 3), ((1.0, 1.0),), (0.8, 1.0))
    png = draw(plane, [Bar(-1.0, 0.1), Bar(3.0, 0.2)])
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    assert picture.mean() > 200  # light
    half = picture.shape[1] // 2
    assert picture[:, :half].std() > 5 and picture[:, half:].std() > 5


def test_replaying_needs_no_torch() -> None:
    code = "import bench.replays, bench.landscape_file, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
