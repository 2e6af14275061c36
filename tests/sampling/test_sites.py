"""Skips of networks outside the EDM family, scaled where their callers say."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import apply, scaled
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.skips import SkipSite
from tests.sampling.families import hooks_of


class Up(nn.Module):
    """A block that takes the main path and the skip in one of the ways of other families."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 4)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        both = x if skip is None else torch.cat([x, skip], dim=-1)
        made: Tensor = self.linear(both)
        return made


class Tokens(nn.Module):
    """A network over tokens [B, 5, 3] whose decoder's skip is multiplied by hand if asked."""

    SITES: ClassVar[dict[str, dict[str, Any]]] = {
        "argument": {"argument": 1, "dim": -1},  # U-ViT
        "keyword": {"argument": "skip", "dim": -1},  # HunyuanDiT
        "first": {"dim": 2, "length": 3},  # azula: the skip before the main path
        "last": {"dim": 2, "start": 4, "length": 3},
        "middle": {"dim": 2, "start": 2, "length": 3},
    }

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.down, self.middle, self.up = nn.Linear(3, 3), nn.Linear(3, 4), Up()
        self.by_hand: float | Tensor = 1.0

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        skip = self.down(x / sigma.to(x.dtype))
        main = self.middle(skip).tanh()
        scaled_skip = skip * self.by_hand
        match self.kind:
            case "argument":
                made = self.up(main, scaled_skip)
            case "keyword":
                made = self.up(main, skip=scaled_skip)
            case "first":
                made = self.up(torch.cat([scaled_skip, main], dim=2))
            case "last":
                made = self.up(torch.cat([main, scaled_skip], dim=2))
            case _:
                made = self.up(torch.cat([main[..., :2], scaled_skip, main[..., 2:]], dim=2))
        # The skip goes on elsewhere, where nothing scales it.
        return torch.cat([made, skip], dim=2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", Tokens.SITES)
def test_sites_of_other_families_are_scaled(kind: str, device: str, mode: Any) -> None:
    with mode():
        check_sites(kind, device)


def check_sites(kind: str, device: str) -> None:
    network = Tokens(kind).to(device)
    sites = {"up0": SkipSite(network.up, **Tokens.SITES[kind])}
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.eye(3, device=device)
    labels[1] = 0
    level = torch.tensor(2.0, device=device)
    plain = network(x, level, labels)
    images = torch.tensor([0.5, 1.0, 1.6], device=device)
    cases: list[tuple[Schedule | dict[str, Tensor], float | Tensor]] = [
        (Schedule.uniform({"up0": 0.5}), 0.5),
        (Schedule.uniform({"up0": 0.5}, high=2.0), 1.0),
        (Schedule.uniform({"up0": 0.0}, low=2.0), 0.0),
        (Schedule.uniform({"up0": 0.5}, branches="uncond"), torch.tensor([1.0, 0.5, 1.0])),
        ({"up0": images}, images),
    ]
    with scaled(network, Schedule.baseline(), sites=sites) as handle:
        for scales, factor in cases:
            handle.update(scales)
            found = network(x, level, labels)
            twin = Tokens(kind).to(device)
            twin.by_hand = factor
            if isinstance(factor, Tensor):
                twin.by_hand = factor.to(device).reshape(3, 1, 1)
            assert torch.equal(found, twin(x, level, labels))
            acts = isinstance(factor, Tensor) or factor != 1
            assert torch.equal(found, plain) != acts
    assert hooks_of(network) == []
    assert torch.equal(network(x, level, labels), plain)


def test_parts_of_other_families_are_scaled_where_their_places_are_named(device: str) -> None:
    network = Tokens("argument").to(device)
    sites = {
        "up0": SkipSite(network.up, 1, dim=-1),
        "residual/up0": SkipSite(network.up.linear, dim=-1, start=4, length=3),
        "whole-shortcut/up0": SkipSite(network.up.linear, argument=None),
    }
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1)).to(device)
    level = torch.tensor(2.0, device=device)
    plain = network(x, level)
    for terms in (
        [Term("up0", 0.5), Term("up0", 1.4, part="residual")],
        [Term("up0", 0.5, low=1.0), Term("up0", 1.4, 1.0, 3.0, part="residual")],
    ):
        with scaled(network, Schedule(terms), sites=sites):
            found = network(x, level)
        twin = Tokens("argument").to(device)
        twin.by_hand = 0.5 * 1.4
        torch.testing.assert_close(found, twin(x, level))
    halved = Schedule([Term("up0", 0.5, low=1.0, part="whole-shortcut")])
    with scaled(network, halved, sites=sites), torch.inference_mode():
        made = network(x, level)
    torch.testing.assert_close(made, torch.cat([plain[..., :4] * 0.5, plain[..., 4:]], dim=2))
    assert hooks_of(network) == []
    with pytest.raises(NetworkError, match="a site up0 as well"):
        apply(network, Schedule.baseline(), sites={"residual/up0": sites["residual/up0"]})
    with pytest.raises(NetworkError, match="parts that have hooks: both, residual"):
        shortcut = Schedule.uniform({"up0": 0.5}, part="shortcut")
        apply(network, shortcut, sites={k: sites[k] for k in ("up0", "residual/up0")})


def test_a_named_argument_may_be_given_by_its_place() -> None:
    network, x = Tokens("argument"), torch.randn(2, 5, 3)
    named = {"up0": SkipSite(network.up, "skip", dim=-1)}
    with scaled(network, Schedule.uniform({"up0": 0.5}), sites=named):
        found = network(x, torch.tensor(2.0))
    network.by_hand = 0.5
    assert torch.equal(found, network(x, torch.tensor(2.0)))


def test_sites_are_named_as_the_calls_give_them() -> None:
    network, x = Tokens("keyword"), torch.ones(1, 5, 3)
    for site in (SkipSite(network.up, 1), SkipSite(network.up, "slip")):
        with (
            scaled(network, Schedule.uniform({"up0": 0.5}), sites={"up0": site}),
            pytest.raises(NetworkError, match="1 arguments and the keywords skip"),
        ):
            network(x, torch.tensor(1.0))
    site = SkipSite(network.up, "skip", dim=-1)
    with pytest.raises(NetworkError, match="addresses among up0"):
        apply(network, Schedule.uniform({"8x8_block0": 0.5}), sites={"up0": site})
