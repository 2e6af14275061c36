"""The networks: names and shapes of published checkpoints, formulas, hook point, round trips."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skiptune.errors import NetworkError
from skiptune.sampling.networks import EDMPrecond, SongUNet, build, precond
from skiptune.sampling.networks.block import ResidualBlock
from skiptune.sampling.networks.embedding import FourierEmbedding, PositionalEmbedding
from skiptune.sampling.networks.unet import ConditionedUNet

# The bundled network.
FASHION: dict[str, Any] = {
    "precond": "edm",
    "img_resolution": 32,
    "img_channels": 1,
    "label_dim": 10,
    "model_channels": 16,
    "channel_mult": [1, 1, 2, 8],
    "num_blocks": 2,
    "attn_resolutions": [],
    "label_dropout": 0.1,
}
DDPMPP: dict[str, Any] = {}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SKIP: dict[str, Any] = {
    "encoder_type": "skip",
    "decoder_type": "skip",
    "resample_filter": [1, 3, 3, 1],
}


def small(**keys: Any) -> SongUNet:
    """A network of the size of a test, with every kind of layer."""
    common: dict[str, Any] = {
        "img_resolution": 16,
        "in_channels": 3,
        "out_channels": 3,
        "label_dim": 4,
        "augment_dim": 5,
        "model_channels": 32,
        "channel_mult": [1, 2, 3],
        "num_blocks": 2,
        "attn_resolutions": [8],
    }
    return SongUNet(**{**common, **keys}).eval()


def fill(module: nn.Module) -> None:
    """Give every weight a value that depends on its name's place and its index only."""
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    tensors |= {name: b for name, b in module.named_buffers() if name.endswith("freqs")}
    for place, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        ramp = torch.arange(tensor.numel(), dtype=torch.float64) * 0.6180339887498949
        values = 2 * ((ramp + place * 0.4142135623730951) % 1.0) - 1
        if tensor.ndim > 1:
            values = values * math.sqrt(3 / tensor[0].numel())
        else:
            values = 0.3 * values
            if "norm" in name and name.endswith("weight"):
                values = 1 + values
        with torch.no_grad():
            tensor.copy_(values.reshape(tensor.shape))


