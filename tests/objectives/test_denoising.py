"""Denoiser losses against loops written out by hand, and their errors against simulation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiptune.canonical import digest
from skiptune.errors import NetworkError, ObjectiveError, SpecError
from skiptune.objectives.denoising import (
    FEATURE_LOSS,
    LEVELS,
    PIXEL_LOSS,
    denoising_losses,
    describe_losses,
    image_indices,
)
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.losses import loss_score
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.skips import find_skips

Array = NDArray[np.float64]

SIGMAS = (0.1, 1.0, 10.0)
SEEDS = range(1000, 1011)


class _Pooled:
    """A stand-in for a feature network: bent means of the 16 patches of 2x2 pixels."""

    def of_floats(self, images: Tensor) -> Tensor:
        assert float(images.detach().nan_to_num(0).abs().max()) <= 1
        return nn.functional.avg_pool2d((2 * images).tanh(), 2).flatten(1)

    def describe(self) -> dict[str, Any]:
        return {"extractor": "pooled"}


@pytest.fixture
def pooled() -> Extractor:
    return cast(Extractor, _Pooled())


@pytest.fixture
def images(device: str) -> Tensor:
    """Seven images of 8x8 pixels in -1..1."""
    generator = torch.Generator().manual_seed(3)
    return (2 * torch.rand(7, 1, 8, 8, generator=generator) - 1).to(device)


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 2, 1, 0, 1])


def _by_hand(
    network: nn.Module, images: Tensor, labels: Tensor, seeds: Sequence[int], schedule: Schedule
) -> dict[str, Tensor]:
    """One pair, one level, one call at a time; the scale of a level is installed by itself."""
    pooled = _Pooled()
    losses = {name: torch.empty(len(seeds), len(SIGMAS)) for name in (PIXEL_LOSS, FEATURE_LOSS)}
    for row, seed in enumerate(seeds):
        x = images[seed % len(images)][None]
        noise = torch.empty(1, 8, 8)
        noise.normal_(generator=torch.Generator().manual_seed(seed + 2**31))
        one_hot = torch.zeros(1, 3)
        one_hot[0, labels[seed % len(images)]] = 1
        for column, sigma in enumerate(SIGMAS):
            now = {name: schedule.scale(name, sigma) for name in schedule.addresses}
            with torch.no_grad(), scaled(network, Schedule.uniform(now)):
                noisy = x + sigma * noise.to(x.device)
                estimate = network(noisy, torch.tensor(sigma), one_hot.to(x.device))
            losses[PIXEL_LOSS][row, column] = ((estimate - x) ** 2).mean()
            difference = pooled.of_floats(estimate.clip(-1, 1)) - pooled.of_floats(x)
            losses[FEATURE_LOSS][row, column] = (difference**2).mean()
    return losses


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_losses_equal_a_loop_by_hand(
    tiny_network: EDMPrecond, pooled: Extractor, images: Tensor, labels: Tensor, mode: Any
) -> None:
    first, second, *_ = (skip.address for skip in find_skips(tiny_network))
    schedule = Schedule([Term(first, 0.6), Term(second, 1.4, 0.5, 5.0), Term(second, 0.9, 5.0)])
    expected = _by_hand(tiny_network, images, labels, SEEDS, schedule)
    with mode(), scaled(tiny_network, schedule):
        found = denoising_losses(tiny_network, pooled, images, labels, SEEDS, SIGMAS, microbatch=4)
    assert list(found) == [PIXEL_LOSS, FEATURE_LOSS]
    for name, losses in found.items():
        assert losses.shape == (len(SEEDS), len(SIGMAS))
        assert losses.dtype == torch.float32
        assert not losses.requires_grad
        torch.testing.assert_close(losses.cpu(), expected[name], rtol=1e-4, atol=1e-7)
    plain = denoising_losses(tiny_network, pooled, images, labels, SEEDS, SIGMAS, microbatch=4)
    assert not torch.equal(plain[PIXEL_LOSS], found[PIXEL_LOSS])


def test_a_pair_s_losses_do_not_depend_on_its_company(
    tiny_network: EDMPrecond, pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    def losses(seeds: Sequence[int]) -> Tensor:
        found = denoising_losses(tiny_network, pooled, images, labels, seeds, SIGMAS, microbatch=4)
        return torch.cat([found[PIXEL_LOSS], found[FEATURE_LOSS]], dim=1)

    whole = losses(SEEDS)
    chosen = [7, 2, 9, 3, 3, 0]
    assert torch.equal(losses([SEEDS[place] for place in chosen]), whole[chosen])
    assert torch.equal(torch.cat([losses(SEEDS[:5]), losses(SEEDS[5:])]), whole)


def test_other_microbatches_agree(
    tiny_network: EDMPrecond, pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    one, many = (
        denoising_losses(tiny_network, pooled, images, labels, SEEDS, SIGMAS, microbatch=size)
        for size in (1, 20)
    )
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=1e-4, atol=1e-7)


def test_labels_reach_the_network_and_each_image_has_its_own(
    tiny_network: EDMPrecond, pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    def losses(chosen: Tensor | None) -> Tensor:
        return denoising_losses(
            tiny_network, pooled, images, chosen, range(7), SIGMAS, microbatch=7
        )[PIXEL_LOSS]

    changed = labels.clone()
    changed[4] = (labels[4] + 1) % 3
    same = (losses(labels) == losses(changed)).all(dim=1)
    assert same.tolist() == [place != 4 for place in range(7)]


def test_a_network_without_classes_needs_no_labels(
    tiny_config: dict[str, Any], pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    from skiptune.sampling.networks import build

    network = build({**tiny_config, "label_dim": 0}).eval()
    with torch.no_grad():
        cpu = images.cpu()
        found = denoising_losses(network, pooled, cpu, None, SEEDS, SIGMAS)
        again = denoising_losses(network, pooled, cpu, labels, SEEDS, SIGMAS)
    assert torch.equal(found[PIXEL_LOSS], again[PIXEL_LOSS])


def test_the_noise_is_no_sampled_image_s(
    pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    seen: list[Tensor] = []

    class _Watch(nn.Module):
        img_channels, img_resolution, label_dim = 1, 8, 0

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            seen.append(x)
            return x.float()

    denoising_losses(_Watch().eval(), pooled, images.cpu(), None, [5], [1e6], microbatch=1)
    noise = (seen[0] / 1e6).float()
    sampled = ImageStreams([5]).randn((1, 8, 8))
    assert float((noise - sampled).abs().max()) > 0.1
    other = ImageStreams([5 + 2**31]).randn((1, 8, 8))
    torch.testing.assert_close(noise, other, atol=1e-5, rtol=0)


class _Double(nn.Module):
    """EDM's preconditioning in float64 around the U-Net of a float32 one."""

    def __init__(self, network: EDMPrecond) -> None:
        super().__init__()
        self.model = copy.deepcopy(network.model).double()
        self.img_channels, self.img_resolution, self.label_dim = 1, 8, 3
        self.eval()

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        variance = sigma**2 + 0.25
        labels = None if class_labels is None else class_labels.double()
        noise_labels = (sigma.log() / 4).reshape(1).expand(len(x))
        inner = self.model(x / variance.sqrt(), noise_labels, labels)
        estimate: Tensor = 0.25 / variance * x + sigma * 0.5 / variance.sqrt() * inner
        return estimate


