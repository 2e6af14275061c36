"""Our sampling against another one on the same network, untouched and with every skip scaled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import Bound, finish, print_table
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips

__all__ = ["LEAST", "OURS", "TUNED", "Rival", "ours"]

LEAST: Final = 0.97  # of the images that the other makes in the same time
OURS: Final = "skiptune"
TUNED: Final = "skiptune, every skip scaled"


class Rival:
    """What is compared, and what came out so far.

    Arguments:
        name: Of the other, as a table calls it.
        images: Of one call.
        repeats: Rounds.
    """

    def __init__(self, name: str, *, images: int, repeats: int) -> None:
        self._name, self._images, self._repeats = name, images, repeats
        self._rows: list[tuple[str, ...]] = []
        self._bounds: list[Bound] = []
        self._raw: dict[str, Any] = {}
        self._spreads: dict[str, Any] = {}

    def measure(
        self, case: str, network: nn.Module, setting: Setting, theirs: Callable[[Any], object]
    ) -> None:
        """Time one network three ways.

        Arguments:
            case: Its name.
            network: Ours.
            setting: How ours makes images, with as many evaluations as theirs.
            theirs: Makes as many images.
        """
        addresses = [skip.address for skip in find_skips(network)]
        # Never 1, where nothing would be multiplied.
        schedule = Schedule.uniform({a: 0.89 + 0.02 * i for i, a in enumerate(addresses)})
        own = partial(ours, network, setting, self._images)
        ways: list[Way[Any]] = [
            Way(self._name, contextlib.nullcontext, theirs),
            Way(OURS, partial(_installed, network, None), own),
            Way(TUNED, partial(_installed, network, schedule), own),
        ]
        timings = interleave(ways, repeats=self._repeats, warmup=2)
        self._raw[case] = {way: [(t.wall, t.cpu) for t in took] for way, took in timings.items()}
        for way, took in timings.items():
            speed = Spread.of([self._images / t.wall for t in took])
            # Images per second of ours over theirs: their time over ours.
            wall = ratios(timings, self._name, way)
            cpu = ratios(timings, self._name, way, clock="cpu")
            self._spreads[f"{case}, {way}"] = {"wall": vars(wall), "cpu": vars(cpu)}
            self._rows.append((case, way, str(speed), str(wall), str(cpu)))
            if way != self._name:
                slower = ratios(timings, way, self._name).median
                what = f"time of {way} over {self._name}, {case}"
                self._bounds.append(Bound(what, slower, 1 / LEAST))

    def finished(self, out: Path, settings: dict[str, Any]) -> int:
        """Print the table, write the result, and return the exit code."""
        print(f"{self._images} images of {settings['steps']} steps at once")
        head = ("network", "way", "images per second", f"of {self._name}", "by CPU time")
        print_table(head, self._rows)
        return finish(
            out,
            settings={"images": self._images, "repeats": self._repeats, **settings},
            bounds=self._bounds,
            ratios=self._spreads,
            wall_and_cpu_seconds=self._raw,
        )


def ours(network: nn.Module, setting: Setting, images: int, _: object = None) -> Tensor:
    """Return images of our own, float32 [N, C, H, W]."""
    with torch.inference_mode():
        return sample_float(network, setting, range(images))


@contextlib.contextmanager
def _installed(network: nn.Module, schedule: Schedule | None) -> Iterator[None]:
    with contextlib.nullcontext() if schedule is None else scaled(network, schedule):
        yield
