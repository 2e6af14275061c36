"""What U-Nets have in common; `test_networks` and `test_dhariwal` drop labels in each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from skiptune.sampling.networks.dhariwal import DhariwalUNet
from skiptune.sampling.networks.edm2 import EDM2UNet
from skiptune.sampling.networks.song import SongUNet
from skiptune.sampling.networks.unet import ConditionedUNet, resolutions


def test_resolutions_are_halved_and_the_finest_comes_first() -> None:
    assert resolutions(64, 4) == [64, 32, 16, 8]
    assert resolutions(5, 1) == [5]
    for finest, count in ((20, 4), (5, 2)):
        with pytest.raises(ValueError, match=f"{finest} cannot be halved {count - 1} times"):
            resolutions(finest, count)


@pytest.mark.parametrize("made_by", [SongUNet, DhariwalUNet, EDM2UNet])
def test_networks_refuse_images_that_cannot_be_halved(made_by: Callable[..., Any]) -> None:
    ends = {"img_channels": 1} if made_by is EDM2UNet else {"in_channels": 1, "out_channels": 1}
    with torch.device("meta"), pytest.raises(ValueError, match="6 cannot be halved 2 times"):
        made_by(img_resolution=6, label_dim=0, channel_mult=[1, 1, 1], **ends)


def test_a_network_without_an_encoder_is_none() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ConditionedUNet(  # type: ignore[abstract]
            img_resolution=8,
            in_channels=1,
            out_channels=1,
            label_dim=0,
            augment_dim=0,
            label_dropout=0.0,
        )
