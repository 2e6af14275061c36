"""How much of a tune is spent outside the network's forward?

    python -m bench.outside_network

Runs whole small studies of `fashion` (search with promotions, confirm with controls) in temporary
databases and times the forward of the network under study and of the feature network. All else,
the feature network included, is outside: noise, solver, features, files, database, scores, Optuna.
Prints one table, writes `bench/results/outside_network.json`, and exits 1 when the median share
outside exceeds 15 %, on the clock or of this process's processor time: the first holds the waits
for the disk, the second does not depend on what else runs on the machine.

Starting Python, importing, and opening the study (loading and hashing the networks, making the
tables) happen once per tune, whatever its length: they are reported beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import optuna

from bench.interleaved import Spread
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from bench.stopwatch import Stopwatch, watched
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import open_study
from skiptune.search.tune import run
from skiptune.storage.ledger import spending

__all__ = ["LIMIT", "Measured", "main", "measure"]

LIMIT = 0.15
STUDY = (
    # 20 proposals: TPE models from the 11th on. All else has the preset's shape, smaller.
    "search.evaluations=20",
    "search.rungs=[500, 1000]",
    "confirm.images=500",
)


@dataclass(frozen=True)
class Measured:
    """One tune; seconds on the clock, and of the processor.

    Arguments:
        opening: Before the first chunk, on the clock.
        tune: Search and confirm.
        network: Within them, the forward of the network under study.
        features: Within them, the forward of the feature network.
        images: Sampled.
    """

    opening: float
    tune: tuple[float, float]
    network: tuple[float, float]
    features: tuple[float, float]
    images: int

    def share(self, clock: int) -> float:
        """Return the share of the tune outside the network: 0 on the clock, 1 processor."""
        return 1 - self.network[clock] / self.tune[clock]


def measure(spec: StudySpec) -> Measured:
    """Run a study from an empty database to its verdict."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        study = open_study(spec, storage=f"sqlite:///{Path(folder) / 'bench.db'}")
        opening = time.perf_counter() - began
        whole = Stopwatch()
        with (
            watched(study.checkpoint.network) as network,
            watched(study.extractor.module) as features,
            whole.running(),
        ):
            run(study)
        images = spending(study.database, study.id).images
    return Measured(
        opening=opening,
        tune=(whole.wall, whole.cpu),
        network=(network.wall, network.cpu),
        features=(features.wall, features.cpu),
        images=images,
    )


def start_up(repeats: int) -> list[float]:
    """Return the seconds that processes take to start and import what a tune imports."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import skiptune.search.tune"], check=True)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="fashion", help="bundled name or file")
    parser.add_argument("--repeats", type=int, default=3, help="whole studies")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS / "outside_network.json")
    options = parser.parse_args()
    use_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    overrides = (f"network.checkpoint={options.checkpoint}", *STUDY, *options.set)
    spec = load_spec("fashion", overrides=overrides)
    started = start_up(max(3, options.repeats))
    tunes = [measure(spec) for _ in range(options.repeats)]

    shares = [Spread.of([tune.share(clock) for tune in tunes]) for clock in (0, 1)]
    rows = [("whole tune", *(str(Spread.of([t.tune[c] for t in tunes])) for c in (0, 1)))]
    rows += [("  network", *(str(Spread.of([t.network[c] for t in tunes])) for c in (0, 1)))]
    rows += [("  features", *(str(Spread.of([t.features[c] for t in tunes])) for c in (0, 1)))]
    rest = [Spread.of([t.tune[c] - t.network[c] - t.features[c] for t in tunes]) for c in (0, 1)]
    rows += [
        ("  all else", *map(str, rest)),
        ("share outside the network", *map(str, shares)),
        ("opening the study", str(Spread.of([t.opening for t in tunes])), ""),
        ("starting Python, importing", str(Spread.of(started)), ""),
    ]
    print(f"{len(tunes)} tunes of {tunes[0].images} images, {spec.search.evaluations} proposals")
    print_table(("seconds, median (quartiles)", "clock", "processor"), rows)
    return finish(
        options.out,
        settings={"overrides": overrides, "repeats": options.repeats},
        bounds=[
            Bound("share outside the network, clock", shares[0].median, LIMIT),
            Bound("share outside the network, processor", shares[1].median, LIMIT),
        ],
        tunes=[vars(tune) for tune in tunes],
        start_up_seconds=started,
    )


if __name__ == "__main__":
    sys.exit(main())
