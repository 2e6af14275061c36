"""What do skip scales do to the network's denoising of real images, in pixels and in features?

    python -m bench.feature_loss

Noises held-out images at nine noise levels, lets `fashion` denoise them (`fashion-test`, one noise
per image, the same for all schedules), and compares the score-matching losses of
`skiptune.objectives.denoising` with the untouched network's, level by level, with 95 % intervals:
for the tuned schedule of the bundled study and for one scale on all skips. Skip-Tuning (Ma et al.
2024, arXiv 2402.15170) reports that the feature loss falls while the pixel loss rises, most at
intermediate noise levels. Prints one table per schedule, writes `bench/results/feature_loss.json`
and draws `docs/feature_loss.png`. There is no bound: it shows what this network does.

What it shows: 0.9 on all skips lowers the feature loss at every level (3 to 9 %) and raises the
pixel loss up to sigma 1, as the paper says, but most at the lowest noise levels and not at the
intermediate ones. 1.1 raises both. The tuned schedule raises both as well, though it lowers the
Frechet distance in six steps: what it mends there is not the estimate at single noise levels, so
on this network the feature loss would not have found it.

`--data DATA` takes the 10000 held-out images of Fashion-MNIST instead; `--tuned FILE` another
schedule than the one that stands in this module.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bench.record import RESULTS, finish, print_table, use_threads
from skiptune.objectives.denoising import (
    FEATURE_LOSS,
    LEVELS,
    PIXEL_LOSS,
    denoising_losses,
    image_indices,
)
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.image_files import load_images
from skiptune.objectives.losses import Level, LossScore, loss_score
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule
from skiptune.search.tuned import load

__all__ = ["TUNED", "Panel", "Series", "draw", "held_out", "main", "schedules"]

PICTURE = Path(__file__).parents[1] / "docs" / "feature_loss.png"
LOSSES = (FEATURE_LOSS, PIXEL_LOSS)
UNIFORM = (0.9, 1.1)

# The winner of `skiptune tune fashion`, the bundled study, rounded to four decimals. With dpmpp_2m
# in 6 steps: FD(fashion-cnn) 9.30 against 11.68 untouched, on 1,500 fresh seeds.
TUNED = {
    "4x4_block0": 0.925,
    "4x4_block1": 0.9018,
    "4x4_block2": 0.9136,
    "8x8_block0": 0.9651,
    "8x8_block1": 1.1824,
    "8x8_block2": 1.0526,
    "16x16_block0": 0.883,
    "16x16_block1": 0.8644,
    "16x16_block2": 0.8226,
    "32x32_block0": 1.1278,
    "32x32_block1": 0.9118,
    "32x32_block2": 1.1947,
}


def schedules(tuned: Path | None, addresses: Sequence[str]) -> dict[str, Schedule]:
    """Return what is compared with the untouched network, by name.

    Arguments:
        tuned: A `tuned.json`; None takes `TUNED`.
        addresses: The network's skips.
    """
    winner = Schedule.uniform(TUNED) if tuned is None else load(tuned).schedule
    uniform = {
        f"all skips x {scale}": Schedule.uniform(dict.fromkeys(addresses, scale))
        for scale in UNIFORM
    }
    return {"tuned": winner, **uniform}


def held_out(data: Path | None) -> tuple[Tensor, Tensor]:
    """Return images that the network was not trained on, float32 in -1..1, and their labels."""
    if data is None:
        images, labels = load_images("fashion-test")
        if labels is None:
            raise AssertionError("the bundled images have labels")
    else:
        from training import fashion_mnist

        images, labels = fashion_mnist.load(data)
        first = fashion_mnist.TRAINING_IMAGES
        images, labels = images[first:], labels[first:]
    return torch.from_numpy(images).float() / 127.5 - 1, torch.from_numpy(labels)


def main() -> int:
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Fashion-MNIST: IDX folder or npz")
    parser.add_argument("--tuned", type=Path, help="a tuned.json of `fashion`")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "feature_loss.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    use_threads(options.threads)

    checkpoint = load_checkpoint("fashion")
    extractor = load_extractor("fashion-cnn")
    images, labels = held_out(options.data)
    seeds = range(options.first_seed, options.first_seed + options.pairs)
    index = image_indices(seeds, len(images))

    def losses(schedule: Schedule) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode(), scaled(checkpoint.network, schedule):
            found = denoising_losses(checkpoint.network, extractor, images, labels, seeds)
        return {name: array.numpy() for name, array in found.items()}

    print(f"{options.pairs} pairs of {len(images)} held-out images and noise", flush=True)
    base = losses(Schedule.baseline())
    rows = [
        (f"{sigma:.3g}", *(f"{base[name][:, place].mean():.5f}" for name in LOSSES))
        for place, sigma in enumerate(LEVELS)
    ]
    print("\nuntouched")
    print_table(("sigma", "feature loss", "pixel loss"), rows)

    results: dict[str, Any] = {}
    panels = []
    for name, schedule in schedules(
        options.tuned, [skip.address for skip in checkpoint.skips]
    ).items():
        found = losses(schedule)
        scores = {loss: loss_score(found[loss], base[loss], images=index) for loss in LOSSES}
        _print(name, scores)
        results[name] = {
            "schedule": schedule.to_json(),
            **{loss: _plain(score) for loss, score in scores.items()},
        }
        panels.append(_panel(name, scores))
    options.picture.write_bytes(draw(panels))
    print(f"\nDrew {options.picture}")
    return finish(
        options.out,
        settings={
            "checkpoint": checkpoint.name,
            "sha256": checkpoint.sha256,
            "extractor": extractor.name,
            "images": len(images),
            "pairs": options.pairs,
            "first_seed": options.first_seed,
            "sigmas": list(LEVELS),
        },
        bounds=[],
        untouched={name: base[name].mean(axis=0, dtype=np.float64).tolist() for name in LOSSES},
        schedules=results,
    )


def _print(name: str, scores: Mapping[str, LossScore]) -> None:
    print(f"\n{name}: change of the loss in %, with 95 % intervals")
    rows = []
    for place, sigma in enumerate(LEVELS):
        rows.append((f"{sigma:.3g}", *(_percent(s.levels[place].ratio) for s in scores.values())))
    rows.append(("all levels alike", *(_percent(score.value) for score in scores.values())))
    print_table(("sigma", *(loss.replace("_", " ") for loss in scores)), rows)


def _percent(ratio: Any) -> str:
    low, high = ratio.interval()
    value, low, high = (100 * (number - 1) for number in (ratio.value, low, high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _plain(score: LossScore) -> dict[str, Any]:
    def level(one: Level) -> dict[str, Any]:
        return {
            "mean": one.mean.value,
            "difference": one.difference.value,
            "difference_error": one.difference.standard_error,
            "ratio": one.ratio.value,
            "ratio_error": one.ratio.standard_error,
        }

    return {
        "ratio": score.value.value,
        "ratio_error": score.value.standard_error,
        "levels": [level(one) for one in score.levels],
    }


# The picture.

SCALE = 3  # drawn so many times larger and shrunk, which smooths the lines
WIDTH, HEIGHT = 330, 250  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 44, 34
INK, GREY, PAPER = (40, 40, 40), (205, 205, 205), (255, 255, 255)
COLOURS = {FEATURE_LOSS: (190, 60, 30), PIXEL_LOSS: (40, 90, 170)}
SIGMA_TICKS = (0.05, 0.2, 1.0, 5.0, 20.0)
CHANGE_TICKS = (-20, -10, 0, 10, 20, 50, 100, 200, 400)
FULL_LINEAR = 20.0  # percent up to which the axis is close to linear


@dataclass(frozen=True)
class Series:
    """One loss over the noise levels: change in percent, and the ends of its interval."""

    name: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One schedule."""

    title: str
    series: tuple[Series, ...]


