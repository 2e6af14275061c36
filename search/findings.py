"""Everything that a report of a study tells, from its rows: what it found, cost, and came from.

No network is loaded. Nothing here names a host, a folder of a machine, or a password: what is
handed to other people may hold all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from skiptune.errors import StorageError
from skiptune.search.explanation import Explanation, explain
from skiptune.search.overview import Leader, leaders, overview
from skiptune.search.result import Measured, Result
from skiptune.search.stored_result import stored_result
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK, SLOPES_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.inspection import DeviceWork, devices_used, versions_used
from skiptune.storage.records import Spending, Study

__all__ = ["Cost", "Findings", "FrontierPoint", "Origin", "Seeds", "find", "without_places"]

MOST_STUDIES: Final = 20
"""Studies of the same network, the newest first, that a frontier is looked for in."""

PACKAGES: Final = ("skiptune", "python", "torch", "numpy", "diffusers", "transformers", "cuda")

# What makes two studies' distances comparable; how images are made may differ.
SAME: Final = (
    "network.sha256",
    "objective.metric",
    "objective.extractor.sha256",
    "objective.reference.digest",
    "setting.labels",
    "network.prompts.sha256",
)


@dataclass(frozen=True)
class Cost:
    """What one part of a study has spent.

    Arguments:
        name: ``search``, ``slopes``, ``confirm 1``.
        spending: Its images and seconds.
    """

    name: str
    spending: Spending


@dataclass(frozen=True)
class Seeds:
    """A block of image seeds: what it is for, its first one, and how many are spent."""

    name: str
    first: int
    count: int


@dataclass(frozen=True)
class FrontierPoint:
    """What a study of the same network and measure says at its number of evaluations.

    Arguments:
        study: Its name.
        baseline: The untouched network.
        tuned: The best schedule, on the same seeds; None before there is one.
        confirmed: Whether both are measured on fresh seeds.
    """

    study: str
    baseline: Measured
    tuned: Measured | None
    confirmed: bool


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from.

    Arguments:
        study_id: The study in its database.
        created: When, UTC.
        spec: Its spec without `launch`; of files the names alone.
        hashes: What is identified by its content: (what, name, SHA-256).
        seeds: Blocks of image seeds.
        versions: By package, each version that has sampled.
        devices: What each kind of device has done.
        series: Digest of what determines images apart from the schedule.
    """

    study_id: str
    created: datetime
    spec: Mapping[str, Any]
    hashes: tuple[tuple[str, str, str], ...]
    seeds: tuple[Seeds, ...]
    versions: Mapping[str, tuple[str, ...]]
    devices: tuple[DeviceWork, ...]
    series: str


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells.

    Arguments:
        explanation: What the study has done and found.
        result: Of its newest finished confirm; None before there is one.
        leaders: The best schedules of the search; with several objectives all that are scored.
        skips: Addresses of the network's skips, deepest first; empty where it is not known.
        costs: What each part has spent.
        frontier: Studies of the same network and measure, this one first, by evaluations then.
        origin: Where the numbers come from.
    """

    explanation: Explanation
    result: Result | None
    leaders: tuple[Leader, ...]
    skips: tuple[str, ...]
    costs: tuple[Cost, ...]
    frontier: tuple[FrontierPoint, ...]
    origin: Origin


def find(
    database: Database, name: str, *, artifacts: str | Path | None = None, top: int = 5
) -> Findings:
    """Return everything that a report of a study tells.

    Arguments:
        database: Where the study lives.
        name: Its name.
        artifacts: Where per-image arrays are, for slopes; they are left out where it is not.
        top: How many of the best schedules.

    Raises:
        StorageError: There is no study of this name, or it has no schedule or no baseline yet.
    """
    study = ledger.require_study(database, name)
    explanation = explain(database, name, artifacts=artifacts)
    standing = explanation.overview
    if standing.baseline is None or standing.evaluations == 0:
        raise StorageError(
            f"study {name}",
            expected="a scored baseline and at least one schedule",
            found="no schedule" if standing.baseline is not None else "no score of the baseline",
            hint=f"let it work first: skiptune worker {name} --until-done",
        )
    several = len(study.board.get("metrics", ())) > 1
    return Findings(
        explanation=explanation,
        result=stored_result(database, name),
        leaders=leaders(database, name, standing.evaluations if several else top),
        skips=tuple(study.board.get("skips", ())),
        costs=tuple(_costs(database, study)),
        frontier=_frontier(database, study),
        origin=_origin(database, study),
    )


def without_places(value: Any) -> Any:
    """Return plain data in which a path is its last part, and a URL tells no user or query."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        parts = urlsplit(value)
        if parts.scheme == "file":
            return PurePosixPath(parts.path).name
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, place, parts.path, "", ""))
    if PureWindowsPath(value).drive or value.startswith(("/", "~", ".")) or "\\" in value:
        return PureWindowsPath(value).name  # takes both kinds of slashes
    return value


