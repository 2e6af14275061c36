"""Does a study survive everything at once, and end as if nothing had happened?

    python -m bench.chaos [--backend postgresql|sqlite|both] [--workers 4] [--seconds 120]

Workers share one study of a tiny denoiser while

    workers are killed (SIGKILL) and stopped (SIGTERM) at random moments, and replaced;
    the database goes away three times: PostgreSQL is restarted, as in a crash or orderly, with a
    second in between; of SQLite the write lock is held for seconds. Once a worker dies meanwhile;
    a connection is cut before and after a COMMIT (PostgreSQL; one worker has a proxy);
    a lease runs out under a worker that lives: it is stopped (SIGSTOP), another one samples and
    commits its chunk, and it goes on;
    a stored file of the baseline is truncated;
    the disk is full for the next file that is stored;
    the clock of one worker is an hour ahead.

Every sampled image is logged outside the package, and the database keeps a history of every chunk.
At the end rows and logs are compared with each other and with an undisturbed run by one worker.
Prints one line for each check, writes `bench/results/chaos.json`, and exits 1 when one fails.

The same chunk lost three times counts as poisoned, which is right and would change the result: a
worker whose chunk has been lost twice is spared.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import optuna

from bench.chaos_checks import Injected, check_all
from bench.chaos_crew import Crew
from bench.chaos_databases import BACKENDS, Backend, Database, PostgreSQL, SQLite, history
from bench.chaos_evidence import Evidence, gather
from bench.chaos_logs import CANARY
from bench.chaos_study import NAME, prepare, spec_of
from bench.chaos_worker import Orders, full_disk, set_pace
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.search.study import open_study
from skiptune.storage.records import LOST_LEASES

__all__ = ["Report", "disturbed", "main", "undisturbed"]

PACE: Final = 0.2
"""Seconds of rest after a microbatch: a chunk takes about one, and kills fall into it."""

RATE: Final = 2
"""Evaluations that four workers finish in a second at this pace, about."""

SLOW: Final = 3 * PACE
"""The same where the study is ahead of what is to be done to it."""

DISTURBED: Final = 0.85
"""The part of the search in which things happen."""

PATIENCE: Final = 15
"""A run may last so many times as long as it is disturbed, on a machine that is busy."""


@dataclass(frozen=True)
class Report:
    """A run that is over.

    Arguments:
        found: What it has left.
        injected: What was done to it.
        started: Worker processes.
        seconds: From the first worker's start to the last one's end.
    """

    found: Evidence
    injected: Injected
    started: int
    seconds: float


class Disturbance:
    """Everything that is done to a run; each act ends when it has had its effect.

    Arguments:
        database: Of the run.
        crew: Its workers.
        folder: Its folder.
        chance: Chooses whom and when.
    """

    def __init__(
        self, database: Database, crew: Crew, folder: Path, chance: random.Random
    ) -> None:
        self.injected = Injected()
        self._database = database
        self._crew = crew
        self._folder = folder
        self._chance = chance
        self._began = time.monotonic()

    def acts(self, seconds: float) -> list[Callable[[], None]]:
        """Return what is to be done in so many seconds, in a random order."""

        def times(period: float, least: int) -> int:
            return max(least, round(seconds / period))

        acts = [
            *[lambda: self.end(signal.SIGKILL)] * times(6, 3),
            *[lambda: self.end(signal.SIGTERM)] * times(12, 2),
            lambda: self.go_away(killing=True),
            *[lambda: self.go_away(killing=False)] * 2,
            *[self.expire_lease] * times(60, 1),
            *[self.truncate] * times(60, 1),
            *[self.fill_disk] * times(60, 1),
        ]
        if self._database.proxy is not None:
            acts += [lambda: self.cut(after=True)] * times(24, 1)
            acts += [lambda: self.cut(after=False)] * times(24, 1)
        self._chance.shuffle(acts)
        return acts

    def end(self, by: signal.Signals) -> None:
        """Kill a worker, or ask it to stop, wherever it is."""
        while True:
            slot = self._victim()
            with self._crew.frozen(slot) as pid:
                spared = self._would_poison(pid)
                if not spared:
                    self._crew.end(slot, by)
            self._note("spared" if spared else by.name)
            if not spared:
                return
            self._crew.rest(0.1)

    def go_away(self, *, killing: bool) -> None:
        """Take the database away; kill a worker that is at a loss about it."""
        # Nobody can look while the database is away: even a claim made since will bear a death.
        query = "SELECT max(attempts) FROM skiptune_chunks WHERE state IN ('open', 'leased')"
        self._crew.wait_until(
            lambda: not killing or (self._database.rows(query)[0][0] or 0) <= LOST_LEASES - 2,
            what="chunks that have lost no lease",
        )
        slot = self._victim()
        with self._database.away("immediate" if self._chance.random() < 0.5 else "fast"):
            time.sleep(self._database.downtime)
            if killing:
                self._crew.end(slot, signal.SIGKILL)
        self._note("database away")
        if killing:
            self._note(signal.SIGKILL.name)

    def cut(self, *, after: bool) -> None:
        """Cut the connection over which the first worker sends its next COMMIT."""
        proxy = self._database.proxy
        assert proxy is not None
        before = proxy.commits_cut
        proxy.cut_next_commit(side="after" if after else "before")
        self._crew.wait_until(lambda: proxy.commits_cut > before, what="a commit to be cut")
        self._note("cut after COMMIT" if after else "cut before COMMIT")

    def expire_lease(self) -> None:
        """Let a lease run out under a living worker, and another one commit its chunk."""
        while True:
            slot = self._victim()
            with self._crew.frozen(slot) as pid:
                claim = self._taken_from(pid)
            if claim is not None and self._learns(pid, *claim):
                break
            self._crew.rest(0.1)
        self.injected.expired.append(claim)
        self._note("lease ran out")

    def truncate(self) -> None:
        """Cut a stored file of the baseline in half, and wait until it is whole again."""
        query = (
            "SELECT c.id, c.array FROM skiptune_chunks c JOIN skiptune_evaluations e"
            " ON e.series = c.series AND e.measure = c.measure AND e.schedule = c.schedule"
            " WHERE e.kind = 'baseline' AND e.block = 'search' AND c.state = 'done'"
            " AND c.first_seed < 2000000 ORDER BY c.first_seed"
        )
        self._crew.wait_until(lambda: bool(self._database.rows(query)), what="a baseline")
        chunk, array = self._chance.choice(self._database.rows(query))
        path = artifacts_of(self._folder) / array[:2] / f"{array}.safetensors"
        before = self._changes(chunk)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)

        def mended() -> bool:
            after = self._changes(chunk)[len(before) :]
            return ("done", "open") in after and after[-1] == ("leased", "done")

        self._crew.wait_until(mended, what="a truncated file to be found and sampled again")
        self.injected.truncated.append(chunk)
        self._note("file truncated")

    def fill_disk(self) -> None:
        """Let the disk be full for whoever stores next, and wait until it has tried again."""

        def recovered() -> int:
            words = ("there", "is", "space", "again")
            return sum(e.what == "notice" and e.words == words for e in self._crew.events())

        # One that is about to end hands its chunk back instead of waiting for space.
        self._crew.wait_until(
            lambda: not self._crew.is_leaving(), what="workers that were asked to end"
        )
        before = recovered()
        full_disk(self._folder).touch()
        self._crew.wait_until(lambda: recovered() > before, what="a full disk to be noticed")
        self._note("disk full")

    def _note(self, what: str) -> None:
        self.injected.done[what] += 1
        passed = time.monotonic() - self._began
        print(f"{passed:6.1f} s  {_entered(self._database):4} entered  {what}", file=sys.stderr)

    def _victim(self) -> int:
        self._crew.wait_until(lambda: len(self._crew.at_work()) >= 2, what="two workers at work")
        return self._chance.choice(self._crew.at_work())

    def _would_poison(self, pid: int) -> bool:
        """Whether a worker's death might be the last that a chunk can bear."""
        held = self._database.rows(
            "SELECT attempts FROM skiptune_chunks WHERE state = 'leased' AND worker LIKE ?",
            f"%:{pid}:%",
        )
        if held:
            return any(attempts >= LOST_LEASES for (attempts,) in held)
        # It may be about to claim one.
        query = "SELECT max(attempts) FROM skiptune_chunks WHERE state IN ('open', 'leased')"
        return (self._database.rows(query)[0][0] or 0) >= LOST_LEASES - 1

    def _taken_from(self, pid: int) -> tuple[str, int] | None:
        """Let another worker take and commit the chunk of one that is stopped."""
        held = self._database.rows(
            "SELECT id, fence FROM skiptune_chunks"
            " WHERE state = 'leased' AND attempts = 1 AND worker LIKE ?",
            f"%:{pid}:%",
        )
        if not held or not self._database.expire(*held[0]):
            return None
        chunk, fence = held[0]
        query = "SELECT fence FROM skiptune_chunks WHERE id = ? AND state = 'done'"
        self._crew.wait_until(
            lambda: bool(self._database.rows(query, chunk)),
            what="a chunk whose lease ran out to be committed by another worker",
        )
        # Under the same fence a new worker has delivered what this one had noted as stored.
        return None if self._database.rows(query, chunk)[0][0] == fence else (chunk, fence)

    def _learns(self, pid: int, chunk: str, fence: int) -> bool:
        """Wait until a worker knows that its chunk is gone; return whether it tried to commit it.

        It does not if it was stopped for so long that the renewal of the lease came first.
        """

        def said(what: str, *words: str) -> int:
            events = [e for e in self._crew.events() if e.pid == pid and e.what == what]
            return sum(e.words[-len(words) :] == words for e in events)

        words = ("the", "lease", "went", "to", "another", "worker")
        before = said("notice", *words)
        self._crew.wait_until(
            lambda: said("notice", *words) > before, what="a worker to learn that it was late"
        )
        return said("refused", chunk, str(fence)) > 0

    def _changes(self, chunk: str) -> list[tuple[str, str]]:
        query = "SELECT before, after FROM chaos_history WHERE chunk = ? ORDER BY number"
        return [(before, after) for before, after in self._database.rows(query, chunk)]


