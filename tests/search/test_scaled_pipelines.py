"""Pipelines of diffusers under tuned scales, against decoders that are written out by hand."""

from __future__ import annotations

import copy
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.pipeline_files import content_digest
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from tests.pipelines import ddim, random_unet, write_pipeline
from tests.sampling.families import hooks_of
from tests.scaled_pipelines import (
    SCALES,
    STATES,
    STEPS,
    by_hand,
    diffusers,
    latents,
    no_warning,
    pixels,
    run,
    static,
    tuned_for,
)

# Of diffusers with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


# Pipelines


def test_a_pipeline_makes_what_a_hand_written_decoder_makes(pipe: Any) -> None:
    plain, expected = run(pipe), run(by_hand(pipe, static(pipe)))
    assert float((expected - plain).abs().max()) > 1e-2
    with no_warning(), tuned_for(pipe.unet).apply(pipe) as handle:
        torch.testing.assert_close(run(pipe), expected, atol=1e-5, rtol=0)
        assert handle.schedule == tuned_for(pipe.unet).schedule
    assert hooks_of(pipe.unet) == []
    assert torch.equal(run(pipe), plain)
    handle = tuned_for(pipe.unet).apply(pipe)
    handle.remove()
    assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize(("backend", "in_place"), [("eager", True), ("aot_eager", False)])
def test_a_pipeline_that_is_compiled_afterwards(backend: str, in_place: bool) -> None:
    pipe = pixels()
    plain, expected = run(pipe), run(by_hand(pipe, static(pipe)))
    unet = pipe.unet
    with tuned_for(unet).apply(pipe) as handle:
        torch.compiler.reset()
        if in_place:
            unet.compile(backend=backend)
        else:
            pipe.unet = torch.compile(unet, backend=backend)
        torch.testing.assert_close(run(pipe), expected, atol=1e-5, rtol=0)
        handle.update(Schedule.baseline())
        torch.testing.assert_close(run(pipe), plain, atol=1e-5, rtol=0)
    with pytest.raises(NetworkError, match="apply the schedule first"):
        tuned_for(unet).apply(pipe)


# Noise levels


def middle(pipe: Any, schedulers: Any, steps: int) -> tuple[float, float]:
    """A window that holds some of the steps of each of these schedulers."""
    low, high = 0.0, float("inf")
    for one in schedulers:
        levels = levels_of(one, steps)
        low, high = max(low, levels[-1]), min(high, levels[0])
    return 1.05 * low, 0.95 * high


def levels_of(scheduler: Any, steps: int) -> list[float]:
    twin = type(scheduler).from_config(scheduler.config)
    twin.set_timesteps(steps)
    if hasattr(twin, "sigmas"):
        return [float(level) for level in twin.sigmas[: len(twin.timesteps)]]
    kept = [float(twin.alphas_cumprod[int(time)]) for time in twin.timesteps]
    return [((1 - one) / one) ** 0.5 for one in kept]


def windowed(pipe: Any, low: float, high: float, scale: float, steps: int) -> Any:
    """By hand: scales that depend on how far the pipeline has come, not on its timesteps."""
    state = {"call": -1}
    address = find_skips(pipe.unet)[0].address

    def factor(name: str) -> float:
        levels = levels_of(twin.scheduler, steps)
        inside = low <= levels[state["call"]] < high
        return scale if name == address and inside else 1.0

    twin = by_hand(pipe, factor)

    def counted(*args: Any) -> None:
        state["call"] += 1

    twin.unet.register_forward_pre_hook(counted)
    return twin


SWITCHED = {
    "euler": ("EulerDiscreteScheduler", {}, 4),
    "heun": ("HeunDiscreteScheduler", {}, 3),
    "karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 4),
    "unipc": ("UniPCMultistepScheduler", {}, 4),
}


@pytest.mark.parametrize(
    ("name", "compiled"), [*((name, False) for name in SWITCHED), ("karras", True)]
)
@pytest.mark.filterwarnings("ignore::skiptune.errors.SkiptuneWarning")
def test_windows_follow_a_switched_scheduler(name: str, compiled: bool) -> None:
    kind, config, steps = SWITCHED[name]
    pipe = latents()
    other = getattr(diffusers, kind).from_config({**pipe.scheduler.config, **config})
    low, high = middle(pipe, [pipe.scheduler, other], steps)
    tuned = tuned_for(
        pipe.unet, Schedule([Term(find_skips(pipe.unet)[0].address, 0.1, low, high)])
    )
    with tuned.apply(pipe):
        if compiled:
            torch.compiler.reset()
            pipe.unet.compile(backend="eager")
        for scheduler in (pipe.scheduler, other):
            pipe.scheduler = scheduler
            found = run(pipe, steps=steps)
            bare = latents(type(scheduler).from_config(scheduler.config))
            expected = run(windowed(bare, low, high, 0.1, steps), steps=steps)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            for window in ((0.0, float("inf")), (1e9, float("inf"))):
                same = run(windowed(bare, *window, 0.1, steps), steps=steps)
                assert float((same - expected).abs().max()) > 1e-3


