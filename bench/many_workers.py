"""How much sooner several workers finish one evaluation: 16 chunks and a denoiser that sleeps.

The denoiser sleeps for a time proportional to its images and computes nothing, so that a machine
with few cores can show what a cluster would: what is measured is leases, files and commits. All
workers are ready before the clock starts; it stops at the last chunk's commit. Four workers may
take a third of one worker's time.

    python -m bench.many_workers
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.chaos_study import NAME, prepare, spec_of
from bench.postgres import Server
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.sampling.images import sample
from skiptune.search.course import Step
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy, open_stored, open_study
from skiptune.search.worker import Limits, Worker
from skiptune.storage import ledger
from skiptune.storage.database import init_database
from skiptune.storage.records import CHUNK

__all__ = ["CHUNKS", "LIMIT", "main"]

CHUNKS = 16
EVALUATIONS = 8  # nobody proposes any; their budget of images holds the one of `CHUNKS`
LIMIT = 1 / 3  # of one worker's time, with four of them
PATIENCE = 300.0  # seconds after which a run is broken


def main() -> int:
    """Measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="what a chunk sleeps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_workers.json")
    options = parser.parse_args()
    use_threads(1)

    seconds: dict[int, list[float]] = {1: [], options.workers: []}
    shares: list[list[int]] = []
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        for round_ in range(options.repeats):
            for count in seconds:
                folder = Path(place) / f"{round_}-{count}"
                folder.mkdir()
                with _database(options.database, folder) as url:
                    took, share = _run(Path(place), folder, url, count, options.seconds)
                seconds[count].append(took)
                if count > 1:
                    shares.append(share)
    ratios = [many / one for one, many in zip(seconds[1], seconds[options.workers], strict=True)]
    rows = [
        [f"{count} workers" if count > 1 else "1 worker", *(f"{s:.2f}" for s in taken)]
        for count, taken in seconds.items()
    ]
    head = ["seconds", *(f"round {n}" for n in range(1, options.repeats + 1))]
    print_table(head, [*rows, ["ratio", *(f"{ratio:.3f}" for ratio in ratios)]])
    return finish(
        options.out,
        settings={
            "workers": options.workers,
            "chunks": CHUNKS,
            "seconds per chunk": options.seconds,
            "database": options.database,
        },
        # The worst round counts, so that none is left to luck.
        bounds=[Bound(f"time of {options.workers} workers to one's", max(ratios), LIMIT)],
        seconds={str(count): taken for count, taken in seconds.items()},
        ratios=ratios,
        chunks_by_worker=shares,
    )


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{folder / 'many.db'}"
        else:
            server = stack.enter_context(Server(folder / "server", fast=True))
            server.create_database("many")
            url = server.url("many")
        init_database(url).close()
        yield url


def _run(
    files: Path, folder: Path, url: str, count: int, seconds: float
) -> tuple[float, list[int]]:
    """Let workers finish one evaluation; return the seconds it took and the chunks of each."""
    artifacts = folder / "artifacts"
    study = open_study(spec_of(files, evaluations=EVALUATIONS), storage=url, artifacts=artifacts)
    baseline = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=CHUNKS * CHUNK)
    command = [sys.executable, "-m", "bench.many_workers", "--work"]
    processes = [
        subprocess.Popen([*command, str(folder), url, str(n), str(seconds)]) for n in range(count)
    ]
    try:
        _until(lambda: all((folder / f"ready-{n}").exists() for n in range(count)), processes)
        began = time.time()
        (folder / "go").touch()
        for process in processes:
            if process.wait(timeout=PATIENCE):
                raise RuntimeError("a worker failed")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    made = ledger.chunks_of(study.database, baseline.id)
    study.database.close()
    if [chunk.fence for chunk in made] != [1] * CHUNKS:
        raise RuntimeError("a chunk was claimed twice")
    took = max(chunk.committed.timestamp() for chunk in made if chunk.committed) - began
    by = [chunk.worker for chunk in made]
    return took, sorted(by.count(name) for name in set(by))


def _until(condition: Any, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or any(process.poll() for process in processes):
            raise RuntimeError("the workers did not get ready")
        time.sleep(0.01)


def _work(folder: Path, url: str, number: str, seconds: float) -> None:
    """Be one of the workers."""
    signal.alarm(int(PATIENCE))  # whoever started it may be gone
    use_threads(1)
    study = open_stored(NAME, storage=url, artifacts=folder / "artifacts")
    _let_sleep(study, seconds)

    def course(board: object, turn: object) -> Step:
        return "waiting" if ledger.open_rungs(study.database, study.id) else "complete"

    worker = Worker(study, course, limits=Limits(until_done=True))
    (folder / f"ready-{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.002)
    worker.run()
    study.database.close()


def _let_sleep(study: OpenStudy, seconds: float) -> None:
    """Replace the denoiser by one that sleeps `seconds` for all calls of a chunk together."""
    network = study.checkpoint.network
    per_image = seconds / CHUNK / _calls(study)

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        time.sleep(per_image * len(x))
        return 0.5 * x

    network.__dict__["forward"] = forward


def _calls(study: OpenStudy) -> int:
    """Return how often a chunk's images go through the network."""
    calls = [0]
    network = study.checkpoint.network

    def count(*_: Any) -> None:
        calls[0] += 1

    handle = network.register_forward_hook(count)
    list(sample(network, study.setting, [0], microbatch=1))
    handle.remove()
    return calls[0]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        _work(Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
    else:
        sys.exit(main())
