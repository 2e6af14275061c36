"""Do skiptune's networks compute what NVIDIA's compute?

    python -m bench.parity_edm EDM_CHECKOUT [EDM2_CHECKOUT]

Takes folders with the repositories NVlabs/edm and NVlabs/edm2, whose licences forbid commercial
use: nothing of them is part of skiptune. For every family their network is made with random
weights, every output layer that starts at zero drawn anew, and its state loaded into ours under
the same names. Both are run in float32 at several noise levels, with and without labels and
augmentation, untouched and with scales other than 1 on all skips: ours through `apply`, theirs
through hooks written here. Prints one table, writes `bench/results/parity_edm.json`, and exits 1
when an output differs by more than 1e-5 of the largest value in theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.parity import Measured, finished, scales_of
from bench.record import RESULTS, use_threads
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks import Preconditioned, build_denoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import Skip, find_skips

__all__ = ["CASES", "Case", "main", "measure"]

IMAGES = 3
SIGMAS = (0.03, 0.7, 5.0, 60.0)


@dataclass(frozen=True)
class Case:
    """One network.

    Arguments:
        upstream: The class in the checkout that makes the denoiser.
        precond: The same for us.
        config: What both are made from, without ``precond``.
        augment: Length of the augmentation vector, 0 for none.
    """

    upstream: str
    precond: str
    config: Mapping[str, Any]
    augment: int = 0


_IMAGE: dict[str, Any] = {"img_resolution": 16, "img_channels": 3, "label_dim": 10}
_DDPMPP: dict[str, Any] = {
    **_IMAGE,
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    # 128 + 64 channels in 32 groups of 6: a mixed block.
    "model_channels": 64,
    "channel_mult": [1, 2, 2],
    "num_blocks": 2,
    "attn_resolutions": [8],
    "augment_dim": 9,
}
_NCSNPP = {
    **_DDPMPP,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
_ADM = {
    **_IMAGE,
    "model_type": "DhariwalUNet",
    "model_channels": 64,
    "channel_mult": [1, 2, 3],
    "num_blocks": 2,
    "attn_resolutions": [8, 4],
    "augment_dim": 9,
}
_EDM2 = {
    **_IMAGE,
    "model_channels": 64,
    "channel_mult": [1, 2, 3],
    "num_blocks": 2,
    "attn_resolutions": [8, 4],
    "sigma_data": 0.5,
}
CASES = {
    "ddpmpp, EDM": Case("EDMPrecond", "edm", {**_DDPMPP, "sigma_data": 0.5}, 9),
    "ddpmpp, VP": Case("VPPrecond", "vp", _DDPMPP, 9),
    "ncsnpp, EDM": Case("EDMPrecond", "edm", {**_NCSNPP, "sigma_data": 0.5}, 9),
    "ncsnpp, VE": Case("VEPrecond", "ve", _NCSNPP, 9),
    "adm, EDM": Case("EDMPrecond", "edm", {**_ADM, "sigma_data": 0.5}, 9),
    "adm, VP": Case("VPPrecond", "vp", _ADM, 9),
    "adm, VE": Case("VEPrecond", "ve", _ADM, 9),
    "adm, iDDPM": Case("iDDPMPrecond", "iddpm", _ADM, 9),
    "edm2": Case("Precond", "edm2", _EDM2),
}


def measure(name: str, module: types.ModuleType) -> Measured:
    """Compare one case in evaluation mode, float32, on the CPU."""
    case = CASES[name]
    torch.manual_seed(1)
    theirs = getattr(module, case.upstream)(**case.config, **_their_names(case)).eval()
    _redraw(theirs)
    ours = build_denoiser({**case.config, "precond": case.precond}).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith(ours.ignored)}
    ours.load_state_dict(state, strict=True)
    skips = find_skips(ours)
    scales = scales_of(skips)
    plain = list(_pairs(case, theirs, ours))
    with _hooked(getattr(theirs, ours.holder), skips, scales):
        with scaled(ours, Schedule.uniform(scales)):
            pairs = list(_pairs(case, theirs, ours))
    return Measured.of(name, skips, plain, pairs)


def _their_names(case: Case) -> dict[str, Any]:
    return {"use_fp16": False} if case.precond == "edm2" else {}


def _redraw(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 0:
                parameter.fill_(0.7)
            elif parameter.abs().max() < 1e-3:
                size = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
                parameter.copy_(torch.randn_like(parameter) * size)


def _pairs(case: Case, theirs: nn.Module, ours: Preconditioned) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    shape = (IMAGES, case.config["img_channels"], *[case.config["img_resolution"]] * 2)
    classes = torch.eye(case.config["label_dim"])[[3, 0, 7]]
    augment = torch.randn(IMAGES, case.augment, generator=generator)
    noise = torch.randn(shape, generator=generator)
    for level in SIGMAS:
        x, sigma = noise * (level**2 + 0.25) ** 0.5, torch.tensor(level)
        for labels in (None, classes):
            keys = [{}, {"augment_labels": augment}] if case.augment else [{}]
            for key in keys:
                with torch.no_grad():
                    yield theirs(x, sigma, labels, **key), ours(x, sigma, labels, **key)


@contextlib.contextmanager
def _hooked(
    unet: nn.Module, skips: tuple[Skip, ...], scales: Mapping[str, float]
) -> Iterator[None]:
    decoder: Any = unet.dec

    def scaling(skip: Skip) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].clone()
            x[:, -skip.skip_channels :] *= scales[skip.address]
            return (x, *args[1:])

        return hook

    hooks = [decoder[skip.address].register_forward_pre_hook(scaling(skip)) for skip in skips]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def load_upstream(checkout: Path) -> tuple[str, types.ModuleType]:
    """Run the module of networks of a checkout, and say whether it is ``edm`` or ``edm2``.

    What the module imports from its own repository is replaced: the decorator that prepares
    classes for pickling, by nothing; and a cache of constants, by making the constant.
    """
    files = {"edm2": "networks_edm2.py", "edm": "networks.py"}
    paths = {kind: checkout / "training" / file for kind, file in files.items()}
    kind = next((kind for kind, path in paths.items() if path.is_file()), None)
    if kind is None:
        raise SystemExit(f"{checkout}: expected a checkout of NVlabs/edm or NVlabs/edm2")
    package, persistence, misc = map(
        types.ModuleType, ("torch_utils", "torch_utils.persistence", "torch_utils.misc")
    )
    vars(persistence)["persistent_class"] = lambda made: made
    vars(misc)["const_like"] = lambda like, value: torch.as_tensor(
        value, dtype=like.dtype, device=like.device
    )
    vars(package).update(persistence=persistence, misc=misc)
    sys.modules.update({m.__name__: m for m in (package, persistence, misc)})
    spec = importlib.util.spec_from_file_location(f"upstream_{kind}", paths[kind])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return kind, module


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="+", help="of NVlabs/edm or NVlabs/edm2")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "parity_edm.json")
    options = parser.parse_args()
    use_threads(options.threads)

    found: list[Measured] = []
    for checkout in options.checkout:
        kind, module = load_upstream(checkout)
        names = [
            name for name, case in CASES.items() if (case.precond == "edm2") == (kind == "edm2")
        ]
        found += [measure(name, module) for name in names]
    return finished(
        options.out,
        found,
        settings={"images": IMAGES, "sigmas": SIGMAS},
        options={name: case.config for name, case in CASES.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
