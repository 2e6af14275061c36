"""Pipelines of diffusers with tuned scales, and the same ones around decoders written by hand."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skiptune.errors import SkiptuneWarning
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from skiptune.search.tuned import Tuned
from tests.pipelines import ddim, random_unet
from tests.sampling.hand_decoders import call, put_up_blocks
from tests.search.test_tuned import SHA, make_tuned
from tests.vaes import random_vae

__all__ = [
    "SCALES",
    "STATES",
    "STEPS",
    "by_hand",
    "diffusers",
    "latents",
    "no_warning",
    "pixels",
    "run",
    "static",
    "tuned_for",
]

SCALES = (0.7, 1.3, 0.4, 1.1)
STEPS = 3
EULER = Setting(solver="euler", steps=STEPS)
STATES = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1))

diffusers: Any = importlib.import_module("diffusers")


def tuned_for(
    network: Any,
    schedule: Schedule | None = None,
    *,
    setting: Setting = EULER,
    sha256: str = SHA,
) -> Tuned:
    skips = find_skips(network)
    if schedule is None:
        addresses = (skip.address for skip in skips)
        schedule = Schedule.uniform(dict(zip(addresses, SCALES, strict=True)))
    plain = make_tuned(schedule, skips, guidance=setting.guidance).to_json()
    plain["setting"] = setting.to_json()
    plain["network"]["sha256"] = sha256
    return Tuned.from_json(plain)


def pixels(scheduler: Any = None) -> Any:
    """diffusers' pipeline of pixels."""
    return diffusers.DDIMPipeline(unet=random_unet(), scheduler=scheduler or ddim())


def latents(scheduler: Any = None, *, controlnet: Any = None, unet: Any = None) -> Any:
    """diffusers' own pipeline of Stable Diffusion, told embeddings of prompts."""
    kind = "StableDiffusionPipeline"
    parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor"))
    if controlnet is not None:
        kind, parts["controlnet"] = "StableDiffusionControlNetPipeline", controlnet
    # A VAE of its own: tests share the other.
    vae = type(random_vae())(**random_vae().config).eval().requires_grad_(False)
    pipe = getattr(diffusers, kind)(
        unet=random_unet("UNet2DConditionModel") if unet is None else unet,
        scheduler=scheduler or ddim(steps_offset=1),
        vae=vae,
        safety_checker=None,
        requires_safety_checker=False,
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, *, steps: int = STEPS, **more: Any) -> Tensor:
    """What a pipeline makes of one noise."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    if type(pipe).__name__ == "DDIMPipeline":
        images = pipe(
            batch_size=2, generator=generator, num_inference_steps=steps, output_type="np"
        )
        return torch.from_numpy(np.asarray(images.images))
    words: dict[str, Any] = {
        "prompt_embeds": STATES,
        "negative_prompt_embeds": 0.5 * STATES,
        "height": pipe.unet.config.sample_size * pipe.vae_scale_factor,
        "width": pipe.unet.config.sample_size * pipe.vae_scale_factor,
    }
    made = pipe(
        generator=generator, num_inference_steps=steps, output_type="latent", **{**words, **more}
    )
    return made.images  # type: ignore[no-any-return]


def by_hand(pipe: Any, scale: Callable[[str], float | Tensor]) -> Any:
    """The same pipeline around a U-Net whose concatenations are written out and scaled."""
    parts = {**pipe.components, "unet": copy.deepcopy(pipe.unet)}
    put_up_blocks(parts["unet"], scale, call)
    more = {} if type(pipe).__name__ == "DDIMPipeline" else {"requires_safety_checker": False}
    return type(pipe)(**parts, **more)


def static(pipe: Any) -> Callable[[str], float | Tensor]:
    addresses = [skip.address for skip in find_skips(pipe.unet)]
    return dict(zip(addresses, SCALES, strict=True)).__getitem__


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkiptuneWarning)
        yield
