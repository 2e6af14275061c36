"""The preconditionings against table 1 of Karras et al. 2022, in double precision."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.networks import (
    EDMPrecond,
    Preconditioned,
    VEPrecond,
    VPPrecond,
    build,
    build_denoiser,
    iDDPMPrecond,
)

LEVELS = st.floats(0.002, 80.0)


class Probe(nn.Module):
    """A network that remembers what it sees and says what it is told."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.img_resolution, self.in_channels, self.label_dim = 8, 1, 0
        self.outputs = outputs
        self.answer = 0.0
        self.x = self.noise = torch.empty(0)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        self.x, self.noise = x, noise_labels
        made = torch.full((x.shape[0], self.outputs, 1, 1), self.answer)
        # What is behind the images' channels must not count.
        made[:, 1:] = 1e6
        return made


class Read(NamedTuple):
    c_skip: float
    c_out: float
    c_in: float
    c_noise: float


def read(kind: Any, sigma: float, **keys: Any) -> Read:
    """Read the coefficients off the calls of a denoiser."""
    probe = Probe(outputs=2 if kind is iDDPMPrecond else 1)
    denoiser = kind(probe, **keys)
    ones = torch.ones(1, 1, 1, 1)
    c_skip = float(denoiser(ones, sigma))
    c_in, c_noise = float(probe.x), float(probe.noise)
    probe.answer = 1.0
    # At x = 0, so that no large number hides a small one.
    c_out = float(denoiser(torch.zeros(1, 1, 1, 1), torch.tensor(sigma, dtype=torch.float64)))
    return Read(c_skip, c_out, c_in, c_noise)


@settings(max_examples=50, deadline=None)
@given(sigma=LEVELS, sigma_data=st.floats(0.1, 2.0))
def test_edm(sigma: float, sigma_data: float) -> None:
    found = read(EDMPrecond, sigma, sigma_data=sigma_data)
    both = sigma**2 + sigma_data**2
    expected = (
        sigma_data**2 / both,
        sigma * sigma_data / math.sqrt(both),
        1 / math.sqrt(both),
        math.log(sigma) / 4,
    )
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(t=st.floats(0.001, 1.0), beta_d=st.floats(1.0, 20.0), M=st.integers(10, 1000))
def test_vp_tells_the_time_of_the_noise_level(t: float, beta_d: float, M: int) -> None:
    sigma = math.sqrt(math.exp(beta_d * t**2 / 2 + 0.1 * t) - 1)
    found = read(VPPrecond, sigma, beta_d=beta_d, beta_min=0.1, M=M)
    assert found[:3] == pytest.approx((1.0, -sigma, 1 / math.sqrt(sigma**2 + 1)), rel=1e-5)
    assert found.c_noise == pytest.approx((M - 1) * t, rel=1e-3)


def test_vp_knows_its_range() -> None:
    network = VPPrecond(Probe())  # type: ignore[arg-type]
    # 152 is the highest noise level of the published networks.
    assert network.sigma_max == pytest.approx(math.sqrt(math.exp(10.05) - 1))
    assert network.sigma_max == pytest.approx(152.2, abs=0.1)
    assert network.sigma_min == pytest.approx(math.sqrt(1e-6), rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(sigma=LEVELS)
def test_ve(sigma: float) -> None:
    found = read(VEPrecond, sigma)
    assert found == pytest.approx((1.0, sigma, 1.0, math.log(sigma / 2)), rel=1e-5, abs=1e-6)


def level(j: int, M: int = 1000) -> float:
    """Level j of iDDPM; the ratios' product telescopes, and only the last one is clipped."""

    def share(i: int) -> float:
        return math.sin(math.pi / 2 * i / (M * 1.008)) ** 2

    if j == 0:
        return math.sqrt((level(1) ** 2 + 1) / 0.001 - 1)
    return math.sqrt(max(0.0, share(M) / share(j) - 1))


def test_the_levels_of_iddpm() -> None:
    network = iDDPMPrecond(Probe(outputs=2))  # type: ignore[arg-type]
    expected = [level(j) for j in range(1001)]
    assert network.u.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert (network.sigma_min, network.sigma_max) == pytest.approx((level(999), level(0)))
    assert network.sigma_max > 20_000
    assert "u" in network.state_dict()


@settings(max_examples=50, deadline=None)
@given(j=st.integers(0, 999), share=st.floats(-0.45, 0.45))
def test_iddpm_tells_the_nearest_level(j: int, share: float) -> None:
    gap = level(j) - level(j + 1) if share < 0 else level(max(j - 1, 0)) - level(j)
    sigma = level(j) + share * gap
    found = read(iDDPMPrecond, sigma)
    assert found[:3] == pytest.approx((1.0, -sigma, 1 / math.sqrt(sigma**2 + 1)), rel=1e-5)
    assert found.c_noise == 999 - j


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iddpm_rounds_noise_levels(dtype: torch.dtype) -> None:
    network = iDDPMPrecond(Probe(outputs=2))  # type: ignore[arg-type]
    sigma = torch.tensor([[level(3), level(500) * 1.0001], [level(999), 1e9]], dtype=dtype)
    rounded = network.round_sigma(sigma)
    assert (rounded.shape, rounded.dtype) == (sigma.shape, dtype)
    expected = [level(3), level(500), level(999), level(0)]
    assert rounded.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert float(network.round_sigma(level(7))) == pytest.approx(level(7), rel=1e-5)


@pytest.mark.parametrize("kind", [EDMPrecond, VPPrecond, VEPrecond])
def test_the_others_know_every_level(kind: Any) -> None:
    assert float(kind(Probe()).round_sigma(0.3)) == pytest.approx(0.3)


def test_a_noise_level_per_image() -> None:
    for kind in (EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond):
        denoiser: Any = kind(Probe(outputs=2 if kind is iDDPMPrecond else 1))  # type: ignore[arg-type]
        x = torch.ones(3, 1, 1, 1, dtype=torch.float64)
        levels = torch.tensor([0.1, 1.0, 30.0])
        together = denoiser(x, levels)
        assert together.dtype == torch.float32
        for i in range(3):
            assert torch.equal(together[i : i + 1], denoiser(x[i : i + 1], levels[i]))


CONFIG: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 0,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}


