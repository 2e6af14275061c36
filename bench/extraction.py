"""What does an extractor cost beside the forward of its network?

    python -m bench.extraction

Times `Extractor.__call__` against the bare network in inference mode on the same bytes: for
`fashion-cnn` and `efficientnet-lite0` the module inside, and for `inception` torch-fidelity's own
network with its own forward, both from one file of random weights. Prints one table, writes
`bench/results/extraction.json`, and exits 1 when a median ratio exceeds 1.03.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.canonical import file_digest
from skiptune.objectives.extractors import Extractor, load_extractor

__all__ = ["LIMIT", "main"]

LIMIT = 1.03
BARE, OURS = "bare", "extractor"
# Name, images at once, their channels, and how many times the rounds: the first is a study's
# microbatch, so short that other people's load needs more rounds to average out.
CASES = (("fashion-cnn", 50, 1, 12), ("efficientnet-lite0", 4, 1, 1), ("inception", 2, 3, 1))


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "extraction.json")
    options = parser.parse_args()
    use_threads(options.threads)

    rows, bounds = [], []
    spreads: dict[str, dict[str, Spread]] = {}
    raw = {}
    for name, images, channels, times in CASES:
        extractor, bare = _built(name)
        generator = torch.Generator().manual_seed(0)
        shape = (images, channels, 32, 32)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)

        def direct(_: object, bare: Callable[[Tensor], Any] = bare, x: Tensor = pixels) -> None:
            with torch.inference_mode():
                bare(x)

        def through(_: object, extractor: Extractor = extractor, x: Tensor = pixels) -> None:
            extractor(x)

        ways: list[Way[Any]] = [Way(BARE, nullcontext, direct), Way(OURS, nullcontext, through)]
        timings = interleave(ways, repeats=times * options.repeats, warmup=3)
        raw[name] = {way: [(t.wall, t.cpu) for t in took] for way, took in timings.items()}
        wall, cpu = (ratios(timings, OURS, BARE, clock=clock) for clock in ("wall", "cpu"))
        spreads[name] = {"wall": wall, "cpu": cpu}
        bounds.append(Bound(f"extraction, {name}", wall.median, LIMIT))
        for way, took in timings.items():
            milliseconds = Spread.of([1000 * t.wall for t in took])
            ratio = (str(wall), str(cpu)) if way == OURS else ("1", "1")
            rows.append((name, way, str(images), str(milliseconds), *ratio))
    print_table(
        ("extractor", "way", "images", "ms (quartiles)", "ratio", "ratio of CPU time"), rows
    )
    return finish(
        options.out,
        settings={"repeats": options.repeats, "cases": [list(case) for case in CASES]},
        bounds=bounds,
        ratios={
            name: {clock: vars(s) for clock, s in found.items()} for name, found in spreads.items()
        },
        wall_and_cpu_seconds=raw,
    )


def _built(name: str) -> tuple[Extractor, Callable[[Tensor], Any]]:
    """Return an extractor and the network that it is compared with."""
    if name != "inception":
        extractor = load_extractor(name)
        return extractor, extractor.module
    network = _random_inception()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(network.state_dict(), path)
        extractor = load_extractor(name, weights=path, sha256=file_digest(path))
    return extractor, network


def _random_inception() -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Keep the random weights."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network: nn.Module = Random("inception", ["2048"], feature_extractor_weights_path=nothing)
    return network


if __name__ == "__main__":
    sys.exit(main())
