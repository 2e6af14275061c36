"""What numbers of the setting gain, alone and beside the scales, at equal images.

    OMP_NUM_THREADS=1 python -m bench.knobs DATA

On `fashion` (dpmpp_2m, 6 steps) one scalar on the predicted noise, the exponent of the grid and
its highest noise level are searched, each alone and all together; the scales alone, as a line (two
numbers) by TPE and one by one by descent; and scales beside knobs. A search in two steps spends
half of its images on the knobs and the other half on a descent at the setting that was found.
The S_noise of churn is searched on heun (4 steps, 7 NFE), the nearest setting that has one,
against the untouched network there.

Every row has as many images as the others, baselines included: a descent's slopes are counted as
images (50 of a chunk cost as much as 200). What a search recommends is sampled on fresh seeds that
are common to all, and its gain over the untouched network measured in the features of the search
and in random patches, which no search has seen. Studies and features are kept in DATA: a run that
was stopped goes on. There is no bound: it is a comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna

from bench.fresh_both import FIRST_SEED, LEVEL, Both, Gain
from bench.record import RESULTS, finish, print_table
from bench.searches import Found, searched
from skiptune.canonical import digest
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Churn, Setting, evaluations
from skiptune.sampling.slopes import PASSES
from skiptune.search.sloped import IMAGES
from skiptune.search.spec import StudySpec

__all__ = ["CASES", "Case", "Search", "markdown", "spec_of"]

SETTING: Final = Setting(solver="dpmpp_2m", steps=6)
"""How the bundled study `fashion` makes images."""

CHURNED: Final = Setting(solver="heun", steps=4, churn=Churn(amount=4.0))
"""A stochastic setting of nearly as many evaluations: churn raises every level by 41 %."""

RUNG: Final = 500  # images of every schedule of a search: 8 per feature
CHUNK: Final = 250

RANGES: Final = {
    "epsilon_scale": (0.98, 1.05),
    "exponent": (4.0, 10.0),
    "sigma_max": (30.0, 120.0),
    "churn_noise": (0.97, 1.05),
}
"""Of each knob, around its own value: 1, 7, 80 and 1. The first holds the values of Ning et al.
(2024, arXiv 2308.15321) for few steps."""

SCALES: Final = (0.8, 1.25)  # range of every scale


@dataclass(frozen=True)
class Search:
    """One search of a case.

    Arguments:
        kind: Of `space.kind`.
        knobs: Names of `RANGES` that are searched.
    """

    kind: str
    knobs: tuple[str, ...] = ()

    @property
    def sampler(self) -> str:
        """Descent knows scales alone; where a knob or a line is searched TPE serves."""
        return "descent" if self.kind == "per-skip" and not self.knobs else "tpe"


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Arguments:
        name: For a person.
        searches: In turn, each at the setting that the one before has found; they share the
            images. None: nothing is searched.
        setting: Of the untouched network that the row is held against.
    """

    name: str
    searches: tuple[Search, ...] = ()
    setting: Setting = SETTING


GRID = ("epsilon_scale", "exponent", "sigma_max")
DESCENT = Search("per-skip")

CASES: Final = (
    Case("untouched"),
    Case("epsilon scale", (Search("none", ("epsilon_scale",)),)),
    Case("grid exponent", (Search("none", ("exponent",)),)),
    Case("sigma_max", (Search("none", ("sigma_max",)),)),
    Case("these three", (Search("none", GRID),)),
    Case("skips, a line", (Search("linear"),)),
    Case("skips, one by one", (DESCENT,)),
    Case("skips, a line, and epsilon scale", (Search("linear", ("epsilon_scale",)),)),
    Case("epsilon scale, then skips one by one", (Search("none", ("epsilon_scale",)), DESCENT)),
    Case("skips, a line, and all three", (Search("linear", GRID),)),
    Case("all three, then skips one by one", (Search("none", GRID), DESCENT)),
    Case("heun with churn, untouched", setting=CHURNED),
    Case("heun with churn: S_noise", (Search("none", ("churn_noise",)),), CHURNED),
    Case("heun with churn: skips one by one", (DESCENT,), CHURNED),
)
"""What is compared."""