@pytest.mark.parametrize(
    ("keys", "parameters", "skips"),
    [
        # Counted from the shapes that the published models have: 55.7, 56.4 and 61.8 million.
        ({"img_resolution": 32, "label_dim": 10, "channel_mult": [2, 2, 2]}, 55_735_299, 15),
        ({"img_resolution": 32, "channel_mult": [2, 2, 2]}, 55_733_891, 15),
        ({"img_resolution": 32, "channel_mult": [2, 2, 2], **NCSNPP}, 56_397_827, 15),
        ({"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}, 61_805_571, 20),
    ],
)
def test_published_sizes(keys: dict[str, Any], parameters: int, skips: int) -> None:
    with torch.device("meta"):
        network = SongUNet(in_channels=3, out_channels=3, augment_dim=9, **keys)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum("_block" in name for name in network.dec) == skips


def test_names_and_shapes_are_those_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        network = SongUNet(
            32, 3, 3, label_dim=10, augment_dim=9, channel_mult=[2, 2, 2], resample_filter=[1, 1]
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {
        "map_label.weight": (128, 10),
        "map_label.bias": (128,),
        "map_augment.weight": (128, 9),
        "map_layer0.weight": (512, 128),
        "map_layer1.weight": (512, 512),
        "enc.32x32_conv.weight": (128, 3, 3, 3),
        "enc.32x32_block0.norm0.weight": (128,),
        "enc.32x32_block0.conv0.weight": (256, 128, 3, 3),
        "enc.32x32_block0.affine.weight": (256, 512),
        "enc.32x32_block0.norm1.bias": (256,),
        "enc.32x32_block0.conv1.weight": (256, 256, 3, 3),
        "enc.32x32_block0.skip.weight": (256, 128, 1, 1),
        "enc.16x16_down.conv0.resample_filter": (1, 1, 2, 2),
        "enc.16x16_down.skip.resample_filter": (1, 1, 2, 2),
        "enc.16x16_block3.norm2.weight": (256,),
        "enc.16x16_block3.qkv.weight": (768, 256, 1, 1),
        "enc.16x16_block3.proj.bias": (256,),
        "dec.8x8_in0.qkv.weight": (768, 256, 1, 1),
        "dec.8x8_in1.conv0.weight": (256, 256, 3, 3),
        "dec.8x8_block0.conv0.weight": (256, 512, 3, 3),
        "dec.16x16_up.skip.weight": (256, 256, 1, 1),
        "dec.16x16_block4.qkv.weight": (768, 256, 1, 1),
        "dec.32x32_block4.conv0.weight": (256, 384, 3, 3),
        "dec.32x32_aux_norm.weight": (256,),
        "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    absent = {
        "map_augment.bias",
        "map_noise.freqs",
        "enc.32x32_conv.resample_filter",
        "enc.32x32_block1.skip.weight",
        "enc.32x32_block0.qkv.weight",
        "dec.8x8_in1.qkv.weight",
        "dec.16x16_block0.qkv.weight",
        "dec.16x16_aux_norm.weight",
    }
    assert not absent & set(shapes)


def test_names_of_the_other_encoders_and_decoders() -> None:
    residual = set(small(**NCSNPP).state_dict())
    layer = "enc.8x8_aux_residual"
    assert {f"{layer}.weight", f"{layer}.bias", f"{layer}.resample_filter"} <= residual
    assert "map_noise.freqs" in residual
    skip = set(small(**SKIP).state_dict())
    assert {"enc.4x4_aux_down.resample_filter", "enc.4x4_aux_skip.weight"} <= skip
    assert {"dec.8x8_aux_up.resample_filter", "dec.4x4_aux_conv.weight"} <= skip
    assert not {"enc.4x4_aux_down.weight", "dec.4x4_aux_up.resample_filter"} & skip


def test_positional_embedding_closed_form() -> None:
    labels = [-1.5, 0.0, 2.25]
    found = PositionalEmbedding(16)(torch.tensor(labels))
    for row, label in zip(found.tolist(), labels, strict=True):
        angles = [label * 10_000 ** (-i / 7) for i in range(8)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-6)


def test_fourier_embedding_closed_form() -> None:
    embedding = FourierEmbedding(6)
    embedding.freqs = torch.tensor([0.25, -1.0, 3.5])
    found = embedding(torch.tensor([0.3]))[0].tolist()
    angles = [2 * math.pi * f * 0.3 for f in (0.25, -1.0, 3.5)]
    assert found == pytest.approx([f(a) for f in (math.sin, math.cos) for a in angles], abs=1e-6)


def test_attention_is_softmax_over_pixels_with_interleaved_rows() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 4, attention=True).eval()
    fill(block)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 4)
    bare = ResidualBlock(8, 8, 4).eval()
    bare.load_state_dict(block.state_dict(), strict=False)
    y = bare(x, emb)
    rows = block.qkv(block.norm2(y)).double()
    expected = torch.zeros(2, 8, 16, dtype=torch.float64)
    for image in range(2):
        query, key, value = (rows[image, part::3].reshape(8, 16) for part in range(3))
        weights = torch.softmax(query.T @ key / math.sqrt(8), dim=1)
        expected[image] = (weights @ value.T).T
    attended = block.proj(expected.float().reshape(2, 8, 4, 4))
    torch.testing.assert_close(block(x, emb), (y + attended) * math.sqrt(0.5))


@pytest.mark.parametrize("keys", [DDPMPP, NCSNPP, SKIP], ids=["ddpmpp", "ncsnpp", "skip"])
def test_a_decoder_block_receives_main_path_and_skip_as_argument_0(keys: dict[str, Any]) -> None:
    network = small(**keys)
    fill(network)
    main: list[Tensor] = []
    received: dict[str, Tensor] = {}
    for module in network.dec.values():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda _module, _args, out: main.append(out))
    for name, module in network.dec.items():
        if "_block" in name:
            module.register_forward_pre_hook(
                lambda _module, args, name=name: received.update({name: args[0]})
            )
    x, noise = torch.randn(2, 3, 16, 16), torch.zeros(2)
    with torch.no_grad():
        emb = network._condition(noise, None, None)
        _, skips = network._encode(x, emb)
        network(x, noise)
    assert list(received) == [name for name in network.dec if "_block" in name]
    assert len(received) == len(skips)
    before = {
        name: main[place - 1]
        for place, name in enumerate(
            n for n, m in network.dec.items() if isinstance(m, ResidualBlock)
        )
        if "_block" in name
    }
    for name, skip in zip(received, reversed(skips), strict=True):
        block = network.dec[name]
        assert isinstance(block, ResidualBlock)
        both = received[name]
        assert both.shape[1] == block.in_channels
        torch.testing.assert_close(both[:, -skip.shape[1] :], skip, rtol=0, atol=0)
        torch.testing.assert_close(both[:, : -skip.shape[1]], before[name], rtol=0, atol=0)


