"""What is removed from a store, and what stays."""

from __future__ import annotations

import os
import time

import pytest

from skiptune.search.confirm import result_of
from skiptune.search.delivery import PENDING
from skiptune.search.garbage import ORPHAN_SECONDS, Collected, collect
from skiptune.search.upkeep import delete, project
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from tests.search.conftest import Tiny, crew_member
from tests.search.test_upkeep import finished


def aged(store: ArrayStore, digest: str, suffix: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.path(digest, suffix=suffix), (then, then))


def test_only_old_files_that_nobody_names_are_collected(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    crew_member(study, "a", limits=Limits(images=1000)).run()
    store = study.arrays
    named = {file.digest for file in store.files()}
    for file in list(store.files()):
        aged(store, file.digest, file.suffix, 3 * ORPHAN_SECONDS)
    old, young, pending = (store.write_bytes(word, ".bin") for word in (b"old", b"young!", b"p"))
    store.put_note(PENDING, "note", {"study": study.id, "claim": {}, "values": {"array": pending}})
    store.put_note(PENDING, "odd", {"study": study.id, "values": 3})  # of another version
    aged(store, old, ".bin", ORPHAN_SECONDS + 60)
    aged(store, young, ".bin", ORPHAN_SECONDS - 60)
    aged(store, pending, ".bin", 3 * ORPHAN_SECONDS)
    # What a writer that was killed left a while ago, and what one writes now.
    shelf = store.path(old, suffix=".bin").parent
    killed, writing = (shelf / f".{old}.bin.{pid}.0123abcd.tmp" for pid in (11, 12))
    for path in (killed, writing):
        path.write_bytes(b"half")
    then = time.time() - ORPHAN_SECONDS - 60
    os.utime(killed, (then, then))
    expected = Collected(files=2, bytes=3 + 4, chunks=0, images=0)
    assert collect(study.database, store, dry_run=True) == expected
    assert store.exists(old, suffix=".bin") and killed.exists()
    assert collect(study.database, store) == expected
    assert {file.digest for file in store.files()} == named | {young, pending}
    assert not killed.exists() and writing.exists()
    assert collect(study.database, store) == Collected(0, 0, 0, 0)


def test_dropped_arrays_go_and_scores_stay(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(tiny, search__evaluations=16, search__promote=0.34)
    scores = ledger.scores(study.database, study.id)
    result = result_of(study, 1)
    before = {file.digest: file.bytes for file in study.arrays.files()}
    counted = collect(study.database, study.arrays, drop=True, dry_run=True)
    assert counted.chunks > 0
    assert {file.digest for file in study.arrays.files()} == before.keys()
    done = collect(study.database, study.arrays, drop=True)
    assert done == counted
    assert done.files == 0
    left = {file.digest for file in study.arrays.files()}
    assert len(before) - len(left) == done.chunks
    assert done.bytes == sum(size for digest, size in before.items() if digest not in left)
    assert ledger.scores(study.database, study.id) == scores
    assert result_of(study, 1) == result
    project(study.database, "tiny", rebuild=True)
    assert collect(study.database, study.arrays, drop=True).chunks == 0


def test_pictures_go_with_the_studies_that_need_them(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    store, database = study.arrays, study.database
    base = ledger.evaluations(database, study.id, kind="baseline", block="search")[0]
    kept = store.write_bytes(b"a picture", ".png")
    ledger.put_grid(database, digest=kept, bytes=9, series=base.series, schedule=base.schedule)
    left = store.write_bytes(b"one of a study that is gone", ".png")
    ledger.put_grid(database, digest=left, bytes=27, series="0" * 64, schedule="0" * 64)
    aged(store, kept, ".png", 2 * ORPHAN_SECONDS)
    aged(store, left, ".png", 2 * ORPHAN_SECONDS)
    # Trying only, nothing is forgotten, and the same is counted.
    assert collect(database, store, dry_run=True) == Collected(1, 27, 0, 0)
    assert {kept, left} <= ledger.named_files(database)
    found = collect(database, store)
    assert (found.files, found.bytes) == (1, 27)
    assert store.exists(kept, suffix=".png")
    assert not store.exists(left, suffix=".png")
    # Dropped arrays leave the pictures where they are: they are small.
    collect(database, store, drop=True)
    assert store.exists(kept, suffix=".png")
    delete(database, "tiny", store=store)
    assert not store.exists(kept, suffix=".png")