def _costs(database: Database, study: Study) -> Iterator[Cost]:
    blocks = {e.block for e in ledger.evaluations(database, study.id)}
    yield Cost("search", ledger.spending(database, study.id, block=SEARCH_BLOCK))
    if SLOPES_BLOCK in blocks:
        yield Cost("slopes", ledger.spending(database, study.id, block=SLOPES_BLOCK))
    for spent in ledger.spent_blocks(database, study.id):
        for half, what in (("A", "chooses"), ("B", "tests")):
            block = f"{spent.block}/{half}"
            if block in blocks:
                name = f"confirm {spent.number}, block {half} ({what})"
                yield Cost(name, ledger.spending(database, study.id, block=block))


def _frontier(database: Database, study: Study) -> tuple[FrontierPoint, ...]:
    """Return points of comparable studies that were made at different numbers of evaluations."""
    ours = {key: study.meaning.get(key) for key in SAME}
    alike = [
        other
        for other in reversed(ledger.list_studies(database))
        if other.id != study.id and {key: other.meaning.get(key) for key in SAME} == ours
    ]
    points = [
        point
        for other in [study, *alike[: MOST_STUDIES - 1]]
        if (point := _frontier_point(database, other.name)) is not None
    ]
    if len({point.baseline.nfe for point in points}) < 2:
        return ()
    return tuple(points)


def _frontier_point(database: Database, name: str) -> FrontierPoint | None:
    standing = overview(database, name)
    for confirmed in reversed(standing.confirms):
        if confirmed.finished and confirmed.baseline is not None:
            return FrontierPoint(name, confirmed.baseline, confirmed.winner, confirmed=True)
    if standing.baseline is None:
        return None
    best = None if standing.best is None else standing.best.measured
    return FrontierPoint(name, standing.baseline, best, confirmed=False)


def _origin(database: Database, study: Study) -> Origin:
    baseline, _ = ledger.baseline_score(database, study.id) or (None, None)
    used = versions_used(database, study.id, PACKAGES)
    return Origin(
        study_id=study.id,
        created=study.created,
        # Where its workers run is no part of the numbers: it names hosts, accounts and variables.
        spec=without_places({key: part for key, part in study.spec.items() if key != "launch"}),
        hashes=tuple(_hashes(study)),
        seeds=tuple(_seeds(database, study)),
        versions={name: tuple(used[name]) for name in PACKAGES if name in used},
        devices=devices_used(database, study.id),
        series="" if baseline is None else baseline.series,
    )


def _hashes(study: Study) -> Iterator[tuple[str, str, str]]:
    network, objective = study.spec["network"], study.spec["objective"]
    for what, name, key in (
        ("network", network["checkpoint"], "network.sha256"),
        ("extractor", objective.get("extractor"), "objective.extractor.sha256"),
        ("reference", objective.get("reference"), "objective.reference.digest"),
        ("prompts", network.get("prompts"), "network.prompts.sha256"),
    ):
        if key in study.meaning:
            shown = name if isinstance(name, str) else ""
            yield what, without_places(shown), str(study.meaning[key])
    for file in study.files:
        yield f"file {file['key']}", str(file["name"]), str(file["sha256"])


def _seeds(database: Database, study: Study) -> Iterator[Seeds]:
    first: dict[str, int] = {}
    most: dict[str, int] = {}
    images: dict[str, int] = {}
    for rung in ledger.rungs(database, study.id):
        images[rung.evaluation_id] = max(images.get(rung.evaluation_id, 0), rung.images)
    for one in ledger.evaluations(database, study.id):
        first.setdefault(one.block, one.first_seed)
        most[one.block] = max(most.get(one.block, 0), images.get(one.id, 0))
    for block, seed in first.items():
        name = block.replace("confirm-", "confirm ").replace("/", ", block ")
        yield Seeds(name, seed, most[block])