@pytest.mark.parametrize("name", [PIXEL_LOSS, FEATURE_LOSS])
def test_the_derivative_in_the_scales_is_the_finite_difference(
    tiny_network: EDMPrecond,
    pooled: Extractor,
    images: Tensor,
    labels: Tensor,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Attention works in float32, which is too coarse for differences.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    network = _Double(tiny_network)
    addresses = [skip.address for skip in find_skips(network)]

    def losses(scales: Tensor) -> Tensor:
        installed = dict(zip(addresses, scales, strict=True))
        with scaled(network, installed):
            return denoising_losses(
                network, pooled, images, labels, SEEDS[:3], SIGMAS, microbatch=3
            )[name]

    weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0], [-1.0, 0.4, 1.5]])
    weights = weights.to(images.device).double()
    scales = torch.tensor([0.9, 1.1, 1.0, 0.8], dtype=torch.float64, requires_grad=True)
    value = (losses(scales) * weights).sum()
    (slope,) = torch.autograd.grad(value, scales)
    step = 1e-6
    for place in range(len(addresses)):
        moved = torch.zeros(4, dtype=torch.float64)
        moved[place] = step
        with torch.no_grad():
            ends = [(losses(scales + side * moved) * weights).sum() for side in (1, -1)]
        numeric = float((ends[0] - ends[1]) / (2 * step))
        assert float(slope[place]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)
    assert bool((slope != 0).all())


