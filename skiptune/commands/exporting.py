"""Pictures with tuned scales, and where the networks of a tuned.json are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
)
from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.pipeline_files import vae_folder

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.search.tuned import Tuned

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


def network_place(checkpoint: str | None, document: Tuned, tuned: Path) -> str | Path:
    """Return where the network of a tuned.json is."""
    from skiptune.sampling.checkpoint import CHECKPOINTS

    if checkpoint is not None or document.network.name in CHECKPOINTS:
        return checkpoint or document.network.name
    beside = tuned.parent / document.network.name
    if not beside.exists():
        raise NetworkError(
            f"{tuned}: network",
            expected=f"the checkpoint {document.network.name} beside it",
            found="no such file",
            hint="say where it is with --checkpoint FILE",
        )
    return beside


def decoder_place(
    decoder: str | None, document: Tuned, tuned: Path, network: str | Path
) -> str | Path | None:
    """Return where the VAE of a tuned.json is, None where its network makes pixels.

    Arguments:
        decoder: What the command line says.
        document: The scales.
        tuned: Their file; the VAE may lie beside it.
        network: From `network_place`; of a pipeline's folder the VAE in it is taken.
    """
    needed = document.network.decoder
    if needed is None:
        if decoder is not None:
            raise SpecError(
                f"--decoder {decoder}",
                expected="scales of a network that makes latents",
                found=f"{tuned}, whose network makes pixels",
                hint="leave --decoder out",
            )
        return None
    beside = tuned.parent / needed.name
    inside = None if beside.is_dir() else vae_folder(network)
    if decoder is None and inside is None and not beside.is_dir():
        raise NetworkError(
            f"{tuned}: network.decoder",
            expected=f"the VAE {needed.name} beside it",
            found="no such folder",
            hint="say where it is with --decoder FOLDER",
        )
    return decoder or inside or beside


def prompts_place(document: Tuned, tuned: Path) -> Path | None:
    """Return where the prompts of a tuned.json are, None where its network reads no text."""
    needed = document.network.prompts
    if needed is None:
        return None
    beside = tuned.parent / needed.name
    if not beside.is_file():
        raise NetworkError(
            f"{tuned}: network.prompts",
            expected=f"the prompts {needed.name} beside it",
            found="no such file",
            hint="put the file that the scales were tuned with there",
        )
    return beside


def tuned_network(
    document: Tuned,
    network: str | Path,
    decoder: str | Path | None,
    prompts: Path | None,
    *,
    device: str,
) -> Checkpoint:
    """Load the network that scales were tuned on, with its decoder and its prompts if any.

    Arguments:
        document: The scales.
        network: From `network_place`.
        decoder: From `decoder_place`.
        prompts: From `prompts_place`.
        device: Torch device of all.

    Raises:
        NetworkError: One of them is another one.
    """
    from dataclasses import replace

    from skiptune.canonical import digest
    from skiptune.sampling.checkpoint import load_checkpoint
    from skiptune.sampling.decoder import load_decoder
    from skiptune.sampling.numeric_mode import in_mode

    loaded = load_checkpoint(network, device=device)
    document.check(loaded.skips, sha256=loaded.sha256)
    loaded = in_mode(loaded, document.network.dtype)
    told = document.network.prompts
    if told is not None and prompts is not None:
        from skiptune.search.prompting import with_prompts

        loaded = with_prompts(loaded, str(prompts), source="tuned.json", device=device)
        if digest(loaded.config["prompts"]) != told.identity:
            raise NetworkError(
                f"prompts {prompts}",
                expected="the lines and the text encoders that the scales were tuned with",
                found="others",
                hint="put the file that the scales were tuned with there",
            )
    needed = document.network.decoder
    if needed is None or decoder is None:
        return loaded
    model: Any = loaded.network
    found = load_decoder(
        decoder,
        sha256=needed.sha256,
        dtype=needed.dtype,
        latents=needed.latents,
        microbatch=needed.microbatch,
        channels=model.img_channels,
        device=device,
    )
    if digest(found.describe()) != needed.identity:
        raise NetworkError(
            f"decoder {decoder}",
            expected="the configuration that the scales were tuned with",
            found="the same weights with another configuration",
            hint="put the config.json that came with the VAE beside its weights",
        )
    return replace(loaded, decoder=found)


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