def cuts(network: EDMPrecond) -> dict[str, tuple[int, int, int]]:
    """Main channels, skip channels and norm groups of each decoder block that takes a skip."""
    found, main = {}, 0
    for name, module in network.model.dec.items():
        if isinstance(module, ResidualBlock):
            if "_block" in name:
                groups = module.norm0.num_groups
                found[name] = (main, module.in_channels - main, groups)
            main = module.out_channels
    return found


def test_fashion_fits_the_bounds_it_was_chosen_for() -> None:
    network = build({**FASHION, "sigma_data": 0.66})
    assert 2e6 <= sum(p.numel() for p in network.parameters()) <= 4e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 32, 32), 1.0)
    assert counter.get_total_flops() <= 2 * 0.5e9
    found = cuts(network)
    assert len(found) == 12
    mixed = {
        name
        for name, (main, skip, groups) in found.items()
        if main % ((main + skip) // groups) != 0
    }
    assert mixed == {"4x4_block2", "8x8_block0"}


@settings(max_examples=50, deadline=None)
@given(sigma=st.floats(0.002, 80.0), sigma_data=st.floats(0.1, 2.0))
def test_preconditioning_gives_unit_variance_on_both_sides(
    sigma: float, sigma_data: float
) -> None:
    seen: dict[str, Tensor] = {}

    class Probe(SongUNet):
        def forward(
            self,
            x: Tensor,
            noise_labels: Tensor,
            class_labels: Tensor | None = None,
            augment_labels: Tensor | None = None,
        ) -> Tensor:
            seen.update(x=x, noise=noise_labels)
            return torch.full_like(x, seen["output"].item())

    with torch.device("meta"):
        probe = Probe(8, 1, 1, model_channels=8, channel_mult=[1, 1], num_blocks=1)
    network = EDMPrecond(probe, sigma_data=sigma_data)
    ones = torch.ones(1, 1, 8, 8)
    seen["output"] = torch.tensor(0.0)
    c_skip = float(network(ones, sigma)[0, 0, 0, 0])
    c_in = float(seen["x"][0, 0, 0, 0])
    c_noise = float(seen["noise"])
    seen["output"] = torch.tensor(1.0)
    c_out = float(network(ones, torch.tensor(sigma))[0, 0, 0, 0]) - c_skip
    # Input: variance of (image + noise) times c_in^2. Target (image - c_skip (image + noise)) /
    # c_out: variance 1, with the smallest c_out that allows it (Karras et al. 2022, appendix B.6).
    assert c_in**2 * (sigma_data**2 + sigma**2) == pytest.approx(1, rel=1e-5)
    target = (1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2
    assert target == pytest.approx(c_out**2, rel=1e-3)
    assert c_skip == pytest.approx(sigma_data**2 / (sigma_data**2 + sigma**2), rel=1e-5)
    assert c_noise == pytest.approx(math.log(sigma) / 4, abs=1e-6)


def test_denoiser_limits_and_shapes() -> None:
    network = build({**FASHION, "sigma_data": 0.66}).eval()
    fill(network)
    x = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        clean = network(x, 1e-6)
        each = network(x, torch.tensor([0.5, 2.0, 9.0]))
        alone = network(x[1:2], 2.0)
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean, x.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(each[1:2], alone, atol=1e-5, rtol=1e-5)
    assert float(network.round_sigma(0.3)) == pytest.approx(0.3)
    assert (network.img_resolution, network.img_channels, network.label_dim) == (32, 1, 10)


def test_labels_act_and_none_is_the_zero_label() -> None:
    network = build({**FASHION, "sigma_data": 0.66}).eval()
    fill(network)
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        none = network(x, 1.0)
        zero = network(x, 1.0, torch.zeros(2, 10))
        given_label = network(x, 1.0, torch.eye(10)[[3, 3]])
    assert torch.equal(none, zero)
    assert float((none - given_label).abs().max()) > 1e-3


def check_label_dropout(network: ConditionedUNet) -> None:
    """In training, and only then, a quarter of the labels are dropped; `network` has 4 classes."""
    labels = torch.eye(4)[torch.zeros(4000, dtype=torch.int64)]
    noise = torch.zeros(4000)
    kept = network._condition(noise, labels, None)
    dropped = network._condition(noise, None, None)
    assert torch.equal(kept[0], kept[-1])
    torch.manual_seed(0)
    mixed = network.train()._condition(noise, labels, None)
    is_dropped = (mixed - dropped).abs().amax(1) < 1e-5
    is_kept = (mixed - kept).abs().amax(1) < 1e-5
    assert bool((is_dropped ^ is_kept).all())
    # Four standard errors of a share of 0.25 among 4000.
    assert float(is_dropped.float().mean()) == pytest.approx(0.25, abs=4 * 0.00685)


def check_gradients(network: ConditionedUNet) -> None:
    """Every weight has a gradient in training; `network` has 4 classes and 5 augmentations."""
    size = network.img_resolution
    labels, augment = torch.eye(4)[[1, 2]], torch.randn(2, 5)
    made = network.train()(torch.randn(2, 3, size, size), torch.zeros(2), labels, augment)
    made.square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_label_dropout_acts_in_training_only() -> None:
    network = small(label_dropout=0.25, dropout=0.0)
    fill(network)
    check_label_dropout(network)


def test_gradients_reach_every_weight() -> None:
    network = small(**NCSNPP)
    fill(network)
    check_gradients(network)


def test_memory_layout_does_not_matter() -> None:
    network = small()
    fill(network)
    x, noise = torch.randn(2, 3, 16, 16), torch.zeros(2)
    with torch.no_grad():
        plain = network(x, noise)
        network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(x, noise), plain, atol=1e-5, rtol=1e-5)


def test_weights_survive_a_file(tmp_path: Path) -> None:
    config = {**FASHION, "sigma_data": 0.66}
    network = build(config).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    with torch.device("meta"):
        again = build(config).eval()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True, assign=True)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x, 0.5), again(x, 0.5))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"channels": 3}, "channels"),
        ({"precond": "ddim"}, "ddim"),
        ({"img_resolution": 30}, "30"),
        ({"encoder_type": "dense"}, "dense"),
        ({"model_channels": 24}, "divisible"),
        ({"sigma_data": None}, "sigma_data"),
    ],
)
def test_wrong_configurations_are_refused(change: dict[str, Any], found: str) -> None:
    config = {**FASHION, "sigma_data": 0.66, "channel_mult": [1, 2, 3, 5], **change}
    config = {key: value for key, value in config.items() if value is not None}
    with pytest.raises(NetworkError, match=found) as caught:
        build(config)
    assert caught.value.hint


def test_the_bundled_weights_are_those_of_this_network() -> None:
    path = Path(precond.__file__).parents[1] / "assets" / "fashion.safetensors"
    assert path.stat().st_size <= 10e6
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["skiptune.network"])
        weights = {name: file.get_tensor(name) for name in file.keys()}
    assert {key: config[key] for key in FASHION} == FASHION
    network = build(config).eval()
    network.load_state_dict(weights, strict=True)
    # A trained denoiser keeps a clean black frame around a noisy grey square.
    clean = torch.full((4, 1, 32, 32), -1.0)
    clean[:, :, 8:24, 8:24] = 0.3
    generator = torch.Generator().manual_seed(0)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    with torch.no_grad():
        found = network(noisy, 0.3)
    assert float((found - clean).square().mean()) < 0.25 * float((noisy - clean).square().mean())