def test_an_estimate_that_is_not_finite_makes_both_losses_nan(
    pooled: Extractor, images: Tensor
) -> None:
    class _Diverging(nn.Module):
        img_channels, img_resolution, label_dim = 1, 8, 0

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            estimate = x.float().clone()
            estimate[1, 0, 2, 3] = torch.inf
            return estimate

    found = denoising_losses(
        _Diverging().eval(), pooled, images.cpu(), None, range(4), SIGMAS, microbatch=4
    )
    for losses in found.values():
        assert losses.isnan().all(dim=1).tolist() == [False, True, False, False]
        with pytest.raises(ObjectiveError, match="1 of 4 pairs with others, the first in row 1"):
            loss_score(losses, torch.ones(4, 3))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": lambda x: (127.5 * (x + 1)).to(torch.uint8)}, ObjectiveError, "uint8"),
        ({"images": lambda x: 127.5 * (x + 1)}, ObjectiveError, "pixels from -1 to 1"),
        ({"images": lambda x: x / 0}, ObjectiveError, "pixels from -1 to 1"),
        ({"images": lambda x: torch.where(x > 0.9, torch.nan, x)}, ObjectiveError, "nan to nan"),
        ({"images": lambda x: x[:, :, :4]}, ObjectiveError, r"\[M, 1, 8, 8\]"),
        ({"images": lambda x: x[:, 0]}, ObjectiveError, r"\[7, 8, 8\]"),
        ({"images": lambda x: x[:0]}, ObjectiveError, "at least one"),
        ({"labels": lambda x: None}, ObjectiveError, "no labels"),
        ({"labels": lambda x: x[1:]}, ObjectiveError, r"int64 \[6\]"),
        ({"labels": lambda x: x.float()}, ObjectiveError, "float32"),
        ({"labels": lambda x: x + 1}, ObjectiveError, "1 to 3"),
        ({"labels": lambda x: x - 1}, ObjectiveError, "-1 to 1"),
        ({"seeds": []}, SpecError, "at least one"),
        ({"seeds": [3, -1, 2**31]}, SpecError, "found -1, 2147483648"),
        ({"sigmas": []}, SpecError, "noise levels"),
        ({"sigmas": [1.0, 0.0]}, SpecError, "above 0"),
        ({"sigmas": [math.nan]}, SpecError, "above 0"),
        ({"microbatch": 0}, SpecError, "at least 1"),
        ({"network": lambda x: x.model}, NetworkError, "preconditioned network"),
        ({"network": lambda x: copy.deepcopy(x).train()}, NetworkError, "training mode"),
    ],
)
def test_bad_input_is_refused(
    tiny_network: EDMPrecond,
    pooled: Extractor,
    images: Tensor,
    labels: Tensor,
    change: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    given: dict[str, Any] = {
        "network": tiny_network,
        "images": images,
        "labels": labels,
        "seeds": [1],
        "sigmas": [1.0],
        "microbatch": 1,
    }
    for key, value in change.items():
        given[key] = value(given[key]) if callable(value) else value
    with pytest.raises(error, match=words):
        denoising_losses(extractor=pooled, **given)


def test_the_levels_span_edm_s_training() -> None:
    assert LEVELS[0] == 0.05
    assert LEVELS[-1] == pytest.approx(20, rel=1e-12)
    steps = np.diff(np.log(LEVELS))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-12)
    z = (np.log([LEVELS[0], LEVELS[-1]]) + 1.2) / 1.2
    np.testing.assert_allclose(z, [-1.5, 3.5], atol=0.01)
    for sigma_data in (0.5, 0.6638):
        assert LEVELS[0] * sigma_data / math.hypot(LEVELS[0], sigma_data) < 0.05


