"""Draws the pictures of the READMEs in this folder, and writes them beside these.

    python -m integrations.pictures

The graph of ComfyUI's nodes and the decoders are drawn; the images under `edm/` are sampled by the
bundled network `fashion` through `edm/plain_hooks.py`, with the schedule of `bench.frontier` for 6
evaluations of the network (a minute on one core).
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from integrations.edm.plain_hooks import install
from skiptune.sampling import load_checkpoint, sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.views.picture import Row, grid

__all__ = ["before_after", "decoder", "graph"]

HERE = Path(__file__).parent
FRONTIER = HERE.parent / "bench" / "results" / "frontier.json"
SEEDS = range(100_000, 100_010)  # of final reports, the first of `bench.frontier`

SCALE = 2  # drawn so many times larger and shrunk, which smooths the lines
INK, GREY, PAPER = (40, 40, 40), (150, 150, 150), (255, 255, 255)
NODE, OURS, SKIP = (238, 240, 244), (216, 232, 220), (190, 60, 30)
LINE = 18  # pixels from one line of text to the next
TEXT = 12


class _Sheet:
    """A white sheet that is drawn on in final pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, *, colour: Any = INK, anchor: str = "la"
    ) -> None:
        """Write a line of text."""
        font = ImageFont.load_default(size=TEXT * SCALE)
        self.draw.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=anchor)

    def box(self, x: float, y: float, width: float, height: float, colour: Any) -> None:
        """Draw a rounded box."""
        ends = [one * SCALE for one in (x, y, x + width, y + height)]
        self.draw.rounded_rectangle(ends, 6 * SCALE, fill=colour, outline=GREY, width=SCALE)

    def line(self, points: Sequence[tuple[float, float]], *, colour: Any = GREY) -> None:
        """Draw a line through points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=colour, width=2 * SCALE, joint="curve")

    def dot(self, x: float, y: float, colour: Any = INK) -> None:
        """Draw a socket."""
        r = 4
        ends = [one * SCALE for one in (x - r, y - r, x + r, y + r)]
        self.draw.ellipse(ends, fill=colour)

    def png(self) -> bytes:
        """Return the picture, shrunk, in few colours."""
        size = (self.image.width // SCALE, self.image.height // SCALE)
        small = self.image.resize(size, Image.Resampling.LANCZOS)
        return _png(small)


def graph() -> bytes:
    """Return a PNG of the nodes in a graph of ComfyUI."""
    sheet = _Sheet(1010, 250)

    def node(
        x: int, y: int, width: int, title: str, sockets: Sequence[tuple[str, str]], fields: Any,
        colour: Any = NODE,
    ) -> None:  # fmt: skip
        height = 30 + LINE * (len(sockets) + len(fields))
        sheet.box(x, y, width, height, colour)
        sheet.text(x + 10, y + 7, title)
        for row, (left, right) in enumerate(sockets):
            middle = y + 36 + row * LINE
            if left:
                sheet.dot(x, middle)
                sheet.text(x + 12, middle, left, colour=GREY, anchor="lm")
            if right:
                sheet.dot(x + width, middle)
                sheet.text(x + width - 12, middle, right, colour=GREY, anchor="rm")
        for row, (name, value) in enumerate(fields, start=len(sockets)):
            middle = y + 36 + row * LINE
            sheet.text(x + 12, middle, name, anchor="lm")
            sheet.text(x + width - 12, middle, value, anchor="rm")

    def wire(x: int, y: int, to_x: int, to_y: int) -> None:
        middle = (x + to_x) / 2
        steps = [t / 24 for t in range(25)]
        # A cubic from socket to socket that leaves and arrives level.
        sheet.line(
            [
                (
                    (1 - t) ** 3 * x + 3 * (1 - t) * t * middle + t**3 * to_x,
                    y + (to_y - y) * (3 * t**2 - 2 * t**3),
                )
                for t in steps
            ]
        )

    wire(160, 66, 210, 66)
    wire(430, 66, 490, 66)
    wire(430, 66, 660, 176)
    wire(610, 66, 660, 194)
    wire(800, 176, 830, 146)
    node(20, 30, 140, "Load Checkpoint", [("", "MODEL")], [("", "sdxl")])
    node(
        210, 30, 220, "Skip-Tuning (apply)", [("model", "model"), ("", "summary")],
        [("file", "tuned.json"), ("strength", "1.00"), ("start_percent", "0.00"),
         ("end_percent", "1.00"), ("setting_by_hand", "false")], OURS,
    )  # fmt: skip
    node(490, 30, 120, "KSampler", [("model", "LATENT")], [("steps", "8"), ("cfg", "5.0")])
    node(660, 140, 140, "Skip-Tuning (report)", [("model", "report"), ("latent", "")], [], OURS)
    told = [("9 of 9 skips were", ""), ("scaled, 72 times ...", "")]
    node(830, 110, 160, "Preview Any", [("source", "")], told)
    sheet.text(20, 226, "Drawn, not a screenshot: sockets and fields as the nodes declare them")
    return sheet.png()


def decoder(blocks: Sequence[str], caption: str) -> bytes:
    """Return a PNG of a U-Net with its deepest and shallowest decoder blocks by name.

    Arguments:
        blocks: Names of decoder blocks, deepest first.
        caption: What is said below.
    """
    sheet = _Sheet(640, 70 + 46 * len(blocks))
    for place, name in enumerate(reversed(blocks)):
        y = 20 + 46 * place
        inset = 30 * place
        sheet.box(20 + inset, y, 130 - 10 * place, 30, NODE)
        sheet.text(30 + inset, y + 15, "encoder", anchor="lm")
        left, right = 150 + 20 * place, 380 - 20 * place
        sheet.line([(left, y + 15), (right, y + 15)], colour=SKIP)
        factor = f"x scale of skip {len(blocks) - 1 - place}"
        sheet.text((left + right) / 2, y + 7, factor, colour=SKIP, anchor="mm")
        sheet.box(right, y, 620 - inset - right, 30, OURS)
        sheet.text(right + 10, y + 15, name, anchor="lm")
    sheet.text(20, 36 + 46 * len(blocks), caption)
    return sheet.png()


def before_after() -> bytes:
    """Return a PNG of images of `fashion`, untouched and with a measured schedule, same seeds."""
    rows = json.loads(FRONTIER.read_text(encoding="utf-8"))["rows"]
    (row,) = [one for one in rows if (one["nfe"], one["line"]) == (6, "tuned")]
    schedule = Schedule.from_json(row["schedule"])
    setting = Setting.from_json(row["setting"])
    checkpoint = load_checkpoint("fashion")
    made = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "tuned.json"
        path.write_text(json.dumps(_as_file(schedule, checkpoint.skips)), encoding="utf-8")
        for tuned in (False, True):
            hooks = install(checkpoint.network, str(path)) if tuned else []
            batches = sample(checkpoint.network, setting, seeds=list(SEEDS), microbatch=10)
            made.append(torch.cat([batch.images for batch in batches]).numpy())
            for hook in hooks:
                hook.remove()
    captions = (
        f"untouched: {setting.solver}, {setting.steps} evaluations",
        "plain_hooks.install(net, 'tuned.json'), same seeds",
    )
    picture = grid([Row(*pair) for pair in zip(captions, made, strict=True)])
    return _png(picture)


def _as_file(schedule: Schedule, skips: Sequence[Any]) -> dict[str, Any]:
    """Return what the recipe reads of a `tuned.json`."""
    terms = {
        skip.address: [term for term in schedule.terms if term.address == skip.address]
        for skip in skips
    }
    return {
        "schema_version": 1,
        "skips": [
            {
                "address": skip.address,
                "main_channels": skip.main_channels,
                "skip_channels": skip.skip_channels,
                "scale": 1.0,
                "windows": [
                    {
                        "low": t.low,
                        "high": None if t.high == math.inf else t.high,
                        "scale": t.scale,
                    }
                    for t in terms[skip.address]
                ],
            }
            for skip in skips
        ],
    }


def _png(image: Image.Image) -> bytes:
    few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


def main() -> None:
    """Write all pictures."""
    openai = [f"output_blocks.{place}" for place in (0, 1, 2)]
    diffusers = [f"up_blocks.{block}.resnets.{place}" for block, place in ((0, 0), (0, 1), (1, 0))]
    order = "Drawn: skip 0 is the deepest; the last channels of the block's input are scaled"
    pictures = {
        "comfyui/graph.png": graph(),
        "consistency_models/decoder.png": decoder(openai, order),
        "diffusers/decoder.png": decoder(diffusers, order),
        "edm/before-after.png": before_after(),
    }
    for name, data in pictures.items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
