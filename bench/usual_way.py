"""One whole evaluation of a schedule, against the usual way to get the same number.

    python -m bench.usual_way

Both ways make the same images of `fashion` from the same seeds, with the same weights, batch and
threads, and give their raw Frechet distance to the training images:

    skiptune   chunks claimed, sampled, extracted, stored as arrays, committed, scored with
               standard error and correction for the bias in N
    usual      a plain loop over the network, one PNG file per image, then torch-fidelity's
               `calculate_metrics` over the folder, with `fashion-cnn` registered as extractor

The usual way is given its best: the reference's statistics lie in torch-fidelity's cache, and no
worker processes are started for decoding. Opening the study (the way of skiptune) and
preparing that cache (the usual one) are not timed. Prints one table with the ratio, writes
`bench/results/usual_way.json`, and exits 1 when an image differs by a bit, when the distances
differ by more than torch-fidelity's float32 mean explains, or when skiptune takes over 1.05
times the processor's time. (The clock is printed too, but on a busy machine it says little.)
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_fidelity
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from bench.stopwatch import Stopwatch, watched
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.reference import Reference
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting, sigmas
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import SEARCH_SEED, OpenStudy, check_study, open_study
from skiptune.search.worker import Worker
from skiptune.storage.ledger import scores

__all__ = ["main", "plain_images"]

OURS, USUAL = "skiptune", "usual"
LAYER = "pooled"
SHAPE, CLASSES = (1, 32, 32), 10  # of `fashion`
# Both distances are of the same float32 features; torch-fidelity's means are float32 too. Adding
# N rows one after the other is off by some sqrt(N) roundings of 6e-8, so 2e-6 of the mean at
# N = 1000, and the distance by no more, as it is at least |m - m_r|^2 and both means are near 1.
TOLERANCE = 1e-5
# The network's forward is all but a few hundredths of either way, and its own time varies by
# about a hundredth between rounds.
LIMIT = 1.05


def plain_images(network: nn.Module, setting: Setting, seeds: Sequence[int]) -> Tensor:
    """Return uint8 images [B, C, H, W] by DPM-Solver++(2M) in the plainest code.

    Arguments:
        network: `fashion`, or one of its shape.
        setting: Only its noise levels are read; solver `dpmpp_2m`, random labels, no guidance.
        seeds: One per image.
    """
    noise, labels = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(SHAPE, generator=generator))
        labels.append(torch.randint(CLASSES, (), generator=generator))
    rows = torch.nn.functional.one_hot(torch.stack(labels), CLASSES).float()
    levels = sigmas(setting)
    x = torch.stack(noise).double() * levels[0]
    old, h_old = None, 0.0
    with torch.no_grad():
        for t, t_next in pairwise(levels):
            new = network(x, torch.tensor(t, dtype=torch.float64), rows).double()
            if t_next == 0:
                x = new
                break
            h = math.log(t / t_next)
            target = new if old is None else new + (new - old) * (h / (2 * h_old))
            x = x * (t_next / t) + target * (1 - t_next / t)
            old, h_old = new, h
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def registered(extractor: Extractor, name: str) -> None:
    """Make an extractor of grey images known to torch-fidelity."""

    class Registered(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.module = extractor.module

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (LAYER,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            # Files are read as RGB: three times the grey channel.
            return (self.module(images[:, :1]),)

    torch_fidelity.register_feature_extractor(name, Registered)


def write_reference(reference: Reference, folder: Path, *, name: str, extractor: str) -> None:
    """Put a reference's statistics where torch-fidelity looks for them before computing them."""
    # Its own means are float32, and it refuses to compare them with others.
    statistics = {"mu": reference.mean.astype(np.float32), "sigma": reference.covariance}
    torch.save(statistics, folder / f"{name}-{extractor}-stat-fid-{LAYER}.pt")


def usual_evaluation(
    network: nn.Module, setting: Setting, seeds: Sequence[int], *, folder: Path, batch: int
) -> float:
    """Sample into PNG files and return torch-fidelity's distance.

    Arguments:
        network: The denoiser.
        setting: As for `plain_images`.
        seeds: One per image.
        folder: With the reference's statistics in `cache`.
        batch: Images at once, through both networks.
    """
    images = folder / "images"
    images.mkdir()
    for first in range(0, len(seeds), batch):
        chosen = seeds[first : first + batch]
        for seed, pixels in zip(chosen, plain_images(network, setting, chosen), strict=True):
            Image.fromarray(pixels[0].numpy()).save(images / f"{seed:08d}.png")
    metrics = torch_fidelity.calculate_metrics(
        input1=str(images),
        input2=str(images),  # never read: its statistics are in the cache
        input2_cache_name="reference",
        cache_root=str(folder / "cache"),
        feature_extractor=OURS,
        fid=True,
        cuda=False,
        batch_size=batch,
        save_cpu_ram=True,  # else four processes decode the files
        verbose=False,
    )
    return float(metrics["frechet_inception_distance"])