def test_a_network_of_discrete_levels_is_evaluated_at_its_own(
    pooled: Extractor, images: Tensor
) -> None:
    class Discrete(nn.Module):
        """A denoiser that knows whole numbers, and says of noise what it is told of sigma."""

        def __init__(self) -> None:
            super().__init__()
            self.img_channels, self.img_resolution, self.label_dim = 1, 8, 0
            self.seen: list[float] = []

        def round_sigma(self, sigma: Tensor) -> Tensor:
            return sigma.round().clamp(min=1)

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            self.seen.append(float(sigma))
            return x

    network = Discrete().eval()
    found = denoising_losses(network, pooled, images, None, SEEDS, (0.1, 2.2, 9.6), microbatch=11)
    assert network.seen == [1.0, 2.0, 10.0]
    # The estimate is the noisy image: its pixel loss is the noise's mean square.
    noise = ImageStreams([seed + 2**31 for seed in SEEDS]).randn((64,)).double()
    for column, level in enumerate(network.seen):
        expected = (level * noise).square().mean(1)
        losses = found[PIXEL_LOSS][:, column].cpu().double()
        assert torch.allclose(losses, expected, rtol=1e-5)


def test_what_determines_the_losses_is_described(
    pooled: Extractor, images: Tensor, labels: Tensor
) -> None:
    one = describe_losses(pooled, images, labels)
    assert digest(one) == digest(describe_losses(pooled, images.clone(), labels.clone()))
    darker = images.clone()
    darker[3, 0, 0, 0] -= 1e-3
    for other in (
        describe_losses(pooled, darker, labels),
        describe_losses(pooled, images, labels.flip(0)),
        describe_losses(pooled, images, None),
        describe_losses(pooled, images, labels, SIGMAS),
        describe_losses(pooled, images, labels, microbatch=25),
    ):
        assert digest(other) != digest(one)


def test_seeds_take_the_images_in_turn() -> None:
    assert image_indices([1_000_000, 1_000_001, 7, 0], 1000).tolist() == [0, 1, 7, 0]
    # A chunk of the bundled 1000 test images holds no image twice.
    assert len(set(image_indices(range(1_000_250, 1_000_500), 1000).tolist())) == 250


def test_the_bundled_network_denoises_and_hears_the_labels(
    held_out: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    network = load_checkpoint("fashion").network
    extractor = load_extractor("fashion-cnn")
    images = torch.from_numpy(held_out[0]).float() / 127.5 - 1
    labels = torch.from_numpy(held_out[1])
    sigmas = (0.1, 3.0)
    with torch.inference_mode():
        right, wrong = (
            denoising_losses(network, extractor, images, chosen, range(50), sigmas)
            for chosen in (labels, (labels + 5) % 10)
        )
    for losses in right.values():
        assert losses.isfinite().all()
    # D = x + noise has the pixel loss sigma^2; the best constant, the images' variance.
    assert float(right[PIXEL_LOSS][:, 0].mean()) < 0.5 * sigmas[0] ** 2
    assert float(right[PIXEL_LOSS][:, 1].mean()) < 0.5 * float(images.var())
    for name in right:
        worse = loss_score(wrong[name][:, 1:], right[name][:, 1:])
        assert worse.difference.interval(0.999)[0] > 0
