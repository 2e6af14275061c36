"""How many images a second do we make of a network, against its authors' own sampler?

    python -m bench.upstream_speed CHECKOUT...

Takes the checkouts of `bench.parity_openai`. Their network is made with random weights and read
back as ours; then the same number of images is made with the same number of evaluations of the
network, in turns: by their sampler (guided-diffusion's and latent diffusion's DDIM, Heun's method
of consistency models, U-ViT's DPM-Solver, lucidrains' DDIM) on their network, and by
`sample_float` on ours, with and without a schedule on every skip. Both compute in float32, without
gradients; neither decodes or writes images. Prints one table, writes
`bench/results/upstream_speed.json`, and exits 1 when fewer than 0.97 of their images per second
are made, by the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.parity_openai_cases import CASES, CLASSES, Case, Options, upstream
from bench.record import RESULTS, use_threads
from bench.rival import Rival, ours
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.published import read_published
from skiptune.sampling.setting import Setting

__all__ = ["main"]

TIMES = 1000  # of every process with whole steps

Sampler = Callable[[nn.Module, Options, int, int], Callable[[object], object]]
"""(their network, its options, images, steps) -> what makes the images."""


def _guided(network: nn.Module, options: Options, images: int, steps: int) -> Any:
    script: Any = upstream("guided_diffusion.script_util")
    diffusion = script.create_gaussian_diffusion(
        steps=TIMES,
        learn_sigma=options["learn_sigma"],
        noise_schedule=options["noise_schedule"],
        timestep_respacing=f"ddim{steps}",
    )
    shape, labels = _shape(options["image_size"], images), _labels(images)
    given = {"clip_denoised": False, "model_kwargs": {"y": labels}}
    return lambda _: diffusion.ddim_sample_loop(network, shape, **given)


def _consistency(network: nn.Module, options: Options, images: int, steps: int) -> Any:
    module: Any = upstream("cm.karras_diffusion")
    diffusion = module.KarrasDenoiser(distillation=False, loss_norm="l2")
    shape, labels = _shape(options["image_size"], images), _labels(images)
    given = {"clip_denoised": False, "model_kwargs": {"y": labels}, "device": "cpu"}
    return lambda _: module.karras_sample(diffusion, network, shape, steps, **given)


def _latent(holder: Any, options: Options, images: int, steps: int) -> Any:
    util: Any = upstream("ldm.modules.diffusionmodules.util")
    ddim: Any = upstream("ldm.models.diffusion.ddim")

    class Here(ddim.DDIMSampler):  # type: ignore[misc]  # theirs has no types
        def register_buffer(self, name: str, attr: object) -> None:
            # Theirs moves everything to a GPU.
            setattr(self, name, attr)

    params = options["model"]["params"]
    ends = {"linear_start": params["linear_start"], "linear_end": params["linear_end"]}
    betas = torch.tensor(util.make_beta_schedule("linear", TIMES, **ends)).float()
    kept = (1 - betas).cumprod(0)
    model = SimpleNamespace(
        num_timesteps=TIMES,
        betas=betas,
        alphas_cumprod=kept,
        alphas_cumprod_prev=torch.cat([torch.ones(1), kept[:-1]]),
        device=torch.device("cpu"),
        apply_model=lambda x, t, c: holder.model.diffusion_model(x, t, context=c),
    )
    size = params["unet_config"]["params"]["image_size"]
    contexts = holder.cond_stage_model.embedding(_labels(images))[:, None].detach()
    return lambda _: Here(model).sample(
        steps, images, (3, size, size), conditioning=contexts, verbose=False
    )


def _uvit(network: nn.Module, options: Options, images: int, steps: int) -> Any:
    module: Any = upstream("dpm_solver_pp")
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMES, dtype=torch.float64) ** 2
    schedule = module.NoiseScheduleVP(schedule="discrete", betas=betas.float())
    labels = _labels(images)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t * TIMES, labels)  # type: ignore[no-any-return]

    solver = module.DPM_Solver(noise, schedule, predict_x0=True, thresholding=False)
    shape = _shape(options["img_size"], images, channels=options.get("in_chans", 3))

    @torch.no_grad()
    def made(_: object) -> object:
        return solver.sample(torch.randn(shape), steps=steps, eps=1 / TIMES, T=1.0)

    return made


def _lucidrains(diffusion: Any, options: Options, images: int, steps: int) -> Any:
    diffusion.sampling_timesteps = steps
    return lambda _: diffusion.ddim_sample(_shape(options["image_size"], images))


@dataclass(frozen=True)
class Duel:
    """A case of `parity_openai`, how its authors sample, and our setting of equal cost.

    Arguments:
        case: Its name.
        sampler: Theirs.
        solver: Ours.
    """

    case: str
    sampler: Sampler
    solver: str = "euler"


DUELS = (
    Duel("guided diffusion, cosine, new attention order", _guided),
    Duel("consistency, teacher", _consistency, "heun"),
    Duel("latent diffusion, classes", _latent),
    Duel("U-ViT, latents, classes", _uvit),
    Duel("lucidrains, linear, noise", _lucidrains),
)


def _shape(size: int, images: int, channels: int = 3) -> tuple[int, int, int, int]:
    return images, channels, size, size


def _labels(images: int) -> Tensor:
    return torch.arange(images) % CLASSES


def _ours(theirs: nn.Module, case: Case, name: str) -> nn.Module:
    """Return their network as ours, with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        torch.save(theirs.state_dict(), path)
        read = read_published(path, case.options, where=name)
    network = build_denoiser(read.config).eval().requires_grad_(False)
    network.load_state_dict(read.tensors, strict=True)
    return network.to(memory_format=torch.channels_last)


