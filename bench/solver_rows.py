"""What tuning gains with each solver: untouched, epsilon-scaled, tuned.

    python -m bench.solver_rows

Tunes `fashion` with the paper's two parameters (`linear`) in six settings and confirms each on
fresh seeds. The epsilon-scaled row is the control of that name: the scalar is chosen on block A,
like the schedule, and measured on the same block B. Prints one table, writes
`bench/results/solver_rows.json`, and exits 1 when a setting was left out. There is no bound on a
gain: it is what it is.

Kept in a database, the studies resume where a run was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.search.result import Measured, Result
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.tune import tune

__all__ = ["SETTINGS", "Row", "main", "rows_of", "spec_of"]

STUDY = (
    "space.kind=linear",
    "search.evaluations=8",
    "search.rungs=[500, 1000]",
    "confirm.candidates=2",
    "confirm.images=1000",
    "confirm.controls=[epsilon scale]",
)

# Where an image costs three times as much.
LESS = (
    "search.evaluations=5",
    "search.rungs=[500]",
    "confirm.candidates=1",
    "confirm.images=750",
)

SETTINGS = {
    "dpmpp_2m, 6 NFE": ("setting.solver=dpmpp_2m", "setting.steps=6"),
    "dpmpp_2m, 10 NFE": ("setting.solver=dpmpp_2m", "setting.steps=10"),
    "unipc, 6 NFE": ("setting.solver=unipc", "setting.steps=6"),
    "heun, 9 NFE": ("setting.solver=heun", "setting.steps=5"),
    "heun, 19 NFE": ("setting.solver=heun", "setting.steps=10", *LESS),
    # A tenth of EDM's recommendation for 256 steps (40), so that a step of ten adds at most half
    # of its noise level; the rest as there (arXiv 2206.00364, table 5, ImageNet-64).
    "stochastic heun, 19 NFE": (
        "setting.solver=heun",
        "setting.steps=10",
        "setting.churn={amount: 4, low: 0.05, high: 50, noise: 1.003}",
        *LESS,
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Arguments:
        setting: Key of `SETTINGS`.
        what: `untouched`, or what was changed.
        value: Corrected Frechet distance on block B.
        interval: Of it, 95 %.
        gain: Over the untouched network on the same seeds, a fraction; None of itself.
        gain_interval: Of it, 95 %.
        nfe: Counted.
        images: Behind the row.
    """

    setting: str
    what: str
    value: float
    interval: tuple[float, float]
    gain: float | None
    gain_interval: tuple[float, float] | None
    nfe: float
    images: int

    def cells(self) -> tuple[str, ...]:
        """Return the line as text."""
        gain = "" if self.gain is None else f"{self.gain:+.1%}"
        if self.gain_interval is not None:
            gain += f" [{self.gain_interval[0]:+.1%}, {self.gain_interval[1]:+.1%}]"
        low, high = self.interval
        return self.setting, self.what, f"{self.value:.2f} [{low:.2f}, {high:.2f}]", gain


def spec_of(overrides: tuple[str, ...], *, name: str) -> StudySpec:
    """Return the study of one setting."""
    return load_spec("fashion", overrides=(f"study={name}", *STUDY, *overrides))


def rows_of(setting: str, result: Result) -> list[Row]:
    """Return a setting's lines: untouched, epsilon-scaled, tuned."""
    scaled = [row for row in result.controls if row.label.startswith("epsilon")]
    measured = [("untouched", result.baseline)]
    measured += [(row.label, row) for row in scaled]
    if result.winner is not None:
        ends = f"tuned, {result.params['bottom']:.3f} to {result.params['top']:.3f}"
        measured.append((ends, result.winner))
    return [_row(setting, what, row, result.baseline) for what, row in measured]


def _row(setting: str, what: str, row: Measured, baseline: Measured) -> Row:
    return Row(
        setting=setting,
        what=what,
        value=row.value,
        interval=row.interval(),
        gain=row.gain(baseline.value),
        gain_interval=row.gain_interval(baseline.value),
        nfe=row.nfe,
        images=row.images,
    )


def main() -> int:
    """Tune, confirm, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("solver-rows"), help="of the database")
    parser.add_argument("--only", action="append", choices=SETTINGS, help="some settings")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS / "solver_rows.json")
    options = parser.parse_args()
    use_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options.folder.mkdir(parents=True, exist_ok=True)

    rows: list[Row] = []
    studies: dict[str, Any] = {}
    chosen = options.only or list(SETTINGS)
    for name in chosen:
        overrides = (*SETTINGS[name], *options.set)
        spec = spec_of(overrides, name=name.replace(", ", "-").replace(" ", "-"))
        storage = f"sqlite:///{options.folder / 'studies.db'}"
        result = tune(spec, storage=storage, device=options.device)
        rows += rows_of(name, result)
        studies[name] = {
            "verdict": result.verdict,
            "params": result.params,
            "images": result.images,
            "seconds": result.seconds,
            "alpha": result.alpha,
        }
        print(f"{name}: {result.verdict}, {result.images:,} images", file=sys.stderr, flush=True)
    print_table(
        ("setting", "row", "FD [95 %]", "paired gain [95 %]"), [row.cells() for row in rows]
    )
    return finish(
        options.out,
        settings={"study": STUDY, "overrides": options.set, "settings": chosen},
        bounds=[Bound("settings left out", len(SETTINGS) - len(studies), 0)],
        studies=studies,
        rows=[vars(row) for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
