"""What diffusers does to save memory goes on working under scales, whichever came first."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.sampling.hooks import apply, scaled
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.skips import find_skips
from tests.pipelines import ddim, random_unet
from tests.sampling.families import hooks_of
from tests.vaes import random_vae

SCALES = (0.7, 1.3, 0.4, 1.1)
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))


def pipeline() -> Any:
    """A pipeline of latents that is told text, as diffusers makes it of its own parts."""
    base: Any = importlib.import_module("diffusers").DiffusionPipeline

    class Tiny(base):  # type: ignore[misc]
        def __init__(self, unet: Any, vae: Any, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, vae=vae, scheduler=scheduler)

    # A VAE of its own: tests share the other.
    vae = type(random_vae())(**random_vae().config).eval().requires_grad_(False)
    vae.load_state_dict(random_vae().state_dict())
    return Tiny(random_unet("UNet2DConditionModel"), vae, ddim())


def latents(pipe: Any) -> Tensor:
    """Three steps of diffusers' own loop."""
    x = X
    pipe.scheduler.set_timesteps(3)
    for time in pipe.scheduler.timesteps:
        made = pipe.unet(x, time, encoder_hidden_states=STATES).sample
        x = pipe.scheduler.step(made, time, x).prev_sample
    return x


def schedule(pipe: Any) -> Schedule:
    addresses = [skip.address for skip in find_skips(pipe.unet)]
    return Schedule.uniform(dict(zip(addresses, SCALES, strict=True)))


def offload(model: nn.Module) -> None:
    """Do as accelerate's sequential offloading: a layer has its weights while it runs, only then.

    Like accelerate it takes the place of every layer's `forward` and keeps the old one.
    """
    for module in model.modules():
        names = list(module._parameters)
        held = {name: module._parameters[name] for name in names}
        if not any(value is not None for value in held.values()):
            continue

        def forward(
            *args: Any,
            module: Any = module,
            held: Any = held,
            own: Any = module.forward,
            **more: Any,
        ) -> Any:
            module._parameters.update(held)
            try:
                return own(*args, **more)
            finally:
                _leave(module, held)

        vars(module)["forward"] = functools.update_wrapper(
            functools.partial(forward), module.forward
        )
        _leave(module, held)


def _leave(module: Any, held: dict[str, Any]) -> None:
    for name, value in held.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(value.to("meta"), requires_grad=False)


def sliced(pipe: Any) -> None:
    pipe.enable_attention_slicing("max")


def half_sliced(pipe: Any) -> None:
    pipe.enable_attention_slicing(1)


def offloaded(pipe: Any) -> None:
    offload(pipe.unet)


@pytest.mark.parametrize("saving", [sliced, half_sliced, offloaded])
@pytest.mark.parametrize("scales_first", [True, False])
def test_scaled_outputs_stay_the_same(saving: Callable[[Any], None], scales_first: bool) -> None:
    plain = latents(pipeline())
    pipe = pipeline()
    with scaled(pipe.unet, schedule(pipe)):
        expected = latents(pipe)
    assert float((expected - plain).abs().max()) > 1e-2

    pipe = pipeline()
    if not scales_first:
        saving(pipe)
    handle = apply(pipe.unet, schedule(pipe))
    if scales_first:
        saving(pipe)
    torch.testing.assert_close(latents(pipe), expected, atol=1e-5, rtol=0)
    handle.update(Schedule.baseline())
    torch.testing.assert_close(latents(pipe), plain, atol=1e-5, rtol=0)
    handle.remove()
    assert hooks_of(pipe.unet) == []
    torch.testing.assert_close(latents(pipe), plain, atol=1e-5, rtol=0)
    if saving is offloaded:
        assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"meta"}


@pytest.mark.parametrize("saving", ["slicing", "tiling"])
def test_a_vae_that_saves_memory_decodes_scaled_latents(saving: str) -> None:
    pipe = pipeline()
    with scaled(pipe.unet, schedule(pipe)):
        made = latents(pipe)
        whole = pipe.vae.decode(made).sample
        getattr(pipe.vae, f"enable_{saving}")()
        if saving == "tiling":
            pipe.vae.tile_latent_min_size = 4
            pipe.vae.tile_sample_min_size = 8
        found = pipe.vae.decode(latents(pipe)).sample
    expected = whole if saving == "slicing" else pipe.vae.tiled_decode(made).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # Tiles that do not see each other make other pixels, whatever the scales.
    assert (float((found - whole).abs().max()) > 1e-4) == (saving == "tiling")


def test_windows_and_prompts_of_a_network_whose_weights_are_elsewhere() -> None:
    scheduler = read_scheduler(json.loads(ddim().to_json_string()), where="test")
    rows = torch.eye(2)
    made = []
    for away in (False, True):
        conditions = Conditions(torch.cat([STATES, STATES[:1]]))
        unet = random_unet("UNet2DConditionModel")
        network = PipelineDenoiser(unet, scheduler, conditions=conditions).eval()
        names = [skip.address for skip in find_skips(network)]
        terms = [Term(names[0], 0.5, 0.5, 2.0), Term(names[1], 0.7, 2.0)]
        if away:
            offload(unet)
        with scaled(network, Schedule(terms, branches="cond")):
            made.append([network(X, torch.tensor(s), rows) for s in (1.0, 4.0)])
            made[-1].append(network(X, torch.tensor(1.0), 0 * rows))
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(made[0][0], made[0][2])


def test_classes_of_a_network_whose_weights_are_elsewhere() -> None:
    scheduler = read_scheduler(json.loads(ddim().to_json_string()), where="test")
    made = []
    for away in (False, True):
        unet = random_unet(num_class_embeds=3)
        network = PipelineDenoiser(unet, scheduler).eval()
        if away:
            offload(unet)
        x, level = X[:, :1], torch.tensor(1.0)
        made.append([network(x, level, rows) for rows in (None, torch.eye(3)[:2])])
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)
