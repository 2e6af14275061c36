"""Where in the decoder block does the gain of a tuned schedule come from?

One good per-skip schedule of `fashion` (dpmpp_2m, 6 steps; found on other seeds, see
`docs/landscape.md`) is measured with its scales on the skip itself, on the skip's channels of the
shortcut alone, of the residual branch alone, on both of these, and on the whole shortcut; all on
the same fresh seeds. Then, with --search, what a descent of as many proposals finds in the space
of each part, measured on the same fresh seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.fresh_features import FIRST_SEED, LEVEL, SETTING, Fresh
from bench.record import RESULTS, finish, print_table
from bench.searches import searched
from skiptune.sampling.schedule import PARTS, Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.search.space_section import SPACE_PARTS
from skiptune.search.spec import StudySpec

SCALES = (0.97, 0.80, 0.81, 0.80, 1.03, 0.89, 0.85, 0.95, 0.80, 1.06, 0.84, 1.20)
"""Deepest first: minimises the emulated distance over 53 schedules of 500 images from seed
1,000,000 on (`bench/landscape.py`)."""

LOW, HIGH = 0.8, 1.25  # the range that they were found in
RUNG = 500  # images of every schedule of a search: 8 per feature

Ways = dict[str, tuple[Schedule, Setting]]


def main() -> int:
    """Sample, search, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that keeps what was sampled")
    parser.add_argument("--images", type=int, default=1000, help="of each row")
    parser.add_argument(
        "--search", nargs="*", default=[], choices=SPACE_PARTS, help="spaces to descend in"
    )
    parser.add_argument("--proposals", type=int, default=5, help="of each descent")
    parser.add_argument("--out", type=Path, default=RESULTS / "mechanism.json")
    options = parser.parse_args()

    fresh = Fresh.open(options.data, options.images)
    baseline, rows = fresh.rows(applied(fresh.addresses))
    for part in options.search:
        schedule = descended(part, options.data, options.proposals)
        rows += fresh.rows({f"descent in {part}": (schedule, SETTING)})[1]
    print_table(
        ("scales on", "corrected FD", "less untouched", f"gain, {LEVEL:.0%} interval"),
        [row.cells(baseline) for row in rows],
    )
    return finish(
        options.out,
        settings={
            "images": options.images,
            "first_seed": FIRST_SEED,
            "setting": SETTING.to_json(),
            "proposals": options.proposals,
            "rung": RUNG,
            "range": [LOW, HIGH],
        },
        bounds=[],
        baseline={"value": baseline.value, "standard_error": baseline.standard_error},
        rows=[row.to_json() for row in rows],
    )


def applied(addresses: tuple[str, ...]) -> Ways:
    """Return the tuned scales in each part."""
    scales = dict(zip(addresses, SCALES, strict=True))
    ways: Ways = {part: (Schedule.uniform(scales, part=part), SETTING) for part in PARTS}
    terms = [
        Term(address, scale, part=part)
        for part in ("shortcut", "residual")
        for address, scale in scales.items()
    ]
    ways["shortcut and residual"] = Schedule(terms), SETTING
    return ways


def descended(part: str, data: Path, proposals: int) -> Schedule:
    """Return the best schedule of a descent in the space of one part; a begun one goes on."""
    spec = StudySpec.from_json(
        {
            "study": f"mechanism-{part}-{proposals}",
            "network": {"checkpoint": "fashion"},
            "setting": SETTING.to_json(),
            "space": {"kind": "per-skip", "low": LOW, "high": HIGH, "part": part},
            "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
            "search": {"sampler": "descent", "evaluations": proposals, "rungs": [RUNG]},
            "confirm": {"images": RUNG, "controls": False},
            "microbatch": 50,
        }
    )
    return searched(spec, data / "mechanism.db").schedule


if __name__ == "__main__":
    sys.exit(main())
