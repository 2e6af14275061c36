"""What the dashboard costs for a study of 2,000 evaluations.

    OMP_NUM_THREADS=1 python -m bench.dashboard_load

The study is made up (`long_history.py`): 20 scales, two rungs, with the attributes and the note of
a picture that each trial has. Measured are

- `content.refresh` the first time, after one more score, and when nothing has changed;
- the answer to `/api/studies/<id>`, which the page asks for every ten seconds, from the
  dashboard's own WSGI application: over Optuna's cached storage, as `skiptune dashboard` serves
  it, against the bare one that `optuna-dashboard URL` opens. In turns, in one process, each time
  after the dashboard's own memory of ten seconds has run out; and its bytes, with what of them is
  ours: the note, the figures, the trials' attributes.

Prints one table, writes `bench/results/dashboard_load.json`, and exits 1 when a bound is missed.
Bounds of seconds are of processor time, which does not tell how busy the machine was.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import optuna_dashboard
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import insert

from bench.interleaved import Spread, Way, interleave, ratios
from bench.long_history import NAME, RUNGS, made_up, simulated_study, write_history
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.search.overview import leaders
from skiptune.search.projection import SCHEDULE
from skiptune.search.sample_grid import GRID_IMAGES, grid_png
from skiptune.search.study import OpenStudy
from skiptune.search.told import attached
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, init_database
from skiptune.storage.optuna_attributes import optuna_studies
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.optuna_trials import marks
from skiptune.storage.records import Evaluation
from skiptune.storage.tables import ArtifactRow
from skiptune.views.dashboard.content import refresh

__all__ = ["main", "measure"]

CLOCKS = ("wall", "cpu")
UNCHANGED = 0.1  # seconds of a refresh when nothing has changed
CHANGED = 5.0  # seconds of one that makes all anew
RATIO = 0.5  # an answer over the cached storage : over the bare one
OURS = 100_000  # bytes of the note and the figures in an answer
PER_TRIAL = 1_500  # bytes of a trial's attributes in it


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=2000)
    parser.add_argument("--parameters", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "dashboard_load.json")
    options = parser.parse_args()
    use_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {key: getattr(options, key) for key in ("evaluations", "parameters", "repeats")}
    found = measure(**settings)
    answer, took = found["bytes"], found["refresh"]
    seconds = {
        what: {clock: statistics.median(one[clock] for one in times) for clock in CLOCKS}
        for what, times in took.items()
    }
    print(f"{options.evaluations} evaluations of {options.parameters} scales")
    print_table(
        ("median", *CLOCKS),
        [
            *(
                (f"refresh, {what}, s", *(f"{times[clock]:.4f}" for clock in CLOCKS))
                for what, times in seconds.items()
            ),
            *(
                (f"answer, {name} storage, s", *(str(Spread.of(found[c][name])) for c in CLOCKS))
                for name in found["wall"]
            ),
            *((f"bytes, {name}", f"{count:,}", "") for name, count in answer.items()),
        ],
    )
    anew = max(seconds["first"]["cpu"], seconds["one more score"]["cpu"])
    bounds = [
        Bound("refresh, nothing changed, processor s", seconds["unchanged"]["cpu"], UNCHANGED),
        Bound("refresh that makes all anew, processor s", anew, CHANGED),
        Bound("answer, cached : bare, processor time", found["ratio"]["cpu"]["median"], RATIO),
        Bound("bytes of note and figures", answer["note"] + answer["figures"], OURS),
        Bound("bytes of a trial's attributes", answer["largest attributes"], PER_TRIAL),
    ]
    return finish(options.out, settings=settings, bounds=bounds, **found)


def measure(*, evaluations: int, parameters: int, repeats: int) -> dict[str, Any]:
    """Return all timings of one made-up study, plain data.

    Arguments:
        evaluations: Proposals.
        parameters: Scales of each.
        repeats: Rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = ArrayStore(Path(folder) / "artifacts")
        with init_database(f"sqlite:///{folder}/dashboard.db") as database:
            study = simulated_study(database, parameters=parameters)
            write_history(study, evaluations=evaluations)
            _write_pictures(study, store)
            took = {"first": [_seconds(lambda: refresh(database, store, NAME))]}
            _one_more(study)
            took["one more score"] = [_seconds(lambda: refresh(database, store, NAME))]
            took["unchanged"] = [
                _seconds(lambda: refresh(database, store, NAME)) for _ in range(repeats)
            ]
            return {"refresh": took, **_answers(database, repeats)}