def our_evaluation(study: OpenStudy, images: int) -> float:
    """Evaluate the untouched network as a worker does and return the raw distance."""
    entered = study.baseline(block="bench", first_seed=SEARCH_SEED, images=images)
    Worker(study, lambda board, turn: "complete").run()
    raw = next(s.raw for s in scores(study.database, study.id) if s.evaluation_id == entered.id)
    if raw is None:
        raise RuntimeError("the evaluation has a score without its raw distance")
    return raw


@contextmanager
def opened(spec: StudySpec) -> Iterator[OpenStudy]:
    """Open a study in a database that vanishes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield open_study(spec, storage=f"sqlite:///{Path(folder) / 'bench.db'}")


@contextmanager
def prepared(reference: Reference) -> Iterator[Path]:
    """Make a folder for files, with the reference in its cache, that vanishes afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cache").mkdir()
        write_reference(reference, folder / "cache", name="reference", extractor=OURS)
        yield folder


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="fashion", help="bundled name or file")
    parser.add_argument("--images", type=int, default=1000, help="a multiple of 250")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "usual_way.json")
    options = parser.parse_args()
    use_threads(options.threads)

    spec = load_spec("fashion", overrides=(f"network.checkpoint={options.checkpoint}",))
    checkpoint, objective, _ = check_study(spec)
    extractor, reference = objective.extractor, objective.reference
    assert reference is not None
    network, setting, batch = checkpoint.network, spec.setting.to_setting(), spec.microbatch
    seeds = range(SEARCH_SEED, SEARCH_SEED + options.images)
    registered(extractor, OURS)

    pairs = zip(
        sample(network, setting, seeds, microbatch=batch), range(0, len(seeds), batch), strict=True
    )
    different = sum(
        int((ours.images != plain_images(network, setting, seeds[i : i + batch])).sum())
        for ours, i in pairs
    )

    values: dict[str, set[float]] = {OURS: set(), USUAL: set()}
    inside: dict[str, list[Stopwatch]] = {OURS: [], USUAL: []}

    def ours(study: OpenStudy) -> None:
        with watched(study.checkpoint.network) as watch:
            values[OURS].add(our_evaluation(study, options.images))
        inside[OURS].append(watch)

    def usual(folder: Path) -> None:
        with watched(network) as watch:
            value = usual_evaluation(network, setting, seeds, folder=folder, batch=batch)
        values[USUAL].add(value)
        inside[USUAL].append(watch)

    ways: list[Way[Any]] = [
        Way(OURS, lambda: opened(spec), ours),
        Way(USUAL, lambda: prepared(reference), usual),
    ]
    # A warm-up of both: the first score of a process imports and allocates.
    timings = interleave(ways, repeats=options.repeats, warmup=1)

    rows = []
    outside = {}
    for name, took in timings.items():
        watches = inside[name][-len(took) :]
        outside[name] = [t.cpu - w.cpu for t, w in zip(took, watches, strict=True)]
        spreads = [Spread.of([t.wall for t in took]), Spread.of([t.cpu for t in took])]
        spreads.append(Spread.of(outside[name]))
        rows.append((name, *map(str, spreads), ", ".join(f"{v:.7g}" for v in values[name])))
    wall = ratios(timings, OURS, USUAL)
    cpu = ratios(timings, OURS, USUAL, clock="cpu")
    rest = Spread.of([a / b for a, b in zip(outside[OURS], outside[USUAL], strict=True)])
    rows.append((f"{OURS} / {USUAL}", str(wall), str(cpu), str(rest), ""))
    print(f"{options.images} images of {checkpoint.name}, seconds, median (quartiles)")
    print_table(
        ("way", "clock", "processor", "processor, outside the network", "raw distance"), rows
    )
    gap = max(abs(a / b - 1) for a in values[OURS] for b in values[USUAL])
    return finish(
        options.out,
        settings={
            "checkpoint": checkpoint.name,
            "sha256": checkpoint.sha256,
            "images": options.images,
            "batch": batch,
            "repeats": options.repeats,
        },
        bounds=[
            Bound("pixels that differ", different, 0),
            Bound("relative difference of the distances", gap, TOLERANCE),
            Bound(f"time of {OURS} / {USUAL}, processor", cpu.median, LIMIT),
        ],
        ratios={"wall": vars(wall), "cpu": vars(cpu), "cpu_outside_network": vars(rest)},
        distances={name: sorted(found) for name, found in values.items()},
        wall_and_cpu_seconds={n: [(t.wall, t.cpu) for t in took] for n, took in timings.items()},
        cpu_seconds_outside_network=outside,
    )


if __name__ == "__main__":
    sys.exit(main())
