"""Families of networks: found by structure, refused when they do not add up, open to others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling import skips as registry
from skiptune.sampling.hooks import apply, scaled
from skiptune.sampling.norms import norm_ratios
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import (
    Skip,
    SkipFamily,
    SkipPlace,
    SkipSite,
    decoder_blocks,
    find_skips,
    register_family,
)


class Join(nn.Module):
    """Adds what two layers make of the main path and of a skip that comes by name."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Conv2d(4, 4, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor, *, skip: Tensor, gain: float = 1.0) -> Tensor:
        made: Tensor = self.main(x) + gain * self.side(skip)
        return made


class Handmade(nn.Module):
    """A denoiser of no known family, whose skip is a keyword argument."""

    img_channels, img_resolution, label_dim = 1, 8, 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(4, 1, 1)
        self.deeper, self.join = nn.Conv2d(2, 4, 1), Join()
        self.factor = 1.0

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        skip = self.first(x.to(torch.float32))
        main = self.deeper(skip).tanh()
        made: Tensor = self.last(self.join(main, skip=skip * self.factor))
        return made


def find_handmade(network: nn.Module, size: int) -> list[SkipPlace] | None:
    join = getattr(network, "join", None)
    if join is None:
        return None
    skip = Skip("join", 0, size, main_channels=4, skip_channels=2, groups=0, mixed=True)
    return [SkipPlace(skip, SkipSite(join, "skip"))]


HANDMADE = SkipFamily("handmade", "a module `join`", find_handmade)


@pytest.fixture
def no_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test registers."""
    monkeypatch.setattr(registry, "_registered", {})
    yield


@pytest.mark.usefixtures("no_registered")
class TestRegistered:
    def test_a_registered_family_is_served_like_any_other(self) -> None:
        network = Handmade().eval().requires_grad_(False)
        with pytest.raises(NetworkError, match="register_family") as caught:
            find_skips(network)
        assert "Handmade without any of these" in str(caught.value)
        register_family(HANDMADE)
        holder = nn.Module()
        holder.model = network
        assert find_skips(network) == find_skips(holder)
        assert find_skips(network)[0].resolution == 8
        assert decoder_blocks(network) == {"join": network.join}
        x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.0)
        with scaled(network, Schedule.uniform({"join": 0.5})):
            found = network(x, sigma)
        network.factor = 0.5
        assert torch.equal(found, network(x, sigma))

    def test_a_skip_in_an_argument_of_its_own_is_measured_beside_the_main_path(self) -> None:
        register_family(HANDMADE)
        network = Handmade().eval()
        seen: list[float] = []

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(float(kwargs["skip"].norm() / args[0].norm()))

        network.join.register_forward_pre_hook(look, with_kwargs=True)
        found = norm_ratios(network, Setting(solver="euler", steps=2), [0])
        assert found.addresses == ("join",)
        assert found.ratios[0] == pytest.approx(seen, rel=1e-5)

    def test_the_last_one_registered_is_asked_first_and_replaces_its_name(self) -> None:
        other = Skip("other", 0, 8, 4, 2, 0, mixed=True)
        network = Handmade()
        site = SkipSite(network.join, "skip")
        register_family(SkipFamily("one", "one", lambda n, s: [SkipPlace(other, site)]))
        assert find_skips(network) == (other,)
        register_family(HANDMADE)
        assert find_skips(network)[0].address == "join"
        register_family(SkipFamily("handmade", "nothing", lambda n, s: None))
        assert find_skips(network) == (other,)

    def test_parts_that_a_family_does_not_have_are_refused(self) -> None:
        register_family(HANDMADE)
        for part in ("shortcut", "residual", "whole-shortcut"):
            with pytest.raises(NetworkError, match="Join without one") as caught:
                apply(Handmade(), Schedule.uniform({"join": 0.5}, part=part))
            assert "part both" in caught.value.hint

    @pytest.mark.parametrize(
        ("rows", "reason"),
        [
            ([], "without a single one"),
            ([("a", 0), ("a", 1)], "not different: a, a"),
            ([("a", 1), ("b", 0)], "not their place"),
        ],
    )
    def test_what_a_family_finds_must_make_sense(
        self, rows: list[tuple[str, int]], reason: str
    ) -> None:
        def find(network: nn.Module, size: int) -> list[SkipPlace]:
            return [
                SkipPlace(Skip(name, index, 8, 1, 1, 0, mixed=True), SkipSite(network))
                for name, index in rows
            ]

        register_family(SkipFamily("odd", "anything", find))
        with pytest.raises(NetworkError, match=reason):
            find_skips(Handmade())
