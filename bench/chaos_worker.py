"""One worker of the chaos run: `python -m bench.chaos_worker FOLDER SLOT`.

It does what `skiptune worker` does, and beside it writes down what it samples (`chaos_logs`) and
lets things happen to itself: files in the run's folder ask for them (`Orders`).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import optuna
import torch

import bench.chaos_study  # noqa: F401 - registers the extractor
from bench.chaos_logs import CANARY, Log
from skiptune.errors import LeaseLostError
from skiptune.sampling.schedule import Schedule
from skiptune.search import chunks, delivery, worker
from skiptune.search.course import whole_study
from skiptune.search.events import Event, Notice
from skiptune.search.stopping import Stop
from skiptune.search.study import open_stored
from skiptune.search.worker import Limits, Worker
from skiptune.storage import engines, leases, shelves
from skiptune.storage.patience import Patience

__all__ = ["Orders", "full_disk", "main", "set_pace"]

DISK_WAIT: Final = 0.5
"""Seconds between two looks at a full disk; users have 30."""


@dataclass(frozen=True)
class Orders:
    """What the workers of a run are told.

    Arguments:
        study: The study's name.
        urls: The database's URL for each slot.
        artifacts: Folder of the arrays.
        busy: Seconds that a transaction waits for SQLite's lock; users have 30, and a lock would
            have to be held for longer to be noticed.
        seconds: After so many a worker that is left over ends itself.
    """

    study: str
    urls: tuple[str, ...]
    artifacts: str
    busy: float
    seconds: int

    def write(self, folder: Path) -> None:
        """Put the orders into a run's folder, which the logs will be in too."""
        (folder / "logs").mkdir()
        (folder / "orders.json").write_text(json.dumps(asdict(self)), encoding="utf-8")
        set_pace(folder, 0.0)

    @classmethod
    def read(cls, folder: Path) -> Orders:
        """Return what `write` wrote."""
        return cls(**json.loads((folder / "orders.json").read_text(encoding="utf-8")))


def set_pace(folder: Path, seconds: float) -> None:
    """Let every worker rest for so long after each microbatch."""
    temporary = folder / "pace.new"
    temporary.write_text(str(seconds), encoding="utf-8")
    temporary.replace(folder / "pace")


def full_disk(folder: Path) -> Path:
    """Return the file whose existence lets the next array that is stored meet a full disk."""
    return folder / "disk-full"


def main() -> None:
    """Work until the study is complete or SIGTERM comes."""
    folder, slot = Path(sys.argv[1]), int(sys.argv[2])
    orders = Orders.read(folder)
    signal.alarm(orders.seconds)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = Log(folder / "logs", slot)
    delivery.DISK_WAIT = DISK_WAIT  # type: ignore[misc]
    engines.BUSY_SECONDS = orders.busy  # type: ignore[misc]
    _watch_sampling(log, folder)
    _watch_commits(log)
    _fill_disk(folder)

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            log.happened("notice", event.text)

    # A worker may be started while the database is away.
    patience = Patience()
    study = patience(
        lambda: open_stored(orders.study, storage=orders.urls[slot], artifacts=orders.artifacts)
    )
    course = patience(lambda: whole_study(study, on_event=on_event))
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.request())
    log.happened("opened")
    limits = Limits(until_done=True)
    ended = Worker(study, course, limits=limits, on_event=on_event, stop=stop).run()
    log.happened("ended", ended)
    study.database.close()


def _watch_sampling(log: Log, folder: Path) -> None:
    """Write down every sampled image, and rest after each microbatch for as long as asked."""
    real_chunk, real_sample = worker.sampled_chunk, chunks.sample  # type: ignore[attr-defined]
    claims: list[leases.Claim] = []
    baseline = Schedule.baseline().digest
    pace = folder / "pace"

    def sampled_chunk(study: Any, claim: leases.Claim, **named: Any) -> chunks.Sampled:
        claims.append(claim)
        try:
            made: chunks.Sampled = real_chunk(study, claim, **named)
        finally:
            claims.clear()
        return made

    def sample(*arguments: Any, **named: Any) -> Iterator[Any]:
        for batch in real_sample(*arguments, **named):
            if claims:
                claim = claims[0]
                schedule = Schedule.from_json(claim.schedule).digest
                log.sampled(schedule, batch.seeds, chunk=claim.chunk_id, fence=claim.fence)
            else:
                # The canary, which compares itself with the baseline's first images.
                log.sampled(baseline, batch.seeds, chunk=CANARY, fence=0)
            time.sleep(float(pace.read_text(encoding="utf-8")))
            yield batch

    worker.sampled_chunk = sampled_chunk  # type: ignore[attr-defined]
    chunks.sample = sample  # type: ignore[attr-defined]


def _watch_commits(log: Log) -> None:
    real = leases.commit_chunk

    def commit_chunk(database: Any, claim: leases.Claim, **values: Any) -> None:
        try:
            real(database, claim, **values)
        except LeaseLostError:
            log.happened("refused", claim.chunk_id, claim.fence)
            raise
        log.happened("committed", claim.chunk_id, claim.fence)

    leases.commit_chunk = commit_chunk


def _fill_disk(folder: Path) -> None:
    """Let one file of arrays meet a full disk each time that it is asked for."""
    real = shelves.FolderShelf._write_whole
    asked = full_disk(folder)

    def write_whole(shelf: shelves.FolderShelf, path: Path, data: bytes) -> None:
        if path.suffix == ".safetensors":
            try:
                asked.unlink()
            except FileNotFoundError:
                pass
            else:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(shelf, path, data)

    shelves.FolderShelf._write_whole = write_whole  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main()
