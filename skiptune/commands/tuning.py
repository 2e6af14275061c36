"""Commands that work on a study: search, confirm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.interruption import STOPPING, Interruption, stoppable
from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    store_options,
    study_option,
)
from skiptune.errors import quoted

if TYPE_CHECKING:
    from skiptune.search.result import Result
    from skiptune.search.spec import StudySpec
    from skiptune.search.study import OpenStudy

__all__ = ["confirm", "tune", "watched"]

TUNED, PICTURE = "tuned.json", "before-after.png"

FILES = ("network.", "objective.")  # overrides of these may name other files


@click.command()
@click.argument("spec", metavar="[SPEC|PRESET]", default="fashion")
@study_option
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default=True,
    help=f"Folder for {TUNED} and {PICTURE}.",
)
@click.option("--force", is_flag=True, help="Replace the results of another study there.")
@device_option
@store_options
@shared
@pass_options
def tune(
    options: Options,
    spec: str,
    overrides: tuple[str, ...],
    output: Path,
    device: str,
    artifacts: str | None,
    *,
    force: bool,
    group_writable: bool,
) -> None:
    """Tune a network: search, confirm, export.

    SPEC is a study file or the name of a preset. A study that exists goes on where it stood, also
    one that was paused or stopped; one that is finished shows what it found. Workers on other
    machines may help (`skiptune worker`). While it runs, ± stands for one standard error.

    \b
    Examples:
      skiptune tune fashion
      skiptune tune study.yaml -o results
      skiptune tune study.yaml -s search.evaluations=100 -s space.kind=linear
      skiptune tune study.yaml --storage sqlite:////scratch/studies.db --device cuda
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.commands.studies import opened_study
    from skiptune.search.spec import load_spec

    study_spec = load_spec(spec, overrides=overrides)
    _check_output(output, study_spec, force=force)
    check_device(device)
    from skiptune.search.tune import run

    with opened_study(
        options,
        study_spec,
        device=device,
        source=spec,
        artifacts=artifacts,
        group_writable=group_writable,
    ) as study:
        with watched(options, study) as (listener, interruption):
            result = run(study, on_event=listener, stop=interruption.stop)
        interruption.raise_if_stopped()
        assert result is not None
        written = _write(study, result, output)
        if options.json:
            print_json({**result.to_json(), "written": written})
            return
        from skiptune.views.result import result_view

        addresses = [skip.address for skip in study.checkpoint.skips]
        print_text(*result_view(result, addresses=addresses))
    say(options, "")
    for path in written:
        say(options, f"Wrote {path}")
    say(options, _next(f"{study_spec.study}{options.there}", written))


@click.command()
@click.argument("study", metavar="SPEC|STUDY")
@study_option
@device_option
@store_options
@shared
@pass_options
def confirm(
    options: Options,
    study: str,
    overrides: tuple[str, ...],
    device: str,
    artifacts: str | None,
    *,
    group_writable: bool,
) -> None:
    """Confirm a study once more on fresh seeds.

    The k-th confirm tests at level alpha / 2^k, so that all confirms together stay below alpha.
    One that was interrupted goes on.

    \b
    Examples:
      skiptune confirm fashion
      skiptune confirm fashion -s confirm.images=8000
      skiptune confirm study.yaml --device cuda
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.commands.studies import opened_study, stored_spec, stored_study
    from skiptune.search.overview import confirms

    study_spec = stored_spec(options, study, overrides=overrides)
    check_device(device)
    from skiptune.search.tune import confirm as run

    place: dict[str, Any] = {
        "device": device,
        "artifacts": artifacts,
        "group_writable": group_writable,
    }
    # By name the files are found by content, wherever they are on this machine.
    moved = any(word.startswith(FILES) for word in overrides)
    by_name = study == study_spec.study and not moved
    opening = (
        stored_study(options, study, given=study_spec if overrides else None, **place)
        if by_name
        else opened_study(options, study_spec, source=study, **place)
    )
    with opening as opened:
        before = confirms(opened.database, study_spec.study)
        number = len(before) + 1 if not before or before[-1].finished else len(before)
        with watched(options, opened) as (listener, interruption):
            result = run(opened, number=number, on_event=listener, stop=interruption.stop)
        interruption.raise_if_stopped()
        assert result is not None
        if options.json:
            print_json(result.to_json())
            return
        from skiptune.views.result import result_view

        addresses = [skip.address for skip in opened.checkpoint.skips]
        print_text(*result_view(result, addresses=addresses))
    say(options, f"\nNext: skiptune export {study_spec.study} -o {TUNED}{options.there}")


@contextmanager
def watched(options: Options, study: OpenStudy) -> Iterator[tuple[Any, Interruption]]:
    """Watch a study, and turn signals into an orderly end.

    Arguments:
        options: How much is said, and the command line to go on with.
        study: The open study.
    """
    from skiptune.cli import command_text
    from skiptune.commands.watching import watching

    again = f"Go on with: {command_text(options.words)}"
    with stoppable(f"Stopped. {again}", first=STOPPING) as interruption:
        with watching(options, study) as listener:
            yield listener, interruption


def _check_output(folder: Path, spec: StudySpec, *, force: bool) -> None:
    """Refuse a folder that cannot be written or holds another study's results."""
    from skiptune.commands.output import check_folder
    from skiptune.errors import OutputError, SpecError
    from skiptune.search.tuned import load

    # Folders below `there` are made when there is something to write.
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    check_folder(there, where=f"-o {folder}")
    for name in (TUNED, PICTURE):
        if (folder / name).is_dir():
            raise OutputError(
                f"-o {folder / name}",
                expected="a file, or nothing",
                found="a folder",
                hint="choose another folder with -o",
            )
    if force or not (folder / TUNED).exists():
        return
    try:
        owner = f"the results of study {load(folder / TUNED).study}"
        if owner == f"the results of study {spec.study}":
            return
    except SpecError:
        owner = "a file that is no tuned.json of this version"
    raise OutputError(
        f"-o {folder / TUNED}",
        expected=f"no file, or the results of study {spec.study}",
        found=owner,
        hint="choose another folder with -o, or replace the file with --force",
    )


def _write(study: OpenStudy, result: Result, folder: Path) -> list[Path]:
    """Write what the study found; return the paths."""
    if result.winner is None:
        return []
    from skiptune.commands.pictures import before_after
    from skiptune.search.export import tuned_of

    folder.mkdir(parents=True, exist_ok=True)
    tuned_of(study, result).write(folder / TUNED, force=True)
    before_after(study, result, folder / PICTURE)
    return [folder / TUNED, folder / PICTURE]


def _next(study: str, written: list[Path]) -> str:
    """Return what may come next.

    Arguments:
        study: Its name, and the option by which it is found.
        written: Files that hold the result, `tuned.json` first.
    """
    commands = {
        "best": "the best schedules of the search",
        "confirm": "test again on fresh seeds",
        "report": "all of it in one page that can be sent",
    }
    width = len(f"skiptune confirm {study}") + 14
    lines = [f"{f'skiptune {name} {study}':{width}}{text}" for name, text in commands.items()]
    if written:
        lines.append(f"skiptune sample {quoted(written[0])} --compare -o grid.png")
    return "Next:\n" + "\n".join(f"  {line}" for line in lines)
