"""Kill a worker at each fail point, let it start again, and print what it left behind.

    python crash_drill.py FOLDER TEMPLATE

TEMPLATE is a database file with tables and no rows. Standard output is one JSON object: for each
fail point the signals or exit codes of the runs and the contents of all tables and of the store,
without what may differ: identifiers, times, names of workers, and how often a lease was begun.
"first" is a run that nobody kills, "" the same study started once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import skiptune.storage.migrations.upgrade
import skiptune.storage.optuna_rows  # noqa: F401 - children that make tables need both
from skiptune.storage import end_turn, leases, ledger, take_turn
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, open_database
from skiptune.storage.failpoints import STEPS, VARIABLE
from skiptune.storage.tables import Table

POINTS = tuple(f"{step}.{side}" for step in STEPS for side in ("before", "after"))
NOWHERE = "0" * 64  # the digest of arrays that nobody has stored
LABELS = {"good": 0.8, "bad": 0.7, "diverging": 0.6, "lost": 0.9}


def drill(url: str, folder: Path) -> None:
    """Do the work of a small study that meets everything once, from wherever it stands."""
    store = ArrayStore(folder)
    with open_database(url, create=True) as database:
        study = ledger.create_study(database, name="drill", spec={"a": 1}, meaning={"b": 0.1})
        ledger.set_study_state(database, study.id, "running")
        ledger.set_study_spec(database, study.id, {"a": 2})
        for lease in leases.leases(database, study.id):
            leases.break_lease(database, lease)
        enter(database, study)
        while True:
            if claim := leases.claim_chunk(database, study.id, worker="w", seconds=600.0):
                sample(database, claim, store)
            elif ready := ledger.ready_rungs(database, study.id):
                score(database, ready[0])
            elif not ledger.reopen_chunks(database, NOWHERE):
                break
        ledger.spend_block(database, study.id, block="confirm-1", images=500, alpha=0.05)
        picture = store.write_bytes(b"picture", ".png")
        ledger.put_artifact(database, digest=picture, kind="picture", bytes=7, name="p.png")
        for job in ("7", "8"):
            launch = ledger.add_launch(
                database, study.id, executor="slurm", place="here", job=job, workers=2
            )
        ledger.forget_launch(database, launch)
        ledger.forget_told(database, study.id)
        ledger.mark_told(database, ledger.untold(database, study.id))
        tidy(database, store)


def tidy(database: Database, store: ArrayStore) -> None:
    """Make a study beside the other and delete it, and give up what nobody needs: rows, files."""
    doomed = ledger.create_study(database, name="doomed", spec={}, meaning={})
    # One chunk is shared with the other study, one has arrays of its own, one has none.
    add(database, doomed, "baseline", 1.0)
    add(database, doomed, "own", 0.5)
    add(database, doomed, "open", 0.4)
    given_up = ledger.evaluations(database, doomed.id)[-1]
    ledger.finish_evaluation(database, given_up.id, state="failed", reason="three were lost")
    ledger.retry_failed(database, doomed.id)
    claim = leases.claim_chunk(database, doomed.id, worker="w", seconds=600.0)
    if claim is not None:
        array = store.write({"features": np.full(3, claim.schedule["scale"])})
        leases.commit_chunk(database, claim, array=array, seconds=1.5, nfe=6.0)
    ledger.delete_study(database, doomed.id)
    ledger.drop_arrays(database)
    # By looking at all files and not at what was answered: who was killed has no answer.
    named = ledger.named_files(database)
    for file in list(store.files()):
        if file.digest not in named:
            store.remove(file.digest, suffix=file.suffix)


def enter(database: Database, study: ledger.Study) -> None:
    turn = take_turn(database, study.id, task="propose", worker="w", seconds=0.0)
    for label, scale in {"baseline": 1.0, **LABELS}.items():
        add(database, study, label, scale)
    if turn is not None:
        end_turn(database, turn)


def add(database: Database, study: ledger.Study, label: str, scale: float) -> None:
    ledger.add_evaluation(
        database,
        study.id,
        kind="baseline" if label == "baseline" else "proposal",
        label=label,
        block="search",
        series={"network": "n"},
        measure={"extractor": "e"},
        schedule={"scale": scale},
        first_seed=1_000_000,
        images=250,
        params={"all": scale},
    )


def sample(database: Database, claim: leases.Claim, store: ArrayStore) -> None:
    leases.renew(database, claim, seconds=600.0)
    if claim.label == "good" and claim.fence == 1:
        [lease] = leases.leases(database, claim.study_id)
        leases.break_lease(database, lease)
    elif claim.label == "good" and claim.fence == 2:
        leases.release(database, claim)
    elif claim.label == "bad":
        leases.poison(database, claim, "it does not fit")
    else:
        [chunk] = [
            item
            for item in ledger.chunks_of(database, claim.evaluation_id)
            if item.id == claim.chunk_id
        ]
        if claim.label == "lost" and not chunk.doubled_images:
            array = NOWHERE
        else:
            seeds = np.arange(claim.first_seed, claim.first_seed + claim.images)
            array = store.write({"features": np.sin(claim.schedule["scale"] * seeds)})
        leases.commit_chunk(database, claim, array=array, seconds=1.5, nfe=6.0)


def score(database: Database, rung: ledger.Rung) -> None:
    owner = ledger.evaluation(database, rung.evaluation_id)
    if owner.label == "diverging":
        ledger.finish_evaluation(database, owner.id, "diverged", "an image is not finite")
        return
    if owner.label == "good" and rung.level == 0:
        # Before the score: after it the rung is not ready any more, and who was killed between
        # the two would have to look for it elsewhere.
        ledger.promote(database, owner.id, 500)
    ledger.put_score(
        database,
        owner.id,
        level=rung.level,
        metric="FD(e)",
        reference="r",
        images=rung.images,
        value=0.1 * owner.number,
        standard_error=0.01,
        difference=None if owner.kind == "baseline" else -0.1 * owner.number,
    )


def contents(path: Path, folder: Path) -> dict[str, Any]:
    """Return all rows of our tables, and the stored files, without what may differ."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    names = {
        row["id"]: f"evaluation {row['number']}"
        for row in connection.execute("SELECT id, number FROM skiptune_evaluations")
    }
    found: dict[str, Any] = {}
    for table in Table.metadata.sorted_tables:
        rows = []
        for row in connection.execute(f"SELECT * FROM {table.name}"):
            shown = dict(row)
            for key in ("id", "fence", "attempts", "worker"):
                shown.pop(key, None)
            for key in ("created", "finished", "completed", "committed", "lease_until", "renewed"):
                if key in shown:
                    shown[key] = shown[key] is not None
            if shown.get("study_id") is not None:
                shown["study_id"] = "study"
            if "evaluation_id" in shown:
                shown["evaluation_id"] = names[shown["evaluation_id"]]
            rows.append(json.dumps(shown, sort_keys=True))
        found[table.name] = sorted(rows)
    connection.close()
    files = [item for item in folder.rglob("*") if item.is_file() and item.suffix != ".tmp"]
    found["files"] = sorted(item.name for item in files)
    found["damaged"] = [
        item.name for item in files if hashlib.sha256(item.read_bytes()).hexdigest() != item.stem
    ]
    return found


def run(url: str, folder: Path, point: str) -> int:
    """Run the drill in a child that dies at a fail point; return its exit code or -signal."""
    child = os.fork()
    if child == 0:
        try:
            os.environ[VARIABLE] = point
            drill(url, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path, template: Path) -> None:
    results: dict[str, dict[str, Any]] = {}
    for point in ("", *POINTS):
        place = root / (point or "undisturbed")
        place.mkdir()
        path = place / "skiptune.db"
        if not point.startswith("upgrade."):
            shutil.copy(template, path)
        url, folder = f"sqlite:///{path}", place / "store"
        if point:
            codes = [run(url, folder, point), run(url, folder, "")]
        else:
            # In this process, so that its children find everything imported and prepared.
            drill(url, folder)
            results["first"] = {"left": contents(path, folder)}
            codes = [run(url, folder, "")]
        results[point] = {"codes": codes, "left": contents(path, folder)}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