@pytest.mark.parametrize(
    ("keys", "kind", "outputs"),
    [
        ({"precond": "edm", "sigma_data": 0.7, "sigma_max": 80.0}, EDMPrecond, 2),
        ({"precond": "vp", "beta_d": 19.0, "M": 500, "epsilon_t": 1e-4}, VPPrecond, 2),
        ({"precond": "ve", "sigma_min": 0.1, "sigma_max": 50.0}, VEPrecond, 2),
        ({"precond": "iddpm", "C_1": 0.002, "C_2": 0.01, "M": 100}, iDDPMPrecond, 4),
    ],
)
def test_configurations(keys: dict[str, Any], kind: type[Preconditioned], outputs: int) -> None:
    network = build_denoiser({**CONFIG, **keys, "model_type": "SongUNet", "use_fp16": False})
    assert type(network) is kind
    assert network.model.out_channels == outputs
    assert (network.img_channels, network.img_resolution, network.label_dim) == (2, 8, 0)
    for key in set(keys) & {"sigma_data", "sigma_max", "beta_d", "M", "sigma_min"}:
        assert getattr(network, key) == keys[key]
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 2, 8, 8), 1.0).shape == (1, 2, 8, 8)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"precond": "ddim"}, "ddim"),
        ({"precond": ["edm"]}, "edm"),
        ({"precond": "vp", "sigma_data": 0.5}, "sigma_data"),
        ({"precond": "ve", "C_1": 0.5}, "C_1"),
        ({"precond": "edm"}, "no sigma_data"),
        ({"precond": "vp", "model_type": "UNet"}, "'UNet'"),
        ({"precond": "iddpm", "M": 0}, "values of"),
    ],
)
def test_wrong_configurations_are_refused(keys: dict[str, Any], found: str) -> None:
    with pytest.raises(NetworkError, match=found) as caught:
        build_denoiser({**CONFIG, **keys})
    assert caught.value.hint


def test_build_makes_edm_only() -> None:
    with pytest.raises(NetworkError, match="precond"):
        build({**CONFIG, "precond": "ve"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precond", ["edm", "vp", "ve", "iddpm"])
@pytest.mark.parametrize("model_type", ["SongUNet", "DhariwalUNet"])
def test_networks_compute_in_the_dtype_of_their_weights(
    model_type: str, precond: str, dtype: torch.dtype
) -> None:
    sigma_data = {"sigma_data": 0.5} if precond == "edm" else {}
    config = {**CONFIG, "model_type": model_type, "label_dim": 3, "model_channels": 32}
    network = build_denoiser({**config, "precond": precond, **sigma_data}).eval()
    seen: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.register_forward_hook(lambda module, args, made: seen.add(made.dtype))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=generator)
    labels = torch.eye(3)
    with torch.no_grad():
        before = network(x, 1.0, labels)
        after = network.to(dtype)(x, 1.0, labels)
    assert seen == {torch.float32, dtype}
    assert after.dtype == torch.float32
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 2e-1, torch.float64: 1e-5}[dtype]
    assert torch.allclose(after, before, atol=tolerance, rtol=tolerance)


def test_half_precision_keeps_the_levels_of_iddpm(device: str) -> None:
    network = iDDPMPrecond(Probe(outputs=2))  # type: ignore[arg-type]
    levels = network.u.clone()
    for kind in (torch.float16, torch.bfloat16, device):
        network.to(kind)
        assert network.u.dtype == torch.float32
        assert torch.equal(network.u.cpu(), levels)
    assert network.u.device.type == torch.device(device).type
    assert float(network.round_sigma(float(levels[700]) * 1.0001)) == float(levels[700])
