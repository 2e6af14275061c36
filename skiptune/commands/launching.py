"""The command that places workers: here, or by a scheduler."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skiptune.commands.options import (
    Options,
    pass_options,
    shared,
    store_options,
    study_option,
)
from skiptune.launch.executor import EXECUTORS

if TYPE_CHECKING:
    from skiptune.launch.executor import Job, Plan
    from skiptune.search.launch_section import LaunchSpec
    from skiptune.storage.records import Study

__all__ = ["launch"]


class Workers(click.ParamType[int | str]):
    """A whole number of at least 1, or auto."""

    name = "N|auto"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number or the word."""
        text = str(value).strip()
        if text != "auto" and not (text.isdecimal() and int(text) > 0):
            self.fail(f"{text!r} is neither auto nor a whole number above 0", param, ctx)
        return text if text == "auto" else int(text)


@click.command()
@click.argument("target", metavar="SPEC|STUDY")
@click.option(
    "--executor",
    type=click.Choice(list(EXECUTORS)),
    help="Who starts the workers.  [default: local]",
)
@click.option(
    "--workers",
    metavar="N|auto",
    type=Workers(),
    help="How many; auto is one per visible GPU, or one per four cores.  [default: what"
    " `launch.workers` of the study says, else auto]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What a worker runs on; auto is a GPU where there is one.",
)
@click.option(
    "--logs",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where each worker's output goes.  [default: skiptune-logs/STUDY]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be run, and do nothing.")
@click.option("--detach", is_flag=True, help="Do not wait for the end of the study.")
@click.option("--stop", is_flag=True, help="End the workers of earlier launches.")
@click.option(
    "--forget",
    is_flag=True,
    help="With --stop: forget launches that cannot be ended from here, e.g. because their cluster"
    " is gone.",
)
@study_option
@store_options
@shared
@pass_options
def launch(
    options: Options,
    target: str,
    executor: str | None,
    workers: int | str | None,
    device: str,
    logs: Path | None,
    overrides: tuple[str, ...],
    artifacts: str | None,
    *,
    dry_run: bool,
    detach: bool,
    stop: bool,
    forget: bool,
    group_writable: bool,
) -> None:
    """Start the workers of a study and see it to its end.

    The study is created if it does not exist. On this machine workers that crash are started
    again; Ctrl-C ends all of them. See docs/launch.md.

    \b
    Examples:
      skiptune launch study.yaml
      skiptune launch fashion --workers 4 --device cpu --detach
      skiptune launch fashion --dry-run
      skiptune launch fashion --stop
    """
    from skiptune.commands import placing
    from skiptune.commands.output import check_folder, say
    from skiptune.launch.executor import Plan, executor_of

    if forget and not stop:
        raise click.UsageError("--forget goes with --stop")
    if dry_run and stop:
        raise click.UsageError("--dry-run shows what would be started: it goes without --stop")
    if stop:
        placing.stop(options, _name_of(target, overrides), executor, forget=forget)
        return
    where = executor_of(executor or "local")
    name, section = _study(
        options,
        target,
        overrides,
        artifacts,
        executor=where.name,
        group_writable=group_writable,
        create=not dry_run,
    )
    asked = workers or section.workers
    plan = Plan(
        study=name,
        workers=None if asked == "auto" else int(asked),
        device=device,
        storage=options.storage,
        artifacts=artifacts,
        group_writable=group_writable,
        spec=section,
        logs=(logs or Path("skiptune-logs", name)).absolute(),
    )
    if dry_run:
        placing.show(options, where, plan)
        return
    row = placing.unfinished(options, name)
    if row is None:
        return
    with suppress(OSError):  # what is in the way is told by the check
        plan.logs.mkdir(parents=True, exist_ok=True)
    check_folder(plan.logs, where=f"--logs {plan.logs}")
    placing.tell_of_others(options, row)
    if where.name == "local" and not detach:
        placing.look_after(options, row, plan)
        return
    job = where.start(plan)
    placing.note(options, row, where.name, job)
    say(
        options,
        f"Started {placing.counted(job.workers)} of {name} by {where.name}: {_shown(job, plan)}",
    )
    if detach:
        placing.print_job(options, row, where.name, job)
        say(options, f"Where it stands: skiptune status {name}{options.there}")
        say(options, f"End them:        skiptune launch {name} --stop{options.there}")
        return
    placing.watch(options, row, where, job)


def _shown(job: Job, plan: Plan) -> str:
    return f"{job.name} on {job.place}, output in {plan.logs}"


def _study(
    options: Options,
    target: str,
    overrides: tuple[str, ...],
    artifacts: str | None,
    *,
    executor: str,
    group_writable: bool,
    create: bool,
) -> tuple[str, LaunchSpec]:
    """Return the name of the study that a word means, which exists afterwards, and its section.

    A name of a stored study goes before a preset's: that one is created from the preset.

    Raises:
        LaunchError: The executor's workers would not reach the database; nothing was created.
    """
    from skiptune.commands import placing
    from skiptune.commands.output import say
    from skiptune.commands.studies import opened_study
    from skiptune.search.spec import load_spec

    known = _stored(options, target)
    if known is not None:
        section = _changed_section(known, overrides)
        placing.require_reach(options, executor, section)
        return known.name, section
    spec = load_spec(target, overrides=overrides)
    placing.require_reach(options, executor, spec.launch)
    if create:
        with opened_study(
            options, spec, source=target, artifacts=artifacts, group_writable=group_writable
        ) as study:
            say(options, f"Study {study.row.name} is in {study.database.name}")
    return spec.study, spec.launch


def _name_of(target: str, overrides: tuple[str, ...]) -> str:
    """Return the name of a study that is named, or described by a file."""
    from skiptune.search.spec import load_spec

    return load_spec(target, overrides=overrides).study if _is_file(target) else target


def _is_file(target: str) -> bool:
    return "/" in target or Path(target).suffix in (".yaml", ".yml")


def _stored(options: Options, target: str) -> Study | None:
    """Return the study of this name; None where it is none, or is a file's path or a preset."""
    from skiptune.errors import StorageError
    from skiptune.search.spec import presets
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    if _is_file(target):
        return None
    try:
        with open_database(options.url) as database:
            found = ledger.find_study(database, target)
            if found is None and target not in presets():
                ledger.require_study(database, target)  # says which names are near
            return found
    except StorageError as error:
        if target in presets() and error.exit_code == StorageError.exit_code:
            return None  # what is wrong with the database is said when the study is entered
        raise


def _changed_section(study: Study, overrides: tuple[str, ...]) -> LaunchSpec:
    """Return the section `launch` of a stored study, changed for this time.

    Raises:
        SpecError: Something else is to be changed, which needs the study's file.
    """
    from skiptune.errors import SpecError, quoted
    from skiptune.search.document import Document
    from skiptune.search.spec import StudySpec, presets

    file = study.name if study.name in presets() else "FILE"
    for text in overrides:
        if not text.strip().startswith("launch."):
            raise SpecError(
                f"-s {text}",
                expected="a key of `launch`: nothing else of a stored study is changed here",
                found=text.partition("=")[0],
                hint=f"store it first: skiptune create {file} --exist-ok -s {quoted(text)}",
            )
    document = Document(f"study {study.name}", dict(study.spec)).overridden(overrides)
    return StudySpec.from_json(document.values, source=f"study {study.name}").launch