def main() -> int:
    """Search, sample, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that keeps studies and features")
    parser.add_argument("--search-images", type=int, default=12_000, help="of every search")
    parser.add_argument("--images", type=int, default=2000, help="fresh ones of every row")
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--plan", action="store_true", help="say what it costs, and end")
    parser.add_argument("--out", type=Path, default=RESULTS / "knobs.json")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    print(f"at most {_cost(cases, options):,.0f} evaluations of the network", file=sys.stderr)
    if options.plan:
        return 0

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    both = Both.open(options.data, options.images)
    rows: list[dict[str, Any]] = []
    status = 0
    for case in cases:
        found = list(_searched(case, options.search_images, options.data / "knobs.db"))
        schedule = found[-1].schedule if found else Schedule.baseline()
        setting = found[-1].setting if found else case.setting
        untouched = both.scored(Schedule.baseline(), case.setting)
        ours = both.scored(schedule, setting)
        rows.append(_row(case, found, schedule, setting, both.gains(ours, untouched)))
        print("  ".join(_cells(rows[-1])), file=sys.stderr, flush=True)
        status = finish(
            options.out,
            settings={
                "images": options.images,
                "first_seed": FIRST_SEED,
                "level": LEVEL,
                "search_images": options.search_images,
                "rung": RUNG,
                "ranges": {key: list(ends) for key, ends in RANGES.items()},
                "scales": list(SCALES),
            },
            bounds=[],
            rows=rows,
        )
    print_table(HEAD, [_cells(row) for row in rows])
    print()
    print(markdown(rows))
    return status


def spec_of(search: Search, setting: Setting, images: int) -> StudySpec:
    """Return the study of a search that spends at most so many images.

    Its name tells all that it depends on, so that each goes on where it stood.

    Arguments:
        search: What is searched.
        setting: Where.
        images: The baseline's among them; slopes count as images.
    """
    space: dict[str, Any] = {"kind": search.kind, "low": SCALES[0], "high": SCALES[1]}
    if search.knobs:
        space["setting"] = {name: list(RANGES[name]) for name in search.knobs}
    plain = {
        "study": "",
        "network": {"checkpoint": "fashion"},
        "setting": setting.to_json(),
        "space": space,
        "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
        "search": {
            "sampler": search.sampler,
            "evaluations": _proposals(search, images),
            "rungs": [RUNG],
        },
        "confirm": {"images": RUNG, "controls": False},
        "microbatch": 50,
    }
    return StudySpec.from_json({**plain, "study": f"knobs-{digest(plain)[:16]}"})


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the docs."""
    lines = [" | ".join(HEAD), " | ".join("---" for _ in HEAD)]
    lines += [" | ".join(_cells(row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


HEAD = (
    "searched", "found", "images searched", "NFE", "FD(fashion-cnn)", "gain", "FD(random-patches)",
    "gain there",
)  # fmt: skip


def _proposals(search: Search, images: int) -> int:
    """Return how many proposals so many images pay for, at least one."""
    slopes = RUNG // CHUNK * IMAGES * PASSES if search.sampler == "descent" else 0
    # Slopes are taken of the baseline and at most of every proposal but the last.
    return max((images - RUNG) // (RUNG + slopes), 1)


def _searched(case: Case, images: int, database: Path) -> Iterator[Found]:
    """Yield what each search of a case has found."""
    setting = case.setting
    for search in case.searches:
        share = images // len(case.searches)
        found = searched(spec_of(search, setting, share), database)
        setting = found.setting
        yield found


def _cost(cases: Sequence[Case], options: argparse.Namespace) -> float:
    """Return the most evaluations of the network that cases take, fresh images included."""
    total = 0.0
    for case in cases:
        images = options.images + options.search_images
        total += (images if case.searches else options.images) * evaluations(case.setting)
    return total


def _row(
    case: Case,
    found: Sequence[Found],
    schedule: Schedule,
    setting: Setting,
    gains: dict[str, Gain],
) -> dict[str, Any]:
    own = {name: setting.knob(name) for name in RANGES}
    moved = {name: own[name] for name in RANGES if own[name] != case.setting.knob(name)}
    return {
        "name": case.name,
        "searches": [
            {**_plain(search), "proposals": one.proposals, "images": one.images}
            for search, one in zip(case.searches, found, strict=True)
        ],
        "knobs": moved,
        "schedule": schedule.to_json(),
        "setting": setting.to_json(),
        "nfe": evaluations(setting),
        "gains": {name: gain.to_json() for name, gain in gains.items()},
    }


def _plain(search: Search) -> dict[str, Any]:
    return {"kind": search.kind, "knobs": list(search.knobs), "sampler": search.sampler}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    found = [f"{name} {value:.3g}" for name, value in row["knobs"].items()]
    scales = [term["scale"] for term in row["schedule"]["terms"]]
    if scales:
        found.append(f"scales {min(scales):.2f} to {max(scales):.2f}")
    spent = sum(one["images"] for one in row["searches"])
    cells = [row["name"], ", ".join(found) or "-", f"{spent:,.0f}" if spent else "-"]
    cells.append(f"{row['nfe']:.3g}")
    for plain in row["gains"].values():
        value, difference = plain["value"], plain["difference"]
        cells.append(f"{value['value']:.2f} +- {value['standard_error']:.2f}")
        low, high = plain["interval"]
        moved = difference["standard_error"] > 0
        cells.append(f"{plain['gain']:+.1f} % [{low:+.1f}, {high:+.1f}]" if moved else "-")
    return tuple(cells)


if __name__ == "__main__":
    sys.exit(main())
