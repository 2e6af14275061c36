"""The command that hands results over: tuned.json, baked networks, tables for a paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    store_options,
)
from skiptune.errors import OutputError, SpecError, quoted

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.search.tuned import Tuned

__all__ = ["export"]

FORMATS = {
    "json": "tuned.json",
    "baked": "baked",
    "csv": "tuned.csv",
    "md": "tuned.md",
    "latex": "tuned.tex",
}
"""What each format is called by default."""

MIXED = ("fold", "leave", "refuse")  # of `sampling.fold`, which loads torch
STDOUT = Path("-")


@dataclass(frozen=True)
class _Wanted:
    """What is to be written where; None for what was not said."""

    kind: str
    path: Path
    force: bool
    mixed: str | None
    images: int | None
    original: Path | None
    checkpoint: str | None
    decoder: str | None
    device: str


@click.command()
@click.argument("source", metavar="STUDY|TUNED.json")
@click.option(
    "--format",
    "kind",
    type=click.Choice(tuple(FORMATS)),
    default="json",
    show_default=True,
    help="json: scales and evidence; baked: the network with the scales in its weights; csv, md,"
    " latex: tables for a paper.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The file, or with baked the folder, to write; - prints a file.  [default: tuned.json,"
    " baked, tuned.csv, tuned.md, tuned.tex]",
)
@click.option("--force", is_flag=True, help="Replace a file, or a folder of a baked network.")
@click.option(
    "--mixed",
    type=click.Choice(MIXED),
    help="baked: what becomes of blocks that weights cannot do exactly: fold them nearly, leave"
    " their skip at 1, or refuse.  [default: fold]",
)
@click.option(
    "--images",
    metavar="N",
    type=click.IntRange(min=1, max=1000),
    help="baked: images on which it is fitted and compared.  [default: 4]",
)
@click.option(
    "--original",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="baked: the .pt, .pth or .ckpt that the network was converted from: all that it holds is"
    " written, with the baked weights.",
)
@click.option(
    "--checkpoint",
    metavar="PATH",
    help="baked, of a TUNED.json: its network; by default the bundled one or the one beside it.",
)
@click.option(
    "--decoder",
    metavar="FOLDER",
    help="baked, of a TUNED.json: the VAE of a network of latents; by default the one beside it.",
)
@device_option
@store_options
@shared
@pass_options
def export(
    options: Options,
    source: str,
    kind: str,
    output: Path | None,
    mixed: str | None,
    images: int | None,
    original: Path | None,
    checkpoint: str | None,
    decoder: str | None,
    device: str,
    artifacts: str | None,
    *,
    force: bool,
    group_writable: bool,
) -> None:
    """Write tuned scales, or networks baked with them.

    Of a study, what its last confirm found, also where that is `no significant gain`; before a
    confirm, the best of the search, marked `not confirmed`. Of a TUNED.json, what it says. json
    has one scale per skip, the setting, scores with intervals, seeds, and the verdict. baked
    folds the scales into weights, in the form the network was read from, and prints how far that
    is from scaling the skips themselves.

    \b
    Examples:
      skiptune export fashion -o tuned.json
      skiptune export tuned.json --format baked -o baked
      skiptune export tuned.json --format baked --mixed leave --force
      skiptune export tuned.json --format latex -o -
    """
    path = output or Path(FORMATS[kind])
    wanted = _Wanted(kind, path, force, mixed, images, original, checkpoint, decoder, device)
    from_file = Path(source).suffix == ".json"
    _refuse_unread(wanted, from_file=from_file)
    _check_place(options, wanted, Path(source) if from_file else None)
    if from_file:
        from skiptune.search.tuned import load

        document = load(Path(source))
        network = _network_of(document, Path(source), wanted) if kind == "baked" else None
        _deliver(options, wanted, document, network, {})
        return
    place = {"artifacts": artifacts, "group_writable": group_writable, "device": device}
    with _studied(options, source, place) as (document, network, confirm):
        _deliver(options, wanted, document, network, {"confirm": confirm}, study=document.study)


def _refuse_unread(wanted: _Wanted, *, from_file: bool) -> None:
    """Refuse options that would change nothing."""
    given = {"mixed": wanted.mixed, "images": wanted.images, "original": wanted.original}
    places = {"checkpoint": wanted.checkpoint, "decoder": wanted.decoder}
    for name, value in {**given, **places}.items():
        if value is None:
            continue
        if wanted.kind != "baked":
            raise SpecError(
                f"--{name}",
                expected="--format baked, which it belongs to",
                found=f"--format {wanted.kind}",
                hint=f"leave --{name} out",
            )
        if name in places and not from_file:
            raise SpecError(
                f"--{name}",
                expected="a TUNED.json, whose network it names",
                found="a study, which knows its own",
                hint=f"leave --{name} out",
            )


def _check_place(options: Options, wanted: _Wanted, source: Path | None) -> None:
    """Refuse a place that cannot be written, before any work is done for it.

    Arguments:
        options: Shared ones.
        wanted: What is to be written.
        source: The file that is read; None for a study.
    """
    from skiptune.commands.output import check_folder, check_writable

    path = wanted.path
    if path == STDOUT:
        if wanted.kind == "baked":
            raise SpecError(
                "-o -",
                expected="a folder: a baked network is several files",
                found="stdout",
                hint="name the folder, or leave -o out for `baked`",
            )
        if options.json and wanted.kind != "json":
            raise SpecError(
                "--json -o -",
                expected="one document on stdout",
                found=f"JSON and a table ({wanted.kind})",
                hint="leave --json out, or write the table to a file",
            )
    elif source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(
            f"-o {path}",
            expected="another file than the one that is read",
            found=str(source),
            hint="choose another name with -o",
        )
    elif wanted.kind == "baked":
        from skiptune.commands.device import check_device
        from skiptune.search.output import check_folder_free

        check_folder_free(path, marker="baked.json", force=wanted.force)
        check_folder(path.absolute().parent, where=f"-o {path}")
        check_device(wanted.device)
    else:
        check_writable(path, force=wanted.force)


def _network_of(document: Tuned, tuned: Path, wanted: _Wanted) -> Checkpoint:
    """Load the network of a tuned.json, from where the command line says or beside it."""
    from skiptune.commands.tuned_network import (
        decoder_place,
        network_place,
        prompts_place,
        tuned_network,
    )

    network = network_place(wanted.checkpoint, document, tuned)
    decoder = decoder_place(wanted.decoder, document, tuned, network)
    prompts = prompts_place(document, tuned)
    return tuned_network(document, network, decoder, prompts, device=wanted.device)


@contextmanager
def _studied(
    options: Options, name: str, place: dict[str, Any]
) -> Iterator[tuple[Tuned, Checkpoint, int | None]]:
    """Open a study and yield its document, its network, and which confirm it is of, if any."""
    from skiptune.commands.studies import stored_spec, stored_study
    from skiptune.errors import StorageError
    from skiptune.search.overview import confirms, leaders
    from skiptune.storage.database import open_database

    spec = stored_spec(options, name)
    with open_database(options.url) as database:
        finished = [c.number for c in confirms(database, spec.study) if c.finished]
        if not finished and not leaders(database, spec.study, 1):
            raise StorageError(
                f"study {spec.study}",
                expected="a finished confirm, or a scored schedule of the search",
                found="none",
                hint=f"finish it with `skiptune tune {quoted(name)}` or `skiptune confirm"
                f" {quoted(name)}`",
            )
    from skiptune.search.confirm import result_of
    from skiptune.search.export import best_so_far, tuned_of

    with stored_study(options, spec.study, **place) as opened:
        # A finished confirm is read, not run.
        result = result_of(opened, finished[-1]) if finished else best_so_far(opened)
        document = tuned_of(opened, result)
        yield document, opened.checkpoint, finished[-1] if finished else None


def _deliver(
    options: Options,
    wanted: _Wanted,
    document: Tuned,
    network: Checkpoint | None,
    known: dict[str, Any],
    *,
    study: str | None = None,
) -> None:
    """Write what is wanted of a document, and say so."""
    from skiptune.commands.output import print_json, say

    path, verdict = wanted.path, document.verdict.verdict
    told: dict[str, Any] = {"written": path, "verdict": verdict, **known}
    following = ""
    if wanted.kind == "baked":
        assert network is not None
        told |= _bake(options, wanted, document, network)
        following = f"see {path / 'BAKED.md'}: what changed, how exactly, and the licence"
    else:
        from skiptune.search.output import write_whole
        from skiptune.views.paper import PAPERS

        is_json = wanted.kind == "json"
        text = document.text() if is_json else PAPERS[wanted.kind](document)
        if path == STDOUT:
            print(text, end="")
        else:
            write_whole(path, text.encode("utf-8"), force=wanted.force)
        if is_json:
            following = f"skiptune sample {quoted(path)} --compare -o grid.png"
    if options.json and path != STDOUT:
        print_json(told)
    if verdict == "not confirmed":
        decide = "" if study is None else f": `skiptune confirm {study}` decides on fresh ones"
        say(
            options,
            "caution: not confirmed: the best of the search, on the seeds it was chosen by"
            + decide,
        )
        if document.is_worse:
            say(options, "caution: worse than the untouched network on these seeds, too")
    if path == STDOUT:
        return
    say(options, f"Wrote {path}: {verdict}")
    if following:
        say(options, f"Next: {following}")


def _bake(
    options: Options, wanted: _Wanted, document: Tuned, network: Checkpoint
) -> dict[str, Any]:
    from skiptune.commands.output import print_text
    from skiptune.search.baking import IMAGES, bake
    from skiptune.views.baked import baked_view

    made = bake(
        document,
        network,
        wanted.path,
        mixed=wanted.mixed or "fold",
        images=wanted.images or IMAGES,
        original=wanted.original,
        force=wanted.force,
    )
    if not options.json:
        print_text(*baked_view(made.fold, made.deviations, beside=document.knob_changes))
    return made.to_json()