def evaluations_in(seconds: float) -> int:
    """Return the budget of a study that is disturbed for so many seconds."""
    return round(RATE * seconds)


def artifacts_of(folder: Path) -> Path:
    """Return the folder of a run's arrays."""
    return folder / "artifacts"


def disturbed(
    backend: Backend,
    folder: Path,
    *,
    inputs: Path,
    workers: int = 4,
    seconds: float = 15.0,
    seed: int = 0,
) -> Report:
    """Run a study and disturb it.

    Arguments:
        backend: Kind of the database.
        folder: Empty, for everything that the run leaves.
        inputs: Folder that `chaos_study.prepare` has filled.
        workers: Processes at a time.
        seconds: How long it is disturbed, about.
        seed: Of the order of things; their moments depend on the machine too.

    Raises:
        CrewError: A worker has ended as none may, or time is up.
        StudyEndedError: The study was over before everything was done to it.
    """
    opened = PostgreSQL if backend == "postgresql" else SQLite
    with opened(folder / "database") as database:
        evaluations = evaluations_in(seconds)
        _create(database.url, folder, inputs, evaluations=evaluations)
        database.remember()
        limit = PATIENCE * seconds + 60
        orders = Orders(
            study=NAME,
            urls=database.urls(workers),
            artifacts=str(artifacts_of(folder)),
            busy=database.busy,
            seconds=int(limit) + 60,
        )
        orders.write(folder)
        set_pace(folder, PACE)
        chance = random.Random(seed)
        began = time.monotonic()
        with Crew(
            folder,
            workers=workers,
            is_complete=partial(_is_complete, database),
            seconds=limit,
            skewed=workers - 1,
        ) as crew:
            disturbance = Disturbance(database, crew, folder, chance)
            acts = disturbance.acts(seconds)
            for number, act in enumerate(acts, start=1):
                due = round(DISTURBED * evaluations * number / (len(acts) + 1))
                # An act that takes long shall not find the study complete.
                set_pace(folder, PACE if _entered(database) <= due else SLOW)
                crew.wait_until(partial(_has_entered, database, due), what="progress")
                crew.rest(chance.random() * PACE)
                act()
            set_pace(folder, 0.0)
            crew.wait_for_end()
            started = crew.started
        took = time.monotonic() - began
        found = gather(
            database.url,
            artifacts=artifacts_of(folder),
            logs=folder / "logs",
            history=history(database),
        )
    return Report(found, disturbance.injected, started, took)


