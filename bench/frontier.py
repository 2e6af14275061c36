"""The distance of `fashion` against NFE: best untuned solver, tuned, transferred, with epsilon.

    OMP_NUM_THREADS=1 python -m bench.frontier DATA

At each NFE the solver (euler, heun, dpmpp_2m, unipc) that is best untuned on 500 images of search
seeds stands for all lines. Best in which features is a choice (`--choose`): at 6 NFE `fashion-cnn`
prefers euler and random patches dpmpp_2m or unipc, by far.

    untuned            no skip is touched
    tuned              the bundled study's space and sampler at this solver and NFE
    from 6 NFE         the schedule that was tuned at 6 NFE, its windows at the same noise levels
    epsilon, tuned     one scalar on the predicted noise is searched, then the scales at it

All are measured on fresh seeds that are common to all, in the features of the search and in random
patches, which no search has seen; bands are 95 % intervals of the corrected distance, and gains
are paired. Studies and features are kept in DATA: a run that was stopped goes on. It also draws
them. There is no bound.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import optuna
from PIL import Image

from bench.fresh_both import FIRST_SEED, LEVEL, SPACES, Both, Gain
from bench.knobs import Search, spec_of
from bench.record import RESULTS, finish, print_table
from bench.searches import Found, searched
from skiptune.objectives.names import FASHION_CNN
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting, evaluations
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import SEARCH_SEED
from skiptune.views.chart import BEST, GREY, INK, MOST_COLOURS, PROVED, Axis, Chart, Key

__all__ = ["LINES", "Plan", "settings_at", "tuning_spec"]

NFES: Final = (4, 5, 6, 8, 10, 14)
HOME: Final = 6  # where the transferred schedule was tuned
SOLVERS: Final = ("euler", "heun", "dpmpp_2m", "unipc")
CHOOSING: Final = 500  # images by which the best untuned solver is chosen

UNTUNED, TUNED, MOVED, SCALED = "untuned", "tuned", f"from {HOME} NFE", "epsilon, tuned"
LINES: Final = (UNTUNED, TUNED, MOVED, SCALED)
COLOURS: Final = {UNTUNED: INK, TUNED: BEST, MOVED: GREY, SCALED: PROVED}
APART: Final = {UNTUNED: -0.06, TUNED: -0.02, MOVED: 0.02, SCALED: 0.06}
PANEL: Final = (500, 400)

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "frontier.png"

Way = tuple[Schedule, Setting]


@dataclass(frozen=True)
class Plan:
    """How much is spent.

    Arguments:
        evaluations: Proposals of each tuning.
        epsilon_images: Images of each search of the epsilon scale.
        images: Fresh ones of every point.
    """

    evaluations: int
    epsilon_images: int
    images: int


def main() -> int:
    """Choose, tune, sample, print, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that keeps studies and features")
    parser.add_argument("--nfe", type=int, nargs="*", default=NFES, help="each with its own row")
    parser.add_argument("--evaluations", type=int, default=12, help="proposals of each tuning")
    parser.add_argument("--epsilon-images", type=int, default=6000, help="of each such search")
    parser.add_argument("--images", type=int, default=2000, help="fresh ones of every point")
    parser.add_argument("--choose", choices=SPACES, default=FASHION_CNN, help="features")
    parser.add_argument("--plan", action="store_true", help="say what it costs, and end")
    parser.add_argument("--out", type=Path, default=RESULTS / "frontier.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    plan = Plan(options.evaluations, options.epsilon_images, options.images)
    total = sum(_cost(nfe, plan) for nfe in options.nfe)
    print(f"at most {total:,.0f} evaluations of the network", file=sys.stderr)
    if options.plan:
        return 0

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    both = Both.open(options.data, plan.images)
    home = _tuned(_best_untuned(both, HOME, options.choose), plan, options.data).schedule
    rows: list[dict[str, Any]] = []
    status = 0
    for nfe in options.nfe:
        setting = _best_untuned(both, nfe, options.choose)
        base = both.scored(Schedule.baseline(), setting)
        for line, (schedule, used) in _ways(setting, home, plan, options.data):
            gains = both.gains(both.scored(schedule, used), base)
            rows.append(_row(nfe, line, schedule, used, gains))
            print("  ".join(_cells(rows[-1])), file=sys.stderr, flush=True)
        status = finish(
            options.out,
            settings={
                "images": plan.images,
                "first_seed": FIRST_SEED,
                "level": LEVEL,
                "evaluations": plan.evaluations,
                "epsilon_images": plan.epsilon_images,
                "choosing": CHOOSING,
                "chosen_by": options.choose,
            },
            bounds=[],
            rows=rows,
        )
    print_table(HEAD, [_cells(row) for row in rows])
    print()
    print("\n".join(f"| {' | '.join(row)} |" for row in _markdown(rows)))
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_bytes(picture(rows))
    return status


def settings_at(nfe: int) -> list[Setting]:
    """Return the solvers that make an image with so many evaluations of the network."""
    found = []
    for solver in SOLVERS:
        steps = (nfe + 1) // 2 if solver == "heun" else nfe
        setting = Setting(solver=solver, steps=steps)
        if evaluations(setting) == nfe:
            found.append(setting)
    return found


def tuning_spec(setting: Setting, proposals: int) -> StudySpec:
    """Return the bundled study at another setting, without its confirm's controls.

    Arguments:
        setting: Where the scales are tuned.
        proposals: How many.
    """
    words = [
        f"study=frontier-{setting.solver}-{setting.steps}-{proposals}"
        f"-{f'{setting.epsilon_scale:.6f}'.replace('.', '-')}",
        f"setting.solver={setting.solver}",
        f"setting.steps={setting.steps}",
        f"setting.epsilon_scale={setting.epsilon_scale!r}",
        f"search.evaluations={proposals}",
        "confirm.controls=false",
        "confirm.second_opinion=null",
    ]
    return load_spec("fashion", overrides=words)


def picture(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG of the distances against NFE, one panel for each kind of features.

    Arguments:
        rows: As written.
    """
    panels = [Image.open(io.BytesIO(_panel(rows, space))) for space in rows[0]["gains"]]
    whole = Image.new("RGB", (sum(one.width for one in panels), panels[0].height))
    left = 0
    for one in panels:
        whole.paste(one, (left, 0))
        left += one.width
    data = io.BytesIO()
    whole.quantize(MOST_COLOURS, dither=Image.Dither.NONE).save(data, format="PNG", optimize=True)
    return data.getvalue()


def _panel(rows: Sequence[dict[str, Any]], space: str) -> bytes:
    ends = [end for row in rows for end in row["gains"][space]["band"]]
    room = 0.05 * (max(ends) - min(ends))
    nfes = sorted({row["nfe"] for row in rows})
    chart = Chart(
        Axis(nfes[0] - 0.5, nfes[-1] + 0.5, "evaluations of the network per image (NFE)"),
        Axis(min(ends) - room, max(ends) + room, "FD"),
        title=f"FD({space}) of fashion, common fresh seeds, 95 %",
        keys=[Key(line, COLOURS[line], line=True) for line in LINES],
        size=PANEL,
    )

    def points(line: str) -> Iterator[tuple[float, float, float, float]]:
        here = sorted((row for row in rows if row["line"] == line), key=lambda row: row["nfe"])
        for row in here:
            gain = row["gains"][space]
            # Beside each other, so that no error bar hides another one.
            yield row["nfe"] + APART[line], gain["value"]["value"], *gain["band"]

    for line in (UNTUNED, TUNED):
        chart.band([(x, low, high) for x, _, low, high in points(line)], COLOURS[line])
    for line in LINES:
        chart.line([(x, value) for x, value, *_ in points(line)], COLOURS[line])
        for x, value, low, high in points(line):
            chart.bar(x, low, high, COLOURS[line])
            chart.dot(x, value, COLOURS[line])
    return chart.png()


HEAD = (
    "NFE", "solver", "line", "FD(fashion-cnn) [95 %]", "gain", "FD(random-patches) [95 %]",
    "gain there",
)  # fmt: skip


def _best_untuned(both: Both, nfe: int, space: str) -> Setting:
    """Return the solver with the least distance on search seeds, which no row is measured on.

    Arguments:
        both: What samples.
        nfe: Evaluations of the network per image.
        space: Features of the distance, of `SPACES`.
    """
    choosing = replace(both, images=min(CHOOSING, both.images), first_seed=SEARCH_SEED)
    found = {
        setting: choosing.scored(Schedule.baseline(), setting)[space].corrected.value
        for setting in settings_at(nfe)
    }
    return min(found, key=lambda setting: found[setting])


def _tuned(setting: Setting, plan: Plan, data: Path) -> Found:
    return searched(tuning_spec(setting, plan.evaluations), data / "frontier.db")


def _ways(setting: Setting, home: Schedule, plan: Plan, data: Path) -> Iterator[tuple[str, Way]]:
    """Yield each line's schedule and setting at one NFE."""
    yield UNTUNED, (Schedule.baseline(), setting)
    yield TUNED, (_tuned(setting, plan, data).schedule, setting)
    yield MOVED, (home, setting)
    search = Search("none", ("epsilon_scale",))
    scaled = searched(spec_of(search, setting, plan.epsilon_images), data / "frontier.db").setting
    yield SCALED, (_tuned(scaled, plan, data).schedule, scaled)


def _cost(nfe: int, plan: Plan) -> float:
    """Return the most evaluations of the network that one NFE takes."""
    spec = tuning_spec(settings_at(nfe)[0], plan.evaluations)
    first, last = spec.search.rungs[0], spec.search.rungs[-1]
    # All may go on to the last rung and have slopes taken: 50 images of a chunk cost as much as
    # 200, of the baseline and of each of them.
    slopes = 200 * (last // 250) * (plan.evaluations + 1)
    tuning = last * (plan.evaluations + 1) + slopes
    images = 2 * tuning + plan.epsilon_images + first + len(LINES) * plan.images
    return float(nfe * (images + CHOOSING * len(settings_at(nfe))))


def _row(
    nfe: int, line: str, schedule: Schedule, setting: Setting, gains: dict[str, Gain]
) -> dict[str, Any]:
    return {
        "nfe": nfe,
        "line": line,
        "solver": setting.solver,
        "epsilon_scale": setting.epsilon_scale,
        "schedule": schedule.to_json(),
        "setting": setting.to_json(),
        "gains": {
            name: {**gain.to_json(), "band": gain.value.interval(LEVEL)}
            for name, gain in gains.items()
        },
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    line = row["line"]
    if row["epsilon_scale"] != 1:
        line += f" ({row['epsilon_scale']:.3f})"
    cells = [f"{row['nfe']}", row["solver"], line]
    for plain in row["gains"].values():
        low, high = plain["band"]
        cells.append(f"{plain['value']['value']:.2f} [{low:.2f}, {high:.2f}]")
        low, high = plain["interval"]
        moved = plain["difference"]["standard_error"] > 0
        cells.append(f"{plain['gain']:+.1f} % [{low:+.1f}, {high:+.1f}]" if moved else "-")
    return tuple(cells)


def _markdown(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    yield HEAD
    yield ["---"] * len(HEAD)
    for row in rows:
        yield _cells(row)


if __name__ == "__main__":
    sys.exit(main())
