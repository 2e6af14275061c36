"""Skips found by watching one call, against what the families know of the same networks."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling import skips as registry
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import SkipPlace, find_places, find_skips, register_family
from skiptune.sampling.tracing import family_of, trace_skips
from tests.sampling.families import FAMILIES, hooks_of, network_of, random_network


def _seen(places: tuple[SkipPlace, ...]) -> list[tuple[Any, ...]]:
    return [
        (
            place.skip.index,
            place.skip.resolution,
            place.skip.main_channels,
            place.skip.skip_channels,
            place.site.module,
            place.site.argument,
            place.site.start,
            place.site.length,
        )
        for place in places
    ]


@pytest.mark.parametrize("name", [name for name in FAMILIES if "uvit" not in name])
def test_what_is_traced_is_what_the_family_knows(name: str) -> None:
    network = network_of(FAMILIES[name])
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3)[:1]
    traced = trace_skips(network, x, torch.tensor(1.0), labels)
    known = find_places(network)
    assert _seen(traced) == _seen(known)
    assert [p.skip.groups for p in traced] == [p.skip.groups for p in known]
    assert [p.skip.mixed for p in traced] == [p.skip.mixed for p in known]
    assert [p.shortcut for p in traced] == [p.shortcut for p in known]
    assert [p.residual for p in traced] == [p.residual for p in known]
    assert all(p.skip.address.endswith(k.skip.address) for p, k in zip(traced, known, strict=True))
    assert hooks_of(network) == []


def test_tokens_are_joined_in_the_layer_that_reads_both() -> None:
    network = random_network(FAMILIES["uvit"].config)
    traced = trace_skips(network, torch.randn(1, 1, 8, 8), torch.tensor(1.0), torch.eye(3)[:1])
    known = find_places(network)
    for one, other in zip(traced, known, strict=True):
        assert one.skip.address == f"model.{other.skip.address}.skip_linear"
        assert (one.site.dim, one.site.start, one.site.length) == (-1, 16, 16)
        assert (one.skip.main_channels, one.skip.skip_channels) == (16, 16)
        assert one.skip.resolution == other.skip.resolution == 4


def test_a_network_of_diffusers_on_the_meta_device() -> None:
    kinds = importlib.import_module("diffusers")
    with torch.device("meta"):
        network = kinds.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=8,
        ).eval()
        traced = trace_skips(network, torch.zeros(1, 1, 16, 16), torch.zeros(1))
    assert len(traced) == 4
    assert _seen(traced) == _seen(find_places(network))
    assert [p.skip.mixed for p in traced] == [s.mixed for s in find_skips(network)]


class Small(nn.Module):
    """A hand-written U-Net, with a skip before the main path and one behind it."""

    img_channels, img_resolution, label_dim = 1, 8, 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.deepest = nn.Conv2d(6, 5, 3, padding=1)
        self.up, self.last = nn.Conv2d(11, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.factors = [1.0, 1.0]

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        level = torch.ones_like(x) * sigma
        one = self.first(torch.cat([x.float(), level], dim=1)).tanh()
        two = self.second(one).tanh()
        main = self.deepest(two).tanh()
        main = self.up(torch.cat([two * self.factors[0], main], dim=1)).tanh()
        made: Tensor = self.last(torch.cat((main, one * self.factors[1]), 1))
        return made


def test_a_hand_written_network_is_traced_and_then_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    network = Small().eval().requires_grad_(False)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.5)
    places = trace_skips(network, x, sigma)
    assert [p.skip.address for p in places] == ["up", "last"]
    assert [(p.site.start, p.site.length) for p in places] == [(0, 6), (4, 4)]
    assert [(p.skip.main_channels, p.skip.skip_channels) for p in places] == [(5, 6), (4, 4)]
    register_family(family_of("small", network, places))
    other = Small().eval().requires_grad_(False)
    assert [skip.address for skip in find_skips(other)] == ["up", "last"]
    with scaled(other, Schedule.uniform({"up": 0.5, "last": 1.4})):
        found = other(x, sigma)
    network.factors = [0.5, 1.4]
    torch.testing.assert_close(found, network(x, sigma))
    with pytest.raises(NetworkError, match="without any of these"):
        find_skips(nn.Linear(2, 2))


class Plain(nn.Module):
    """A network without skips that concatenates its input and a constant."""

    def __init__(self, *, joins: bool) -> None:
        super().__init__()
        self.joins = joins
        self.first, self.last = nn.Conv2d(1 + joins, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.joins:
            x = torch.cat([x, torch.ones_like(x)], dim=1)
        made: Tensor = self.last(self.first(x))
        return made


class Twice(nn.Module):
    """Joins two skips in one module, or one where no module is given it."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.first, self.deep, self.join = (nn.Conv2d(*c, 1) for c in ((1, 2), (2, 2), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        two = self.deep(one)
        three = self.deep(two)
        if not self.shared:
            return torch.cat([three, one], dim=1).mean(1)
        made: Tensor = self.join(torch.cat([self.join(torch.cat([three, two], 1)), one], 1))
        return made


class Beside(nn.Module):
    """Reads what is joined in two modules, or in one and a sum."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__()
        self.summed = summed
        self.first, self.deep = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        joined = torch.cat([self.deep(skip).tanh(), skip], dim=1)
        made: Tensor = self.one(joined) + (joined if self.summed else self.two(joined))
        return made


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Beside(summed=False), "one given to one and read outside of it too"),
        (Beside(summed=True), "one given to one and read outside of it too"),
        (Plain(joins=False), "no concatenation"),
        (Plain(joins=True), "1 concatenations of two feature maps, of which none"),
        (Twice(shared=True), "several given to the same module, join"),
        (Twice(shared=False), "that no module is given"),
    ],
)
def test_networks_without_skips_are_refused_with_the_reason(
    network: nn.Module, reason: str
) -> None:
    with pytest.raises(NetworkError) as caught:
        trace_skips(network, torch.randn(1, 1, 4, 4))
    assert reason in str(caught.value)
    assert hooks_of(network) == []