def undisturbed(folder: Path, *, inputs: Path, seconds: float) -> Evidence:
    """Run the same study with one worker on a fresh SQLite file, and let it alone.

    Arguments:
        folder: Empty, for everything that the run leaves.
        inputs: Folder that `chaos_study.prepare` has filled.
        seconds: How long the others are disturbed.
    """
    with SQLite(folder / "database") as database:
        _create(database.url, folder, inputs, evaluations=evaluations_in(seconds))
        database.remember()
        limit = PATIENCE * seconds + 60
        Orders(
            study=NAME,
            urls=database.urls(1),
            artifacts=str(artifacts_of(folder)),
            busy=30.0,
            seconds=int(limit) + 60,
        ).write(folder)
        with Crew(
            folder, workers=1, is_complete=partial(_is_complete, database), seconds=limit
        ) as crew:
            crew.wait_for_end()
        return gather(
            database.url,
            artifacts=artifacts_of(folder),
            logs=folder / "logs",
            history=history(database),
        )


def _create(url: str, folder: Path, inputs: Path, *, evaluations: int) -> None:
    spec = spec_of(inputs, evaluations=evaluations)
    open_study(spec, storage=url, artifacts=artifacts_of(folder)).database.close()


def _is_complete(database: Database) -> bool:
    return bool(database.rows("SELECT state FROM skiptune_studies")[0][0] == "complete")


