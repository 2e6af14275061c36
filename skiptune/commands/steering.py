"""Commands that steer a study from any machine: pause, resume, stop, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skiptune.commands.options import Options, pass_options, shared, store_options
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from skiptune.storage.records import StudyState

__all__ = ["delete", "pause", "resume", "stop"]


@click.command()
@click.argument("study")
@shared
@pass_options
def pause(options: Options, study: str) -> None:
    """Let no worker begin another chunk until the study is resumed.

    Chunks in hand are finished. Workers with --until-done wait, others leave after a minute.

    \b
    Examples:
      skiptune pause fashion
      skiptune pause fashion --json
    """
    _set(options, study, "paused", f"Paused {study}. Go on with: skiptune resume {study}")


@click.command()
@click.argument("study")
@click.option("--retry", is_flag=True, help="Let the evaluations run again that have failed.")
@shared
@pass_options
def resume(options: Options, study: str, *, retry: bool) -> None:
    """Let a study that was paused, stopped or finished go on.

    An evaluation has failed when three workers were lost over the same chunk of it. With --retry
    such chunks get three more.

    \b
    Examples:
      skiptune resume fashion
      skiptune resume fashion --retry
      skiptune resume fashion --json
    """
    words = f"Resumed {study}. Work on it: skiptune worker {study}"
    _set(options, study, "running", words, retry=retry)


@click.command()
@click.argument("study")
@shared
@pass_options
def stop(options: Options, study: str) -> None:
    """End a study's workers on all machines.

    Each finishes the chunk in hand; `skiptune status` shows who still works.

    \b
    Examples:
      skiptune stop fashion
      skiptune stop fashion --json
    """
    _set(options, study, "stopped", f"Stopped {study}. Go on with: skiptune resume {study}")


@click.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
@shared
@pass_options
def delete(
    options: Options, study: str, artifacts: str | None, *, yes: bool, group_writable: bool
) -> None:
    """Delete a study and what is stored of it.

    Its rows go first, then Optuna's studies of all rungs, then files that no other study needs.

    \b
    Examples:
      skiptune delete fashion
      skiptune delete fashion --yes
    """
    import sys

    from skiptune.commands.output import print_json, say
    from skiptune.errors import StorageError
    from skiptune.search.artifacts import required_store
    from skiptune.search.upkeep import delete as run
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        row = ledger.require_study(database, study)
        images = ledger.spending(database, row.id).images
        if not yes:
            if not sys.stdin.isatty():
                raise SpecError(
                    f"skiptune delete {study}",
                    expected="--yes, because nobody is there to be asked",
                    found="no terminal",
                    hint=f"skiptune delete {study} --yes",
                )
            click.confirm(f"Delete study {study} with {images:,} images?", abort=True, err=True)
        try:
            store = required_store(database, artifacts, group_writable=group_writable)
        except StorageError as error:
            store = None
            say(options, f"Its files stay: {error.problems[0]}")
        files = run(database, study, store=store)
    if options.json:
        print_json({"deleted": study, "files": files})
    say(options, f"Deleted {study}: {files} files removed")


def _set(
    options: Options, study: str, state: StudyState, words: str, *, retry: bool = False
) -> None:
    from skiptune.commands.output import print_json, say
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        row = ledger.require_study(database, study)
        again = ledger.retry_failed(database, row.id) if retry else 0
        ledger.set_study_state(database, row.id, state)
    if options.json:
        retried = {"retried": again} if retry else {}
        print_json({"study": study, "state": state, "before": row.state, **retried})
    say(options, words)
    if retry:
        say(options, f"{again} failed evaluations run again")
