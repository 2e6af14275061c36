"""Do skiptune's OpenAI-style U-Nets and U-ViT compute what their authors' compute?

    python -m bench.parity_openai CHECKOUT...

Takes folders with the repositories openai/guided-diffusion, openai/consistency_models,
CompVis/latent-diffusion, baofff/U-ViT and lucidrains/denoising-diffusion-pytorch (all MIT); the
last four need the package einops. Of lucidrains' the network is their own on both sides: compared
are its denoiser and its skips. For every case their network is made with random weights, every
layer that starts at zero drawn anew, and its state written with `torch.save` and read back
through `skiptune.sampling.published` with the options their code would be given. Both denoise in
float32 at several noise levels, with and without labels, untouched and with scales other than 1
on all skips: ours through `apply`, theirs by hooks written here. Their preconditioning is their
own code where it can be imported (noise and time of guided-diffusion, consistency models and
lucidrains; variances of latent diffusion), so a table of noise levels that is off is seen. Prints
one table, writes `bench/results/parity_openai.json`, and exits 1 when an output differs by more
than 1e-5 of the largest value in theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.parity import Measured, finished, scales_of
from bench.parity_openai_cases import CASES, SIGMAS, STEPS, Case, Denoise
from bench.record import RESULTS, use_threads
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.published import read_published
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import Skip, find_skips

__all__ = ["main", "measure"]

IMAGES = 3


def measure(name: str) -> Measured:
    """Compare one case in evaluation mode, float32, on the CPU."""
    case = CASES[name]
    torch.manual_seed(1)
    levels: list[float] = []
    theirs, denoise = case.make(case.options, levels)
    _redraw(theirs.eval())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        torch.save(theirs.state_dict(), path)
        read = read_published(path, case.options, where=name)
    ours: Any = build_denoiser(read.config).eval()
    ours.load_state_dict(read.tensors, strict=True)
    known = [float(ours.u[step]) for step in STEPS] if hasattr(ours, "u") else list(SIGMAS)
    levels.extend(known)
    skips = find_skips(ours)
    scales = scales_of(skips)
    plain = list(_pairs(case, ours, denoise, levels))
    with _hooked(theirs, case.receivers, skips, scales):
        with scaled(ours, Schedule.uniform(scales)):
            pairs = list(_pairs(case, ours, denoise, levels))
    return Measured.of(name, skips, plain, pairs)


def _redraw(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 1e-3:
                size = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
                parameter.copy_(torch.randn_like(parameter) * size)


def _pairs(
    case: Case, ours: Any, denoise: Denoise, levels: list[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    shape = (IMAGES, ours.img_channels, ours.img_resolution, ours.img_resolution)
    noise = torch.randn(shape, generator=generator)
    numbers = torch.tensor([3, 0, 7])
    rows: list[Tensor | None] = [numbers] if ours.label_dim else [None]
    if ours.label_dim and case.labelled:
        rows.append(None)
    for place, level in enumerate(levels):
        x, sigma = noise * (level**2 + 0.25) ** 0.5, torch.tensor(level)
        for labels in rows:
            one_hot = None if labels is None else F.one_hot(labels, ours.label_dim).float()
            with torch.no_grad():
                yield denoise(x, place, labels), ours(x, sigma, one_hot)


@contextlib.contextmanager
def _hooked(
    network: nn.Module, receivers: str, skips: tuple[Skip, ...], scales: Mapping[str, float]
) -> Iterator[None]:
    if receivers:
        (blocks,) = (m for name, m in network.named_modules() if name.endswith(receivers))
    else:
        unet = network.model
        blocks = [unet.get_submodule(skip.address) for skip in skips]  # type: ignore

    def scaling(skip: Skip) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            factor = scales[skip.address]
            if receivers == "out_blocks":
                return (args[0], args[1] * factor)
            x = args[0].clone()
            x[:, -skip.skip_channels :] *= factor
            return (x, *args[1:])

        return hook

    hooks = [
        block.register_forward_pre_hook(scaling(skip))
        for skip, block in zip(skips, blocks, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="+", help="of one of the repositories")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "parity_openai.json")
    options = parser.parse_args()
    use_threads(options.threads)

    found: list[Measured] = []
    for checkout in options.checkout:
        names = [name for name, case in CASES.items() if (checkout / case.checkout).exists()]
        if not names:
            raise SystemExit(f"{checkout}: expected a checkout of one of the repositories")
        sys.path.insert(0, str(checkout))
        found += [measure(name) for name in names]
    return finished(
        options.out,
        found,
        settings={"images": IMAGES, "steps": STEPS, "sigmas": SIGMAS},
        options={name: case.options for name, case in CASES.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
