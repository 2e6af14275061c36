"""ADM's network: names and shapes of the published checkpoint, and its layers written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import NetworkError
from skiptune.sampling.networks import DhariwalUNet, build_denoiser
from skiptune.sampling.networks.dhariwal import ModulatedBlock
from skiptune.sampling.networks.embedding import PositionalEmbedding
from skiptune.sampling.skips import find_skips
from tests.sampling.test_networks import check_gradients, check_label_dropout, fill

IMAGENET: dict[str, Any] = {
    "precond": "edm",
    "sigma_data": 0.5,
    "img_resolution": 64,
    "img_channels": 3,
    "label_dim": 1000,
    "model_type": "DhariwalUNet",
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "use_fp16": True,
}


def small(**keys: Any) -> DhariwalUNet:
    """A network of the size of a test, with every kind of layer."""
    common: dict[str, Any] = {
        "img_resolution": 8,
        "in_channels": 3,
        "out_channels": 3,
        "label_dim": 4,
        "augment_dim": 5,
        "model_channels": 64,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    network = DhariwalUNet(**{**common, **keys}).eval()
    fill(network)
    return network


def test_the_published_network_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = build_denoiser(IMAGENET)
    # 295.9 million, as published.
    assert sum(p.numel() for p in network.parameters()) == 295_899_267
    skips = find_skips(network)
    assert [skip.address for skip in skips] == [
        f"{res}x{res}_block{index}" for res in (8, 16, 32, 64) for index in range(4)
    ]
    levels = (768, 576, 384, 192)
    main = [768] * 4 + [768] + [576] * 3 + [576] + [384] * 3 + [384] + [192] * 3
    skip = [
        made
        for width, below in zip(levels, (576, 384, 192, 192), strict=True)
        for made in (width, width, width, below)
    ]
    assert [s.main_channels for s in skips] == main
    assert [s.skip_channels for s in skips] == skip
    assert [s.index for s in skips if s.mixed] == [3, 4, 7, 8, 11, 12]


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        network = build_denoiser(IMAGENET)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {
        "model.map_label.weight": (768, 1000),
        "model.map_layer0.weight": (768, 192),
        "model.map_layer1.bias": (768,),
        "model.enc.64x64_conv.weight": (192, 3, 3, 3),
        "model.enc.64x64_block0.affine.weight": (384, 768),
        "model.enc.32x32_down.conv0.resample_filter": (1, 1, 2, 2),
        "model.enc.32x32_down.skip.resample_filter": (1, 1, 2, 2),
        "model.enc.32x32_block0.skip.weight": (384, 192, 1, 1),
        "model.enc.32x32_block0.qkv.weight": (1152, 384, 1, 1),
        "model.dec.8x8_in0.norm2.weight": (768,),
        "model.dec.8x8_block0.conv0.weight": (768, 1536, 3, 3),
        "model.dec.16x16_up.skip.resample_filter": (1, 1, 2, 2),
        "model.dec.64x64_block3.skip.weight": (192, 384, 1, 1),
        "model.out_norm.weight": (192,),
        "model.out_conv.bias": (3,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    absent = {
        "model.map_label.bias",
        "model.map_augment.weight",
        "model.enc.64x64_block0.skip.weight",
        "model.enc.64x64_block0.qkv.weight",
        "model.enc.32x32_down.skip.weight",
        "model.dec.8x8_in1.qkv.weight",
    }
    assert not absent & set(shapes)


def test_the_embedding_stops_before_its_lowest_frequency_and_begins_with_cosines() -> None:
    labels = [-1.5, 0.0, 2.25]
    embedding = PositionalEmbedding(16, endpoint=False, sines_first=False)
    for row, label in zip(embedding(torch.tensor(labels)).tolist(), labels, strict=True):
        angles = [label * 10_000 ** (-i / 8) for i in range(8)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("direction", ["none", "up", "down"])
def test_a_block_modulates_its_normalised_features(direction: Any) -> None:
    torch.manual_seed(0)
    block = ModulatedBlock(8, 8, 4, direction=direction).eval()
    fill(block)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 4)

    def resized(y: Tensor) -> Tensor:
        if direction == "up":
            return y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.avg_pool2d(y, 2) if direction == "down" else y

    def normalised(y: Tensor, norm: nn.GroupNorm) -> Tensor:
        groups = y.reshape(2, 2, -1)
        groups = groups - groups.mean(2, keepdim=True)
        groups = groups / (groups.square().mean(2, keepdim=True) + 1e-5).sqrt()
        return groups.reshape(y.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]

    conv0, conv1 = block.conv0, block.conv1
    y = F.silu(normalised(x, block.norm0))
    y = F.conv2d(resized(y), conv0.weight, conv0.bias, padding=1)
    affine = block.affine(emb)[:, :, None, None]
    y = F.silu(normalised(y, block.norm1) * (1 + affine[:, :8]) + affine[:, 8:])
    expected = F.conv2d(y, conv1.weight, conv1.bias, padding=1) + resized(x)
    torch.testing.assert_close(block(x, emb), expected, atol=1e-5, rtol=1e-5)
    assert ("skip.weight" in block.state_dict()) is False


def test_attention_has_heads_of_64_channels_with_interleaved_rows() -> None:
    torch.manual_seed(0)
    block = ModulatedBlock(128, 128, 4, attention=True).eval()
    fill(block)
    x, emb = torch.randn(2, 128, 2, 2), torch.randn(2, 4)
    bare = ModulatedBlock(128, 128, 4).eval()
    bare.load_state_dict(block.state_dict(), strict=False)
    y = bare(x, emb)
    rows = block.qkv(block.norm2(y)).double()
    expected = torch.zeros(2, 128, 4, dtype=torch.float64)
    for image in range(2):
        for head in range(2):
            mine = rows[image, 192 * head : 192 * (head + 1)]
            query, key, value = (mine[part::3].reshape(64, 4) for part in range(3))
            weights = torch.softmax(query.T @ key / math.sqrt(64), dim=1)
            expected[image, 64 * head : 64 * (head + 1)] = (weights @ value.T).T
    attended = block.proj(expected.float().reshape(2, 128, 2, 2))
    torch.testing.assert_close(block(x, emb), y + attended, atol=1e-5, rtol=1e-5)


def test_attention_is_where_the_resolutions_say_and_in_the_middle() -> None:
    with_attention = {
        name.removesuffix(".qkv.weight") for name in small().state_dict() if "qkv.weight" in name
    }
    assert with_attention == {
        "enc.4x4_block0",
        "dec.4x4_in0",
        "dec.4x4_block0",
        "dec.4x4_block1",
    }
    # Under 64 channels there are no heads.
    assert not any("qkv" in name for name in small(model_channels=16).state_dict())


def test_labels_and_augmentations_act_and_none_is_zero() -> None:
    network = small()
    x, noise = torch.randn(2, 3, 8, 8), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        none = network(x, noise)
        assert torch.equal(none, network(x, noise, torch.zeros(1, 4), torch.zeros(2, 5)))
        for given in ((torch.eye(4)[[3, 3]], None), (None, torch.ones(2, 5))):
            assert float((none - network(x, noise, *given)).abs().max()) > 1e-3


def test_label_dropout_acts_in_training_only() -> None:
    check_label_dropout(small(label_dropout=0.25))


def test_gradients_reach_every_weight() -> None:
    check_gradients(small())


def test_a_new_network_is_its_shortcuts() -> None:
    with torch.no_grad():
        made = DhariwalUNet(8, 3, 3, model_channels=64, channel_mult=[1, 2], num_blocks=1)(
            torch.randn(2, 3, 8, 8), torch.zeros(2)
        )
    assert not made.any()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"img_resolution": 60}, "60"),
        ({"encoder_type": "skip"}, "encoder_type"),
        ({"channel_mult": [1, 2, 3, 4.5]}, "values of a DhariwalUNet"),
        ({"model_type": "UNet"}, "model_type"),
        ({"model_channels": 190}, "values of a DhariwalUNet"),
        ({"model_channels": 2}, "values of a DhariwalUNet"),
    ],
)
def test_wrong_configurations_are_refused(change: dict[str, Any], found: str) -> None:
    with torch.device("meta"), pytest.raises(NetworkError, match=found) as caught:
        build_denoiser({**IMAGENET, **change})
    assert caught.value.hint
