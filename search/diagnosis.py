"""What is wrong with a database and its studies: found, why it matters, and what mends it.

Everything is read: rows, the list of this host's processes, whether files are there. What may be
mended without a thought, because workers do the same when they start, is mended on request.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from skiptune.errors import StorageError
from skiptune.search.artifacts import artifacts_location, required_store
from skiptune.search.launch_notes import Asked, described, forget_over, of_this_host, standing_of
from skiptune.search.liveness import break_dead_leases, is_gone
from skiptune.search.pending import deliver_notes, pending_notes
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore, open_store
from skiptune.storage.database import Database, check_optuna, open_database
from skiptune.storage.inspection import (
    abandoned,
    chunk_formats,
    poisoned_chunks,
    sampled_arrays,
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
class Finding:
    """One thing that is not as it should be.

    Arguments:
        check: Which of `CHECKS` has found it.
        study: Whose it is; None where it is the whole database's.
        found: What was seen.
        why: Why it matters.
        mend: What mends it; a command where one does.
        details: The single cases, e.g. every file that is missing.
        fixable: Whether `diagnose` mends it on request.
        mended: Whether it has.
        is_notice: Whether it is told only: there is nothing to mend.
    """

    check: str
    study: str | None
    found: str
    why: str
    mend: str
    details: tuple[str, ...] = ()
    fixable: bool = False
    mended: bool = False
    is_notice: bool = False

    @property
    def is_left(self) -> bool:
        """Whether somebody has to mend it yet."""
        return not (self.mended or self.is_notice)


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
        fix: Mend what is `fixable`: end the leases and turns of this host's dead workers, and
            deliver chunks that are stored and not in the database, and forget launches of which
            no worker is left.
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
        refused = _refused("database", error, "no worker can work without the database")
        return Diagnosis(masked_url(url), (), (refused,), CHECKS[1:])
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
            general.append(_refused("store", error, why))
        found = _look(database, store, rows, files=files, asked=asked)
        if fix and any(finding.fixable for finding in found):
            for row in rows:
                break_dead_leases(database, row.id)
                if store is not None:
                    deliver_notes(database, store, row.id)
                forget_over(database, row, asked)
            now = _look(database, store, rows, files=files, asked=asked)
            found = _after(found, now)
        return Diagnosis(
            database.name,
            tuple(row.name for row in rows),
            (*general, *found),
            () if store is not None else ("files", "pending"),
        )


def free_bytes(folder: Path) -> int:
    """Return the bytes that a user may still write on the disk of a folder."""
    return shutil.disk_usage(folder).free


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
            of_studies += [*_files(database, store, row, most=files, sizes=sizes)]
            of_studies += _pending(store, row)
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    found += _disk(database, store, needed=mean * _open_chunks(database, rows))
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


def _refused(check: str, error: StorageError, why: str) -> Finding:
    problem = error.problems[0]
    return Finding(
        check,
        None,
        f"{problem.where}: {problem.found} (expected: {problem.expected})",
        why,
        error.hint,
    )


def _server(database: Database) -> Iterator[Finding]:
    try:
        check_optuna(database)
        facts = server_facts(database)
    except StorageError as error:
        yield _refused("database", error, "workers rely on what this version knows")
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
            f"{_count(len(dead), 'lease')} and {_count(len(turns), 'turn')} of workers of this"
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
            f"{_count(len(left), 'lease')} ended more than {IDLE_SECONDS / 60:.0f} minutes ago,"
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
            f"{_count(len(chunks), 'chunk')} given up",
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
                f"{name} {version}: {_count(chunks, 'chunk')}"
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
            f"{_count(sum(foreign.values()), 'chunk')} in another format than"
            f" {CHUNK_FORMAT}, which this version knows",
            "workers of this version neither claim nor read them",
            "pip install -U skiptune",
            tuple(
                f"format {number}: {_count(chunks, 'chunk')}" for number, chunks in foreign.items()
            ),
        )


def _files(
    database: Database, store: ArrayStore, row: Study, *, most: int, sizes: list[int]
) -> Iterator[Finding]:
    """Look for stored files; the sizes of those that are there are added to `sizes`."""
    arrays = sampled_arrays(database, row.id, most=most)
    missing = []
    try:
        for array in arrays:
            size = store.size(array.digest)
            if size is None:
                missing.append(array)
            else:
                sizes.append(size)
    except StorageError as error:
        yield replace(_refused("files", error, "stored arrays are read again"), study=row.name)
        return
    if missing:
        yield Finding(
            "files",
            row.name,
            f"{len(missing)} of {_count(len(arrays), 'stored file')} looked for are missing",
            "scores are kept, but what reads the arrays again (a confirm, a new metric, the"
            " canary) has to wait until they are sampled again",
            f"put them back from a copy into {store.location}; without one, who needs them"
            f" samples them again: skiptune worker {row.name}",
            tuple(
                f"chunk from seed {array.first_seed}: {store.place(array.digest)}"
                for array in missing
            ),
        )


def _pending(store: ArrayStore, row: Study) -> Iterator[Finding]:
    try:
        notes = pending_notes(store, row.id)
    except StorageError as error:
        yield replace(_refused("pending", error, "notes are read again"), study=row.name)
        return
    if not notes:
        return
    unread = any(note.claim is None for note in notes)
    yield Finding(
        "pending",
        row.name,
        f"{_count(len(notes), 'chunk')} stored and not in the database"
        + (", some by notes that this version cannot read" if unread else ""),
        "their worker could not reach the database; what is not delivered is sampled again",
        f"skiptune doctor {row.name} --fix"
        + (
            f"; what then is left another version has written (pip install -U skiptune), or it"
            f" is damaged: remove it from {store.location}/.skiptune/pending"
            if unread
            else ""
        ),
        tuple(
            f"note {note.name}: "
            + ("cannot be read" if note.claim is None else f"from seed {note.claim.first_seed}")
            for note in notes
        ),
        fixable=True,
    )


def _launches(database: Database, row: Study, asked: Asked) -> Iterator[Finding]:
    standing = standing_of(database, row, asked)
    if standing.over:
        yield Finding(
            "launches",
            row.name,
            f"{_count(len(standing.over), 'launch', 'launches')} noted of which no worker is left",
            "each launch tells of them as if they were at work, and --stop asks for them",
            f"skiptune doctor {row.name} --fix",
            tuple(described(launch) for launch in standing.over),
            fixable=True,
        )
    if standing.unknown:
        yield Finding(
            "launches",
            row.name,
            f"{_count(len(standing.unknown), 'launch', 'launches')} noted that cannot be asked"
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


def _count(number: int, noun: str, several: str = "") -> str:
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"
