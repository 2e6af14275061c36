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
import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.schedulers import pipeline_levels
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips

__all__ = ["LEAST", "main"]

LEAST = 0.97  # of the images that diffusers makes in the same time
THEIRS, OURS, TUNED = "diffusers", "skiptune", "skiptune, every skip scaled"

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


@contextlib.contextmanager
def _installed(network: nn.Module, schedule: Schedule | None) -> Iterator[None]:
    with contextlib.nullcontext() if schedule is None else scaled(network, schedule):
        yield


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
    rows, bounds, raw = [], [], {}
    spreads: dict[str, dict[str, Any]] = {}
    for name, (make, guidance) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            network, theirs = make(Path(folder), options.images, options.steps)
        config = {"_class_name": "DDIMScheduler"}
        *levels, _ = pipeline_levels(config, options.steps, where="bench")
        setting = Setting(
            solver="euler", steps=options.steps, sigmas=tuple(levels), guidance=guidance
        )
        addresses = [skip.address for skip in find_skips(network)]
        # Never 1, where nothing would be multiplied.
        schedule = Schedule.uniform({a: 0.89 + 0.02 * i for i, a in enumerate(addresses)})

        def ours(_: object, network: nn.Module = network, setting: Setting = setting) -> Tensor:
            with torch.inference_mode():
                return sample_float(network, setting, range(options.images))

        ways: list[Way[Any]] = [
            Way(THEIRS, contextlib.nullcontext, theirs),
            Way(OURS, partial(_installed, network, None), ours),
            Way(TUNED, partial(_installed, network, schedule), ours),
        ]
        timings = interleave(ways, repeats=options.repeats, warmup=2)
        raw[name] = {way: [(t.wall, t.cpu) for t in took] for way, took in timings.items()}
        for way, took in timings.items():
            speed = Spread.of([options.images / t.wall for t in took])
            # Images per second of ours over theirs: their time over ours.
            wall = ratios(timings, THEIRS, way)
            cpu = ratios(timings, THEIRS, way, clock="cpu")
            spreads[f"{name}, {way}"] = {"wall": vars(wall), "cpu": vars(cpu)}
            rows.append((name, way, str(speed), str(wall), str(cpu)))
            if way != THEIRS:
                slower = ratios(timings, way, THEIRS).median
                bounds.append(Bound(f"time of {way} over diffusers, {name}", slower, 1 / LEAST))
    print(f"{options.images} images of {options.steps} steps at once")
    head = ("network", "way", "images per second", "of diffusers", "by CPU time")
    print_table(head, rows)
    return finish(
        options.out,
        settings={
            "images": options.images,
            "steps": options.steps,
            "repeats": options.repeats,
            "networks": {"UNet2DModel": PLAIN, "UNet2DConditionModel": TEXT},
        },
        bounds=bounds,
        ratios=spreads,
        wall_and_cpu_seconds=raw,
    )


if __name__ == "__main__":
    sys.exit(main())