def test_a_unet_of_its_own_has_the_noise_levels_of_our_own_denoiser() -> None:
    plain = json.loads(ddim().to_json_string())
    network = PipelineDenoiser(
        random_unet("UNet2DConditionModel"),
        read_scheduler(plain, where="test"),
        conditions=Conditions(torch.cat([STATES, STATES])),
    ).eval()
    names = [skip.address for skip in find_skips(network)]
    schedule = Schedule([Term(names[0], 0.3, 0.5, 2.0), Term(names[1], 0.6, 2.0)])
    unet = random_unet("UNet2DConditionModel")
    tuned = tuned_for(unet, schedule)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NetworkError, match="argument `sigma`"):
        tuned.apply(unet)
    made = []
    with scaled(network, schedule), tuned.apply(unet, scheduler=ddim()):
        for time in (100, 400, 500, 900):
            sigma = network.trained[time]
            expected = network(x, sigma)
            told = x / (sigma.square() + 1).sqrt()
            noise = unet(told, time, encoder_hidden_states=STATES).sample
            torch.testing.assert_close(x - sigma * noise, expected, atol=1e-4, rtol=1e-4)
            made.append(noise)
    assert float((made[1] - unet(told, 400, encoder_hidden_states=STATES).sample).abs().max()) > 0


@pytest.mark.parametrize("branches", ["cond", "uncond"])
def test_scales_of_one_branch_of_guidance(branches: str) -> None:
    pipe = latents()
    names = [skip.address for skip in find_skips(pipe.unet)]
    schedule = Schedule.uniform(dict(zip(names, SCALES, strict=True)), branches=branches)
    guided = Setting(solver="euler", steps=STEPS, guidance=4.0)
    tuned = tuned_for(pipe.unet, schedule, setting=guided)

    def half(name: str) -> Tensor:
        pair = (1.0, static(pipe)(name))
        return torch.tensor(pair if branches == "cond" else pair[::-1])

    expected = run(by_hand(pipe, half), guidance_scale=4.0)
    with tuned.apply(pipe):
        found = run(pipe, guidance_scale=4.0)
        alone = run(pipe, guidance_scale=1.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    without = by_hand(pipe, static(pipe)) if branches == "cond" else pipe
    torch.testing.assert_close(alone, run(without, guidance_scale=1.0), atol=1e-5, rtol=0)
    with tuned.apply(pipe.unet), pytest.raises(NetworkError, match=r"handle\.evaluating"):
        pipe.unet(torch.zeros(2, 4, 8, 8), 1, encoder_hidden_states=STATES.expand(2, -1, -1))


# What else is done to pipelines


def whole(pipe: Any) -> None:
    """As `enable_model_cpu_offload` does with each model."""
    accelerate: Any = importlib.import_module("accelerate")
    accelerate.cpu_offload_with_hook(pipe.unet, "cpu")


def layers(pipe: Any) -> None:
    """As `enable_sequential_cpu_offload` does with each model."""
    accelerate: Any = importlib.import_module("accelerate")
    for model in (pipe.unet, pipe.vae):
        accelerate.cpu_offload(model, "cpu", offload_buffers=True)


@pytest.mark.parametrize("offload", [whole, layers])
@pytest.mark.parametrize("scales_first", [True, False])
def test_offloading_of_accelerate(offload: Callable[[Any], None], scales_first: bool) -> None:
    pipe = latents()
    plain, expected = run(pipe), run(by_hand(pipe, static(pipe)))
    tuned = tuned_for(pipe.unet)
    if not scales_first:
        offload(pipe)
    handle = tuned.apply(pipe)
    if scales_first:
        offload(pipe)
    torch.testing.assert_close(run(pipe), expected, atol=1e-5, rtol=0)
    handle.remove()
    torch.testing.assert_close(run(pipe), plain, atol=1e-5, rtol=0)
    if offload is layers:
        assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"meta"}


