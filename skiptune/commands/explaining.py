"""The command that tells what a study has done and found, in words and two pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.options import (
    Options,
    artifacts_option,
    device_option,
    pass_options,
    shared,
)

if TYPE_CHECKING:
    from skiptune.search.explanation import Explanation

__all__ = ["explain"]


@click.command()
@click.argument("study")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the pictures.  [default: beside a SQLite database, else this folder]",
)
@click.option(
    "--no-model",
    is_flag=True,
    help="Load no network: the slice shows measured points only.",
)
@artifacts_option
@device_option
@shared
@pass_options
def explain(
    options: Options,
    study: str,
    output: Path | None,
    artifacts: str | None,
    device: str,
    *,
    no_model: bool,
) -> None:
    """Explain what a study has done and found.

    A page and two pictures, NAME-gain.png and NAME-slice.png: images per rung, the gain over
    images, what each scale does, a slice of the landscape, what was confirmed, and what may be
    done next. At any time of a study's life; nothing but the pictures is written. For the Frechet
    distance a model of the stored features predicts the slice, for which the study's files are
    loaded.

    \b
    Examples:
      skiptune explain fashion
      skiptune explain fashion -o pictures --no-model
      skiptune explain fashion --json
    """
    from skiptune.commands.output import print_hints, print_json, print_text, say
    from skiptune.commands.studies import hush
    from skiptune.search.explanation import explain as explained
    from skiptune.storage.database import open_database

    folder = output if output is not None else _beside(options.url)
    _check_output(folder)
    hush(verbose=options.verbose)
    with open_database(options.url) as database:
        found = explained(database, study, artifacts=artifacts)
    found = _with_prediction(found, options, artifacts=artifacts, device=device, no_model=no_model)
    written = _write(found, folder)
    if options.json:
        print_json({**found.to_json(), "written": written})
        return
    from skiptune.views.explanation import explanation_hints, explanation_view

    print_text(*explanation_view(found))
    print_hints(explanation_hints(found, source=_source(study)))
    for path in written:
        say(options, f"Wrote {path}")


def _beside(url: str) -> Path:
    """Return the folder of a SQLite database, else the working one."""
    from skiptune.storage.location import sqlite_path

    path = sqlite_path(url)
    return Path() if path is None else path.parent


def _check_output(folder: Path) -> None:
    """Refuse a folder in which no picture can be written, before any work is done for it."""
    from skiptune.commands.output import check_folder

    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    check_folder(there, where=f"-o {folder}")


def _with_prediction(
    found: Explanation,
    options: Options,
    *,
    artifacts: str | None,
    device: str,
    no_model: bool,
) -> Explanation:
    """Return the explanation with the model's slice, or with why there is none."""
    from skiptune.errors import SkiptuneError

    why = "the model was not asked (--no-model)" if no_model else found.unserved
    if why:
        return found.with_prediction(None, why)
    from skiptune.commands.device import check_device
    from skiptune.commands.studies import stored_study

    check_device(device)
    from skiptune.search.line_slice import predicted

    place: dict[str, Any] = {"artifacts": artifacts, "device": device}
    try:
        with stored_study(options, found.overview.study, **place) as opened:
            prediction = predicted(opened, found.best_params)
    except SkiptuneError as error:
        problem = error.problems[0]
        why = f"the study's files are not all here ({problem.where}: {problem.found})"
        return found.with_prediction(None, why)
    if prediction is None:
        return found.with_prediction(None, "fewer than three schedules' features are here")
    return found.with_prediction(prediction)


def _write(found: Explanation, folder: Path) -> list[Path]:
    """Write the pictures that there is something for; return their paths."""
    from skiptune.search.output import write_whole
    from skiptune.views.explanation_pictures import gain_picture, slice_picture

    written = []
    for name, data in (("gain", gain_picture(found)), ("slice", slice_picture(found))):
        if data is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{found.overview.study}-{name}.png"
            write_whole(path, data, force=True)
            written.append(path)
    return written


def _source(study: str) -> str:
    """Return the study file or preset that a new study would be made from."""
    from skiptune.search.spec import presets

    return study if study in presets() else "study.yaml"
