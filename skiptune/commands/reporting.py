"""The command that writes a report of a study: one file that can be sent."""

from __future__ import annotations

import webbrowser
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
    from skiptune.search.findings import Findings
    from skiptune.storage.database import Database
    from skiptune.views.report.blocks import Pair

__all__ = ["report"]

SUFFIXES = {"": "html", ".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


@click.command()
@click.argument("study")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: report.html, or report.md]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "md"]),
    help="HTML for people, Markdown for issues and papers.  [default: what FILE ends in]",
)
@click.option(
    "--pictures",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="A few seeds before and after: those that workers have kept, else sampled where the"
    " study's files are here; or none.",
)
@click.option("--open", "opens", is_flag=True, help="Show it in the browser.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@artifacts_option
@device_option
@shared
@pass_options
def report(
    options: Options,
    study: str,
    output: Path | None,
    kind: str | None,
    pictures: str,
    artifacts: str | None,
    device: str,
    *,
    opens: bool,
    force: bool,
) -> None:
    """Write a report of a study: one file that can be sent.

    The HTML file holds everything itself, asks nothing of the network, and reads on a phone, in
    the dark, and printed: verdict, the same seeds before and after, scores with intervals, the
    scales, controls, the course of the search, cost, how to use the result, and where every number
    comes from. Before a confirm it is marked as not confirmed.

    \b
    Examples:
      skiptune report fashion -o report.html --open
      skiptune report fashion -o report.md
      skiptune report fashion --pictures none --force
    """
    from datetime import UTC, datetime

    from skiptune.commands.output import check_writable, print_json, say
    from skiptune.commands.studies import hush
    from skiptune.search.findings import find
    from skiptune.search.output import write_whole
    from skiptune.storage.database import open_database
    from skiptune.views.report.contents import report_of

    kind = kind or _kind_of(output)
    path = output or Path(f"report.{kind}")
    check_writable(path, force=force)
    hush(verbose=options.verbose)
    with open_database(options.url) as database:
        found = find(database, study, artifacts=artifacts)
        pair = None
        if pictures == "auto" and kind == "html":
            pair = _kept(options, database, found, artifacts=artifacts)
    why = "Markdown holds none" if kind == "md" else "they were not asked for"
    if pictures == "auto" and kind == "html" and pair is None:
        found, pair, why = _sampled(options, found, artifacts=artifacts, device=device)
    else:
        found = _unasked(found)
    told = report_of(found, pair=pair, no_pictures=why, made=datetime.now(UTC))
    if kind == "md":
        from skiptune.views.report.markdown import markdown_text as text_of
    else:
        from skiptune.views.report.page import html_text as text_of
    write_whole(path, text_of(told).encode(), force=force)
    verdict = "not confirmed" if found.result is None else found.result.verdict
    if options.json:
        print_json(
            {"written": path, "format": kind, "verdict": verdict, "pictures": pair is not None}
        )
    say(options, f"Wrote {path}: {verdict}")
    if opens and not webbrowser.open(path.absolute().as_uri()):
        say(options, f"No browser is here. Open it yourself: {path}")


def _kind_of(output: Path | None) -> str:
    """Return the format of a file by its name.

    Raises:
        SpecError: It ends in something else.
    """
    from skiptune.errors import SpecError

    suffix = "" if output is None else output.suffix.lower()
    if suffix not in SUFFIXES:
        raise SpecError(
            f"-o {output}",
            expected="a name that ends in .html or .md, or --format",
            found=f"one that ends in {suffix}",
            hint="say what it shall hold with --format html or --format md; a browser prints HTML"
            " as PDF",
        )
    return SUFFIXES[suffix]


def _unasked(found: Findings) -> Findings:
    from dataclasses import replace

    why = found.explanation.unserved or "the model was not asked"
    return replace(found, explanation=found.explanation.with_prediction(None, why))


def _kept(
    options: Options, database: Database, found: Findings, *, artifacts: str | None
) -> Pair | None:
    """Return the pictures that workers have kept, None where there are none, or not here."""
    from skiptune.commands.output import say
    from skiptune.errors import StorageError
    from skiptune.views.report.contents import schedule_of
    from skiptune.views.report.kept import kept
    from skiptune.views.report.tiles import pair_of

    schedule = schedule_of(found)
    if schedule is None:
        return None
    try:
        images = kept(database, found.origin.study_id, schedule, artifacts=artifacts)
    except StorageError as error:
        problem = error.problems[0]
        say(options, f"The kept pictures are not here ({problem.where}: {problem.found})")
        return None
    if images is None:
        return None
    seeds = images.seeds
    caption = (
        f"The same {len(seeds)} seeds, {seeds[0]:,} to {seeds[-1]:,}: the search's first ones, not"
        " chosen, on which its schedules were compared."
    )
    return pair_of(images.before, images.after, seeds, names=_names(found), caption=caption)


def _names(found: Findings) -> tuple[str, str]:
    won = found.result is not None and found.result.verdict == "win"
    return "untouched", "tuned" if won else "candidate"


def _sampled(
    options: Options, found: Findings, *, artifacts: str | None, device: str
) -> tuple[Findings, Pair | None, str]:
    """Return what needs the study's files: the slice's prediction, and the pictures.

    Returns:
        The findings, the pictures, and why there are none. Without the files, which may be on
        another host, the report is whole but for these.
    """
    from skiptune.commands.output import say
    from skiptune.errors import SkiptuneError
    from skiptune.views.report.contents import schedule_of

    name = found.explanation.overview.study
    schedule = schedule_of(found)
    if schedule is None:
        return _unasked(found), None, "there is no schedule to show"
    from skiptune.commands.device import check_device
    from skiptune.commands.pictures import PICTURE_SEEDS, images_of
    from skiptune.commands.studies import stored_study
    from skiptune.search.line_slice import predicted
    from skiptune.views.report.tiles import pair_of

    check_device(device)
    place: dict[str, Any] = {"artifacts": artifacts, "device": device}
    try:
        with stored_study(options, name, **place) as opened:
            say(
                options,
                f"Sampling {2 * len(PICTURE_SEEDS)} images on {device} (--pictures none leaves"
                " them out)",
            )
            setting = opened.setting
            before = images_of(opened.checkpoint, setting, None, PICTURE_SEEDS)
            tuned = setting.with_knobs(schedule.knobs)
            after = images_of(opened.checkpoint, tuned, schedule, PICTURE_SEEDS)
            why = found.explanation.unserved
            told = found.explanation.with_prediction(None, why or "too few features are here")
            if not why:
                prediction = predicted(opened, found.explanation.best_params)
                if prediction is not None:
                    told = found.explanation.with_prediction(prediction)
    except SkiptuneError as error:
        problem = error.problems[0]
        say(
            options,
            f"No pictures: the study's files are not all here ({problem.where}: {problem.found})",
        )
        return _unasked(found), None, "the study's files were not at hand where it was made"
    from dataclasses import replace

    caption = (
        f"The same {len(PICTURE_SEEDS)} seeds, {PICTURE_SEEDS[0]:,} to {PICTURE_SEEDS[-1]:,}: the"
        " first ones, not chosen, and none that anything was decided on."
    )
    pair = pair_of(before, after, PICTURE_SEEDS, names=_names(found), caption=caption)
    return replace(found, explanation=told), pair, ""
