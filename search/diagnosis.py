"""What is wrong with a database and its studies: found, why it matters, and what mends it.

Everything is read: rows, the list of this host's processes, whether files are there. What may be
mended without a thought, because workers do the same when they start, is mended on request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from skiptune.errors import StorageError
from skiptune.search.artifacts import artifacts_location, required_store
from skiptune.search.finding import Finding, counted, refused
from skiptune.search.footprint import free_bytes
from skiptune.search.garbage import collect
from skiptune.search.launch_notes import Asked, described, forget_over, of_this_host, standing_of
from skiptune.search.liveness import break_dead_leases, is_gone
from skiptune.search.pending import deliver_notes
from skiptune.search.store_findings import missing_files, orphaned, undelivered
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore, open_store
from skiptune.storage.database import Database, check_optuna, open_database
from skiptune.storage.inspection import (
    abandoned,
    chunk_formats,
    poisoned_chunks,
    versions_used,
)
from skiptune.storage.location import masked_url, parse_url, sqlite_path
from skiptune.storage.records import CHUNK_FORMAT, Study
from skiptune.storage.server import SPARE_CONNECTIONS, server_facts
from skiptune.storage.shelves import FolderShelf
from skiptune.storage.turns import held_turns

__all__ = ["CHECKS", "FILES", "Diagnosis", "Finding", "diagnose"]

CHECKS: Final = (
    "database",
    "clock",
    "connections",
    "store",
    "disk",
    "orphans",
    "leases",
    "idle",
    "launches",
    "poisoned",
    "versions",
    "formats",
    "files",
    "pending",
)
"""What is looked at; a finding names one of these."""

FILES: Final = 200
"""Stored files per study that are looked for, unless somebody asks for more."""

CLOCK_SECONDS: Final = 5.0  # more than a slow answer of the database explains
IDLE_SECONDS: Final = 600.0  # as long as workers wait for a database that is away
FREE_BYTES: Final = 2**30  # room for what workers hold, and for the database's log
PACKAGES: Final = ("diffusers", "skiptune", "torch", "transformers")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Arguments:
        storage: The database, as it may be printed.
        studies: Names of the studies that were looked at.
        findings: What is wrong; of the whole database first, then study by study.
        skipped: Those of `CHECKS` that could not be made.
    """

    storage: str
    studies: tuple[str, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """How many findings are left to mend."""
        return sum(finding.is_left for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {**asdict(self), "left": self.left}


def diagnose(
    url: str,
    *,
    study: str | None = None,
    artifacts: str | Path | None = None,
    group_writable: bool = False,
    files: int = FILES,
    fix: bool = False,
    asked: Asked = of_this_host,
) -> Diagnosis:
    """Look at a database, its store and its studies.

    Arguments:
        url: Of the database.
        study: Look at this study; by default at all.
        artifacts: The store, as for `artifacts_location`.
        group_writable: As for `required_store`.
        files: How many stored files of each study are looked for.
        fix: Mend what is `fixable`: end the leases and turns of this host's dead workers,
            deliver chunks that are stored and not in the database, forget launches of which no
            worker is left, and remove orphaned files.
        asked: Says whether workers of a launch are left.

    Raises:
        StorageError: The URL or the store's name means nothing, or there is no such study.
        UnavailableError: The database went away meanwhile.
    """
    parse_url(url)
    if artifacts is not None:
        open_store(artifacts_location(url, artifacts))
    try:
        database = open_database(url)
    except StorageError as error:
        no_database = refused("database", error, "no worker can work without the database")
        return Diagnosis(masked_url(url), (), (no_database,), CHECKS[1:])
    with database:
        rows = (
            ledger.list_studies(database)
            if study is None
            else (ledger.require_study(database, study),)
        )
        store: ArrayStore | None = None
        general: list[Finding] = []
        try:
            store = required_store(database, artifacts, group_writable=group_writable)
        except StorageError as error:
            why = "without the stored arrays nothing can be compared, and workers are refused"
            general.append(refused("store", error, why))
        found = _look(database, store, rows, files=files, asked=asked)
        if fix and any(finding.fixable for finding in found):
            for row in rows:
                break_dead_leases(database, row.id)
                if store is not None:
                    deliver_notes(database, store, row.id)
                forget_over(database, row, asked)
            if store is not None and any(finding.check == "orphans" for finding in found):
                collect(database, store)
            now = _look(database, store, rows, files=files, asked=asked)
            found = _after(found, now)
        return Diagnosis(
            database.name,
            tuple(row.name for row in rows),
            (*general, *found),
            () if store is not None else ("orphans", "files", "pending"),
        )


def _look(
    database: Database,
    store: ArrayStore | None,
    rows: Sequence[Study],
    *,
    files: int,
    asked: Asked,
) -> list[Finding]:
    found = list(_server(database))
    sizes: list[int] = []
    of_studies: list[Finding] = []
    for row in rows:
        of_studies += [*_leases(database, row), *_idle(database, row)]
        of_studies += _launches(database, row, asked)
        of_studies += [*_poisoned(database, row), *_versions(database, row)]
        of_studies += _formats(database, row)
        if store is not None:
            of_studies += [*missing_files(database, store, row, most=files, sizes=sizes)]
            of_studies += undelivered(store, row)
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    found += _disk(database, store, needed=mean * _open_chunks(database, rows))
    found += [] if store is None else orphaned(database, store)
    return found + of_studies


def _after(before: Sequence[Finding], now: Sequence[Finding]) -> list[Finding]:
    """Return what is there now, behind what was there before and is mended."""
    there = {(finding.check, finding.study) for finding in now if finding.fixable}
    gone = [
        replace(finding, mended=True)
        for finding in before
        if finding.fixable and (finding.check, finding.study) not in there
    ]
    return [*gone, *now]


def _server(database: Database) -> Iterator[Finding]:
    try:
        check_optuna(database)
        facts = server_facts(database)
    except StorageError as error:
        yield refused("database", error, "workers rely on what this version knows")
        return
    if abs(facts.ahead) > CLOCK_SECONDS:
        yield Finding(
            "clock",
            None,
            f"the database's clock is {facts.ahead:+.1f} s from this host's",
            "leases go by the database's clock and hold; the times that are shown and logged do"
            " not fit together, and a bucket refuses requests that are minutes off",
            "set the clocks by NTP, e.g. timedatectl set-ntp true",
        )
    if facts.most is not None and facts.most - facts.used < SPARE_CONNECTIONS:
        yield Finding(
            "connections",
            None,
            f"{facts.used} of {facts.most} connections are used",
            "each worker needs one now and then; those that get none wait, and give up after"
            " ten minutes",
            "raise max_connections on the server and restart it, or put PgBouncer before it"
            " (pool_mode = transaction); then: skiptune db check",
        )


def _leases(database: Database, row: Study) -> Iterator[Finding]:
    turns = [turn for turn in held_turns(database, row.id) if is_gone(turn.worker)]
    dead = [
        lease
        for lease in leases.leases(database, row.id)
        if lease.remaining > 0 and lease.worker and is_gone(lease.worker)
    ]
    if turns or dead:
        yield Finding(
            "leases",
            row.name,
            f"{counted(len(dead), 'lease')} and {counted(len(turns), 'turn')} of workers of this"
            " host that are gone",
            "other workers leave these chunks and tasks alone until the leases end",
            f"skiptune doctor {row.name} --fix",
            (
                *(
                    f"chunk from seed {lease.first_seed}: {lease.worker}, {lease.remaining:.0f} s"
                    " left"
                    for lease in dead
                ),
                *(f"turn to {turn.task}: {turn.worker}" for turn in turns),
            ),
            fixable=True,
        )


def _idle(database: Database, row: Study) -> Iterator[Finding]:
    if row.state != "running":
        return
    # Turns of dead workers of this host are told of already.
    left = [
        each
        for each in abandoned(database, row.id, seconds=IDLE_SECONDS)
        if not (each.is_turn and is_gone(each.worker))
    ]
    if left:
        yield Finding(
            "idle",
            row.name,
            f"{counted(len(left), 'lease')} ended more than {IDLE_SECONDS / 60:.0f} minutes ago,"
            " and nobody has taken over",
            "the study runs by its state, and no worker is at work on it",
            f"skiptune worker {row.name}",
            tuple(f"{each.what}: {each.worker}, {each.seconds:.0f} s ago" for each in left),
        )


def _poisoned(database: Database, row: Study) -> Iterator[Finding]:
    chunks = poisoned_chunks(database, row.id)
    if chunks:
        yield Finding(
            "poisoned",
            row.name,
            f"{counted(len(chunks), 'chunk')} given up",
            "the evaluations that need them have failed, and nobody samples them again",
            "mend the cause, then give them three more leases:"
            f" skiptune resume {row.name} --retry",
            tuple(f"chunk from seed {chunk.first_seed}: {chunk.reason}" for chunk in chunks),
        )


def _versions(database: Database, row: Study) -> Iterator[Finding]:
    several = {
        name: counts
        for name, counts in versions_used(database, row.id, PACKAGES).items()
        if len(counts) > 1
    }
    if several:
        yield Finding(
            "versions",
            row.name,
            f"chunks were made by several versions of {', '.join(several)}",
            "each worker's canary has compared its images with the stored ones, so that they"
            " agree within 0.005 of the features' spread, and not bit by bit",
            "nothing has to be done; to keep to one version, install it on every host and see"
            " it there: skiptune env",
            tuple(
                f"{name} {version}: {counted(chunks, 'chunk')}"
                for name, counts in several.items()
                for version, chunks in counts.items()
            ),
            is_notice=True,
        )


def _formats(database: Database, row: Study) -> Iterator[Finding]:
    foreign = {
        number: chunks
        for number, chunks in chunk_formats(database, row.id).items()
        if number != CHUNK_FORMAT
    }
    if foreign:
        yield Finding(
            "formats",
            row.name,
            f"{counted(sum(foreign.values()), 'chunk')} in another format than"
            f" {CHUNK_FORMAT}, which this version knows",
            "workers of this version neither claim nor read them",
            "pip install -U skiptune",
            tuple(
                f"format {number}: {counted(chunks, 'chunk')}"
                for number, chunks in foreign.items()
            ),
        )


def _launches(database: Database, row: Study, asked: Asked) -> Iterator[Finding]:
    standing = standing_of(database, row, asked)
    if standing.over:
        yield Finding(
            "launches",
            row.name,
            f"{counted(len(standing.over), 'launch', 'launches')} noted of which no worker is"
            " left",
            "each launch tells of them as if they were at work, and --stop asks for them",
            f"skiptune doctor {row.name} --fix",
            tuple(described(launch) for launch in standing.over),
            fixable=True,
        )
    if standing.unknown:
        yield Finding(
            "launches",
            row.name,
            f"{counted(len(standing.unknown), 'launch', 'launches')} noted that cannot be asked"
            " from here",
            "whether workers of theirs wait or run is known where they were started",
            "nothing has to be done; there, or here once the cluster is gone for good:"
            f" skiptune launch {row.name} --stop --forget",
            tuple(described(launch) for launch in standing.unknown),
            is_notice=True,
        )


def _open_chunks(database: Database, rows: Sequence[Study]) -> int:
    """Return how many chunks are yet to be stored."""
    open_now = 0
    for row in rows:
        if row.state in ("running", "paused"):
            chunks = ledger.progress(database, row.id).chunks
            open_now += chunks.get("open", 0) + chunks.get("leased", 0)
    return open_now


def _disk(database: Database, store: ArrayStore | None, *, needed: float) -> Iterator[Finding]:
    """Look at the disks of the store and of a SQLite file; one that holds both is told once."""
    disks: dict[int, tuple[list[str], Path, float]] = {}
    path = sqlite_path(database.url)
    places = [] if path is None else [("the database", path.absolute().parent, 0.0)]
    if store is not None and isinstance(store.shelf, FolderShelf):
        places.append(("the arrays", store.folder, needed))
    for name, folder, more in places:
        names, first, before = disks.get(os.stat(folder).st_dev, ([], folder, 0.0))
        disks[os.stat(folder).st_dev] = ([*names, name], first, before + more)
    for names, folder, more in disks.values():
        free, least = free_bytes(folder), FREE_BYTES + more
        if free < least:
            yield Finding(
                "disk",
                None,
                f"{free / 1e9:.2f} GB free where {' and '.join(names)} lie ({folder});"
                f" {least / 1e9:.2f} GB are wanted",
                "workers wait with what they have sampled while a disk is full",
                "free some space, e.g. files that no row names: skiptune db gc",
            )
