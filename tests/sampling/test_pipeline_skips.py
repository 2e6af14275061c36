"""Skips of diffusers' U-Nets: those of published networks by size, and hooks against by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import apply, check_effect, scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.levels import rounded
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.norms import norm_ratios
from skiptune.sampling.pipelines import build_unet
from skiptune.sampling.schedule import PARTS, Schedule, Term
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import decoder_blocks, find_skips
from tests.pipelines import random_unet
from tests.sampling.families import hooks_of
from tests.sampling.hand_decoders import call, put_up_blocks

DDPM_CIFAR10: dict[str, Any] = {
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SD15: dict[str, Any] = {"cross_attention_dim": 768, "sample_size": 64}
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


@pytest.mark.parametrize(
    ("kind", "config", "parameters", "left", "resolutions", "mixed"),
    [
        (
            "UNet2DModel",
            DDPM_CIFAR10,
            35_746_307,
            [128] * 4 + [256] * 8,
            [4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32],
            {8, 9},
        ),
        (
            "UNet2DConditionModel",
            SD15,
            859_520_964,
            [320] * 4 + [640] * 3 + [1280] * 5,
            [8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64],
            {5, 6, 8, 9},
        ),
        (
            "UNet2DConditionModel",
            SDXL,
            2_567_463_684,
            [320] * 4 + [640] * 3 + [1280] * 2,
            [32, 32, 32, 64, 64, 64, 128, 128, 128],
            {2, 3, 5, 6},
        ),
    ],
    ids=["ddpm-cifar10-32", "sd15", "sdxl"],
)
def test_skips_of_published_networks(
    kind: str,
    config: dict[str, Any],
    parameters: int,
    left: list[int],
    resolutions: list[int],
    mixed: set[int],
) -> None:
    unet = build_unet(kind, config, where="config.json")
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    skips = find_skips(unet)
    # What the encoder leaves, taken from the end.
    assert [skip.skip_channels for skip in skips] == left[::-1]
    assert [skip.resolution for skip in skips] == resolutions
    assert {skip.index for skip in skips if skip.mixed} == mixed
    blocks: Any = decoder_blocks(unet).values()
    for skip, block in zip(skips, blocks, strict=True):
        weight = block.conv1.weight
        assert weight.shape[1] == skip.main_channels + skip.skip_channels
    assert skips[0].address == "up_blocks.0.resnets.0"
    assert skips[-1].address == f"up_blocks.{len(left) // 3 - 1}.resnets.2"


def written_out(denoiser: Any, scale: Any) -> Any:
    """Copy a denoiser, with every concatenation of its decoder written out and scaled by hand."""
    twin = copy.deepcopy(denoiser)
    put_up_blocks(twin.unet, scale, call)
    return twin


def made(name: str) -> PipelineDenoiser:
    """A denoiser of 4 skips, the last but one of a group that holds both paths."""
    config = {"_class_name": "DDIMScheduler", "clip_sample": False}
    scheduler = read_scheduler(config, where="test")
    # 32 and 16 channels in groups of 12: one holds channels of both.
    sizes: dict[str, Any] = {"norm_num_groups": 4}
    if name == "text":
        unet = random_unet("UNet2DConditionModel", in_channels=1, out_channels=1, **sizes)
        states = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))
        return PipelineDenoiser(unet, scheduler, conditions=Conditions(states)).eval()
    classes: dict[str, Any] = {"num_class_embeds": 3} if name == "classes" else {}
    return PipelineDenoiser(random_unet(**classes, **sizes), scheduler).eval()


@pytest.mark.parametrize("name", ["plain", "classes", "text"])
class TestHooks:
    @pytest.fixture(autouse=True)
    def made(self, name: str, device: str) -> Iterator[None]:
        self.network = made(name).to(device)
        self.device = device
        generator = torch.Generator().manual_seed(5)
        self.x = (2 * torch.randn(3, 1, 8, 8, generator=generator)).to(device)
        self.labels = None if name == "plain" else torch.eye(3, device=device)
        self.names = [skip.address for skip in find_skips(self.network)]
        scales = (0.7, 1.3, 0.4, 1.1)
        self.schedule = Schedule.uniform(dict(zip(self.names, scales, strict=True)))
        with torch.inference_mode():
            yield

    def run(self, network: nn.Module, sigma: float = 1.0) -> Tensor:
        level = torch.tensor(sigma, dtype=torch.float64, device=self.device)
        return network(self.x, level, self.labels)  # type: ignore[no-any-return]

    def test_addresses_and_mixed_groups(self) -> None:
        skips = find_skips(self.network)
        assert self.names == [f"up_blocks.{b}.resnets.{r}" for b in (0, 1) for r in (0, 1)]
        assert [skip.resolution for skip in skips] == [4, 4, 8, 8]
        for skip, block in zip(skips, decoder_blocks(self.network).values(), strict=True):
            norm: Any = block.norm1
            x = torch.randn(2, skip.main_channels + skip.skip_channels, 8, 8).to(self.device)
            other = x.clone()
            other[:, skip.main_channels :] *= 0.7
            assert (float((norm(other) - norm(x)).abs().max()) > 0.01) == skip.mixed
        assert {skip.mixed for skip in skips} == {True, False}

    def test_hooks_equal_a_hand_edited_forward_bit_for_bit(self) -> None:
        before = self.run(self.network)
        assert torch.equal(self.run(written_out(self.network, lambda name: 1.0)), before)
        for sigma in (0.02, 1.0, 60.0):
            by_hand = written_out(self.network, lambda n, s=sigma: self.schedule.scale(n, s))
            with scaled(self.network, self.schedule):
                found = self.run(self.network, sigma)
            assert torch.equal(found, self.run(by_hand, sigma))
            assert not torch.equal(found, self.run(self.network, sigma))
        assert hooks_of(self.network) == []
        assert torch.equal(self.run(self.network), before)

    def test_each_skip_matters_alone_and_per_image(self) -> None:
        before = self.run(self.network)
        rows = []
        for name in self.names:
            with scaled(self.network, Schedule.uniform({name: 0.5})):
                rows.append(self.run(self.network))
            assert float((rows[-1] - before).abs().max()) > 1e-4
        assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
        tensors = {
            name: torch.tensor(row, device=self.device)
            for name, row in zip(self.names, [[0.5, 1.0, 1.5], [1.2, 0.3, 0.9]], strict=False)
        }
        by_hand = written_out(self.network, lambda name: tensors.get(name, 1.0))
        with scaled(self.network, tensors):
            assert torch.equal(self.run(self.network), self.run(by_hand))

    @pytest.mark.parametrize("part", PARTS[1:])
    def test_parts_scale_their_convolution_alone(self, part: str) -> None:
        before, name = self.run(self.network), self.names[1]
        (skip,) = (skip for skip in find_skips(self.network) if skip.address == name)
        twin = copy.deepcopy(self.network)
        block: Any = decoder_blocks(twin)[name]
        conv = block.conv1 if part == "residual" else block.conv_shortcut
        if part == "whole-shortcut":
            conv.weight.mul_(0.6)
            conv.bias.mul_(0.6)
        else:
            conv.weight[:, skip.main_channels :].mul_(0.6)
        with scaled(self.network, Schedule.uniform({name: 0.6}, part=part)):
            found = self.run(self.network)
        torch.testing.assert_close(found, self.run(twin), atol=2e-5, rtol=1e-4)
        assert float((found - before).abs().max()) > 1e-4

    def test_windows_and_gradients(self) -> None:
        schedule = Schedule.uniform(dict.fromkeys(self.names, 0.6), low=0.5, high=2.0)
        by_hand = written_out(self.network, lambda name: 0.6)
        with scaled(self.network, schedule):
            assert torch.equal(self.run(self.network, 1.0), self.run(by_hand, 1.0))
            outside = self.run(self.network, 2.0)
        assert torch.equal(outside, self.run(self.network, 2.0))
        with torch.inference_mode(False), torch.enable_grad():
            factor = torch.tensor(0.8, device=self.device, requires_grad=True)
            network, x = copy.deepcopy(self.network), self.x.clone()
            level = torch.tensor(1.0, device=self.device)
            labels = None if self.labels is None else self.labels.clone()

            def loss(value: Tensor) -> Tensor:
                with scaled(network, {self.names[2]: value}):
                    out: Tensor = network(x, level, labels)
                return out.double().square().sum()

            (slope,) = torch.autograd.grad(loss(factor), factor)
            step = 1e-2
            with torch.no_grad():
                rise = loss(factor + step) - loss(factor - step)
        assert float(slope) == pytest.approx(float(rise) / (2 * step), rel=1e-2)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays(self, dtype: torch.dtype) -> None:
        before, seen = self.run(self.network), []
        levels = self.network.trained.clone()
        self.network.to(dtype)
        assert torch.equal(self.network.trained, levels)
        with scaled(self.network, self.schedule):
            for block in decoder_blocks(self.network).values():
                block.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
            found = self.run(self.network)
        assert seen == [dtype] * 4
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
        assert not torch.equal(found, before)

    def test_copies_pickles_and_compiled_ones(self) -> None:
        before = self.run(self.network)
        apply(self.network, self.schedule).remove()
        assert torch.equal(self.run(copy.deepcopy(self.network)), before)
        arguments: dict[str, Any] = {"x": self.x, "sigma": 1.0, "class_labels": self.labels}
        assert check_effect(self.network, self.schedule, **arguments) > 0
        with torch.inference_mode(False):
            # Bytes that this test has made itself.
            again = pickle.loads(pickle.dumps(self.network))
            assert torch.equal(self.run(again), before)
            compiled: Any = torch.compile(self.network, backend="eager")
            with pytest.raises(NetworkError, match="compiled"):
                apply(compiled, self.schedule)

    def test_norms_are_measured_at_the_concatenation(self) -> None:
        seen: list[float] = []

        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            main, skip = args[0].split([32, 16], dim=1)
            ratio = skip.flatten(1).norm(dim=1) / main.flatten(1).norm(dim=1)
            seen.append(float(ratio.mean()))

        block = decoder_blocks(self.network)["up_blocks.0.resnets.1"]
        block.register_forward_pre_hook(look)
        setting = Setting(solver="euler", steps=2, sigma_min=0.02)
        found = norm_ratios(self.network, setting, [0, 1])
        assert found.addresses == tuple(self.names)
        assert found.ratios[1] == pytest.approx(seen, rel=1e-5)


def test_guidance_is_scaled_in_the_branch_asked_for() -> None:
    network = made("text")
    names = [skip.address for skip in find_skips(network)]
    levels = rounded(network, (4.0, 1.0))
    setting = Setting(solver="euler", steps=2, sigmas=levels, guidance=2.0)
    plain = sample_float(network, setting, range(3))
    rows = {}
    for branches in ("both", "cond", "uncond"):
        schedule = Schedule.uniform(dict.fromkeys(names, 0.6), branches=branches)
        with scaled(network, schedule):
            rows[branches] = sample_float(network, setting, range(3))
    by_hand = written_out(network, lambda name: 0.6)

    class Halves(nn.Module):
        img_channels, img_resolution, label_dim = 1, 8, 3

        def __init__(self, cond: nn.Module, uncond: nn.Module) -> None:
            super().__init__()
            self.cond, self.uncond = cond, uncond
            self.start_std = network.start_std

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            half = self.uncond if class_labels is None else self.cond
            return half(x, sigma, class_labels)  # type: ignore[no-any-return]

    for branches, halves in {
        "both": (by_hand, by_hand),
        "cond": (by_hand, network),
        "uncond": (network, by_hand),
    }.items():
        expected = sample_float(Halves(*halves).eval(), setting, range(3))
        assert torch.equal(rows[branches], expected)
        assert not torch.equal(rows[branches], plain)


def test_labels_and_prompts_reach_the_network() -> None:
    classes, text = made("classes"), made("text")
    x, level = torch.randn(3, 1, 8, 8), torch.tensor(1.0)
    rows = torch.eye(3)
    unet = random_unet(num_class_embeds=3, norm_num_groups=4)
    scale = 2**-0.5
    time = classes._nearest(torch.tensor([1.0])).expand(3)
    sigma = level.reshape(1, 1, 1, 1)
    expected = x - sigma * unet(x * scale, time, class_labels=torch.arange(3)).sample
    torch.testing.assert_close(classes(x, level, rows), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(classes(x, level, rows), classes(x, level, rows.flip(0)))
    assert torch.equal(classes(x, level, None), classes(x, level, 0 * rows))
    # No prompt is the last of the states, whichever way it is said.
    assert torch.equal(text(x, level, None), text(x, level, 0 * rows))
    assert not torch.equal(text(x, level, None), text(x, level, rows))
    for network in (classes, text):
        with pytest.raises(NetworkError, match="one-hot rows of 3"):
            network(x, level, torch.eye(4)[:3])
    with pytest.raises(NetworkError, match="expected None"):
        made("plain")(x, level, rows)
    states = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))
    unet = random_unet("UNet2DConditionModel", in_channels=1, out_channels=1, norm_num_groups=4)
    made_of = unet(x * scale, time, encoder_hidden_states=states[:3]).sample
    torch.testing.assert_close(text(x, level, rows), x - sigma * made_of, atol=1e-5, rtol=1e-5)


def test_the_two_embeddings_of_sdxl_reach_the_network() -> None:
    unet = random_unet(
        "UNet2DConditionModel", in_channels=1, out_channels=1, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=7 + 6 * 4,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    states, pooled = (torch.randn(3, *n, generator=generator) for n in ((5, 12), (7,)))
    sizes = torch.tensor([64.0, 64.0, 0.0, 0.0, 64.0, 64.0])
    scheduler = read_scheduler({"_class_name": "EulerDiscreteScheduler"}, where="test")
    network = PipelineDenoiser(unet, scheduler, conditions=Conditions(states, pooled, sizes))
    x, level = torch.randn(2, 1, 8, 8), torch.tensor(1.0)
    added = {"text_embeds": pooled[:2], "time_ids": sizes.expand(2, -1)}
    time = network._times(level.reshape(1))
    made_of = unet(x * 2**-0.5, time, states[:2], added_cond_kwargs=added).sample
    found = network.eval()(x, level, torch.eye(2))
    torch.testing.assert_close(found, x - made_of, atol=1e-5, rtol=1e-5)
    assert F.mse_loss(network(x, level, None), found) > 0


@pytest.mark.parametrize("name", ["classes", "text"])
def test_gradients_pass_the_checkpointing_of_diffusers(name: str) -> None:
    network = made(name)
    names = [skip.address for skip in find_skips(network)]
    # Of the two evaluations, each is in the window of one skip.
    schedule = Schedule([Term(names[0], 0.5, 1.0), Term(names[3], 0.6, 0.0, 1.0)])
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))

    def run() -> list[Tensor | None]:
        start = found = x.clone().requires_grad_()
        for sigma in (2.0, 0.5):
            found = network(found, torch.tensor(sigma), torch.eye(3))
        found.square().sum().backward()
        return [found.detach(), start.grad]

    plain = run()
    with scaled(network, schedule):
        expected = run()
        network.unet.enable_gradient_checkpointing()
        network.unet.train()  # diffusers checkpoints in training mode alone; there is no dropout
        entered: list[nn.Module] = []
        first = decoder_blocks(network)[names[0]]
        first.register_forward_pre_hook(lambda module, args: entered.append(module))
        found = run()
    assert len(entered) == 4
    for one, other, untouched in zip(found, expected, plain, strict=True):
        assert one is not None and other is not None and untouched is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other, untouched, atol=1e-3)


def test_attention_slicing_changes_nothing() -> None:
    network = made("text")
    x, level, rows = torch.randn(3, 1, 8, 8), torch.tensor(1.0), torch.eye(3)
    schedule = Schedule.uniform({skip.address: 0.6 for skip in find_skips(network)})
    plain = network(x, level, rows)
    with scaled(network, schedule):
        expected = network(x, level, rows)
        network.unet.set_attention_slice("max")
        found = network(x, level, rows)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert float((found - plain).abs().max()) > 1e-3
