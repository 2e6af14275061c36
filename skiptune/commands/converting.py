"""The command that turns others' files of networks into checkpoints, which hold no code."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.options import Options, pass_options, shared
from skiptune.errors import NetworkError, OutputError, quoted

if TYPE_CHECKING:
    from torch import Tensor

    from skiptune.sampling.first_stage import FirstStage
    from skiptune.sampling.official import Official

__all__ = ["Converted", "check_free", "convert", "convert_file", "convert_stage"]

_SHOWN = 3


@dataclass(frozen=True)
class Converted:
    """What a conversion has written.

    Arguments:
        target: The checkpoint.
        others: Configuration and card beside it, and what makes images of its latents, if any.
        about: What `config.json` holds.
        cautions: What the checkpoint cannot be used for, in sentences.
        official: What was read.
    """

    target: Path
    others: tuple[Path, ...]
    about: dict[str, Any]
    cautions: list[str]
    official: Official


@click.command()
@click.argument("network", metavar="NETWORK.pkl|NETWORK.pt|URL")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--options",
    "described",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What a .pt, .pth or .ckpt was trained with: YAML or JSON; by default the one beside it.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@shared
@pass_options
def convert(
    options: Options, network: str, folder: Path, *, described: Path | None, force: bool
) -> None:
    """Convert a published network, running none of its code.

    Networks of EDM, EDM2, OpenAI's style, latent diffusion, U-ViT and lucidrains are known.
    Writes DIR/NETWORK.safetensors, which every command takes as a checkpoint, DIR/config.json and
    the card DIR/README.md; DIR/vqvae too, a VQModel, where a file of latent diffusion holds what
    makes images of its latents. The licence of the weights stays what it was. A URL is downloaded
    into the cache first; after an interruption the same command goes on. A .pkl is one of EDM or
    EDM2; a .pt, .pth or .ckpt holds tensors alone, and options say what they make.

    \b
    Examples:
      skiptune convert edm-cifar10-32x32-cond-vp.pkl cifar10
      skiptune convert edm2-img64-s-1073741-0.075.pkl edm2-s --json
      skiptune convert https://example.org/edm-cifar10-32x32-cond-vp.pkl cifar10
      skiptune convert 64x64_diffusion.pt adm64 --options adm64.yaml
    """
    from skiptune.commands.output import print_json, say

    path = Path(network)
    if "://" in network:
        from skiptune.commands.fetching import downloaded
        from skiptune.search.downloads import file_name

        check_free(folder, Path(file_name(network)).stem, force=force)
        path = downloaded(options, network).path
    try:
        made = convert_file(path, folder, described=described, force=force)
    except NetworkError:
        if "://" in network:
            from skiptune.search.downloads import forget

            # Kept, it would be taken for the file of this address ever after.
            forget(network)
        raise
    if options.json:
        written = [made.target, *made.others]
        print_json({"written": written, **made.about, "cautions": made.cautions})
    for caution in made.cautions:
        say(options, f"caution: {caution}")
    official = made.official
    say(
        options,
        f"Wrote {made.target}: {official.class_name}, {official.parameters:,} parameters, "
        f"{', '.join(official.dtypes)}",
    )
    if official.stage is not None:
        say(
            options,
            f"Wrote {made.others[-1].parent}: VQModel, {official.stage.parameters:,} parameters;"
            f" in a study: `network.decoder.vae: {made.others[-1].parent}`",
        )
    if not made.cautions:
        say(options, f"Next: skiptune skips {quoted(made.target)}")


def check_free(folder: Path, stem: str, *, force: bool = False) -> tuple[Path, ...]:
    """Return the files that a conversion writes, which must not be there.

    Arguments:
        folder: Where, made if it is missing.
        stem: What the checkpoint is called, without suffix.
        force: Whether files that are there may be replaced.

    Raises:
        OutputError: One of them is there, or the folder cannot be made or written.
    """
    from skiptune.commands.output import check_writable

    made = _folder(folder)
    stem = re.sub(r"[^\w.+-]", "_", stem) or "network"
    paths = (folder / f"{stem}.safetensors", folder / "config.json", folder / "README.md")
    try:
        for path in paths:
            check_writable(path, force=force, option="DIR")
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return paths


def convert_file(
    network: Path,
    folder: Path,
    *,
    stem: str | None = None,
    described: Path | None = None,
    options: Mapping[str, Any] | None = None,
    with_stage: bool = True,
    force: bool = False,
) -> Converted:
    """Convert a file; the same file with the same options gives the same bytes.

    Arguments:
        network: A pickle of EDM or EDM2, or a file of tensors.
        folder: Where the files go, made if it is missing.
        stem: What the checkpoint is called, without suffix; by default as the file.
        described: The options of a file of tensors; by default the file of them beside it.
        options: The same, at hand: a study's.
        with_stage: Whether what makes images of its latents is written too.
        force: Replace files that are there.

    Raises:
        NetworkError: The file is of no known kind, is damaged, or has no options.
        OutputError: The files cannot be written.
    """
    import json

    from skiptune.commands.output import check_writable
    from skiptune.sampling.checkpoint import METADATA_KEY, SOURCE_KEY
    from skiptune.sampling.first_stage import stage_files
    from skiptune.search.output import write_whole

    target, *others = check_free(folder, stem or network.stem, force=force)
    # What is refused from here on leaves nothing behind.
    official = _read(network, described, options)
    cautions = [*official.cautions, *_cautions(official)]
    stage = official.stage if with_stage else None
    stage_paths: tuple[Path, ...] = stage_files(target) if stage is not None else ()
    for path in stage_paths:
        if path.parent.exists():
            check_writable(path, force=force, option="DIR")
    source = {"file": network.name, "bytes": network.stat().st_size, "sha256": official.sha256}
    about = {
        "network": official.config,
        "class": official.class_name,
        "from": official.source,
        "parameters": official.parameters,
        "dtypes": list(official.dtypes),
        "source": source,
    }
    metadata = {METADATA_KEY: json.dumps(official.config), SOURCE_KEY: json.dumps(source)}
    _folder(folder)
    if stage is not None:
        _write_stage(stage, stage_paths, force=force)
        about["first_stage"] = _about_stage(stage, stage_paths[0])
    _write_tensors(target, official.tensors, metadata, force=force)
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    write_whole(others[0], text.encode(), force=force)
    card = _card(target.name, official, source, cautions)
    write_whole(others[1], card.encode(), force=force)
    written = (*others, *reversed(stage_paths))
    return Converted(target, written, about, cautions, official)


def convert_stage(network: Path, path: Path, *, options: Mapping[str, Any]) -> None:
    """Write one file of what makes images of a network's latents, without the network.

    Arguments:
        network: A file of latent diffusion.
        path: One of `first_stage.stage_files`.
        options: Those of the file.

    Raises:
        NetworkError: The file is damaged, or holds no first stage.
        OutputError: The file cannot be written.
    """
    official = _read(network, None, options)
    if official.stage is None:
        raise NetworkError(
            str(network),
            expected=f"what makes images of its latents, for {path}",
            found=" ".join(official.cautions) or "a network alone",
            hint="name a decoder that is there, or its address, as `network.decoder`",
        )
    _folder(path.parent.parent)
    _write_stage(official.stage, (path,))


def _write_stage(stage: FirstStage, paths: tuple[Path, ...], *, force: bool = False) -> None:
    """Write the weights or the configuration of a first stage, or both."""
    import json

    from skiptune.sampling.latents import CONFIG_FILE
    from skiptune.search.output import write_whole

    for path in paths:
        _folder(path.parent)
        if path.name == CONFIG_FILE:
            text = json.dumps(stage.config, indent=2, allow_nan=False) + "\n"
            write_whole(path, text.encode(), force=force)
        else:
            # By this entry diffusers' own reader knows whose tensors these are.
            _write_tensors(path, stage.tensors, {"format": "pt"}, force=force)


def _about_stage(stage: FirstStage, weights: Path) -> dict[str, Any]:
    """Return what `config.json` says of a first stage."""
    from skiptune.canonical import file_digest

    return {
        "class": stage.config["_class_name"],
        "folder": weights.parent.name,
        "parameters": stage.parameters,
        "sha256": file_digest(weights),
    }


def _read(network: Path, described: Path | None, options: Mapping[str, Any] | None) -> Official:
    """Read a pickle of NVIDIA's, or a file of tensors with its options."""
    from skiptune.sampling.official import read_official
    from skiptune.sampling.published import SUFFIXES, options_file, read_options, read_published

    if options is not None:
        return read_published(network, options, where="network.options")
    if described is None and network.suffix not in SUFFIXES:
        return read_official(network)
    path = described or options_file(network)
    if path is None:
        raise NetworkError(
            str(network),
            expected="the options it was trained with, in a file of YAML or JSON beside it",
            found=f"no {network.with_suffix('.yaml').name}",
            hint="write one as docs/networks.md shows, or name it: --options FILE; in a study"
            " they are `network.options`",
        )
    return read_published(network, read_options(path), where=str(path))


