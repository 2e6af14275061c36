"""What storage costs an evaluation when 128 workers share a study with a long history.

    python -m bench.storage_scale

Simulated workers finish one evaluation of 4 chunks a minute each, without a network and without
arrays, at planned times whatever the answers take (`simulated_workers.py`). They share a study of
20 scales with 1,000, then 10,000 finished evaluations in a PostgreSQL of its own, with fsync.
Beside them, at the same rate and on the same history: loops of Optuna's ask and tell.

Counted is every evaluation that begins in the measured time. Seconds in storage are those of all
its operations, one after another, locks and the shared processor included: its part of the turn
to propose, claims, renewals, commits, its score, what Optuna is told. Beside them stand what of
them the processor spent on this side (the number to trust on a busy machine), the seconds slept
while another worker had the turn, and all seconds from the planned times of its events until each
was done (sojourn), which also hold the wait for one of the few processes that serve all workers.

Prints one table, writes `bench/results/storage_scale.json`, and exits 1 when the 95th percentile
of the seconds in storage exceeds 0.5 s at the longest history, or its median grows more than
twofold from the shortest to the longest.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean
from threading import BrokenBarrierError
from typing import Any, get_args

import numpy as np
import optuna

from bench.long_history import RUNGS, simulated_study, write_history
from bench.postgres import Server
from bench.record import RESULTS, Bound, finish, print_table
from bench.simulated_workers import CHUNKS, Part, Plan, Served, Way, serve
from skiptune.search.worker import POLL_SECONDS
from skiptune.storage.database import init_database

__all__ = ["GROWTH", "LIMIT", "Load", "Measured", "main", "measure", "whole_evaluations"]

LIMIT = 0.5  # seconds in storage of an evaluation, 95th percentile
GROWTH = 2.0  # of their median, from the shortest history to the longest
KINDS = ("storage", "processor", "waited", "sojourn")  # seconds of an evaluation
OPENING = 900.0  # seconds in which a process must have read the history


@dataclass(frozen=True)
class Load:
    """Who asks, how often, and for how long.

    Arguments:
        workers: Simulated ones.
        processes: Serve them.
        parameters: Scales of the study.
        minute: Seconds that a worker has for one evaluation.
        warm_up: Seconds before what counts.
        seconds: Seconds in which what counts begins.
        poll: First and longest wait of a worker that finds nothing to do.
    """

    workers: int = 128
    processes: int = 8
    parameters: int = 20
    minute: float = 60.0
    warm_up: float = 75.0
    seconds: float = 120.0
    poll: tuple[float, float] = POLL_SECONDS

    @property
    def whole(self) -> float:
        """Seconds of the whole run: what has begun can end, under the same load."""
        return self.warm_up + self.seconds + 1.25 * self.minute


@dataclass(frozen=True)
class Measured:
    """One way on one history.

    Arguments:
        way: Who asked.
        history: Finished evaluations before the run.
        first_look: Seconds in which a worker that has just begun reads what it needs.
        evaluations: By evaluation, the parts of those that began in the measured time.
        unfinished: How many of them did not end.
        utilisation: What the database did meanwhile, by name.
    """

    way: Way
    history: int
    first_look: float
    evaluations: list[list[Part]]
    unfinished: int
    utilisation: dict[str, float]

    def seconds(self, kind: str) -> list[float]:
        """Return one number per evaluation, of one of `KINDS`."""
        of = {
            "storage": lambda part: sum(part.steps.values()),
            "processor": lambda part: part.processor,
            "waited": lambda part: part.waited,
            "sojourn": lambda part: part.sojourn,
        }[kind]
        return [sum(map(of, parts)) for parts in self.evaluations]

    def steps(self) -> dict[str, float]:
        """Return the mean seconds that an evaluation spends in each operation."""
        total: dict[str, float] = defaultdict(float)
        for parts in self.evaluations:
            for part in parts:
                for name, seconds in part.steps.items():
                    total[name] += seconds
        return {name: value / max(len(self.evaluations), 1) for name, value in total.items()}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        values = {kind: self.seconds(kind) for kind in KINDS}
        return {
            "way": self.way,
            "history": self.history,
            "evaluations": len(self.evaluations),
            "unfinished": self.unfinished,
            "summary": {kind: quantiles(values[kind]) for kind in KINDS},
            "steps": {name: round(value, 5) for name, value in self.steps().items()},
            "first_look_seconds": self.first_look,
            "utilisation": self.utilisation,
            "seconds": {kind: [round(x, 4) for x in values[kind]] for kind in KINDS},
        }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return mean, median and 95th percentile; NaN where nothing was measured."""
    if not values:
        return dict.fromkeys(("mean", "median", "p95"), math.nan)
    median, high = np.quantile(values, [0.5, 0.95]).tolist()
    return {"mean": fmean(values), "median": median, "p95": high}