def _seconds(call: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _answers(database: Database, repeats: int) -> dict[str, Any]:
    """Return the time and the bytes of an answer over both storages."""
    (key,) = optuna_studies(database, [NAME]).values()
    bare = RDBStorage(database.url, skip_compatibility_check=True, skip_table_creation=True)
    apps = {
        "cached": optuna_dashboard.wsgi(optuna_storage(database)),
        "bare": optuna_dashboard.wsgi(bare),
    }
    bodies = {name: _get(app, f"/api/studies/{key}") for name, app in apps.items()}
    assert len({len(body) for body in bodies.values()}) == 1

    @contextmanager
    def forgetful(app: Any) -> Iterator[Any]:
        app._inmemory_cache._trials_last_fetched_at.clear()
        yield app

    ways = [
        Way(
            name,
            lambda app=app: forgetful(app),  # type: ignore[misc]
            lambda app: _get(app, f"/api/studies/{key}"),
        )
        for name, app in apps.items()
    ]
    timings = interleave(ways, repeats=repeats)
    wall = {name: [one.wall for one in timings[name]] for name in apps}
    answer = json.loads(bodies["cached"])
    attributes = [len(json.dumps(one["user_attrs"])) for one in answer["trials"]]
    bare.engine.dispose()
    return {
        "wall": wall,
        "cpu": {name: [one.cpu for one in timings[name]] for name in apps},
        "ratio": {
            clock: asdict(ratios(timings, "cached", "bare", clock=clock))
            for clock in ("wall", "cpu")
        },
        "bytes": {
            "answer": len(bodies["cached"]),
            "note": len(json.dumps(answer["note"])),
            "figures": len(json.dumps(answer["plotly_graph_objects"])),
            "attributes of all trials": sum(attributes),
            "largest attributes": max(attributes),
        },
    }


def _get(app: Any, path: str) -> bytes:
    """Return the body of an answer.

    Raises:
        RuntimeError: It is none.
    """
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "REQUEST_METHOD": "GET", "wsgi.errors": io.StringIO()}
    states: list[str] = []
    body = b"".join(app(environ, lambda state, headers, *_: states.append(state)))
    if not states or not states[0].startswith("200"):
        raise RuntimeError(f"{path}: {states} {body[:300]!r}")
    return body


def _write_pictures(study: OpenStudy, store: ArrayStore) -> None:
    """Write the notes of a picture of each evaluation, and two files: for the pair."""
    database = study.database
    every = ledger.evaluations(database, study.id)
    best = leaders(database, NAME, 1)[0].number
    digests = {one.schedule: one.schedule[::-1] for one in every}
    for one in every:
        if one.number in (0, best):
            digests[one.schedule] = store.write_bytes(_picture(one), ".png")
    with database.write() as session:
        session.execute(
            insert(ArtifactRow),
            [
                {
                    "digest": digests[one.schedule],
                    "kind": "grid",
                    "bytes": 50_000,
                    "name": f"{one.series}/{one.schedule}.png",
                }
                for one in every
            ],
        )
        for key in optuna_studies(database, [NAME, f"{NAME}/{RUNGS[1]}"]).values():
            session.execute(
                insert(models.TrialSystemAttributeModel.__table__),
                [
                    {"trial_id": mark.trial_id, "key": name, "value_json": json.dumps(value)}
                    for mark in marks(database, key, attribute=SCHEDULE, after=-1)
                    for name, value in attached(digests[str(mark.value)]).items()
                ],
            )


def _picture(one: Evaluation) -> bytes:
    images = np.random.default_rng(one.number).integers(0, 256, (GRID_IMAGES, 3, 32, 32))
    whole = np.ones(GRID_IMAGES, dtype=bool)
    return grid_png(images.astype(np.uint8), whole, {"schedule": one.schedule})


def _one_more(study: OpenStudy) -> None:
    """Score one more rung of some proposal, and let Optuna know it."""
    database = study.database
    scored = {s.evaluation_id for s in ledger.scores(database, study.id, level=1)}
    one = next(
        e for e in ledger.evaluations(database, study.id, kind="proposal") if e.id not in scored
    )
    ledger.promote(database, one.id, RUNGS[1])
    ledger.put_score(database, one.id, level=1, **made_up(one.schedule, 1))


if __name__ == "__main__":
    sys.exit(main())
