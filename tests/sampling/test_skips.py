"""Skips found by structure, against the concatenations that really happen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skiptune.errors import NetworkError
from skiptune.sampling.networks import EDMPrecond, build
from skiptune.sampling.skips import Skip, decoder_blocks, find_skips


class _Concatenations(TorchFunctionMode):
    """Remembers the channels of every two images that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[int, tuple[int, int]] = {}
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        along = (kwargs or {}).get("dim", 0)
        if func is torch.cat and (made.dim() == 4 or along == -1):
            main, skip = args[0]
            self.parts[id(made)] = main.shape[along], skip.shape[along]
            self.kept.append(made)  # or a later tensor takes its id
        return made


def _traced(
    network: nn.Module, x: Tensor, *, whole_names: bool = False
) -> list[tuple[str, int, int, int]]:
    """Return what one forward pass concatenates: address, resolution, main and skip channels."""
    found: list[tuple[str, int, int, int]] = []
    with _Concatenations() as concatenations:
        for name, module in network.named_modules():

            def look(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                parts = concatenations.parts.pop(id(args[0]), None) if args else None
                if parts is not None:
                    shown = name if whole_names else name.rsplit(".", 1)[-1]
                    found.append((shown, _side(args[0]), *parts))

            module.register_forward_pre_hook(look)
        network(x, torch.tensor(1.0), None)
    return found


def _side(x: Tensor) -> int:
    # Of tokens, those of noise level and label beside them.
    return int(x.shape[-1]) if x.dim() == 4 else math.isqrt(x.shape[1])


def _seen(skips: tuple[Skip, ...]) -> list[tuple[str, int, int, int]]:
    return [(s.address, s.resolution, s.main_channels, s.skip_channels) for s in skips]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 2, "channel_mult": [1, 2, 3]},
        {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]},
        {"encoder_type": "skip", "decoder_type": "skip"},
        {"attn_resolutions": [8], "label_dim": 0},
    ],
)
def test_skips_are_the_concatenations_of_a_forward_pass(
    tiny_config: dict[str, Any], changes: dict[str, Any]
) -> None:
    network = build({**tiny_config, **changes}).eval()
    skips = find_skips(network)
    assert _seen(skips) == _traced(network, torch.zeros(1, 1, 8, 8))
    assert [skip.index for skip in skips] == list(range(len(skips)))
    assert list(decoder_blocks(network)) == [skip.address for skip in skips]


@pytest.mark.parametrize(
    ("model_channels", "channel_mult", "num_blocks", "resolution", "count", "mixed"),
    [
        # The counts and places stated for the published EDM networks.
        (128, [2, 2, 2], 4, 32, 15, [14]),
        (128, [1, 2, 2, 2], 4, 64, 20, [14, 15]),
        (32, [1, 2, 3], 2, 32, 9, None),
    ],
)
def test_published_architectures_on_the_meta_device(
    tiny_config: dict[str, Any],
    model_channels: int,
    channel_mult: list[int],
    num_blocks: int,
    resolution: int,
    count: int,
    mixed: list[int] | None,
) -> None:
    with torch.device("meta"):
        network = build(
            {
                **tiny_config,
                "img_resolution": resolution,
                "model_channels": model_channels,
                "channel_mult": channel_mult,
                "num_blocks": num_blocks,
            }
        )
    skips = find_skips(network)
    assert len(skips) == count
    assert sum(skip.mixed for skip in skips) == (2 if mixed is None else len(mixed))
    if mixed is not None:
        assert [skip.index for skip in skips if skip.mixed] == mixed


def test_mixed_blocks_are_those_whose_normalisation_sees_the_scale(
    mixed_network: EDMPrecond, device: str
) -> None:
    skips = find_skips(mixed_network)
    assert {skip.mixed for skip in skips} == {True, False}
    generator = torch.Generator().manual_seed(1)
    for skip, block in zip(skips, decoder_blocks(mixed_network).values(), strict=True):
        norm: Any = block.norm0
        assert skip.groups == norm.num_groups
        shape = (2, skip.main_channels + skip.skip_channels, 8, 8)
        x = torch.randn(shape, generator=generator).to(device)
        scaled = x.clone()
        scaled[:, skip.main_channels :] *= 0.7
        change = float((norm(scaled) - norm(x)).abs().max())
        assert (change > 0.05) == skip.mixed
        assert (change < 1e-4) == (not skip.mixed)


def test_the_bare_unet_has_the_same_skips(tiny_network: EDMPrecond) -> None:
    assert find_skips(tiny_network.model) == find_skips(tiny_network)


@pytest.mark.parametrize("network", [nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 1))])
def test_other_networks_are_refused(network: nn.Module) -> None:
    with pytest.raises(NetworkError, match="EDM family") as caught:
        find_skips(network)
    assert caught.value.hint


def test_channels_that_do_not_add_up_are_refused(tiny_network: EDMPrecond) -> None:
    block: Any = tiny_network.model.dec["8x8_block0"]
    block.in_channels += 1
    with pytest.raises(NetworkError, match="8x8_block0"):
        find_skips(tiny_network)


def test_a_decoder_without_blocks_is_refused(tiny_network: EDMPrecond) -> None:
    tiny_network.model.dec = nn.ModuleDict()
    with pytest.raises(NetworkError, match="without such blocks"):
        find_skips(tiny_network)
