"""The command that brings hand-made schedules in, as warm starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skiptune.commands.options import Options, pass_options, shared, study_option
from skiptune.errors import OutputError, SpecError, quoted

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.search.hand_made import HandMade
    from skiptune.search.spec import StudySpec

__all__ = ["import_"]


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--for", "study", metavar="SPEC", help="The study that will begin from it.")
@click.option(
    "--into",
    metavar="SPEC.yaml",
    type=click.Path(path_type=Path),
    help="The same, and write it into the study file.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: start.json; with --into beside the study file]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@study_option
@shared
@pass_options
def import_(
    options: Options,
    file: Path,
    study: str | None,
    into: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    *,
    force: bool,
) -> None:
    """Make a hand-made schedule the first proposal of a study.

    FILE is JSON or YAML: a list of scales, one per skip, deepest first; a mapping from addresses
    to scales; or stages like FreeU's, `stages: [0.9, 0.2]`, one scale per resolution, deepest
    first. (FreeU filters a skip, a scale multiplies all of it: a start, no equal.)

    \b
    Examples:
      skiptune import scales.json --for study.yaml          write start.json
      skiptune import freeu.yaml --into study.yaml          and name it in study.yaml
      skiptune import scales.yaml --for fashion -o mine.json
    """
    from skiptune.commands.output import check_writable, print_json, say
    from skiptune.search.document import read_text
    from skiptune.search.hand_made import hand_made
    from skiptune.search.output import write_whole
    from skiptune.search.spec import INIT_EXPLAINS, load_spec
    from skiptune.search.start_names import with_start

    if (study is None) == (into is None):
        raise SpecError(
            "skiptune import",
            expected="--for SPEC or --into SPEC.yaml: the study whose network it is",
            found="neither" if study is None else "both",
            hint=f"for example: skiptune import {quoted(file)} --into study.yaml",
        )
    target = study if into is None else into
    beside = Path() if into is None else into.parent
    output = beside / "start.json" if output is None else output
    check_writable(output, force=force)
    _refuse_over(output, [file, *([] if target is None else [Path(target)])])
    text = None
    if into is not None:
        named = _named(output, into)
        text = with_start(read_text(into, hint=INIT_EXPLAINS), named, name=str(into))
    spec = load_spec(str(target), overrides=overrides)
    from skiptune.sampling.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(spec.network.checkpoint, sha256=spec.network.sha256)
    found = hand_made(file, checkpoint.skips)
    notes = [*found.notes, *_carried(spec, checkpoint, found)]
    start = found.start(source=file.name, network=checkpoint.name)
    start.write(output, force=force)
    if into is not None and text is not None:
        write_whole(into, text.encode("utf-8"), force=True)
    if options.json:
        print_json({"written": output, "into": into, "scales": dict(found.scales), "notes": notes})
    say(options, f"Wrote {output}: {len(found.scales)} skips of {checkpoint.name}")
    for note in notes:
        say(options, f"  {note}")
    if into is not None:
        say(options, f"Next: skiptune check {quoted(into)}")
    else:
        place = output if output.is_absolute() else f"./{output}"
        say(options, f"Next: name it in the study, under `search`: `warm_start: {place}`")


def _refuse_over(output: Path, read: Sequence[Path]) -> None:
    """Refuse to write over a file that is read, whatever --force says."""
    for path in read:
        if output.exists() and path.exists() and output.samefile(path):
            raise OutputError(
                f"-o {output}",
                expected="another file than those that are read",
                found=str(path),
                hint="choose another name with -o",
            )


def _named(output: Path, study: Path) -> str:
    """Return how a study file names a file: by a path from its own folder where it lies there."""
    path, folder = output.absolute(), study.absolute().parent
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)


def _carried(spec: StudySpec, checkpoint: Checkpoint, found: HandMade) -> tuple[str, ...]:
    """Return what a study's space loses of a schedule.

    Raises:
        SpecError: The space holds nothing of it.
    """
    from skiptune.sampling.levels import grid_points
    from skiptune.search.mapping import carried
    from skiptune.search.space import Space

    points = grid_points(checkpoint.network, spec.setting.to_setting())
    space = Space.of(spec.space, checkpoint.skips, points, setting=spec.setting.to_setting())
    here = list(found.scales)
    try:
        return carried(found.schedule, skips=here, params={}, space=space, here=here).notes
    except SpecError as error:
        hint = "change the study's space, or the scales"
        raise SpecError.of(error.problems, hint=hint) from None