TARGETS = ("to_q", "to_v", "conv1", "conv_shortcut", "conv_in", "conv")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an adapter of peft, as they are shared."""
    peft: Any = importlib.import_module("peft")
    folder = tmp_path_factory.mktemp("lora")
    unet = random_unet("UNet2DConditionModel")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, target_modules=list(TARGETS), init_lora_weights=False)
    unet.add_adapter(config)
    unet.save_lora_adapter(folder)
    return folder


@pytest.mark.parametrize("scales_first", [True, False])
def test_adapters_of_peft(lora: Path, scales_first: bool) -> None:
    pipe = latents()
    bare, tuned = run(pipe), tuned_for(pipe.unet)
    without = run(by_hand(pipe, static(pipe)))
    handle = tuned.apply(pipe) if scales_first else None
    pipe.unet.load_lora_adapter(lora, prefix=None, use_safetensors=True, adapter_name="own")
    assert find_skips(pipe.unet) == find_skips(random_unet("UNet2DConditionModel"))
    if handle is None:
        handle = tuned.apply(pipe)
    found = run(pipe)
    handle.remove()
    adapted = run(pipe)
    expected = run(by_hand(pipe, static(pipe)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for other in (bare, without, adapted):
        assert float((found - other).abs().max()) > 1e-3
    pipe.unet.delete_adapters("own")
    with tuned.apply(pipe):
        torch.testing.assert_close(run(pipe), without, atol=1e-5, rtol=0)


def test_scales_of_parts_want_their_adapters_first(lora: Path) -> None:
    pipe = latents()
    names = [skip.address for skip in find_skips(pipe.unet)]
    schedule = Schedule([Term(names[0], 0.3, part="shortcut")])
    tuned = tuned_for(pipe.unet, schedule)
    handle = tuned.apply(pipe)
    before = run(pipe)
    pipe.unet.load_lora_adapter(lora, prefix=None, use_safetensors=True, adapter_name="own")
    with pytest.raises(NetworkError, match="load adapters before the scales"):
        run(pipe)
    handle.remove()
    adapted = run(pipe)
    with tuned.apply(pipe):
        found = run(pipe)
    # By hand: the columns of the skip of both the layer and its adapter.
    twin = copy.deepcopy(pipe)
    shortcut = twin.unet.up_blocks[0].resnets[0].conv_shortcut
    main = find_skips(pipe.unet)[0].main_channels
    for weight in (shortcut.base_layer.weight, shortcut.lora_A["own"].weight):
        weight.data[:, main:] *= 0.3
    # Of images that reach 13 and more.
    torch.testing.assert_close(found, run(twin), atol=2e-4, rtol=0)
    for other in (before, adapted):
        assert float((found - other).abs().max()) > 1e-4


@pytest.fixture
def controlled() -> Any:
    """A pipeline with a ControlNet that adds something."""
    unet = random_unet("UNet2DConditionModel")
    torch.manual_seed(2)
    controlnet = diffusers.ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8)
    )
    for parameter in controlnet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)  # it begins with zeros
    return latents(controlnet=controlnet.eval().requires_grad_(False), unet=unet)


def test_what_a_controlnet_adds_to_a_skip_is_scaled_with_it(controlled: Any) -> None:
    unet, controlnet = controlled.unet, controlled.controlnet
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    added, middle = controlnet(
        x, 500, encoder_hidden_states=STATES, controlnet_cond=picture, return_dict=False
    )
    words = {"encoder_hidden_states": STATES, "return_dict": False}
    told = {"down_block_additional_residuals": added, "mid_block_additional_residual": middle}
    scale = static(controlled)
    with tuned_for(unet).apply(controlled):
        (found,) = unet(x, 500, **words, **told)

    def hand(on_the_residual: Callable[[str], float]) -> Tensor:
        """The skips without what is added; both are scaled and joined by hand."""
        twin = copy.deepcopy(unet)
        left = list(added)
        for number, block in enumerate(twin.up_blocks):
            for index, resnet in enumerate(block.resnets):
                name = f"up_blocks.{number}.resnets.{index}"
                main = next(s.main_channels for s in find_skips(twin) if s.address == name)

                def join(_: Any, args: Any, *, name: str = name, main: int = main) -> Any:
                    block_input, *more = args
                    plain, residual = block_input[:, main:], left.pop()
                    skip = float(scale(name)) * plain + on_the_residual(name) * residual
                    return (torch.cat([block_input[:, :main], skip], dim=1), *more)

                resnet.register_forward_pre_hook(join)
        zeros = tuple(torch.zeros_like(one) for one in added)
        (made,) = twin(
            x,
            500,
            **words,
            down_block_additional_residuals=zeros,
            mid_block_additional_residual=middle,
        )
        return made  # type: ignore[no-any-return]

    expected = hand(lambda name: float(scale(name)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert float((found - hand(lambda name: 1.0)).abs().max()) > 1e-2


def test_a_pipeline_with_a_controlnet(controlled: Any) -> None:
    size = 8 * controlled.vae_scale_factor
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(4))
    expected = run(by_hand(controlled, static(controlled)), image=image)
    plain = run(controlled, image=image)
    with tuned_for(controlled.unet).apply(controlled):
        torch.testing.assert_close(run(controlled, image=image), expected, atol=1e-5, rtol=0)
        assert hooks_of(controlled.controlnet) == []
    assert float((expected - plain).abs().max()) > 1e-2


# The page of the documentation


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_pipeline(tmp_path / "FOLDER")
    unet = random_unet()
    tuned_for(unet, sha256=content_digest(folder)[0]).write(tmp_path / "tuned.json")
    page = Path(__file__).parents[2] / "docs" / "diffusers.md"
    (example,) = re.findall(r"```python\n(import skiptune\n.*?)```", page.read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    torch.manual_seed(6)
    with no_warning():
        exec(example, made)
    # Both runs of the example, by hand.
    twin = by_hand(pixels(), static(pixels()))
    twin.set_progress_bar_config(disable=True)
    torch.manual_seed(6)
    first = twin(num_inference_steps=STEPS, output_type="np").images
    second = twin(num_inference_steps=STEPS, output_type="np").images
    found = np.asarray(made["images"][0], dtype=np.float64) / 255
    assert np.abs(found - second[0].squeeze()).max() <= 1 / 255
    assert np.abs(first - second).max() > 0.1
    assert hooks_of(made["pipe"].unet) == []
