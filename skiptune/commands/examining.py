"""The command that looks for what is wrong: nothing is written unless it is asked to mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skiptune.commands.options import Options, pass_options, shared, store_options

if TYPE_CHECKING:
    from skiptune.storage.records import Launch

__all__ = ["doctor"]


@click.command()
@click.argument("study", required=False)
@click.option(
    "--fix",
    is_flag=True,
    help="Mend what is safe: end the leases of this host's dead workers, deliver chunks that are"
    " stored and not in the database, forget launches of which no worker is left, remove files"
    " that no row has named for a day.",
)
@click.option(
    "--files",
    metavar="N",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="How many stored files of each study are looked for.",
)
@store_options
@shared
@pass_options
def doctor(
    options: Options,
    study: str | None,
    artifacts: str | None,
    *,
    fix: bool,
    files: int,
    group_writable: bool,
) -> int:
    """Look for what is wrong with the database and its studies.

    Each finding says what was seen, why it matters, and what mends it. Ends with 0 where nothing
    is left to mend, with 1 where something is.

    \b
    Examples:
      skiptune doctor
      skiptune doctor fashion --fix
      skiptune doctor fashion --json
    """
    from skiptune.commands.output import print_json
    from skiptune.search.diagnosis import diagnose
    from skiptune.views.diagnosis import diagnosis_lines

    found = diagnose(
        options.url,
        study=study,
        artifacts=artifacts,
        group_writable=group_writable,
        files=files,
        fix=fix,
        asked=_workers_left,
    )
    if options.json:
        print_json(found.to_json())
    else:
        for line in diagnosis_lines(found):
            print(line)
    return 1 if found.left else 0


def _workers_left(launch: Launch) -> bool | None:
    """Ask the executor of a launch; None where it cannot be asked from here."""
    from skiptune.launch.executor import counts_of

    counts = counts_of(launch)
    return None if counts is None else not counts.over
