"""What must hold for the networks of every family, present and later.

A family enters with a configuration and its decoder written out by hand. `test_hooks` tests what
does not depend on the family: gradients, checkpointing, compiled networks, refusals.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import NetworkError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import apply, check_effect, scaled
from skiptune.sampling.networks import Preconditioned, build_denoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import decoder_blocks, find_skips
from skiptune.sampling.solvers import solve
from tests.sampling.test_hooks import _by_hand, _call, _hooks
from tests.sampling.test_skips import _seen, _traced

ScaleAt = Callable[[str], float | Tensor]
Decoder = Callable[[Any, Tensor, list[Tensor], Tensor, ScaleAt], Tensor]


@dataclass(frozen=True)
class Family:
    """One family.

    Arguments:
        config: A network of 4 skips for 8x8 images of one channel and 3 classes.
        decode: Its decoder, every popped skip multiplied by what the function says.
        exact: Whether hooks and hand make the same numbers bit for bit, because nothing is
            multiplied between the place where a skip is popped and the block.
    """

    config: dict[str, Any]
    decode: Decoder
    exact: bool = True


def _factor(scale: ScaleAt, name: str, like: Tensor) -> float | Tensor:
    factor = scale(name)
    return factor.to(like.dtype).reshape(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor


def _song(unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt) -> Tensor:
    return _by_hand(unet, x, skips, emb, scale, _call)


def _adm(unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            x = torch.cat([x, skip * _factor(scale, name, skip)], dim=1)
        x = module(x, emb)
    return unet.out_conv(F.silu(unet.out_norm(x)))  # type: ignore[no-any-return]


def _edm2(unet: Any, x: Tensor, skips: list[Tensor], emb: Tensor, scale: ScaleAt) -> Tensor:
    for name, module in unet.dec.items():
        if "_block" in name:
            skip = skips.pop()
            skip = skip * _factor(scale, name, skip)
            main, popped = x.shape[1], skip.shape[1]
            # Equation 103 at the published balance of one half.
            root = math.sqrt((main + popped) / 2)
            x = torch.cat([x * (root / math.sqrt(main)), skip * (root / math.sqrt(popped))], 1)
        x = module(x, emb)
    return unet.out_conv(x, unet.out_gain)  # type: ignore[no-any-return]


COMMON: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
SONG = {**COMMON, "model_channels": 8}
ADM = {**COMMON, "model_type": "DhariwalUNet", "model_channels": 64}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
EDM2 = {**COMMON, "model_channels": 16, "channels_per_head": 16}
FAMILIES: dict[str, Family] = {
    "ddpmpp-edm": Family({**SONG, "precond": "edm", "sigma_data": 0.5}, _song),
    "ddpmpp-vp": Family({**SONG, "precond": "vp"}, _song),
    "ncsnpp-ve": Family({**SONG, **NCSNPP, "precond": "ve"}, _song),
    "adm-edm": Family({**ADM, "precond": "edm", "sigma_data": 0.5}, _adm),
    "adm-iddpm": Family({**ADM, "precond": "iddpm"}, _adm),
    "edm2": Family({**EDM2, "precond": "edm2", "sigma_data": 0.5}, _edm2, exact=False),
}


def random_network(config: dict[str, Any], device: str = "cpu") -> Preconditioned:
    """Build a network in which every path matters."""
    torch.manual_seed(0)  # frequencies and phases are drawn on making
    network = build_denoiser(config)
    generator = torch.Generator().manual_seed(20240219)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("gain"):
                tensor.fill_(0.7)
            elif tensor.dim() > 1 and "resample_filter" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith(("weight", "bias")):
                tensor.copy_(0.1 * noise + float("norm" in name and "weight" in name))
    return network.to(device).eval().requires_grad_(False)


def edited(family: Family, network: Preconditioned, scale: ScaleAt) -> Preconditioned:
    """Copy a network and put the decoder written out by hand in the place of its own."""
    twin = copy.deepcopy(network)
    unet = getattr(twin, twin.holder)

    def decode(x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        return family.decode(unet, x, skips, emb, scale)

    vars(unet)["_decode"] = decode
    return twin


@pytest.mark.parametrize("name", FAMILIES)
class TestFamily:
    @pytest.fixture(autouse=True)
    def made(self, name: str, device: str) -> Iterator[None]:
        self.family = FAMILIES[name]
        self.device = device
        self.network = random_network(self.family.config, device)
        generator = torch.Generator().manual_seed(5)
        self.x = (2 * torch.randn(3, 1, 8, 8, generator=generator)).to(device)
        self.labels = torch.eye(3, device=device)
        self.names = [skip.address for skip in find_skips(self.network)]
        scales = (0.7, 1.3, 0.4, 1.1)
        self.schedule = Schedule.uniform(dict(zip(self.names, scales, strict=True)))
        with torch.inference_mode():
            yield

    def run(self, network: nn.Module, sigma: float = 1.0) -> Tensor:
        level = torch.tensor(sigma, dtype=torch.float64, device=self.device)
        return network(self.x, level, self.labels)  # type: ignore[no-any-return]

    def same(self, one: Tensor, other: Tensor, *, exact: bool = False) -> None:
        if exact or self.family.exact:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    def test_the_skips_are_the_concatenations_deepest_first(self) -> None:
        skips = find_skips(self.network)
        # The encoder of EDM2 concatenates too.
        traced = [row for row in _traced(self.network, self.x) if "_block" in row[0]]
        assert _seen(skips) == traced
        assert [skip.address for skip in skips] == [
            f"{res}x{res}_block{index}" for res in (4, 8) for index in range(2)
        ]
        assert [skip.index for skip in skips] == [0, 1, 2, 3]
        assert find_skips(getattr(self.network, self.network.holder)) == skips

    def test_a_group_of_both_is_found(self) -> None:
        for skip, block in zip(
            find_skips(self.network), decoder_blocks(self.network).values(), strict=True
        ):
            norm: Any = getattr(block, "norm0", None)
            if norm is None:
                assert (skip.groups, skip.mixed) == (0, True)
                continue
            x = torch.randn(2, skip.main_channels + skip.skip_channels, 8, 8).to(self.device)
            scaled_skip = x.clone()
            scaled_skip[:, skip.main_channels :] *= 0.7
            assert (float((norm(scaled_skip) - norm(x)).abs().max()) > 0.01) == skip.mixed
        if self.family.decode is _adm:
            assert {skip.mixed for skip in find_skips(self.network)} == {True, False}

    def test_the_baseline_is_bit_identical_and_removal_restores(self) -> None:
        before = self.run(self.network)
        keys = list(self.network.state_dict())
        handle = apply(self.network, Schedule.baseline())
        assert torch.equal(self.run(self.network), before)
        handle.update(self.schedule)
        assert not torch.equal(self.run(self.network), before)
        assert list(self.network.state_dict()) == keys
        handle.remove()
        assert _hooks(self.network) == []
        assert torch.equal(self.run(self.network), before)

    @pytest.mark.parametrize("sigma", [0.01, 1.0, 60.0])
    def test_hooks_equal_a_hand_edited_forward(self, sigma: float) -> None:
        by_hand = edited(self.family, self.network, lambda name: self.schedule.scale(name, sigma))
        with scaled(self.network, self.schedule):
            self.same(self.run(self.network, sigma), self.run(by_hand, sigma))

    def test_each_skip_matters_alone(self) -> None:
        before = self.run(self.network)
        made = []
        for name in self.names:
            with scaled(self.network, Schedule.uniform({name: 0.5})):
                made.append(self.run(self.network))
        for place, one in enumerate(made):
            assert float((one - before).abs().max()) > 1e-4
            assert not any(torch.equal(one, other) for other in made[:place])

    def test_a_second_schedule_is_refused_and_a_repeated_one_does_the_same(self) -> None:
        with scaled(self.network, self.schedule):
            once = self.run(self.network)
            with pytest.raises(NetworkError, match="already"):
                apply(self.network, self.schedule)
            assert torch.equal(self.run(self.network), once)
        with scaled(self.network, self.schedule):
            assert torch.equal(self.run(self.network), once)

    def test_scales_per_image_equal_separate_runs(self) -> None:
        values = {self.names[0]: [0.5, 1.0, 1.5], self.names[3]: [1.2, 0.3, 0.9]}
        tensors = {name: torch.tensor(row, device=self.device) for name, row in values.items()}
        with scaled(self.network, tensors):
            together = self.run(self.network)
        by_hand = edited(self.family, self.network, lambda name: tensors.get(name, 1.0))
        self.same(together, self.run(by_hand))
        level = torch.tensor(1.0, device=self.device)
        for i in range(3):
            schedule = Schedule.uniform({name: row[i] for name, row in values.items()})
            with scaled(self.network, schedule):
                alone = self.network(self.x[i : i + 1], level, self.labels[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=1e-4)

    def test_windows_follow_the_noise_level_of_each_evaluation_within_heun(self) -> None:
        # The step from 4 to 1 evaluates at 4, outside, and at 1, inside.
        low, high = 0.5, 2.0
        scales = {name: 0.6 for name in self.names}
        by_hand = edited(self.family, self.network, lambda name: 0.6)
        seen: list[float] = []

        def through(outside: nn.Module, inside: nn.Module) -> Tensor:
            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                seen.append(float(sigma))
                acting = low <= float(sigma) < high
                made: Tensor = (inside if acting else outside)(x, sigma, self.labels)
                return made.to(x.dtype)

            grid = torch.tensor([4.0, 1.0, 0.25, 0.0], dtype=torch.float64, device=self.device)
            return solve("heun", denoise, self.x.double(), grid)

        expected = through(self.network, by_hand)
        untouched = through(self.network, self.network)
        with scaled(self.network, Schedule.uniform(scales, low=low, high=high)):
            found = through(self.network, self.network)
        assert {level for level in seen if low <= level < high} == {1.0}
        assert seen.count(1.0) == 6
        self.same(found, expected)
        assert not torch.allclose(found, untouched, atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays(self, dtype: torch.dtype) -> None:
        unet: Any = getattr(self.network, self.network.holder)
        before = self.run(self.network)

        def cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(arg if arg is None else arg.to(dtype) for arg in args)

        seen: list[Tensor] = []
        unet.register_forward_pre_hook(cast)
        unet.to(dtype)
        with scaled(self.network, self.schedule):
            for block in decoder_blocks(self.network).values():
                block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
            made = self.run(self.network)
        assert len(seen) == 4
        assert {tensor.dtype for tensor in seen} == {dtype}
        assert made.dtype == torch.float32
        assert bool(made.isfinite().all())
        assert not torch.equal(made, before)

    def test_labels_act_and_others_are_refused(self) -> None:
        level = torch.tensor(1.0, device=self.device)
        none = self.network(self.x, level, None)
        assert torch.equal(none, self.network(self.x, level, 0 * self.labels))
        assert not torch.equal(none, self.run(self.network))
        with pytest.raises(NetworkError, match="one-hot rows of 3"):
            self.network(self.x, level, torch.eye(4, device=self.device)[:3])
        unlabelled = random_network({**self.family.config, "label_dim": 0}, self.device)
        assert unlabelled(self.x, level).shape == self.x.shape
        with pytest.raises(NetworkError, match="expected None"):
            unlabelled(self.x, level, self.labels)

    def test_a_compiled_network_gives_the_scaled_output(self) -> None:
        torch.compiler.reset()
        graphs = []

        def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
            graphs.append(graph)
            return graph.forward

        level = torch.tensor(1.0, dtype=torch.float64, device=self.device)
        schedules = [
            Schedule.baseline(),
            self.schedule,
            Schedule.uniform({self.names[0]: 0.5}, low=0.5, high=2.0),
            Schedule.uniform({self.names[0]: 0.5}, low=2.0),
        ]
        expected = []
        for schedule in schedules:
            with scaled(self.network, schedule):
                expected.append(self.run(self.network))
        with torch.inference_mode(False), torch.no_grad():
            handle = apply(self.network, schedules[0])
            compiled: Any = torch.compile(self.network, backend=backend, fullgraph=True)
            counts = []
            for schedule, plain in zip(schedules, expected, strict=True):
                handle.update(schedule)
                made = compiled(self.x.clone(), level.clone(), self.labels.clone())
                torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-4)
                counts.append(len(graphs))
        assert counts[0] > 0
        assert counts == [counts[0]] * len(schedules)
        torch.compiler.reset()

    def test_copies_and_pickles_after_removal_are_whole(self) -> None:
        before = self.run(self.network)
        apply(self.network, self.schedule).remove()
        assert torch.equal(self.run(copy.deepcopy(self.network)), before)
        with torch.inference_mode(False):
            # Bytes that this test has made itself.
            again = pickle.loads(pickle.dumps(self.network))
        assert torch.equal(self.run(again), before)

    def test_a_schedule_that_does_nothing_is_found_out(self) -> None:
        arguments: dict[str, Any] = {"x": self.x, "sigma": 1.0, "class_labels": self.labels}
        assert check_effect(self.network, self.schedule, **arguments) > 0
        twin = copy.deepcopy(self.network)
        vars(self.network)["forward"] = lambda x, sigma, class_labels=None: twin(
            x, sigma, class_labels
        )
        with pytest.raises(NetworkError, match="same output"):
            check_effect(self.network, self.schedule, **arguments)

    def test_files_load_and_others_are_refused_in_a_few_lines(self, tmp_path: Path) -> None:
        def write(config: dict[str, Any]) -> Path:
            path = tmp_path / "network.safetensors"
            tensors = {k: v.contiguous().cpu() for k, v in self.network.state_dict().items()}
            save_file(tensors, path, metadata={"skiptune.network": json.dumps(config)})
            return path

        config = self.family.config
        loaded = load_checkpoint(write(config), device=self.device)
        assert type(loaded.network) is type(self.network)
        assert loaded.config == config
        assert loaded.skips == find_skips(self.network)
        torch.testing.assert_close(
            self.run(loaded.network), self.run(self.network), atol=2e-5, rtol=1e-4
        )
        for change in ({"num_blocks": 4}, {"label_dim": 0}, {"channel_mult": [2, 4]}):
            with pytest.raises(NetworkError) as caught:
                load_checkpoint(write({**config, **change}))
            text = render(caught.value)
            assert len(text.splitlines()) <= 6
            assert len(text) < 1200
            assert "hint: " in text
