"""EDM2's network: published sizes, its layers written out, and the place of the skip."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import EDM2Precond, EDM2UNet, build_denoiser
from skiptune.sampling.networks.edm2 import (
    MagnitudeBlock,
    MagnitudeConv,
    MagnitudeFourier,
    concatenate,
    mix,
    normalise,
    silu,
)
from skiptune.sampling.skips import find_skips

IMAGENET: dict[str, Any] = {
    "precond": "edm2",
    "sigma_data": 0.5,
    "img_resolution": 64,
    "img_channels": 3,
    "label_dim": 1000,
    "use_fp16": True,
    "logvar_channels": 128,
    "model_type": "UNet",
}
SMALL: dict[str, Any] = {
    **IMAGENET,
    "img_resolution": 8,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 16,
}


def small(**keys: Any) -> EDM2Precond:
    """A network of the size of a test in which every path matters."""
    torch.manual_seed(0)
    network = build_denoiser({**SMALL, **keys}).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    assert isinstance(network, EDM2Precond)
    return network


@pytest.mark.parametrize(
    ("size", "model_channels", "millions"),
    # Karras et al. 2024 (arXiv 2312.02696), table 2 and figure 1.
    [
        ("XS", 128, 125),
        ("S", 192, 280),
        ("M", 256, 498),
        ("L", 320, 777),
        ("XL", 384, 1119),
        ("XXL", 448, 1523),
    ],
)
def test_published_sizes(size: str, model_channels: int, millions: int) -> None:
    with torch.device("meta"):
        network = build_denoiser({**IMAGENET, "model_channels": model_channels})
    count = sum(p.numel() for p in network.parameters())
    assert round(count / 1e6) == millions
    skips = find_skips(network)
    assert [skip.address for skip in skips] == [
        f"{res}x{res}_block{index}" for res in (8, 16, 32, 64) for index in range(4)
    ]
    assert all(skip.mixed and skip.groups == 0 for skip in skips)
    multiples = [skip.skip_channels // model_channels for skip in skips]
    assert multiples == [4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_names_and_shapes_are_those_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        network = build_denoiser(IMAGENET)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {
        "unet.out_gain": (),
        "unet.emb_fourier.freqs": (192,),
        "unet.emb_fourier.phases": (192,),
        "unet.emb_noise.weight": (768, 192),
        "unet.emb_label.weight": (768, 1000),
        "unet.enc.64x64_conv.weight": (192, 4, 3, 3),
        "unet.enc.32x32_block0.conv_skip.weight": (384, 192, 1, 1),
        "unet.enc.32x32_block0.conv_res0.weight": (384, 384, 3, 3),
        "unet.enc.16x16_block0.attn_qkv.weight": (1728, 576, 1, 1),
        "unet.dec.8x8_in0.attn_proj.weight": (768, 768, 1, 1),
        "unet.dec.8x8_block0.conv_res0.weight": (768, 1536, 3, 3),
        "unet.dec.8x8_block0.emb_gain": (),
        "unet.dec.64x64_block3.emb_linear.weight": (192, 768),
        "unet.out_conv.weight": (3, 192, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert not [name for name in shapes if "bias" in name or "resample" in name]
    assert "unet.enc.32x32_block0.attn_qkv.weight" not in shapes
    assert "unet.dec.16x16_up.conv_skip.weight" not in shapes


def test_operations_keep_the_magnitude() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4, c, 64, 64, generator=generator, dtype=torch.float64) for c in (8, 24))
    assert float(normalise(7 * a, [1]).square().mean()) == pytest.approx(1, abs=1e-3)
    assert float(silu(a).square().mean()) == pytest.approx(1, abs=0.02)
    for share in (0.1, 0.3, 0.5):
        assert float(mix(a, b[:, :8], share).square().mean()) == pytest.approx(1, abs=0.02)
        both = concatenate(a, b, share)
        assert float(both.square().mean()) == pytest.approx(1, abs=0.02)
        parts = [float(part.square().sum()) ** 0.5 for part in both.split([8, 24], dim=1)]
        assert parts[1] / parts[0] == pytest.approx(share / (1 - share), rel=0.02)
    conv = MagnitudeConv(32, 64, 3).double()
    x = torch.randn(2, 32, 64, 64, generator=generator, dtype=torch.float64)
    assert float(conv(x).square().mean().detach()) == pytest.approx(1, abs=0.05)
    embedded = MagnitudeFourier(4096)(torch.tensor([-0.7, 0.2]))
    assert float(embedded.square().mean()) == pytest.approx(1, abs=0.05)


def test_fourier_features_closed_form() -> None:
    embedding = MagnitudeFourier(3)
    embedding.freqs, embedding.phases = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([0.0, 1, 2])
    expected = [math.sqrt(2) * math.cos(f * 0.3 + p) for f, p in ((1, 0), (-2, 1), (5, 2))]
    assert embedding(torch.tensor([0.3]))[0].tolist() == pytest.approx(expected, abs=1e-6)


def _convolved(x: Tensor, layer: Any) -> Tensor:
    rows = layer.weight.double().flatten(1)
    # Each row has length 1: the root mean square of its n entries divided out, then sqrt(n).
    count = rows.shape[1]
    rms = rows.square().mean(1, keepdim=True).sqrt() + 1e-4
    weight = (rows / rms / math.sqrt(count)).reshape(layer.weight.shape)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("encoder", [True, False])
def test_a_block_written_out(encoder: bool) -> None:
    torch.manual_seed(0)
    block: Any = MagnitudeBlock(12, 8, 4, encoder=encoder, attention=True, channels_per_head=4)
    with torch.no_grad():
        block.emb_gain.fill_(0.6)
    x, emb = torch.randn(2, 12, 3, 3), torch.randn(2, 4)
    with torch.no_grad():
        found = block(x, emb)
        main = _convolved(x.double(), block.conv_skip)
        inner = x.double()
        if encoder:
            main = inner = main / (main.square().mean(1, keepdim=True).sqrt() + 1e-4)
        linear = _as_conv(block.emb_linear.weight)
        factor = 1 + 0.6 * _convolved(emb.double()[:, :, None, None], linear)
        y = _convolved(F.silu(inner) / 0.596, block.conv_res0) * factor
        y = _convolved(F.silu(y) / 0.596, block.conv_res1)
        y = (0.7 * main + 0.3 * y) / math.sqrt(0.58)
        rows = _convolved(y, block.attn_qkv)
        mixed = torch.zeros(2, 8, 9, dtype=torch.float64)
        for image in range(2):
            for head in range(2):
                mine = rows[image, 12 * head : 12 * (head + 1)].reshape(12, 9)
                parts = [mine[part::3] for part in range(3)]
                parts = [p / (p.square().mean(0, keepdim=True).sqrt() + 1e-4) for p in parts]
                weights = torch.softmax(parts[0].T @ parts[1] / math.sqrt(4), dim=1)
                mixed[image, 4 * head : 4 * (head + 1)] = (weights @ parts[2].T).T
        attended = _convolved(mixed.reshape(2, 8, 3, 3), block.attn_proj)
        expected = (0.7 * y + 0.3 * attended) / math.sqrt(0.58)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def _as_conv(weight: Tensor) -> Any:
    conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
    return conv


def test_activations_are_clipped() -> None:
    block = MagnitudeBlock(4, 4, 4, encoder=False, clip_act=0.5)
    found = block(100 * torch.randn(2, 4, 3, 3), torch.zeros(2, 4))
    assert float(found.detach().abs().max()) == 0.5


def test_the_size_of_stored_weights_does_not_matter() -> None:
    network = small()
    x, labels = torch.randn(2, 3, 8, 8), torch.eye(3)[:2]
    with torch.no_grad():
        before = network(x, 1.0, labels)
        for name, parameter in network.named_parameters():
            if not name.endswith("gain"):
                parameter.mul_(3)
        torch.testing.assert_close(network(x, 1.0, labels), before, atol=5e-3, rtol=5e-3)


def test_labels_act_and_none_is_the_zero_label() -> None:
    network = small()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        none = network(x, 1.0)
        assert torch.equal(none, network(x, 1.0, torch.zeros(2, 3)))
        labelled = network(x, 1.0, torch.eye(3)[[1, 1]])
        assert float((none - labelled).abs().max()) > 1e-3
        assert small(label_dim=0)(x, 1.0).shape == x.shape


def test_half_precision_files_with_an_uncertainty_head_load(tmp_path: Path) -> None:
    network = small()
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    head = {
        "logvar_fourier.freqs": torch.zeros(128).half(),
        "logvar_fourier.phases": torch.zeros(128).half(),
        "logvar_linear.weight": torch.zeros(1, 128).half(),
    }
    path = tmp_path / "edm2.safetensors"
    save_file({**tensors, **head}, path, metadata={"skiptune.network": json.dumps(SMALL)})
    loaded = load_checkpoint(path)
    assert {tensor.dtype for tensor in loaded.network.state_dict().values()} == {torch.float32}
    assert set(loaded.network.state_dict()) == set(tensors)
    assert len(loaded.skips) == 4
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, 1.0), network(x, 1.0), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"img_resolution": 60}, "60"),
        ({"model_type": "SongUNet"}, "model_type"),
        ({"augment_dim": 9}, "augment_dim"),
        ({"sigma_data": None}, "no sigma_data"),
        ({"model_channels": 100, "channels_per_head": 30}, "heads"),
    ],
)
def test_wrong_configurations_are_refused(change: dict[str, Any], found: str) -> None:
    config = {key: value for key, value in {**IMAGENET, **change}.items() if value is not None}
    with torch.device("meta"), pytest.raises(NetworkError, match=found) as caught:
        build_denoiser(config)
    assert caught.value.hint


def test_the_bare_network_runs() -> None:
    network = EDM2UNet(8, 1, 0, model_channels=8, channel_mult=[1, 1], num_blocks=1)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)