def _calls(network: nn.Module) -> tuple[list[int], Any]:
    """Count the images that pass through a network."""
    passed: list[int] = []
    hook = network.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    return passed, hook


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="+", help="of one of the repositories")
    parser.add_argument("--images", type=int, default=8, help="images of one call")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "upstream_speed.json")
    options = parser.parse_args()
    use_threads(options.threads)
    os.environ["TQDM_DISABLE"] = "1"  # their progress bars
    for checkout in options.checkout:
        sys.path.insert(0, str(checkout))

    rival = Rival("theirs", images=options.images, repeats=options.repeats)
    for duel in DUELS:
        case = CASES[duel.case]
        if not any((checkout / case.checkout).exists() for checkout in options.checkout):
            continue
        torch.manual_seed(1)
        theirs, _ = case.make(case.options, [])
        theirs.eval().requires_grad_(False)
        network = _ours(theirs, case, duel.case)
        # Both see the weights in the same order.
        theirs.to(memory_format=torch.channels_last)
        sampler = duel.sampler(theirs, case.options, options.images, options.steps)
        setting = Setting(
            solver=duel.solver,
            steps=options.steps,
            sigma_min=max(0.002, float(network.sigma_min)),  # type: ignore[arg-type]
            sigma_max=min(80.0, float(network.sigma_max)),  # type: ignore[arg-type]
        )

        def their(_: object, sampler: Callable[[object], object] = sampler) -> object:
            with contextlib.redirect_stdout(io.StringIO()):
                return sampler(None)

        ours_alone = partial(ours, network, setting, options.images)
        _equal_cost(duel, theirs, network, partial(their, None), ours_alone)
        rival.measure(duel.case, network, setting, their)
    networks = {duel.case: CASES[duel.case].options for duel in DUELS}
    return rival.finished(options.out, {"steps": options.steps, "networks": networks})


def _equal_cost(
    duel: Duel,
    theirs: Any,
    network: nn.Module,
    their: Callable[[], object],
    our: Callable[[], object],
) -> None:
    """Refuse a comparison in which one side evaluates its network more often."""
    # Latent diffusion's and lucidrains' are inside of what has been made.
    inner = getattr(theirs, "model", theirs)
    inner = getattr(inner, "diffusion_model", inner)
    spent = []
    for counted, call in ((inner, their), (network, our)):
        passed, hook = _calls(counted)
        call()
        hook.remove()
        spent.append(sum(passed))
    if spent[0] != spent[1]:
        raise SystemExit(f"{duel.case}: {spent[0]} images through their network, {spent[1]} ours")


if __name__ == "__main__":
    sys.exit(main())
