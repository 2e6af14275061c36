"""Commands that let many machines share a study: create it once, work on it anywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from skiptune.commands.interruption import STOPPING, stoppable
from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    store_options,
    study_option,
)

if TYPE_CHECKING:
    from skiptune.search.worker import Ended, Limits
    from skiptune.storage.records import StudyState

__all__ = ["create", "worker"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """A time such as 90, 90s, 30m, 3.5h; in seconds."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no time such as 90s, 30m or 3.5h", param, ctx)
        return float(found[1]) * UNITS[found[2] or "s"]


@click.command()
@click.argument("spec", metavar="SPEC|PRESET")
@study_option
@click.option("--exist-ok", is_flag=True, help="Accept a study that exists and means the same.")
@store_options
@shared
@pass_options
def create(
    options: Options,
    spec: str,
    overrides: tuple[str, ...],
    artifacts: str | None,
    *,
    exist_ok: bool,
    group_writable: bool,
) -> None:
    """Store a study, so that workers anywhere can share it.

    Prints its name. Files that it names are remembered by content; small ones are kept in the
    artifact store.

    \b
    Examples:
      skiptune create study.yaml
      skiptune create study.yaml --storage postgresql://me@host/studies --artifacts /shared/arrays
      skiptune create study.yaml --exist-ok
    """
    from skiptune.commands.output import print_json, say
    from skiptune.commands.studies import opened_study
    from skiptune.errors import StorageError, quoted
    from skiptune.search.artifacts import artifacts_location
    from skiptune.search.spec import load_spec

    study_spec = load_spec(spec, overrides=overrides)
    name = study_spec.study
    artifacts_location(options.url, artifacts)  # refused before a table is made
    where = _holding(options.url, name)
    if where is not None and not exist_ok:
        raise StorageError(
            f"{where}: study {name}",
            expected="no study of this name yet",
            found="one that exists",
            hint=f"work on it with `skiptune worker {name}`, accept it with --exist-ok, or"
            " choose another name with -s study=NAME",
        )
    with opened_study(
        options, study_spec, source=spec, artifacts=artifacts, group_writable=group_writable
    ) as study:
        identity = study.id
    if options.json:
        print_json({"study": name, "id": identity, "created": where is None})
    else:
        print(name)
    arrays = "" if artifacts is None else f" --artifacts {quoted(artifacts)}"
    say(options, f"Next, on each machine: skiptune worker {name}{options.there}{arrays}")
    say(options, f"Where it stands:       skiptune status {name}{options.there}")


def _holding(url: str, name: str) -> str | None:
    """Return the name of the database if it has a study of this name, None where it has not.

    A database that is not there is not made: the study may turn out to be none.
    """
    from skiptune.errors import StorageError
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    try:
        with open_database(url) as database:
            return None if ledger.find_study(database, name) is None else database.name
    except StorageError:
        return None  # what else is wrong with it is said when the study is entered


@click.command()
@click.argument("study")
@click.option("--trials", metavar="N", type=click.IntRange(min=1), help="End after N scores.")
@click.option(
    "--images", metavar="N", type=click.IntRange(min=250), help="Sample at most N images."
)
@click.option(
    "--timeout", type=Duration(), help="Begin no chunk that would end later, e.g. 90s, 30m, 3.5h."
)
@click.option(
    "--until-done",
    is_flag=True,
    help="Stay while others hold what is left, the study is paused, or the database is away at the"
    " start; else leave after a minute.",
)
@device_option
@store_options
@shared
@pass_options
def worker(
    options: Options,
    study: str,
    trials: int | None,
    images: int | None,
    timeout: float | None,
    device: str,
    artifacts: str | None,
    *,
    until_done: bool,
    group_writable: bool,
) -> None:
    """Work on a study that exists, from this machine.

    Needs the database and the study's name; everything else comes from there. Start one per GPU,
    on as many machines as you like, at any time. Files are looked for by content in SKIPTUNE_PATH,
    in the cache and in the artifact store. The first Ctrl-C, SIGTERM or SIGUSR1 ends it within ten
    seconds; a second one at once.

    \b
    Examples:
      skiptune worker fashion
      skiptune worker fashion --device cuda:1 --until-done
      skiptune worker fashion --timeout 3.9h
      skiptune worker fashion --artifacts /shared/arrays
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import say
    from skiptune.commands.studies import stored_study
    from skiptune.errors import UnavailableError
    from skiptune.storage.patience import PATIENCE, Patience

    def away(error: UnavailableError, wait: float) -> None:
        say(options, f"The database is away ({error.problems[0].found}): again in {wait:.1f} s")

    patience = Patience(PATIENCE if until_done else 0.0, on_wait=away)
    state = patience(lambda: _state_of(options, study))
    if state in ("complete", "stopped"):
        more = f"; go on with: skiptune resume {study}" if state == "stopped" else ""
        say(options, f"Study {study} is {state}: nothing to do{more}")
        return
    check_device(device)
    from skiptune.commands.watching import watching
    from skiptune.search.course import whole_study
    from skiptune.search.worker import Limits, Worker

    limits = Limits(trials, images, timeout, until_done)
    with stored_study(
        options,
        study,
        patience=patience,
        device=device,
        artifacts=artifacts,
        group_writable=group_writable,
    ) as opened:
        with (
            stoppable(f"Stopped. Go on with: skiptune worker {study}", first=STOPPING) as signals,
            watching(options, opened) as listener,
        ):
            course = patience(lambda: whole_study(opened, on_event=listener))
            process = Worker(opened, course, limits=limits, on_event=listener, stop=signals.stop)
            ended = process.run()
        signals.raise_if_stopped()
    _tell(options, study, ended, process, limits)


def _state_of(options: Options, study: str) -> StudyState:
    """Return a study's state: running as well where only a confirm has open rungs."""
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        row = ledger.require_study(database, study)
        if row.state == "complete" and ledger.open_rungs(database, row.id):
            return "running"
        return row.state


def _tell(options: Options, study: str, ended: Ended, worker: object, limits: Limits) -> None:
    from skiptune.commands.output import print_json, say
    from skiptune.search.worker import Worker

    assert isinstance(worker, Worker)
    if options.json:
        print_json(
            {"study": study, "ended": ended, "images": worker.images, "trials": worker.trials}
        )
    words = {
        "complete": f"Study {study} is complete. See it: skiptune best {study}",
        "study stopped": f"The study was stopped. Go on with: skiptune resume {study}",
        "idle": "Nothing to do for a minute: others hold what is left, or the study is paused"
        " (--until-done waits)",
        "limit reached": "This worker's limit is reached",
        "stopped": "Stopped",
    }
    say(
        options, f"{words[ended]}; {worker.images:,} images, {worker.trials} scores by this worker"
    )
