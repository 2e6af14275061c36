"""Commands that read the database: no network is loaded, nothing is written."""

from __future__ import annotations

import click

from skiptune.commands.options import Options, pass_options, shared, store_options
from skiptune.errors import SpecError, quoted

__all__ = ["best", "status"]


@click.command()
@click.argument("study", required=False)
@click.option(
    "--watch",
    is_flag=True,
    help="Look again every 5 seconds until the study is complete or stopped; where nobody sees a"
    " terminal, a line for each change.",
)
@click.option(
    "--disk",
    is_flag=True,
    help="Also tell what is stored: the store is listed, which takes a while where it is large.",
)
@store_options
@shared
@pass_options
def status(
    options: Options,
    study: str | None,
    artifacts: str | None,
    *,
    watch: bool,
    disk: bool,
    group_writable: bool,
) -> None:
    """Show where a study stands, or all studies.

    \b
    Examples:
      skiptune status
      skiptune status fashion
      skiptune status fashion --watch
      skiptune status fashion --disk
    """
    from dataclasses import asdict

    from skiptune.commands.following import follow
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.search.overview import overview, overviews
    from skiptune.storage.database import open_database
    from skiptune.storage.ledger import require_study
    from skiptune.views.footprint import footprint_view
    from skiptune.views.study import overview_view, studies_table

    if watch and (study is None or options.json):
        raise SpecError(
            "skiptune status --watch",
            expected="one study to be watched by a person",
            found="no study" if study is None else "--json, which is one document",
            hint="skiptune status, then: skiptune status STUDY --watch"
            if study is None
            else f"leave one of them out: skiptune status {quoted(study)} --json",
        )
    if watch and disk:
        raise SpecError(
            "skiptune status --watch",
            expected="what a look every five seconds can tell",
            found="--disk, which lists the whole store",
            hint=f"ask once: skiptune status {quoted(study)} --disk",
        )
    with open_database(options.url) as database:
        if study is not None and watch:
            follow(options, database, study)
            return
        found = overviews(database) if study is None else (overview(database, study),)
        stored = None
        if disk:
            from skiptune.search.artifacts import required_store
            from skiptune.search.footprint import footprint

            store = required_store(database, artifacts, group_writable=group_writable)
            named = {each.study: require_study(database, each.study).id for each in found}
            stored = footprint(database, store, named)
    on_disk = {} if stored is None else {"disk": asdict(stored)}
    if options.json and study is not None:
        print_json({**found[0].to_json(), **on_disk})
    elif options.json:
        print_json({"studies": [each.to_json() for each in found], **on_disk})
    elif study is not None:
        print_text(*overview_view(found[0]), *footprint_view(stored))
    elif found:
        print_text(studies_table(found), *footprint_view(stored))
        say(options, f"Next: skiptune status {found[-1].study}{options.there}")
    else:
        say(options, "No study yet. Start one: skiptune tune fashion")


@click.command()
@click.argument("study")
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many schedules.",
)
@shared
@pass_options
def best(options: Options, study: str, top: int) -> None:
    """Show the best schedules, one row per skip.

    A schedule that only the search has measured is marked `not confirmed`: it was chosen for its
    value on these seeds, so the gain shown is too good on average.

    \b
    Examples:
      skiptune best fashion
      skiptune best fashion --top 5
      skiptune best fashion --top 3 --json
    """
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.search.overview import SCORED, leaders, overview
    from skiptune.storage.database import open_database
    from skiptune.views.study import leaders_view, nothing_best_text

    with open_database(options.url) as database:
        found = leaders(database, study, top)
        standing = None if found else overview(database, study)
    if options.json:
        print_json({"study": study, "schedules": [leader.to_json() for leader in found]})
    elif found:
        print_text(*leaders_view(found))
    elif standing is not None and standing.states.get(SCORED):
        say(options, f"There is no best schedule: {nothing_best_text(standing)}")
    else:
        say(options, f"Nothing scored yet. Go on with: skiptune tune {study}{options.there}")