def _entered(database: Database) -> int:
    query = "SELECT count(*) FROM skiptune_evaluations WHERE kind = 'proposal'"
    return int(database.rows(query)[0][0])


def _has_entered(database: Database, due: int) -> bool:
    return _entered(database) >= due


def main() -> int:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=(*BACKENDS, "both"), default="both")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults, about")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parser.add_argument("--folder", type=Path, help="new; keeps databases, arrays and logs")
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json")
    options = parser.parse_args()
    # Ended as by Ctrl-C: workers and server end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        return _run(folder.absolute(), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    inputs = _new(folder / "inputs")
    prepare(inputs)
    calm = undisturbed(_new(folder / "undisturbed"), inputs=inputs, seconds=options.seconds)
    bounds: list[Bound] = []
    runs = {}
    for backend in BACKENDS if options.backend == "both" else (options.backend,):
        report = disturbed(
            backend,
            _new(folder / backend),
            inputs=inputs,
            workers=options.workers,
            seconds=options.seconds,
            seed=options.seed,
        )
        checks = check_all(report.found, calm, report.injected)
        print(f"{backend}: {options.workers} workers, {report.seconds:.0f} s")
        print_table(("fault", "times"), [(k, str(n)) for k, n in _faults(report).items()])
        print(*checks, sep="\n", end="\n\n")
        bounds += [Bound(f"{backend}: {c.name}, failures", len(c.failures), 0) for c in checks]
        runs[backend] = {
            "seconds": round(report.seconds, 1),
            "processes": report.started,
            "faults": _faults(report),
            "images": report.found.wanted,
            "sampled": sum(image.chunk != CANARY for image in report.found.images),
            "doubled": report.found.doubled,
            "checks": [asdict(check) for check in checks],
        }
    names = ("backend", "workers", "seconds", "seed")
    settings = {name: getattr(options, name) for name in names}
    return finish(options.out, settings=settings, bounds=bounds, runs=runs)


def _faults(report: Report) -> dict[str, int]:
    return {**dict(sorted(report.injected.done.items())), "clock an hour ahead": 1}


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
