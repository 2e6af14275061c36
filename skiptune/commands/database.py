"""Commands on the database itself: make its tables, bring them up to date, check, tidy up."""

from __future__ import annotations

from typing import Any

import click

from skiptune.commands.options import Options, pass_options, shared, store_options

__all__ = ["db"]


@click.group()
@shared
def db() -> None:
    """Make, upgrade, check and tidy up the database of the studies.

    \b
    Examples:
      skiptune db init --storage postgresql://me@host/studies --artifacts /shared/arrays
      skiptune db check --workers 64
      skiptune db gc --dry-run
    """


@db.command()
@store_options
@shared
@pass_options
def init(options: Options, artifacts: str | None, *, group_writable: bool) -> None:
    """Make the tables and bind the artifact store, once.

    Workers never do.

    \b
    Examples:
      skiptune db init
      skiptune db init --storage postgresql://me@host/studies --artifacts s3://bucket/skiptune
    """
    from skiptune.commands.output import print_json, say
    from skiptune.search.artifacts import artifacts_location, bind_store
    from skiptune.storage.database import REVISIONS, init_database

    artifacts_location(options.url, artifacts)  # refused before a table is made
    with init_database(options.url) as database:
        store = bind_store(database, artifacts, group_writable=group_writable)
        name = database.name
    if options.json:
        print_json({"storage": name, "schema": REVISIONS[-1], "artifacts": store.location})
    say(options, f"{name}: tables of schema {REVISIONS[-1]}, arrays in {store.location}")


@db.command()
@shared
@pass_options
def upgrade(options: Options) -> None:
    """Bring the tables to this version's schema; every row is kept.

    Workers of an older version find nothing to claim from then on, and say so.

    \b
    Examples:
      skiptune db upgrade
      skiptune db upgrade --storage sqlite:////scratch/studies.db
    """
    from skiptune.commands.output import print_json, say
    from skiptune.storage.database import upgrade_database
    from skiptune.storage.location import masked_url

    before, after = upgrade_database(options.url)
    name = masked_url(options.url)
    if options.json:
        print_json({"storage": name, "before": before, "after": after})
    words = "is up to date" if before == after else f"upgraded from schema {before}"
    say(options, f"{name}: {words} (schema {after})")


@db.command()
@shared
@pass_options
def version(options: Options) -> None:
    """Print the schema of the database and what this version needs.

    \b
    Examples:
      skiptune db version
      skiptune db version --json
    """
    from skiptune.commands.output import print_json
    from skiptune.storage.database import REVISIONS, Database

    with Database(options.url) as database:
        found, optuna, name = database.revision(), database.optuna_version(), database.name
    if options.json:
        print_json({"storage": name, "schema": found, "needed": REVISIONS[-1], "optuna": optuna})
        return
    print(f"schema: {found or 'none'}")
    print(f"needed: {REVISIONS[-1]}")
    print(f"optuna: {optuna or 'none'}")


@db.command()
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Workers that are planned: each needs one connection.",
)
@store_options
@shared
@pass_options
def check(options: Options, workers: int, artifacts: str | None, *, group_writable: bool) -> None:
    """Check what workers will need: server, schema, connections, store.

    \b
    Examples:
      skiptune db check
      skiptune db check --workers 200 --artifacts /shared/arrays
    """
    from skiptune.commands.output import print_json
    from skiptune.search.artifacts import required_store
    from skiptune.storage import ledger
    from skiptune.storage.database import REVISIONS, check_optuna, open_database
    from skiptune.storage.server import check_connections, server_facts

    rows: list[dict[str, Any]] = []

    def add(name: str, found: str) -> None:
        rows.append({"check": name, "found": found})
        if not options.json:
            print(f"ok  {name:<12} {found}", flush=True)

    with open_database(options.url) as database:
        facts = server_facts(database)
        add("database", f"{database.name} ({facts.version})")
        add("schema", REVISIONS[-1])
        check_optuna(database)
        add("optuna", database.optuna_version() or "no tables")
        add("connections", check_connections(database, facts, workers=workers))
        add("clock", f"{facts.ahead:+.1f} s from this host's; leases use the database's")
        studies = ledger.list_studies(database)
        add("studies", f"{len(studies)}")
        store = required_store(database, artifacts, group_writable=group_writable)
        add("artifacts", store.location)
        newest = ledger.newest_array(database)
        if newest is not None:
            store.read(newest)
            add("arrays", f"the newest one is there and undamaged ({newest[:12]})")
    if options.json:
        print_json({"checks": rows})


@db.command()
@click.option(
    "--drop-arrays",
    is_flag=True,
    help="Also give up the arrays of all but baselines, confirmed and the ten best schedules;"
    " hashes and scores are kept.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@store_options
@shared
@pass_options
def gc(
    options: Options,
    artifacts: str | None,
    *,
    drop_arrays: bool,
    dry_run: bool,
    group_writable: bool,
) -> None:
    """Remove stored files that no row has named for a day.

    \b
    Examples:
      skiptune db gc --dry-run
      skiptune db gc --drop-arrays
    """
    from dataclasses import asdict

    from skiptune.commands.output import print_json, say
    from skiptune.search.artifacts import required_store
    from skiptune.search.garbage import collect
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        store = required_store(database, artifacts, group_writable=group_writable)
        found = collect(database, store, drop=drop_arrays, dry_run=dry_run)
    if options.json:
        print_json({**asdict(found), "dry_run": dry_run})
        return
    verb = "Would remove" if dry_run else "Removed"
    say(options, f"{verb} {found.files} orphaned files, {found.bytes / 1e6:.1f} MB in all")
    if drop_arrays:
        verb = "Would drop" if dry_run else "Dropped"
        say(options, f"{verb} the arrays of {found.chunks} chunks ({found.images:,} images)")


@db.command()
@click.argument("study", required=False)
@click.option("--rebuild", is_flag=True, help="Delete Optuna's studies and make them anew.")
@shared
@pass_options
def project(options: Options, study: str | None, *, rebuild: bool) -> None:
    """Bring Optuna's studies up to date with skiptune's rows.

    Optuna's are those that the dashboard shows.

    \b
    Examples:
      skiptune db project
      skiptune db project fashion --rebuild
    """
    from skiptune.commands.output import print_json, say
    from skiptune.commands.studies import hush
    from skiptune.search.upkeep import project as run
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    hush(verbose=options.verbose)
    with open_database(options.url) as database:
        names = [study] if study else [each.name for each in ledger.list_studies(database)]
        for name in names:
            run(database, name, rebuild=rebuild)
            say(options, f"{'Rebuilt' if rebuild else 'Projected'} {name}")
    if options.json:
        print_json({"projected": names, "rebuilt": rebuild})
