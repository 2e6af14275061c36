"""The landscape as one small file, from which searches are replayed without sampling.

An `npz` without pickles: for each space the coordinates of its points, what every point changes in
the baseline's features, as bytes with one factor per point, and the kernel that was chosen. Bytes
cost an eighth of the distance between neighbouring float16 numbers nothing that a search could
see: how far distances move is measured where the file is written, and stands in the results.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.landscape_emulator import Emulator, Kernel, Measured
from bench.replays import World
from skiptune.objectives.reference import Reference

__all__ = ["FILE", "RANGES", "Space", "read", "write"]

FILE = Path(__file__).parent / "data" / "landscape.npz"

Array = NDArray[np.float64]
Features = NDArray[np.float32]

RANGES = {"linear": (0.75, 4 / 3), "per-skip": (0.8, 1.25)}
"""Where replays search: the measured grid, and the range of the bundled study."""


@dataclass(frozen=True, eq=False)
class Space:
    """The emulator of one space, and the names of its parameters.

    Arguments:
        names: Of the parameters, in the order of the coordinates.
        points: Names of the fitted points.
        emulator: Fitted to them.
        optimum: The best parameters within the range; None where they were not searched for.
    """

    names: tuple[str, ...]
    points: tuple[str, ...]
    emulator: Emulator
    optimum: Mapping[str, float] | None = None

    def world(self, kind: str, reference: Reference) -> World:
        """Return the search problem."""
        low, high = RANGES[kind]
        return World(kind, self.names, low, high, self.emulator, reference, best=self.optimum)


def write(path: Path, spaces: Mapping[str, Space]) -> None:
    """Write the spaces, which share a baseline.

    Points of several spaces are stored once.

    Raises:
        ValueError: For spaces of different baselines.
    """
    baselines = [space.emulator.measured.baseline for space in spaces.values()]
    if not all(np.array_equal(rows, baselines[0]) for rows in baselines):
        raise ValueError("the spaces have different baselines")
    changes: dict[str, Features] = {}
    header: dict[str, object] = {}
    arrays: dict[str, NDArray[np.generic]] = {"baseline": baselines[0]}
    for kind, space in spaces.items():
        measured = space.emulator.measured
        for name, rows in zip(space.points, measured.features, strict=True):
            changes[name] = rows - measured.baseline
        arrays[f"{kind}/points"] = measured.points
        header[kind] = {
            "names": space.names,
            "points": space.points,
            "kernel": asdict(space.emulator.kernel),
            "recolour": space.emulator.recolour,
            "optimum": space.optimum,
        }
    factors = {name: float(np.abs(change).max()) / 127 or 1.0 for name, change in changes.items()}
    arrays["factors"] = np.array([factors[name] for name in changes])
    arrays["changes"] = np.array(
        [np.rint(change / factors[name]).astype(np.int8) for name, change in changes.items()]
    )
    header["changes"] = list(changes)
    arrays["header"] = np.array(json.dumps(header))
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]  # numpy's stub wants one dtype
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def read(path: Path = FILE) -> dict[str, Space]:
    """Return the spaces by name, as `write` left them."""
    with np.load(path) as file:
        header = json.loads(str(file["header"]))
        baseline: Features = file["baseline"]
        place = {name: index for index, name in enumerate(header.pop("changes"))}
        factors, changes = file["factors"], file["changes"]
        spaces = {}
        for kind, about in header.items():
            rows = [place[name] for name in about["points"]]
            moved = changes[rows].astype(np.float32) * factors[rows][:, None, None]
            features = baseline + moved.astype(np.float32)
            kernel = about["kernel"] | {"lengths": tuple(about["kernel"]["lengths"])}
            measured = Measured(file[f"{kind}/points"], features, baseline)
            spaces[kind] = Space(
                names=tuple(about["names"]),
                points=tuple(about["points"]),
                emulator=Emulator(measured, Kernel(**kernel), about["recolour"]),
                optimum=about["optimum"],
            )
    return spaces
