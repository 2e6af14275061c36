"""The command that makes images with tuned scales."""

from __future__ import annotations

import re
from pathlib import Path

import click

from skiptune.commands.exporting import (
    decoder_place,
    network_place,
    prompts_place,
    tuned_network,
)
from skiptune.commands.options import Options, device_option, pass_options, shared
from skiptune.errors import SpecError

__all__ = ["sample"]

MOST_IMAGES = 10_000  # a picture of more is not looked at


@click.command()
@click.argument("tuned", metavar="TUNED.json", type=click.Path(path_type=Path))
@click.option(
    "--seeds", metavar="LIST", default="0-15", show_default=True, help="Image seeds: 0-15,20."
)
@click.option("--compare", is_flag=True, help="Baseline row above tuned row, same seeds.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="The network; by default the bundled one or the file beside TUNED.json.",
)
@click.option(
    "--decoder",
    metavar="FOLDER",
    help="The VAE of a network of latents; by default the folder beside TUNED.json.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("grid.png"),
    show_default=True,
    help="The picture to write.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@device_option
@shared
@pass_options
def sample(
    options: Options,
    tuned: Path,
    seeds: str,
    checkpoint: str | None,
    decoder: str | None,
    output: Path,
    device: str,
    *,
    compare: bool,
    force: bool,
) -> None:
    """Make images with tuned scales in one picture.

    \b
    Examples:
      skiptune sample tuned.json
      skiptune sample tuned.json --seeds 0-7 --compare -o before-after.png
      skiptune sample tuned.json --checkpoint network.safetensors --device cuda
    """
    from skiptune.commands.output import check_writable, print_json, say
    from skiptune.search.tuned import load

    wanted = _seeds(seeds)
    document = load(tuned)
    check_writable(output, force=force)
    from skiptune.commands.device import check_device
    from skiptune.commands.pictures import images_of
    from skiptune.views.picture import Row, folded, write_picture

    check_device(device)
    network = network_place(checkpoint, document, tuned)
    vae = decoder_place(decoder, document, tuned, network)
    places = network, vae, prompts_place(document, tuned)
    loaded = tuned_network(document, *places, device=device)
    setting = document.setting.to_setting()
    images = images_of(loaded, setting, document.schedule, wanted)
    rows = folded(Row("", images))
    if compare:
        base = images_of(loaded, setting, None, wanted)
        columns = min(len(wanted), 16)
        rows = [
            row
            for pair in zip(
                folded(Row("baseline", base), columns),
                folded(Row("tuned", images), columns),
                strict=True,
            )
            for row in pair
        ]
    write_picture(output, rows, force=force)
    if options.json:
        print_json({"written": output, "seeds": wanted, "compare": compare})
    say(options, f"Wrote {output}: {len(wanted)} seeds")


def _seeds(text: str) -> list[int]:
    """Return the numbers of a list such as ``0-15,20``."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,12})(?:-(\d{1,12}))?\s*", part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if match is None or last < first or last - first >= MOST_IMAGES:
            raise SpecError(
                f"--seeds {text}",
                expected=f"numbers and ranges of at most {MOST_IMAGES:,} images, e.g. 0-15,20",
                found=repr(part),
                hint="leave --seeds out for the first 16",
            )
        seeds.extend(range(first, last + 1))
    return seeds