def _folder(folder: Path) -> bool:
    """Make the folder where it is missing, and say whether it was."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(
            f"DIR {folder}",
            expected="a folder, or the path of one that can be made",
            found=error.strerror or str(error),
            hint="make the folder above it, or choose another place",
        ) from None
    return True


def _cautions(official: Official) -> list[str]:
    """Return what the converted file cannot be used for yet, in sentences.

    Raises:
        NetworkError: When skiptune has the network, and the tensors are not its own.
    """
    import torch

    from skiptune.sampling.networks import build_denoiser

    try:
        # On the meta device a network has shapes but no numbers, so this costs no time.
        with torch.device("meta"):
            built = build_denoiser(official.config)
    # The arguments are the file's: sizes of 0 or 10^20 end in whatever torch says of them.
    except Exception as error:
        problem = error.problems[0] if isinstance(error, NetworkError) else None
        reason = f"{problem.where}: {problem.found}" if problem else type(error).__name__
        return [
            f"skiptune cannot build this network ({reason}); the file holds its weights and"
            " configuration all the same."
        ]
    own = {key: list(tensor.shape) for key, tensor in built.state_dict().items()}
    found = {
        key: list(tensor.shape)
        for key, tensor in official.tensors.items()
        if not key.startswith(built.ignored)
    }
    other = [key for key in (*own, *found) if own.get(key) != found.get(key)]
    if other:
        names = ", ".join(dict.fromkeys(other[: 2 * _SHOWN]))
        raise NetworkError(
            official.class_name,
            expected=f"the {len(own)} tensors of the network that its arguments describe",
            found=f"{len(found)} tensors, of which others are missing, unknown or of another"
            f" shape: {names}",
            hint="the file was changed or is of another version of EDM: fetch the original",
        )
    return []


def _write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], *, force: bool
) -> None:
    """Write a safetensors file; it is there whole or not at all.

    Raises:
        OutputError: It cannot be written, or a file has appeared in its place.
    """
    from skiptune.sampling.tensor_files import save_tensors

    # Beside the target, so that the last step stays on one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_tensors(temporary, tensors, metadata)
        if force:
            os.replace(temporary, path)
        else:
            # Unlike a rename, a link fails where a file has appeared in the meantime.
            os.link(temporary, path)
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a folder with room for the file, and none of its name yet",
            found=error.strerror or str(error),
            hint="choose another folder, or free some space in this one",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _card(
    name: str,
    official: Official,
    source: dict[str, Any],
    cautions: list[str],
) -> str:
    """Return the text of README.md."""
    from skiptune import __version__
    from skiptune.sampling.first_stage import FOLDER

    config = official.config
    images = f"{config['img_resolution']}x{config['img_resolution']}, {config['img_channels']}"
    rows = {
        "network": f"{official.class_name}, preconditioning {official.precond}",
        "images": f"{images} channels, {config['label_dim'] or 'no'} classes",
        "parameters": f"{official.parameters:,}, {', '.join(official.dtypes)}",
        "converted from": f"`{source['file']}`, {source['bytes']:,} bytes, `{official.source}`",
        "sha256 of it": f"`{source['sha256']}`",
        "converted by": f"skiptune {__version__}; no code of the file was run",
        "licence": official.licence,
    }
    if official.stage is not None:
        rows["makes latents of"] = (
            f"`{FOLDER}/`, a VQModel of {official.stage.parameters:,} parameters"
        )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    notes = "".join(f"\nCaution: {caution}\n" for caution in cautions)
    return f"# {name}\n\n| | |\n|---|---|\n{table}\n{notes}"
