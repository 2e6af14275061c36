"""What is on disk, against the files that are there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from skiptune.search.footprint import Pile, footprint
from skiptune.search.garbage import ORPHAN_SECONDS
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.markers import mark
from tests.search.conftest import Tiny, crew_member


def sizes(tiny: Tiny) -> dict[str, int]:
    """The bytes of the stored arrays and inputs, by their path."""
    return {
        path.name: path.stat().st_size
        for path in tiny.artifacts.rglob("*")
        if path.is_file() and ".skiptune" not in path.parts
    }


def test_what_is_whose(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(images=500)).run()
    store, database = study.arrays, study.database
    lost = store.write_bytes(b"x" * 1000, ".png")
    recent = store.write_bytes(b"y" * 10, ".png")
    old = time.time() - ORPHAN_SECONDS - 60
    os.utime(store.place(lost, suffix=".png"), (old, old))
    arrays = {
        chunk.array
        for evaluation in ledger.evaluations(database, study.id)
        for chunk in ledger.chunks_of(database, evaluation.id, 500)
        if chunk.array
    }
    found = footprint(database, store, {"tiny": study.id})
    there = sizes(tiny)
    mine = {name: size for name, size in there.items() if Path(name).stem in arrays}
    assert len(mine) == 2
    assert found.studies == {"tiny": Pile(2, sum(mine.values()))}
    assert found.store == Pile(len(there), sum(there.values()))
    assert found.orphans == Pile(1, 1000)
    assert Path(store.place(recent, suffix=".png")).is_file()
    assert found.location == store.location
    file = Path(tiny.url.removeprefix("sqlite:///"))
    parts = (Path(f"{file}{end}") for end in ("", "-wal", "-shm"))
    assert found.database == sum(part.stat().st_size for part in parts if part.is_file())
    assert found.free is not None and found.free > 0


def test_in_a_store_that_is_shared_nobody_can_tell_what_is_garbage(
    tiny: Tiny, quick: None
) -> None:
    study = tiny.open()
    mark(study.arrays, "f" * 32)
    assert footprint(study.database, study.arrays, {}).orphans is None
    assert footprint(study.database, study.arrays, {}).studies == {}
