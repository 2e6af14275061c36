"""How many images a second do we make of a pipeline of diffusers, against the pipeline itself?

    python -m bench.diffusers_speed

Makes the same images twice, in turns, with tiny networks of random weights: by diffusers' own
`DDIMPipeline` (or, for a network that reads text, by the loop that its pipelines run, with its
DDIM scheduler), and by `sample_float` with Euler's method along the same noise levels, with and
without a schedule on every skip. Both compute in float32, without gradients, from noise of the
same size; neither decodes or writes images. Prints one table, writes
`bench/results/diffusers_speed.json`, and exits 1 when fewer than 0.97 of diffusers' images per
second are made, by the median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.record import RESULTS, use_threads
from bench.rival import Rival
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.schedulers import pipeline_levels
from skiptune.sampling.setting import Setting

__all__ = ["main"]

PLAIN: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
}
TEXT: dict[str, Any] = {
    **PLAIN,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 32,
}
TOKENS, PROMPTS = 16, 8


def _unconditional(folder: Path, images: int, steps: int) -> tuple[Any, Callable[[Any], object]]:
    """Return our denoiser and a call of diffusers' pipeline."""
    diffusers: Any = importlib.import_module("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**PLAIN).eval().requires_grad_(False)
    pipe = diffusers.DDIMPipeline(unet=unet, scheduler=diffusers.DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(folder)
    # Both see the weights in the same order.
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)

    def theirs(_: object) -> object:
        return pipe(batch_size=images, num_inference_steps=steps, output_type="pt")

    return load_checkpoint(folder).network, theirs


def _guided(folder: Path, images: int, steps: int) -> tuple[Any, Callable[[Any], object]]:
    """Return our denoiser with conditions, and the loop of diffusers' text pipelines."""
    diffusers: Any = importlib.import_module("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**TEXT).eval().requires_grad_(False)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline",'
        ' "unet": ["diffusers", "UNet2DConditionModel"],'
        ' "scheduler": ["diffusers", "DDIMScheduler"]}'
    )
    unet.to(memory_format=torch.channels_last)
    states = torch.randn(PROMPTS + 1, TOKENS, TEXT["cross_attention_dim"])
    loaded: Any = load_checkpoint(folder).network
    ours = PipelineDenoiser(loaded.unet, loaded.scheduler, conditions=Conditions(states)).eval()
    size = TEXT["sample_size"]

    @torch.no_grad()
    def theirs(_: object) -> Tensor:
        chosen = states[torch.arange(images) % PROMPTS]
        both = torch.cat([states[-1:].expand(images, -1, -1), chosen])
        scheduler.set_timesteps(steps)
        x = torch.randn(images, TEXT["in_channels"], size, size)
        for time in scheduler.timesteps:
            made = unet(torch.cat([x, x]), time, encoder_hidden_states=both, return_dict=False)[0]
            none, text = made.chunk(2)
            x = scheduler.step(none + 3.0 * (text - none), time, x, return_dict=False)[0]
        return x

    return ours, theirs


CASES = {"UNet2DModel": (_unconditional, 1.0), "UNet2DConditionModel, guided": (_guided, 3.0)}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="images of one call")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "diffusers_speed.json")
    options = parser.parse_args()
    use_threads(options.threads)
    rival = Rival("diffusers", images=options.images, repeats=options.repeats)
    for name, (make, guidance) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            network, theirs = make(Path(folder), options.images, options.steps)
        config = {"_class_name": "DDIMScheduler"}
        *levels, _ = pipeline_levels(config, options.steps, where="bench")
        setting = Setting(
            solver="euler", steps=options.steps, sigmas=tuple(levels), guidance=guidance
        )
        rival.measure(name, network, setting, theirs)
    networks = {"UNet2DModel": PLAIN, "UNet2DConditionModel": TEXT}
    return rival.finished(options.out, {"steps": options.steps, "networks": networks})


if __name__ == "__main__":
    sys.exit(main())
