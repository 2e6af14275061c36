"""The teacher loss against a loop, simulation, finite differences and its own images."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiptune.errors import ObjectiveError
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.teacher import teacher_loss_of_images, teacher_losses, teacher_score
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float, to_uint8
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips

Array = NDArray[np.float64]


class _Pooled:
    """A stand-in for a feature network: bent means of the 16 patches of 2x2 pixels."""

    def of_floats(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d((2 * images).tanh(), 2).flatten(1)


def _draw(generator: np.random.Generator, images: int) -> tuple[Array, Array, Array]:
    teacher = generator.gamma(2.0, size=(images, 5))
    base = teacher + 0.5 * generator.standard_normal((images, 5))
    return teacher + 0.9 * (base - teacher) * generator.gamma(9, 1 / 9, (images, 1)), base, teacher


def test_losses_and_score_equal_a_loop() -> None:
    features, base, teacher = _draw(np.random.default_rng(0), 9)
    losses = teacher_losses(features.astype(np.float32), teacher.astype(np.float32))
    by_hand, gaps = [], []
    for i in range(9):
        own = sum((features[i, j] - teacher[i, j]) ** 2 for j in range(5)) / 5
        by_hand.append(own)
        gaps.append(own - sum((base[i, j] - teacher[i, j]) ** 2 for j in range(5)) / 5)
    np.testing.assert_allclose(losses, by_hand, rtol=1e-5)
    score = teacher_score(features, base, teacher)
    assert score.value.value == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert score.difference.value == pytest.approx(np.mean(gaps), rel=1e-12)
    assert score.value.standard_error == pytest.approx(np.std(by_hand, ddof=1) / 3, rel=1e-12)
    assert score.difference.standard_error == pytest.approx(np.std(gaps, ddof=1) / 3, rel=1e-12)
    assert score.difference.images == 9


def test_the_difference_is_unbiased_and_its_interval_covers() -> None:
    generator = np.random.default_rng(1)
    # E of the loss ratio: 0.81 E g^2 with g of mean 1 and variance 1/9; the base's loss is 1/4.
    truth = 0.25 * (0.81 * (1 + 1 / 9) - 1)
    scores = [teacher_score(*_draw(generator, 100)) for _ in range(1500)]
    values = np.array([score.difference.value for score in scores])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    intervals = [score.difference.interval() for score in scores]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_the_teacher_itself_has_no_loss() -> None:
    _, base, teacher = _draw(np.random.default_rng(2), 9)
    score = teacher_score(teacher, base, teacher)
    assert score.value.value == 0
    assert score.difference.value < 0
    assert teacher_score(base, base, teacher).difference.standard_error == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones((3, 4)), r"\[2, 4\]"),
        (np.ones((2, 5)), r"\[2, 4\]"),
        (np.ones(4), r"\[N, d\]"),
        (np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]]), "the first is row 1"),
    ],
)
def test_bad_features_are_refused(features: Array, words: str) -> None:
    good = np.ones((2, 4))
    with pytest.raises(ObjectiveError, match=words):
        teacher_losses(features, good)
    with pytest.raises(ObjectiveError):
        teacher_score(good, features, good)
    with pytest.raises(ObjectiveError):
        teacher_score(good, good, features)
    with pytest.raises(ObjectiveError, match="at least 2 images"):
        teacher_score(good[:1], good[:1], good[:1])


def test_the_loss_of_images_is_that_of_their_features_but_for_rounding(
    held_out: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    extractor = load_extractor("fashion-cnn")
    images = torch.from_numpy(held_out[0][:20])
    floats = images.float() / 127.5 - 1
    teacher = extractor(images.flip(0))
    found = teacher_loss_of_images(extractor, floats, teacher)
    assert found.dtype == torch.float32
    stored = teacher_losses(extractor(images).numpy(), teacher.numpy())
    np.testing.assert_allclose(found.numpy(), stored, rtol=1e-4)
    again = teacher_loss_of_images(extractor, floats.double() * 3, teacher.numpy())
    clamped = teacher_loss_of_images(extractor, (floats * 3).clamp(-1, 1), teacher)
    torch.testing.assert_close(again, clamped)


def test_the_loss_of_images_has_a_derivative_in_the_scales(
    tiny_network: EDMPrecond, device: str
) -> None:
    extractor = cast(Extractor, _Pooled())
    address = find_skips(tiny_network)[1].address
    setting = Setting(steps=2, sigma_max=3.0)
    teacher = extractor.of_floats(
        sample_float(tiny_network, Setting(steps=8, sigma_max=3.0), range(4)).clamp(-1, 1).float()
    )

    def loss(scale: Tensor) -> Tensor:
        with scaled(tiny_network, {address: scale}):
            images = sample_float(tiny_network, setting, range(4))
        return teacher_loss_of_images(extractor, images, teacher).sum()

    scale = torch.tensor(0.9, device=device, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(scale), scale)
    # The network computes in float32, so the step is large and the bound loose.
    step = 1e-2
    with torch.no_grad():
        numeric = float(loss(scale + step) - loss(scale - step)) / (2 * step)
    assert float(slope) == pytest.approx(numeric, rel=0.02)
    assert numeric != 0


@pytest.mark.parametrize(
    "teacher", [torch.ones(3, 16), torch.ones(4, 8), torch.full((4, 16), torch.nan)]
)
def test_a_teacher_that_does_not_fit_the_images_is_refused(teacher: Tensor) -> None:
    extractor: Any = _Pooled()
    with pytest.raises(ObjectiveError, match=r"finite numbers \[4, 16\]"):
        teacher_loss_of_images(extractor, torch.zeros(4, 1, 8, 8), teacher)


def test_more_steps_come_closer_to_the_teacher(tiny_network: EDMPrecond) -> None:
    """Fifty steps of Heun are the limit that more and more steps approach."""
    extractor = _Pooled()

    def features(setting: Setting) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = to_uint8(sample_float(tiny_network, setting, range(8)))
        found: NDArray[np.float32] = extractor.of_floats(images.float() / 127.5 - 1).cpu().numpy()
        return found

    teacher = features(Setting(solver="heun", steps=50))
    score = teacher_score(
        features(Setting(solver="heun", steps=18)),
        features(Setting(solver="euler", steps=4)),
        teacher,
    )
    assert score.difference.value < 0


def test_scores_need_no_torch() -> None:
    code = (
        "import sys; from skiptune.objectives.teacher import teacher_score;"
        "from skiptune.objectives.losses import loss_score;"
        "loss_score([[1.0], [2.0]], [[1.0], [1.0]]); teacher_score(*[[[1.0], [2.0]]] * 3);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