def draw(panels: Sequence[Panel]) -> bytes:
    """Return a PNG of the panels side by side, all over one scale of changes.

    The axis of changes bends (asinh), so that small and large changes can both be read.
    """
    ends = [end for panel in panels for s in panel.series for end in (*s.low, *s.high)]
    low, high = _bent(min(*ends, -10.0)) - 0.1, _bent(max(*ends, 10.0)) + 0.1
    size = (WIDTH * len(panels), HEIGHT)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    canvas = ImageDraw.Draw(picture)
    for place, panel in enumerate(panels):
        _draw_panel(canvas, panel, left=place * WIDTH, low=low, high=high)
    data = io.BytesIO()
    small = picture.resize(size, Image.Resampling.LANCZOS).quantize(64)
    small.save(data, format="PNG", optimize=True)
    return data.getvalue()


def _draw_panel(
    canvas: ImageDraw.ImageDraw, panel: Panel, *, left: float, low: float, high: float
) -> None:
    font = ImageFont.load_default(size=11 * SCALE)
    inside = (left + LEFT, TOP, left + WIDTH - RIGHT, HEIGHT - BOTTOM)

    def across(sigma: float) -> float:
        share = math.log(sigma / LEVELS[0]) / math.log(LEVELS[-1] / LEVELS[0])
        margin = 8
        return SCALE * (inside[0] + margin + share * (inside[2] - inside[0] - 2 * margin))

    def down(change: float) -> float:
        share = (_bent(change) - low) / (high - low)
        return SCALE * (inside[3] - share * (inside[3] - inside[1]))

    def text(x: float, y: float, words: str, anchor: str, ink: tuple[int, int, int] = INK) -> None:
        canvas.text((x, y), words, fill=ink, font=font, anchor=anchor)

    for change in CHANGE_TICKS:
        if low <= _bent(change) <= high:
            ink = INK if change == 0 else GREY
            y = down(change)
            canvas.line((SCALE * inside[0], y, SCALE * inside[2], y), fill=ink, width=SCALE)
            text(SCALE * (inside[0] - 5), y, f"{change:+d} %" if change else "0", "rm")
    for sigma in SIGMA_TICKS:
        text(across(sigma), SCALE * (inside[3] + 4), f"{sigma:g}", "ma")
    text(SCALE * (inside[0] + inside[2]) / 2, SCALE * (HEIGHT - 3), "noise level sigma", "md")
    text(SCALE * inside[0], SCALE * 6, panel.title, "la")
    start = SCALE * inside[0]
    for series in panel.series:
        ink = COLOURS[series.name]
        points = [
            (across(sigma), down(value))
            for sigma, value in zip(LEVELS, series.values, strict=True)
        ]
        canvas.line(points, fill=ink, width=2 * SCALE, joint="curve")
        for (x, _), *bar in zip(points, series.low, series.high, strict=True):
            canvas.line((x, down(bar[0]), x, down(bar[1])), fill=ink, width=SCALE)
        for x, y in points:
            radius = 2.5 * SCALE
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        words = series.name.replace("_", " ")
        text(start, SCALE * 22, words, "la", ink)
        start += canvas.textlength(words, font=font) + 12 * SCALE


def _bent(change: float) -> float:
    return math.asinh(change / FULL_LINEAR)


def _panel(name: str, scores: Mapping[str, LossScore]) -> Panel:
    series = []
    for loss, score in scores.items():
        ratios = [level.ratio for level in score.levels]
        ends = [ratio.interval() for ratio in ratios]
        series.append(
            Series(
                name=loss,
                values=tuple(100 * (ratio.value - 1) for ratio in ratios),
                low=tuple(100 * (end[0] - 1) for end in ends),
                high=tuple(100 * (end[1] - 1) for end in ends),
            )
        )
    return Panel(name, tuple(series))


if __name__ == "__main__":
    sys.exit(main())
