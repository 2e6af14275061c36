"""Networks of discrete steps and consistency models as denoisers, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.images import sample_float
from skiptune.sampling.networks import (
    ConsistencyPrecond,
    DiscretePrecond,
    EDMPrecond,
    build_denoiser,
)
from skiptune.sampling.networks.discrete import BETAS, PREDICTIONS, betas_of, sigmas_of
from skiptune.sampling.networks.openai_blocks import labelled_rows
from skiptune.sampling.setting import Setting
from tests.sampling.families import OPENAI


class Knowing(nn.Module):
    """A network that knows the image and the noise, and remembers what it was given."""

    img_resolution, in_channels, label_dim = 4, 1, 0

    def __init__(self, prediction: str, sigma: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(2, 1, 4, 4, generator=generator)
        self.noise = torch.randn(2, 1, 4, 4, generator=generator)
        kept = 1 / (1 + sigma**2)  # abar
        made = {
            "epsilon": self.noise,
            "v": math.sqrt(kept) * self.noise - math.sqrt(1 - kept) * self.image,
            "sample": self.image,
        }
        self.made = made[prediction]
        self.expected = math.sqrt(kept) * self.image + math.sqrt(1 - kept) * self.noise
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        torch.testing.assert_close(x, self.expected, rtol=1e-5, atol=1e-5)
        self.seen.append(noise_labels)
        return torch.cat([self.made, torch.full_like(self.made, 1e9)], dim=1)


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("steps", [10, 1000])
def test_noise_levels_are_those_of_the_variances(kind: str, steps: int) -> None:
    betas = np.array(betas_of(kind, steps, start=0.001, end=0.02))
    if kind == "linear":
        expected = 0.001 + np.arange(steps) * (0.019 / (steps - 1))
    elif kind == "scaled_linear":
        ends = math.sqrt(0.001), math.sqrt(0.02)
        expected = (ends[0] + np.arange(steps) * ((ends[1] - ends[0]) / (steps - 1))) ** 2
    else:
        # The product of 1 - beta is cos^2 at the ends of the steps, until betas are cut off.
        left = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        expected = np.minimum(1 - left[1:] / left[:-1], 0.999)
        assert np.prod(1 - betas[:-1]) == pytest.approx(left[-2] / left[0], rel=1e-9)
    np.testing.assert_allclose(betas, expected, rtol=1e-9)
    product, levels = 1.0, []
    for beta in expected:
        product *= 1 - beta
        levels.append(math.sqrt((1 - product) / product))
    np.testing.assert_allclose(sigmas_of(list(betas)), levels, rtol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("step", [0, 17, 990])
def test_whatever_is_predicted_becomes_the_image(prediction: str, step: int) -> None:
    level = sigmas_of(betas_of("scaled_linear", 1000, start=0.00085, end=0.012))[step]
    inner: Any = Knowing(prediction, level)
    network = DiscretePrecond(
        inner,
        betas="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction=prediction,
        told=0.5,
        first=1,
        learn_sigma=True,
    )
    rounded = network.round_sigma(torch.tensor(level * 1.0001, dtype=torch.float64))
    assert float(rounded) == pytest.approx(level, rel=1e-6)
    found = network(inner.image + level * inner.noise, rounded)
    torch.testing.assert_close(found, inner.image, rtol=1e-4, atol=1e-4)
    assert inner.seen[0].tolist() == [0.5 * (step + 1)] * 2
    assert network.sigma_min < network.sigma_max
    assert "u" not in network.state_dict()
    network.to(torch.bfloat16)
    assert network.u.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"betas": "sigmoid"}, "sigmoid"),
        ({"prediction": "flow"}, "flow"),
        ({"timesteps": 0}, "at least 1 step"),
        ({"beta_start": 0.5}, "not rising"),
        ({"label_rows": 9}, "label_rows 9"),
        ({"num_heads": 3, "num_head_channels": -1}, "3 heads"),
        ({"use_spatial_transformer": True}, "context_dim"),
        ({"model_channels": 20}, "divisible"),
        ({"model_type": "SongUNet"}, "OpenAIUNet or UViT"),
    ],
)
def test_values_that_make_no_network_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        build_denoiser({**OPENAI, "precond": "discrete", **change})


def test_labels_are_rows_of_the_embedding_and_none_is_the_last_one() -> None:
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    one_hot = torch.eye(3)[[2, 0]]
    for rows in (weight[:3], weight):
        assert torch.equal(labelled_rows(rows, one_hot, 3, 2), weight[[2, 0]])
    for none in (None, torch.zeros(2, 3)):
        assert torch.equal(labelled_rows(weight, none, 3, 2), weight[[3, 3]])
        assert torch.equal(labelled_rows(weight[:3], none, 3, 2), torch.zeros(2, 5))
    assert torch.equal(labelled_rows(weight, one_hot[:1], 3, 2), weight[[2, 2]])


class Constant(nn.Module):
    """A network that answers with a constant and remembers what it was told."""

    img_resolution, in_channels, label_dim = 4, 1, 0

    def __init__(self) -> None:
        super().__init__()
        self.told = torch.zeros(0)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        self.told = noise_labels
        return torch.full_like(x, 0.3)


def test_a_distilled_network_leaves_the_end_of_the_path_as_it_is() -> None:
    inner: Any = Constant()
    distilled = ConsistencyPrecond(inner, distilled=True)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(distilled(x, 0.002), x)
    sigma, data = 5.0, 0.5
    away = sigma - 0.002
    expected = x * data**2 / (away**2 + data**2) + 0.3 * away * data / math.hypot(sigma, data)
    torch.testing.assert_close(distilled(x, sigma), expected)
    assert inner.told.tolist() == pytest.approx([250 * math.log(5.0)] * 2)
    teacher, edm = ConsistencyPrecond(inner), EDMPrecond(inner, sigma_data=0.5)
    assert torch.equal(teacher(x, sigma), edm(x, sigma))


def test_one_step_is_one_evaluation_at_the_highest_noise_level() -> None:
    inner: Any = Constant()
    network = ConsistencyPrecond(inner, distilled=True).eval()
    setting = Setting(solver="euler", steps=1, sigma_min=0.002, sigma_max=80.0)
    found = sample_float(network, setting, [1, 2])
    from skiptune.sampling.noise import image_streams

    noise = image_streams(setting.noise, [1, 2], "cpu").randn((1, 4, 4))
    torch.testing.assert_close(found.float(), network(80 * noise, 80.0))