def whole_evaluations(
    way: Way, parts: Sequence[Part], begin: float, end: float
) -> tuple[list[list[Part]], int]:
    """Gather the parts of the evaluations that began in a time, and count the unfinished ones.

    Arguments:
        way: Whose.
        parts: Of all processes.
        begin: The first moment that counts, seconds after the begin of the plan.
        end: The first that does not.
    """
    found: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        found[part.evaluation].append(part)
    expected = CHUNKS if way == "skiptune" else 1
    counted = [p for p in found.values() if begin <= min(part.began for part in p) < end]
    whole = [p for p in counted if len(p) == expected]
    return whole, len(counted) - len(whole)


def measure(
    way: Way,
    url: str,
    *,
    history: int,
    load: Load,
    counters: Callable[[], dict[str, float]] = dict,
) -> Measured:
    """Let simulated workers share a study that is there.

    Arguments:
        way: Who asks.
        url: The database.
        history: Finished evaluations of the study.
        load: Who asks, how often, and for how long.
        counters: Seconds that the database has spent so far, by name; its utilisation is by how
            much they grow in a second.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.processes + 1)
    with ProcessPoolExecutor(
        load.processes, mp_context=context, initializer=_keep, initargs=(barrier,)
    ) as pool:
        plans = [
            Plan(
                way=way,
                url=url,
                parameters=load.parameters,
                workers=tuple(range(first, load.workers, load.processes)),
                of=load.workers,
                minute=load.minute,
                seconds=load.whole,
                poll=load.poll,
            )
            for first in range(load.processes)
        ]
        running = [pool.submit(_serve, plan) for plan in plans]
        try:
            barrier.wait(OPENING)
        except BrokenBarrierError:
            for future in running:
                future.result(timeout=OPENING)  # raises what has gone wrong
            raise
        time.sleep(load.warm_up)
        before, began = counters(), time.monotonic()
        time.sleep(load.seconds)
        after, elapsed = counters(), time.monotonic() - began
        served = [future.result() for future in running]
    whole, unfinished = whole_evaluations(
        way,
        [part for each in served for part in each.parts],
        load.warm_up,
        load.warm_up + load.seconds,
    )
    return Measured(
        way=way,
        history=history,
        first_look=fmean(each.first_look for each in served),
        evaluations=whole,
        unfinished=unfinished,
        utilisation={name: (after[name] - before[name]) / elapsed for name in after},
    )


def _keep(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _begin() -> float:
    assert _barrier is not None
    _barrier.wait(OPENING)
    return time.time()


def _serve(plan: Plan) -> Served:
    assert _barrier is not None
    try:
        return serve(plan, _begin)
    except BaseException:
        # The others would wait for this process, or go on without its workers.
        _barrier.abort()
        raise


def server_seconds(server: Server, database: str) -> dict[str, float]:
    """Return what a server has spent so far.

    Arguments:
        server: One that runs.
        database: Whose sessions count.

    Returns:
        `processor`: processor seconds of all its processes, those that have ended included.
        `statements`: seconds in which sessions were executing a statement or waiting in one.
    """
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        # Behind the name in parentheses, from field 3 on, see proc_pid_stat(5).
        fields = text.rpartition(")")[2].split()
        if int(folder.name) == server.pid:
            ticks += sum(map(int, fields[11:15]))  # its own, and those of children that ended
        elif int(fields[1]) == server.pid:
            ticks += sum(map(int, fields[11:13]))
    query = "SELECT active_time / 1000 FROM pg_stat_database WHERE datname = %s"
    return {
        "processor": ticks / os.sysconf("SC_CLK_TCK"),
        "statements": float(server.execute(query, database)[0][0]),
    }


def run(server: Server, *, histories: Sequence[int], load: Load) -> Iterator[Measured]:
    """Measure both ways on every history, each on a database of its own."""
    for history in histories:
        template = f"history_{history}"
        server.create_database(template)
        with init_database(server.url(template)) as database:
            study = simulated_study(database, parameters=load.parameters)
            write_history(study, evaluations=history)
        for number, way in enumerate(get_args(Way)):
            name = f"{template}_{number}"
            server.create_database(name, template=template)
            server.execute("VACUUM ANALYZE", database=name)
            server.execute("CHECKPOINT")
            yield measure(
                way,
                server.url(name),
                history=history,
                load=load,
                counters=partial(server_seconds, server, name),
            )
            server.drop_database(name)
        server.drop_database(template)


def main() -> int:
    """Measure, print, write."""
    default = Load()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--histories", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--seconds", type=float, default=default.seconds, help="that count")
    parser.add_argument("--warm-up", type=float, default=default.warm_up, help="seconds before")
    parser.add_argument("--workers", type=int, default=default.workers, help="simulated ones")
    parser.add_argument("--processes", type=int, default=default.processes, help="serve them")
    parser.add_argument("--poll", type=float, nargs=2, default=default.poll, help="waits, seconds")
    parser.add_argument("--out", type=Path, default=RESULTS / "storage_scale.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    load = Load(
        workers=options.workers,
        processes=options.processes,
        warm_up=options.warm_up,
        seconds=options.seconds,
        poll=tuple(options.poll),
    )
    measured = []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), fast=False) as server:
        for one in run(server, histories=options.histories, load=load):
            measured.append(one)
            load_now = os.getloadavg()[0]
            print(f"{one.way}, {one.history}: done, load {load_now:.1f}", file=sys.stderr)
    return report(measured, load, options.out)


HEAD = (
    "way, finished evaluations",
    "evaluations",
    "in storage",
    "p95",
    "processor",
    "p95",
    "waited for the turn",
    "p95",
    "sojourn",
    "p95",
    "server's processor",
    "in statements",
    "first look",
)


def report(measured: Sequence[Measured], load: Load, out: Path) -> int:
    """Print the table, write the file, return the exit status."""
    rows = []
    for one in measured:
        cells = [f"{one.way}, {one.history:,}", f"{len(one.evaluations)}"]
        for kind in KINDS:
            found = quantiles(one.seconds(kind))
            cells += [f"{found['median']:.3f}", f"{found['p95']:.3f}"]
        cells += [f"{100 * one.utilisation[key]:.0f} %" for key in ("processor", "statements")]
        rows.append((*cells, f"{one.first_look:.2f}"))
    print(f"{load.workers} workers, {load.minute:g} s per evaluation; seconds: median, p95")
    print_table(HEAD, rows)
    ours = sorted((m for m in measured if m.way == "skiptune"), key=lambda m: m.history)
    shortest, longest = (quantiles(m.seconds("storage")) for m in (ours[0], ours[-1]))
    return finish(
        out,
        settings={**vars(load), "rungs": RUNGS, "histories": [m.history for m in ours]},
        bounds=[
            Bound(f"seconds in storage at {ours[-1].history:,}, p95", longest["p95"], LIMIT),
            Bound("growth of their median", longest["median"] / shortest["median"], GROWTH),
        ],
        runs=[one.to_json() for one in measured],
    )


_barrier: Barrier | None = None


if __name__ == "__main__":
    sys.exit(main())
